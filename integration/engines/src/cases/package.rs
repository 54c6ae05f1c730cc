//! The Debian package: engines find the installed programs, and nothing remains after its removal.

use crate::case::chapter;
use crate::session::Session;
use integration::kit::Verdict;
use integration::kit::runtime::RuntimeKind;
use integration::kit::stop::skip;
use std::fs;
use std::path::PathBuf;

chapter! { [Docker, Podman] "package":
    the_package_is_installed_used_and_purged,
}

fn the_package_is_installed_used_and_purged(s: &Session) -> Verdict {
    if s.below.kind != RuntimeKind::Windlass || s.below.shim.is_some() {
        return skip("the package is windlass's own");
    }
    let Some(package) = package(s) else {
        return skip("no package beside the runtime: `just deb` makes it");
    };
    let script = s.path("package.sh");
    fs::write(&script, include_str!("../../package.sh"))?;
    let mut command = s.host("unshare");
    command.args(["--mount", "sh"]).arg(script).arg(package).arg(s.engine.name());
    s.finish(command)?.ok().map(drop)
}

/// `debian/windlass_*.deb` in cargo's target directory, where the runtime is as well.
fn package(s: &Session) -> Option<PathBuf> {
    let of = |entry: &PathBuf| entry.extension().is_some_and(|extension| extension == "deb");
    let dirs = s.below.runtime.ancestors().filter_map(|dir| fs::read_dir(dir.join("debian")).ok());
    dirs.flatten().flatten().map(|entry| entry.path()).find(of)
}
