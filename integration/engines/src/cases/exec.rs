//! `exec` in its forms.

use super::life::{WATCH_SIZE, logged};
use crate::case::chapter;
use crate::session::{Session, until};
use integration::kit::Verdict;
use integration::{ensure, ensure_eq};
use std::fs;

chapter! { [Docker, Podman] "exec":
    exec_prints_and_passes_the_exit_code_on,
    exec_of_a_missing_program_exits_with_127_or_126,
    exec_at_a_terminal_has_its_size_and_follows_a_resize,
    exec_reads_standard_input,
    exec_takes_user_directory_and_environment,
    exec_in_the_background_returns_at_once,
    exec_joins_the_namespaces_and_the_cgroup,
    exec_in_a_stopped_container_is_refused,
    exec_is_killed_with_its_container,
    execs_at_the_same_time_keep_their_outputs_apart,
}

fn exec_prints_and_passes_the_exit_code_on(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    ensure_eq!(s.ok(&format!("exec {name} echo hi"))?, "hi", "output");
    for code in [0, 1, 42, 255] {
        s.run_with(&format!("exec {name} sh -c"), &format!("exit {code}"))?.code_is(code)?;
    }
    s.run_with(&format!("exec {name} sh -c"), "kill -9 $$")?.code_is(137)?;
    Ok(())
}

fn exec_of_a_missing_program_exits_with_127_or_126(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    // dockerd has answered 126 to an OCI failure, and 127 since 20.10.
    let ran = s.run(&format!("exec {name} no-such-program"))?;
    ensure!([126, 127].contains(&ran.code), "{ran}");
    ensure!(format!("{}{}", ran.stdout, ran.stderr).contains("no-such-program"), "the program is not named: {ran}");
    s.run(&format!("exec {name} /bin/not-executable"))?.code_is(126)?;
    Ok(())
}

fn exec_at_a_terminal_has_its_size_and_follows_a_resize(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    let mut command = s.command(&format!("exec -it {name} sh -c"));
    command.arg(WATCH_SIZE);
    let mut at = s.terminal(&command, 33, 77)?;
    at.terminal.read_until("33 77\r\n")?;
    at.resize(12, 34)?;
    at.terminal.read_until("12 34\r\n")?;
    ensure_eq!(at.wait()?, 7, "exit code");
    Ok(())
}

fn exec_reads_standard_input(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    fs::write(s.path("input"), "one\ntwo\n")?;
    let mut command = s.command(&format!("exec -i {name} cat"));
    command.stdin(fs::File::open(s.path("input"))?);
    ensure_eq!(s.finish(command)?.ok()?.stdout, "one\ntwo\n", "what came back");
    Ok(())
}

fn exec_takes_user_directory_and_environment(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    let seen = s.ok_with(&format!("exec -u 1000:2000 -w /tmp -e X=y {name} sh -c"), "id -u; id -g; pwd; echo $X")?;
    ensure_eq!(seen, "1000\n2000\n/tmp\ny", "uid, gid, directory, variable");
    ensure_eq!(s.ok(&format!("exec -u user {name} id -un"))?, "user", "a user by name");
    Ok(())
}

fn exec_in_the_background_returns_at_once(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    s.ok_with(&format!("exec -d {name} sh -c"), "echo done > /tmp/mark; sleep 1000")?;
    until("the mark", || Ok((s.run(&format!("exec {name} cat /tmp/mark"))?.code == 0).then_some(())))
}

fn exec_joins_the_namespaces_and_the_cgroup(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    let script = "for n in cgroup ipc mnt net pid uts; do readlink /proc/1/ns/$n; done; cat /proc/1/cgroup";
    let init = s.ok_with(&format!("exec {name} sh -c"), script)?;
    let own = s.ok_with(&format!("exec {name} sh -c"), &script.replace("/proc/1/", "/proc/self/"))?;
    ensure_eq!(own, init, "namespaces and cgroup of exec and init");
    Ok(())
}

fn exec_in_a_stopped_container_is_refused(s: &Session) -> Verdict {
    let name = s.up("", "true")?;
    s.ok(&format!("wait {name}"))?;
    s.run(&format!("exec {name} true"))?.fails()?.stderr_has("running")?;
    Ok(())
}

fn exec_is_killed_with_its_container(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    let mut command = s.command(&format!("exec {name} sh -c"));
    command.arg("echo up; sleep 1000");
    let mut running = s.background(command)?;
    running.until("up")?;
    s.ok(&format!("kill {name}"))?;
    ensure_eq!(running.wait()?, 137, "exit code of the exec");
    Ok(())
}

fn execs_at_the_same_time_keep_their_outputs_apart(s: &Session) -> Verdict {
    let name = s.up("", "echo ready; trap 'exit 0' TERM; while :; do sleep 0.05; done")?;
    logged(s, &name, "ready")?;
    let start = |number: usize| {
        let mut command = s.command(&format!("exec {name} sh -c"));
        command.arg(format!("for i in $(seq 200); do echo {number}; done; exit {number}"));
        s.background(command)
    };
    let mut running = (0..6).map(start).collect::<Verdict<Vec<_>>>()?;
    for (number, exec) in running.iter_mut().enumerate() {
        ensure_eq!(usize::try_from(exec.wait()?).unwrap_or(usize::MAX), number, "exit code");
        ensure_eq!(exec.stdout(), format!("{number}\n").repeat(200), "output of exec {number}");
    }
    Ok(())
}
