//! dockerd, which starts a containerd of its own.

use super::prepare::{below, link, prepare_networks};
use crate::image;
use crate::session::Session;
use integration::kit::Verdict;
use std::fs;

/// Where dockerd listens.
pub const SOCKET: &str = "/run/engines-docker.sock";

/// Starts the daemon. Returns the command line of a client.
pub fn start(session: &Session) -> Verdict<Vec<String>> {
    prepare_networks(session)?;
    if let Some(shim) = &session.below.shim {
        link(session, shim, "containerd-shim-runc-v2")?;
    }
    start_with(session, &[])?;
    Ok(client())
}

/// The command line of a client.
fn client() -> Vec<String> {
    vec!["docker".to_owned(), "--host".to_owned(), format!("unix://{SOCKET}")]
}

/// The content of `contrib/docker/daemon.json`, with the runtime under test.
pub fn configuration(session: &Session) -> String {
    below(include_str!("../../../../contrib/docker/daemon.json"), session)
}

/// Starts the daemon with further options.
pub fn start_with(session: &Session, options: &[&str]) -> Verdict {
    let mut command = session.host("dockerd");
    let file = session.path("daemon.json");
    fs::write(&file, configuration(session))?;
    command.arg("--config-file").arg(file).args(["--live-restore", "--storage-driver", "overlay2"]);
    command.arg("--host").arg(format!("unix://{SOCKET}"));
    command.arg("--data-root").arg(session.path("docker")).args(["--exec-root", "/run/engines-docker"]);
    command.arg("--pidfile").arg(session.path("docker.pid")).args(options);
    // A daemon that was killed leaves its pid file behind.
    let _ = fs::remove_file(session.path("docker.pid"));
    session.start_daemon(command, &|| {
        let mut probe = session.host("docker");
        probe.args(&client()[1..]).arg("version");
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
    for (list, remove) in [("ps -aq", "rm -f -v"), ("volume ls -q", "volume rm -f")] {
        let left = session.ok(list)?;
        if !left.is_empty() {
            session.ok(&format!("{remove} {left}"))?;
        }
    }
    Ok(())
}

/// Sends dockerd a request for which its client has no command.
pub fn post(session: &Session, place: &str, body: &serde_json::Value) -> Verdict {
    let mut command = session.host("curl");
    command.args(["--silent", "--fail", "--unix-socket", SOCKET]);
    command.args(["-H", "Content-Type: application/json", "--data", &body.to_string()]);
    command.arg(format!("http://docker/v1.41{place}"));
    session.finish(command)?.ok().map(drop)
}
