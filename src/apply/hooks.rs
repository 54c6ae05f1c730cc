//! Hooks: programs of the host that are told of the container's state.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::container::{State, Status, document};
use crate::error::{Doing, Error, Fault, Kind, Origin, Result};
use crate::spec::Hook;
use crate::sys::{process, signals, spawn};

use super::context::Context;

/// Runs hooks in order, up to the first that fails.
pub fn run(name: &str, hooks: &[Hook], state: &serde_json::Value) -> Result<()> {
    run_with(name, hooks, None, state)
}

/// A hook that has no environment of its own gets this one, or that of this process.
fn run_with(name: &str, hooks: &[Hook], env: Option<&[String]>, state: &serde_json::Value) -> Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, env, state).map_err(|why| failure(name, index, hook, &why))?;
    }
    Ok(())
}

/// Runs all poststop hooks; one that fails is a warning (runtime.md, "Lifecycle", step 13).
pub fn run_poststop(hooks: &[Hook], state: &serde_json::Value) -> Vec<Fault> {
    let outcomes = hooks.iter().enumerate().map(|(index, hook)| (index, hook, run_one(hook, None, state)));
    outcomes
        .filter_map(|(index, hook, outcome)| {
            let why = outcome.err()?;
            let error = failure("poststop", index, hook, &why);
            Some(Fault { pointer: format!("/hooks/poststop/{index}"), msg: error.message().to_string() })
        })
        .collect()
}

fn failure(name: &str, index: usize, hook: &Hook, why: &str) -> Error {
    Error::new(Kind::Hook, format!("error running {name} hook #{index}: {}: {why}", hook.path))
        .origin(Origin::Config(format!("/hooks/{name}/{index}").into()))
}

pub(super) fn create_container(cx: &mut Context<'_>) -> Result<()> {
    // Hooks find the container's files below the directory that they start in, and no program of
    // the runtime needs it any more.
    let root = cx.root()?;
    crate::sys::mount::change_directory(root).doing(|| "cannot enter the root filesystem")?;
    // The specification says `creating` until create has finished (runtime.md, "State").
    in_container("createContainer", |hooks| &hooks.create_container, None, Status::Creating, cx)
}

pub(super) fn start_container(cx: &mut Context<'_>) -> Result<()> {
    // The signals are the program's by now, and a hook need not read its state.
    signals::ignore_sigpipe().doing(|| "cannot ignore SIGPIPE")?;
    in_container("startContainer", |hooks| &hooks.start_container, Some(&cx.program.env), Status::Created, cx)?;
    signals::default_sigpipe().doing(|| "cannot reset the signals")
}

fn in_container(
    name: &str,
    which: impl Fn(&crate::spec::Hooks) -> &Vec<Hook>,
    env: Option<&[String]>,
    status: Status,
    cx: &Context<'_>,
) -> Result<()> {
    let (Some(hooks), Some(state)) = (cx.hooks, cx.state) else { return Ok(()) };
    run_with(name, which(hooks), env, &state_for(state, status, nix::unistd::getpid().as_raw()))
}

/// The state that a hook reads.
pub fn state_for(state: &State, status: Status, pid: i32) -> serde_json::Value {
    document(state, status, pid)
}

/// Runs one hook; the error says why it failed, with the end of what it printed.
fn run_one(hook: &Hook, env: Option<&[String]>, state: &serde_json::Value) -> std::result::Result<(), String> {
    let output = output_file().map_err(|error| format!("cannot keep its output: {error}"))?;
    let copy = || output.try_clone().map(Stdio::from);
    let (stdout, stderr) = (copy().map_err(|e| e.to_string())?, copy().map_err(|e| e.to_string())?);
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        command.args(args);
    }
    let own = (!hook.env.is_empty()).then_some(hook.env.as_slice());
    if let Some(env) = own.or(env) {
        command.env_clear().envs(env.iter().filter_map(|variable| variable.split_once('=')));
    }
    spawn::begin_clean(&mut command);
    let mut child = command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr).spawn().map_err(|error| {
        error.raw_os_error().map_or(error.to_string(), |raw| crate::error::describe(nix::errno::Errno::from_raw(raw)))
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read its state.
        let _ = stdin.write_all(state.to_string().as_bytes());
    }
    let exit = await_hook(&mut child, hook.timeout)?;
    if exit.success() {
        return Ok(());
    }
    let how = match (exit.code(), std::os::unix::process::ExitStatusExt::signal(&exit)) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => process::Exit::Signal(signal).to_string(),
        (None, None) => "no exit status".into(),
    };
    let said = last_words(output);
    Err(if said.is_empty() { how } else { format!("{how}, output: {said}") })
}

