//! The shim's program is replaced under the containers of a daemon that runs (`windlass-shim upgrade`).

use super::life::logged;
use crate::case::chapter;
use crate::engine::Engine;
use crate::session::{Session, until};
use integration::kit::Verdict;
use integration::kit::stop::{Context, skip};
use integration::{ensure, ensure_eq};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};

chapter! { [Docker, Podman] "shim_upgrade":
    containers_go_on_below_another_program_and_back,
    containers_go_on_while_the_daemon_is_away_too,
}

/// The shim, and another file with the same program.
pub fn programs(s: &Session) -> Verdict<[PathBuf; 2]> {
    let Some(shim) = &s.below.shim else { return skip("it is the engine's own shim") };
    let another = s.path("another-shim");
    if !another.exists() {
        std::fs::copy(shim, &another).context("a copy of the shim")?;
    }
    Ok([another, shim.clone()])
}

/// Replaces the program of a container's shim.
fn replace(s: &Session, name: &str, program: &Path) -> Verdict {
    upgrade(s, &s.inspect(name, "{{.Id}}")?, program)
}

/// Replaces the program of the shim that has the container of this id.
pub fn upgrade(s: &Session, id: &str, program: &Path) -> Verdict {
    let mut command = s.host(program);
    command.args(["upgrade", id, "--binary"]).arg(program);
    let said = s.finish(command)?.ok()?.stdout;
    let mode = if s.engine == Engine::Podman { "conmon" } else { "containerd" };
    ensure!(said.contains(&format!("\"mode\":\"{mode}\"")), "an answer of the shim: {said}");
    Ok(())
}

/// A container that prints a number a line, and ends with 7 at SIGTERM.
fn counter(s: &Session) -> Verdict<String> {
    s.up("", "trap 'exit 7' TERM; i=0; while :; do echo $i; i=$((i + 1)); sleep 0.01; done")
}

/// Ends the container, and checks that it has written each number once.
fn is_whole(s: &Session, name: &str) -> Verdict {
    s.ok(&format!("stop -t 10 {name}"))?;
    ensure_eq!(s.inspect(name, "{{.State.Status}} {{.State.ExitCode}}")?, "exited 7", "the end");
    let logs = s.ok(&format!("logs {name}"))?;
    let mut numbers = logs.lines().enumerate();
    ensure!(numbers.all(|(n, line)| line == n.to_string()), "a line is lost or doubled: {logs}");
    s.ok(&format!("rm {name}")).map(drop)
}

fn containers_go_on_below_another_program_and_back(s: &Session) -> Verdict {
    let programs = programs(s)?;
    let name = counter(s)?;
    let pid = s.inspect(&name, "{{.State.Pid}}")?;
    for round in 0..6 {
        let mut command = s.command(&format!("exec {name} sh -c"));
        command.arg("sleep 1; exit 4");
        let mut long = s.background(command)?;
        replace(s, &name, &programs[round % 2])?;
        s.run_with(&format!("exec {name} sh -c"), "echo in; exit 3")?.code_is(3)?.stdout_is("in\n")?;
        ensure_eq!(long.wait()?, 4, "an exec from before");
    }
    ensure_eq!(s.inspect(&name, "{{.State.Pid}}")?, pid, "its process");
    is_whole(s, &name)
}

fn containers_go_on_while_the_daemon_is_away_too(s: &Session) -> Verdict {
    if s.engine == Engine::Podman {
        return skip("podman has no daemon");
    }
    let [another, shim] = programs(s)?;
    let (ends, kept) = (s.up("", "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done")?, counter(s)?);
    logged(s, &ends, "ready")?;
    let ids = [&ends, &kept].map(|name| s.inspect(name, "{{.Id}}"));
    let pid = s.inspect(&ends, "{{.State.Pid}}")?;
    s.end_daemon(Signal::SIGTERM)?;
    s.host_sh(&format!("kill -TERM {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.05; done"))?.ok()?;
    for id in ids {
        let mut command = s.host(&another);
        command.args(["upgrade", &id?, "--binary"]).arg(&another);
        s.finish(command)?.ok()?;
    }
    crate::engine::start_dockerd(s, &[])?;
    until("the end of what ended meanwhile", || {
        Ok((s.inspect(&ends, "{{.State.Status}} {{.State.ExitCode}}")? == "exited 42").then_some(()))
    })?;
    replace(s, &kept, &shim)?;
    s.ok(&format!("exec {kept} true"))?;
    s.ok(&format!("rm {ends}"))?;
    s.ok(&format!("stop -t 10 {kept}"))?;
    ensure_eq!(s.inspect(&kept, "{{.State.ExitCode}}")?, "7", "the end");
    s.ok(&format!("rm {kept}")).map(drop)
}
