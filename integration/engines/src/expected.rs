//! What is known to fail, on whom, and why.

/// On which columns of a row a case failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Who<'r> {
    /// On every one.
    All,
    /// On these.
    Only(Vec<&'r String>),
}

/// A known failure.
pub struct Known {
    /// The full name of the case.
    pub case: &'static str,
    /// `all`, for what is the engine's or the machine's own; or the beginning of the columns.
    pub on: &'static str,
    /// Why.
    pub reason: &'static str,
}

impl Known {
    /// Whether a failure on these columns is the known one.
    pub fn covers(&self, who: &Who) -> bool {
        match who {
            Who::All => self.on == "all",
            Who::Only(labels) => labels.iter().all(|label| label.starts_with(self.on)),
        }
    }
}

/// What is known about a case.
pub fn about(case: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.case == case)
}

/// Seen with the engines of Debian 12 and runc 1.1.5.
pub const KNOWN: &[Known] = &[
    Known {
        case: "podman::life::attach_shows_the_output_and_passes_signals_and_the_code_on",
        on: "all",
        reason: "podman 4.3 answers 0 when a signal that it passed on ended the container",
    },
    Known {
        case: "podman::pods::a_pod_shares_its_network_and_keeps_its_containers_together",
        on: "runc",
        reason: INFRA,
    },
    Known { case: "podman::pods::kube_generate_and_play_make_the_same_pod", on: "runc", reason: INFRA },
];

const INFRA: &str = "an infra container of podman cannot open /dev/null with runc 1.1.5";
