//! podman, which has no daemon.

use super::{link, prepare_networks};
use crate::image;
use crate::session::Session;
use integration::kit::stop::Context;
use integration::kit::{Need, Verdict};
use std::fs;

/// Writes the configuration; the words of the client.
pub fn start(session: &Session) -> Verdict<Vec<String>> {
    prepare_networks(session)?;
    fs::write(session.path("containers.conf"), configuration(session)).context("containers.conf")?;
    let dir = |name: &str| session.path(name).display().to_string();
    let mut words: Vec<String> = vec!["podman".into()];
    words.extend(["--root".into(), dir("podman"), "--runroot".into(), dir("podman-run")]);
    words.extend([
        "--tmpdir".into(),
        dir("podman-tmp"),
        "--runtime".into(),
        session.below.runtime.display().to_string(),
    ]);
    if let Some(shim) = &session.below.shim {
        // The shim knows by this name what is asked of it.
        link(session, shim, "conmon")?;
        words.extend(["--conmon".into(), conmon(session)]);
    }
    Ok(words)
}

fn conmon(session: &Session) -> String {
    session.path("bin/conmon").display().to_string()
}

/// What this machine needs, and the names of runtimes as `contrib/podman` has them.
fn configuration(session: &Session) -> String {
    let json = r#"runtime_supports_json = ["crun", "runc", "windlass"]"#;
    let nocgroups = r#"runtime_supports_nocgroups = ["crun", "windlass"]"#;
    // podman takes another conmon, silently, where the one that was asked for does not answer as it likes.
    let conmon = session.below.shim.as_ref().map(|_| format!("conmon_path = [{:?}]", conmon(session)));
    let pids = if Need::Controller("pids").missing().is_some() { "pids_limit = 0" } else { "" };
    format!(
        "[containers]\n{pids}\ndefault_ulimits = []\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
         infra_image = {:?}\n{json}\n{nocgroups}\n{}\n\
         [network]\nnetwork_config_dir = {:?}\n",
        image::NAME,
        conmon.unwrap_or_default(),
        session.path("networks").display().to_string(),
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
    // The first attempt stops at a container on which another depends that is removed after it.
    let remove = "rm --all --force --volumes --time 0";
    if session.run(remove)?.code != 0 {
        session.ok(remove)?;
    }
    session.ok("volume rm --all --force").map(drop)
}
