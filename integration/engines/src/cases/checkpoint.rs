//! Checkpoints, by a real CRIU that comes first in the engine's PATH.

use crate::case::chapter;
use crate::engine::{Engine, start_dockerd};
use crate::image::NAME;
use crate::session::{Session, until};
use integration::kit::Verdict;
use integration::kit::criu;
use integration::kit::stop::skip;
use integration::{ensure, ensure_eq};
use nix::sys::signal::Signal;

chapter! { [Docker, Podman] "checkpoint":
    a_container_goes_on_where_it_was,
}

/// The number that a container has counted up to; 0 before it has begun to.
pub fn counted(s: &Session, name: &str) -> Verdict<u32> {
    let script = "cat /count 2>/dev/null || echo 0";
    Ok(s.ok_with(&format!("exec {name} sh -c"), script)?.trim().parse().unwrap_or(0))
}

/// Removes containers that do not end at SIGTERM.
pub fn remove(s: &Session, names: &str) -> Verdict {
    let at_once = if s.engine == Engine::Podman { "-t 0" } else { "" };
    s.ok(&format!("rm -f {at_once} {names}")).map(drop)
}

pub fn counts_beyond(s: &Session, name: &str, past: u32) -> Verdict {
    until("a container that counts on", || Ok((counted(s, name)? > past).then_some(())))
}

/// A container that counts; its name.
pub fn counting(s: &Session) -> Verdict<String> {
    counting_with(s, "")
}

/// The same with further options.
pub fn counting_with(s: &Session, options: &str) -> Verdict<String> {
    let name = s.name();
    s.ok_with(&format!("run -d --name {name} --network none {options} {NAME} sh -c"), criu::COUNTING)?;
    counts_beyond(s, &name, 1)?;
    Ok(name)
}

/// Does `work` while CRIU comes first in the engine's PATH.
pub fn with_criu(s: &Session, work: impl FnOnce() -> Verdict) -> Verdict {
    if let Some(missing) = criu::missing() {
        return skip(missing);
    }
    let _ = std::fs::remove_file(s.path("bin/criu"));
    std::fs::create_dir_all(s.path("bin"))?;
    criu::link_into(&s.path("bin"))?;
    let done = work();
    let _ = std::fs::remove_file(s.path("bin/criu"));
    let _ = std::fs::remove_file("/run/criu.kdat");
    done
}

fn a_container_goes_on_where_it_was(s: &Session) -> Verdict {
    let docker = s.engine == Engine::Docker;
    if docker && s.below.shim.is_none() {
        return skip("below docker only windlass-shim tells the process id before the start");
    }
    with_criu(s, || match docker {
        true => experimental(s, || goes_on(s, docker)),
        false => goes_on(s, docker),
    })
}

/// Does something while dockerd has its experimental commands.
pub fn experimental(s: &Session, work: impl FnOnce() -> Verdict) -> Verdict {
    s.end_daemon(Signal::SIGTERM)?;
    start_dockerd(s, &["--experimental"])?;
    let done = work();
    s.end_daemon(Signal::SIGTERM)?;
    start_dockerd(s, &[])?;
    done
}

fn goes_on(s: &Session, docker: bool) -> Verdict {
    let name = counting(s)?;
    let (dump, restore) = match docker {
        true => ("checkpoint create", "start --checkpoint one"),
        false => ("container checkpoint", "container restore"),
    };
    let names = if docker { format!("{name} one") } else { name.clone() };
    s.ok(&format!("{dump} {names}"))?;
    until("its end", || Ok((s.inspect(&name, "{{.State.Status}}")? == "exited").then_some(())))?;
    s.ok(&format!("{restore} {name}"))?;
    ensure_eq!(s.inspect(&name, "{{.State.Status}}")?, "running", "the status");
    ensure!(counted(s, &name)? > 0, "it has lost its files");
    let at = counted(s, &name)?;
    counts_beyond(s, &name, at)?;
    remove(s, &name)
}
