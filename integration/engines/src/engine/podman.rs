//! podman, which has no daemon.

use super::prepare::{below, default_limits, link, prepare_networks, user_mode_linux};
use crate::image;
use crate::session::Session;
use integration::kit::stop::Context;
use integration::kit::{Need, Verdict};
use std::fs;
use std::path::Path;

/// Writes the configuration; the words of the client.
pub fn start(session: &Session) -> Verdict<Vec<String>> {
    prepare_networks(session)?;
    let networks = session.path("networks");
    fs::write(session.path("containers.conf"), configuration(session, &networks)).context("containers.conf")?;
    let dir = |name: &str| session.path(name).display().to_string();
    let mut words: Vec<String> = vec!["podman".into()];
    words.extend(["--root".into(), dir("podman"), "--runroot".into(), dir("podman-run")]);
    words.extend(["--tmpdir".into(), dir("podman-tmp")]);
    if let Some(shim) = &session.below.shim {
        // The name tells the shim which role it has.
        link(session, shim, "conmon")?;
        words.extend(["--conmon".into(), conmon(session)]);
    }
    Ok(words)
}

fn conmon(session: &Session) -> String {
    session.path("bin/conmon").display().to_string()
}

/// The content of `contrib/podman/windlass.conf`, with the runtime under test and the settings for this machine.
/// `networks` is the directory of network configurations.
pub fn configuration(session: &Session, networks: &Path) -> String {
    let ours = below(include_str!("../../../../contrib/podman/windlass.conf"), session);
    // podman silently takes another conmon if the configured one does not answer as it expects.
    let shim = match session.below.shim {
        Some(_) => include_str!("../../../../contrib/podman/windlass-shim.conf")
            .replace("[engine]", "")
            .replace("/usr/local/libexec/windlass/conmon", &conmon(session)),
        None => String::new(),
    };
    let pids = if Need::Controller("pids").missing().is_some() { "pids_limit = 0" } else { "" };
    // podman 5 sets networks up with nftables.
    let firewall = if user_mode_linux() { "env = [\"NETAVARK_FW=iptables\"]" } else { "" };
    let engine = format!("[engine]\nevents_logger = \"file\"\ninfra_image = {:?}\n{firewall}\n{shim}\n", image::NAME);
    format!(
        "[containers]\n{pids}\n{}\n[network]\nnetwork_config_dir = {:?}\n{}",
        default_limits(),
        networks.display().to_string(),
        ours.replacen("[engine]", &engine, 1),
    )
}

/// Imports the image.
pub fn load(session: &Session) -> Verdict {
    let archive = session.path("bb.tar");
    image::tar(&session.path("bb"), &archive)?;
    let change = "--change CMD=[\"/bin/pause\"]";
    session.ok(&format!("import {change} {} {}", archive.display(), image::NAME)).map(drop)
}

/// Removes pods, containers and volumes.
pub fn clean(session: &Session) -> Verdict {
    session.ok("pod rm --all --force --time 0")?;
    // The first attempt stops at a container on which a later one depends.
    let remove = "rm --all --force --volumes --time 0";
    if session.run(remove)?.code != 0 {
        session.ok(remove)?;
    }
    session.ok("volume rm --all --force").map(drop)
}
