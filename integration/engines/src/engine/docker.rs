//! dockerd, which starts a containerd of its own.

use super::{link, prepare_networks};
use crate::image;
use crate::session::Session;
use integration::kit::Verdict;
use integration::kit::stop::Context;
use std::fs;

const SOCKET: &str = "unix:///run/engines-docker.sock";

/// Starts the daemon; the words of the client.
pub fn start(session: &Session) -> Verdict<Vec<String>> {
    prepare_networks(session)?;
    if let Some(shim) = &session.below.shim {
        link(session, shim, "containerd-shim-runc-v2")?;
    }
    start_with(session, &[])?;
    Ok(vec!["docker".to_owned(), "--host".to_owned(), SOCKET.to_owned()])
}

/// Starts the daemon with further options.
pub fn start_with(session: &Session, options: &[&str]) -> Verdict {
    let mut command = session.host("dockerd");
    command.args(["--live-restore", "--storage-driver", "overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
    command.arg("--host").arg(SOCKET).args(["--default-runtime", "under-test"]);
    command.arg("--add-runtime").arg(format!("under-test={}", session.below.runtime.display()));
    command.arg("--data-root").arg(session.path("docker")).args(["--exec-root", "/run/engines-docker"]);
    command.arg("--pidfile").arg(session.path("docker.pid")).args(options);
    // One that was killed leaves its pid behind.
    let _ = fs::remove_file(session.path("docker.pid"));
    session.start_daemon(command, &|| {
        let mut probe = session.host("docker");
        probe.args(["--host", SOCKET, "version"]);
        probe
    })
}

/// Imports the image.
pub fn load(session: &Session) -> Verdict {
    let archive = session.path("bb.tar");
    image::tar(&session.path("bb"), &archive)?;
    session.ok(&format!("import {} {}", archive.display(), image::NAME)).map(drop)
}

/// Removes containers and volumes.
pub fn clean(session: &Session) -> Verdict {
    remove_containers(session)?;
    let volumes = session.ok("volume ls -q")?;
    if !volumes.is_empty() {
        session.ok(&format!("volume rm -f {volumes}")).context("volumes")?;
    }
    Ok(())
}

/// Removes all containers.
pub fn remove_containers(session: &Session) -> Verdict {
    let ids = session.ok("ps -aq")?;
    if !ids.is_empty() {
        session.ok(&format!("rm -f -v {ids}")).context("containers")?;
    }
    Ok(())
}
