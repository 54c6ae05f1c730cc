//! buildah, which runs the runtime by itself, without a shim.

use super::prepare::{default_limits, prepare_networks};
use crate::image;
use crate::session::Session;
use integration::kit::Verdict;
use integration::kit::stop::Context;
use std::fs;

/// The command line of a client.
pub fn start(session: &Session) -> Verdict<Vec<String>> {
    prepare_networks(session)?;
    fs::write(session.path("containers.conf"), format!("[containers]\n{}\n", default_limits()))
        .context("containers.conf")?;
    let dir = |name: &str| session.path(name).display().to_string();
    Ok(vec!["buildah".into(), "--root".into(), dir("buildah"), "--runroot".into(), dir("buildah-run")])
}

/// Makes the image by its own means.
pub fn load(session: &Session) -> Verdict {
    let archive = session.path("bb-oci.tar");
    image::oci_archive(&session.path("bb"), image::NAME, &["sh"], &archive)?;
    session.ok(&format!("pull oci-archive:{}", archive.display())).map(drop)
}

/// Removes working containers.
pub fn clean(session: &Session) -> Verdict {
    session.ok("rm --all").map(drop)
}
