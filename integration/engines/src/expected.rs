//! The cases that are known to fail: on which runtimes, and why.

/// A known failure.
pub struct Known {
    /// The full name of the case.
    pub case: &'static str,
    /// `all` for a fault of the engine or the machine; `own` for one of the engine's own shim; `race` for what an
    /// engine does wrong at times, on any column; or the beginning of the columns' names.
    pub on: &'static str,
    /// The Debian releases of whose engines this is known.
    pub releases: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
}

impl Known {
    /// Whether a failure on these columns is the known one. `all`: there are no other columns.
    pub fn covers(&self, failed: &[&String], all: bool) -> bool {
        match self.on {
            "all" => all,
            "race" => true,
            _ => failed.iter().all(|label| self.is_about(label)),
        }
    }

    /// Whether this column is expected to fail.
    pub fn is_about(&self, label: &str) -> bool {
        match self.on {
            "all" => true,
            "race" => false,
            "own" => !label.ends_with("+shim"),
            start => label.starts_with(start),
        }
    }
}

/// The known failure of a case with the engines of a Debian release.
pub fn about(case: &str, release: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.case == case && known.releases.contains(&release))
}

/// Seen with the engines of these releases and their runc.
pub const KNOWN: &[Known] = &[
    Known {
        case: "podman::limits::a_kill_for_want_of_memory_is_told",
        on: "own",
        releases: &["bookworm"],
        reason: "conmon 2.1 leaves its note of the kill where podman was called, and podman 4.3 looks in the bundle",
    },
    Known {
        case: "podman::pods::a_pod_shares_its_network_and_keeps_its_containers_together",
        on: "runc",
        releases: &["bookworm"],
        reason: INFRA,
    },
    Known {
        case: "podman::pods::kube_generate_and_play_make_the_same_pod",
        on: "runc",
        releases: &["bookworm"],
        reason: INFRA,
    },
    Known {
        case: "containerd::tasks::an_exit_while_the_daemon_is_away_is_known_afterwards",
        on: "all",
        releases: &["trixie", "sid"],
        reason: FORGOTTEN,
    },
    Known {
        case: "docker::live_restore::containers_outlive_a_stop_of_the_daemon",
        on: "all",
        releases: &["trixie"],
        reason: LOST,
    },
    Known {
        case: "docker::live_restore::containers_outlive_a_kill_of_the_daemon",
        on: "all",
        releases: &["trixie"],
        reason: LOST,
    },
    Known {
        case: "docker::live_restore::containers_outlive_a_daemon_that_comes_back_with_other_flags",
        on: "all",
        releases: &["trixie"],
        reason: LOST,
    },
    Known {
        case: "docker::live_restore::containers_outlive_a_stop_of_the_daemon",
        on: "own",
        releases: &["sid"],
        reason: LOST,
    },
    Known {
        case: "docker::live_restore::containers_outlive_a_kill_of_the_daemon",
        on: "own",
        releases: &["sid"],
        reason: LOST,
    },
    Known {
        case: "docker::live_restore::containers_outlive_a_daemon_that_comes_back_with_other_flags",
        on: "own",
        releases: &["sid"],
        reason: LOST,
    },
    Known {
        case: "docker::shim_upgrade::containers_go_on_while_the_daemon_is_away_too",
        on: "windlass+shim",
        releases: &["trixie"],
        reason: LOST,
    },
    Known {
        case: "docker::checkpoint::a_container_goes_on_where_it_was",
        on: "runc+shim",
        releases: &["sid"],
        reason: "docker 28 looks at the process before the start, and runc cannot make it before",
    },
    Known {
        case: "podman::podman_checkpoint::a_connection_is_dumped_if_that_is_asked_for",
        on: "runc",
        releases: &["sid"],
        reason: "runc leaves the loopback interface of a restored container down",
    },
    Known {
        case: "docker::limits::io_is_limited",
        on: "all",
        releases: &["trixie"],
        reason: "docker 26 gives no limit of a device in User-Mode Linux, to runc neither",
    },
    Known {
        case: "podman::rootless::a_port_is_published_by_pasta",
        on: "race",
        releases: &["trixie", "sid"],
        reason: "podman restarts a container before pasta has let go of its port (podman's issue 23737)",
    },
    Known {
        case: "cri::pods::pods_outlive_a_kill_of_the_daemon",
        on: "all",
        releases: &["trixie", "sid"],
        reason: FORGOTTEN,
    },
];

const FORGOTTEN: &str = "containerd forgets, when it starts, a task that has ended";
const LOST: &str =
    "docker 26 and 28 say 255 for what has ended while they were away; below windlass-shim 28 knows the code";
const INFRA: &str = "an infra container of podman cannot open /dev/null with runc 1.1.5";