/// A file in memory, not a pipe: a hook may leave a process behind that keeps it open.
fn output_file() -> std::io::Result<File> {
    nix::sys::memfd::memfd_create(c"hook-output", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(Into::into)
}

fn await_hook(
    child: &mut std::process::Child,
    timeout: Option<i64>,
) -> std::result::Result<std::process::ExitStatus, String> {
    let text = |error: std::io::Error| error.to_string();
    let Some(seconds) = timeout.and_then(|seconds| u64::try_from(seconds).ok()) else {
        return child.wait().map_err(text);
    };
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let pidfd = process::open_pid(child.id() as i32).map_err(|failed| failed.to_string())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis().min(60_000) as u16;
        let mut fds = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, left) {
            Ok(n) if n > 0 => return child.wait().map_err(text),
            _ if Instant::now() < deadline => {}
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("timed out after {seconds} s and was killed"));
            }
        }
    }
}

fn last_words(mut output: File) -> String {
    const KEPT: u64 = 1024;
    let mut text = Vec::new();
    let end = output.seek(std::io::SeekFrom::End(0)).unwrap_or(0);
    let _ = output.seek(std::io::SeekFrom::Start(end.saturating_sub(KEPT)));
    let _ = output.read_to_end(&mut text);
    String::from_utf8_lossy(&text).trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let args = ["sh", "-c", script].map(String::from).to_vec();
        Hook { path: "/bin/sh".into(), args, env: vec!["A=b".into()], timeout }
    }

    #[test]
    fn a_hook_reads_the_state_and_has_its_environment_alone() {
        let state = serde_json::json!({"id": "x"});
        let ok = hook("read -r line; [ \"$line\" = '{\"id\":\"x\"}' ] && [ \"$A\" = b ] && [ -z \"$HOME\" ]", None);
        assert_eq!(run_one(&ok, Some(&["HOME=/".into()]), &state), Ok(()));
        let bare = Hook { env: vec![], ..hook("[ \"$A\" = c ]", None) };
        assert_eq!(run_one(&bare, Some(&["A=c".into()]), &state), Ok(()));
        let bare = Hook { env: vec![], ..hook("[ -n \"$CARGO_MANIFEST_DIR\" ]", None) };
        assert_eq!(run_one(&bare, None, &state), Ok(()));
    }

    #[test]
    fn a_failed_hook_says_how_and_what_it_printed() {
        let state = serde_json::json!({});
        assert_eq!(run_one(&hook("echo no; exit 3", None), None, &state), Err("exit status 3, output: no".into()));
        assert_eq!(run_one(&hook("kill -9 $$", None), None, &state), Err("signal 9 (SIGKILL)".into()));
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let state = serde_json::json!({});
        assert_eq!(run_one(&hook("sleep 9", Some(1)), None, &state), Err("timed out after 1 s and was killed".into()));
    }

    #[test]
    fn every_poststop_hook_runs() {
        let state = serde_json::json!({});
        let warnings = run_poststop(&[hook("exit 1", None), hook("exit 0", None), hook("exit 2", None)], &state);
        let pointers: Vec<_> = warnings.iter().map(|w| w.pointer.as_str()).collect();
        assert_eq!(pointers, ["/hooks/poststop/0", "/hooks/poststop/2"]);
    }
}
