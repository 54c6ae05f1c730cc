//! The cases, one file a chapter. docker and podman share their cases, because they have one command line.

use crate::case::Case;
use crate::engine::Engine;

mod build;
mod buildah;
mod checkpoint;
mod checkpoint_containerd;
#[cfg(feature = "cri")]
mod checkpoint_cri;
mod checkpoint_docker;
mod checkpoint_podman;
mod containerd;
#[cfg(feature = "cri")]
mod cri;
#[cfg(feature = "cri")]
mod cri_today;
mod exec;
mod flags;
#[cfg(feature = "cri")]
mod kubernetes;
mod life;
mod limits;
mod link;
mod logs;
mod mariadb;
mod network;
mod outage;
#[cfg(feature = "cri")]
mod outage_cri;
mod package;
mod podman;
mod restore;
mod rootless;
mod today;
mod upgrade;
mod users;
mod volumes;

/// The cases of an engine, in the order in which they run.
pub fn of(engine: Engine) -> impl Iterator<Item = &'static Case> {
    [
        life::CASES,
        exec::CASES,
        logs::CASES,
        network::CASES,
        link::CASES,
        volumes::CASES,
        flags::CASES,
        users::CASES,
        build::CASES,
        limits::CASES,
        restore::CASES,
        today::CASES,
        checkpoint::CASES,
        checkpoint_docker::CASES,
        checkpoint_podman::CASES,
        upgrade::CASES,
        outage::CASES,
        mariadb::CASES,
        package::CASES,
        podman::CASES,
        rootless::CASES,
        buildah::CASES,
        containerd::CASES,
        checkpoint_containerd::CASES,
        #[cfg(feature = "cri")]
        cri::CASES,
        #[cfg(feature = "cri")]
        cri_today::CASES,
        #[cfg(feature = "cri")]
        checkpoint_cri::CASES,
        #[cfg(feature = "cri")]
        outage_cri::CASES,
        #[cfg(feature = "cri")]
        kubernetes::CASES,
    ]
    .into_iter()
    .flatten()
    .filter(move |case| case.engines.contains(&engine))
}

/// Their full names.
pub fn names(engine: Engine) -> impl Iterator<Item = String> {
    of(engine).map(move |case| case.full_name(engine))
}

#[cfg(test)]
mod tests {
    use crate::engine::Engine;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: Vec<String> = Engine::ALL.into_iter().flat_map(super::names).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn known_failures_name_cases_that_exist() {
        let names: Vec<String> = Engine::ALL.into_iter().flat_map(super::names).collect();
        // The cases of CRI are built with its client alone.
        let built = |case: &str| cfg!(feature = "cri") || !case.starts_with("cri::");
        for known in crate::expected::KNOWN.iter().filter(|known| built(known.case)) {
            assert!(names.iter().any(|name| name == known.case), "{}", known.case);
        }
    }
}
