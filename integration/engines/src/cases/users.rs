//! Containers in a user namespace of root's making.

use crate::case::chapter;
use crate::engine::{Engine, bind_over, load, start_dockerd};
use crate::session::Session;
use integration::ensure_eq;
use integration::kit::Verdict;
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::MetadataExt;

chapter! { [Docker, Podman] "flags":
    the_users_of_a_container_are_others_on_the_host,
}

const FIRST: u32 = 300_000;

fn the_users_of_a_container_are_others_on_the_host(s: &Session) -> Verdict {
    if s.engine == Engine::Podman {
        return remapped(s, &format!("--uidmap 0:{FIRST}:65536 --gidmap 0:{FIRST}:65536"));
    }
    // docker knows one mapping, the daemon's.
    for file in ["/etc/subuid", "/etc/subgid"] {
        bind_over(s, file, &format!("daemon:{FIRST}:65536\n"))?;
    }
    s.end_daemon(Signal::SIGTERM)?;
    start_dockerd(s, &["--userns-remap", "daemon"])?;
    let verdict = load(s).and_then(|()| remapped(s, "")).and_then(|()| {
        ensure_eq!(
            s.inside("--userns host", "cut -c 21- /proc/self/uid_map")?.trim(),
            "0 4294967295",
            "map of the host"
        );
        Ok(())
    });
    s.end_daemon(Signal::SIGTERM)?;
    start_dockerd(s, &[])?;
    verdict
}

fn remapped(s: &Session, options: &str) -> Verdict {
    let dir = s.scratch()?;
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let options = format!("{options} -v {}:/mnt/host", dir.display());
    let seen = s.inside(&options, "id -u; tr -s ' ' < /proc/self/uid_map; touch /mnt/host/mine")?;
    ensure_eq!(seen, format!("0\n 0 {FIRST} 65536"), "uid and map");
    ensure_eq!(fs::metadata(dir.join("mine"))?.uid(), FIRST, "owner on the host");
    Ok(())
}
