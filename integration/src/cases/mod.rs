//! The cases, one file per chapter.

use crate::kit::Case;

mod apparmor;
mod bad_configs;
mod callers_mounts;
mod cgroup_trees;
mod cgroups;
mod checkpoint;
mod checkpoint_check;
mod checkpoint_flags;
mod checkpoint_hold;
mod checkpoint_host;
mod checkpoint_hostile;
mod checkpoint_memory;
mod checkpoint_sockets;
mod checkpoint_steps;
mod cli;
mod concurrency;
mod cost;
mod crash;
mod devices;
mod docs;
mod exec;
mod exits;
mod filesystems;
mod freezer;
mod hooks;
mod input;
mod joining;
mod lifecycle;
mod misc;
mod mounts;
mod namespaces;
mod nested;
mod process;
mod rootfs;
mod rootless;
mod seccomp;
mod security;
mod selinux;
mod shim;
mod shim_containerd;
mod shim_faults;
mod shim_foreign;
mod shim_gates;
mod shim_measures;
mod shim_podman;
mod shim_spool;
mod shim_upgrade;
mod shortage;
mod sources;
mod stdio;
mod swap;
mod terminal;
mod windlass;

/// Chapters that run only when a filter names them: `just sweep-world`.
pub const SWEEPS: &[&str] = &["swap::", "shortage::"];

/// All cases, in the order in which they run.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        lifecycle::CASES,
        cli::CASES,
        process::CASES,
        terminal::CASES,
        stdio::CASES,
        mounts::CASES,
        filesystems::CASES,
        sources::CASES,
        callers_mounts::CASES,
        rootfs::CASES,
        devices::CASES,
        namespaces::CASES,
        hooks::CASES,
        seccomp::CASES,
        exec::CASES,
        exits::CASES,
        misc::CASES,
        cgroups::CASES,
        cgroup_trees::CASES,
        freezer::CASES,
        checkpoint::CASES,
        checkpoint_check::CASES,
        checkpoint_flags::CASES,
        checkpoint_hold::CASES,
        checkpoint_memory::CASES,
        checkpoint_sockets::CASES,
        checkpoint_steps::CASES,
        checkpoint_host::CASES,
        checkpoint_hostile::CASES,
        security::CASES,
        apparmor::CASES,
        selinux::CASES,
        joining::CASES,
        rootless::CASES,
        nested::CASES,
        input::CASES,
        bad_configs::CASES,
        crash::CASES,
        concurrency::CASES,
        windlass::CASES,
        docs::CASES,
        shim_podman::CASES,
        shim_containerd::CASES,
        cost::CASES,
        shim::CASES,
        shim_faults::CASES,
        shim_foreign::CASES,
        shim_upgrade::CASES,
        shim_gates::CASES,
        shim_spool::CASES,
        shim_measures::CASES,
        swap::CASES,
        shortage::CASES,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<&str> = super::all().map(|case| case.name).collect();
        assert_eq!(names.len(), super::all().count());
    }

    #[test]
    fn known_differences_name_cases_that_exist() {
        for (_, case, _) in crate::expected::KNOWN {
            assert!(super::all().any(|known| known.name == *case), "{case}");
        }
    }
}
