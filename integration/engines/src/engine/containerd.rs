//! containerd by itself, spoken to by `ctr`.

use super::prepare::{link, prepare_networks};
use crate::image;
use crate::session::Session;
use integration::kit::Verdict;
use std::fs;
use std::process::Command;

/// Where containerd listens.
pub const SOCKET: &str = "/run/engines-containerd.sock";

/// Starts the daemon; the words of the client.
pub fn start(session: &Session) -> Verdict<Vec<String>> {
    prepare_networks(session)?;
    if let Some(shim) = &session.below.shim {
        link(session, shim, "containerd-shim-runc-v2")?;
    }
    fs::write(session.path("containerd.toml"), "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")?;
    start_daemon(session)?;
    Ok(client())
}

/// The words of `ctr`.
pub fn client() -> Vec<String> {
    vec!["ctr".to_owned(), "--address".to_owned(), SOCKET.to_owned()]
}

/// Starts the daemon on the session's configuration, again if it ran before. The daemon checks the kernel's features in
/// its own cgroup, which must not be the root.
pub fn start_daemon(session: &Session) -> Verdict {
    let mut command = session.host("sh");
    command.args([
        "-c",
        "mkdir -p /sys/fs/cgroup/daemon && echo 0 > /sys/fs/cgroup/daemon/cgroup.procs; exec containerd \"$@\"",
        "sh",
    ]);
    command.arg("--config").arg(session.path("containerd.toml")).arg("--address").arg(SOCKET);
    command.arg("--root").arg(session.path("containerd")).args(["--state", "/run/engines-containerd"]);
    session.start_daemon(command, &|| ctr(session, "version"))
}

/// The version of the daemon.
#[cfg(feature = "cri")]
pub fn version(session: &Session) -> Verdict<(u32, u32)> {
    let mut command = session.host("containerd");
    command.arg("--version");
    let said = session.finish(command)?.ok()?.stdout;
    let word = said.split_whitespace().nth(2).unwrap_or_default().trim_start_matches('v');
    let mut numbers = word.split('.').map(|part| part.parse().unwrap_or(0));
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
}

/// `ctr` with these words.
pub fn ctr(session: &Session, words: &str) -> Command {
    let mut command = session.host("ctr");
    command.args(&client()[1..]).args(words.split(' '));
    command
}

/// Imports the image.
pub fn load(session: &Session) -> Verdict {
    let archive = session.path("bb-oci.tar");
    image::oci_archive(&session.path("bb"), image::NAME, &["/bin/pause"], &archive)?;
    session.ok(&format!("images import {}", archive.display())).map(drop)
}

/// Removes tasks and containers.
pub fn clean(session: &Session) -> Verdict {
    for task in session.ok("tasks ls -q")?.lines() {
        session.run(&format!("tasks rm -f {task}"))?;
    }
    for container in session.ok("containers ls -q")?.lines() {
        session.ok(&format!("containers rm {container}"))?;
    }
    Ok(())
}
