//! Hooks: programs that get the container's state on their standard input (config.md, "POSIX-platform Hooks").

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use windlass_base::error::{Diagnostic, Error, Kind, Origin, Result, WithContext};
use windlass_base::spec::Hook;
use windlass_store::Status;
use windlass_sys::pipe;
use windlass_sys::poll::{self, Deadline};
use windlass_sys::stream::{self, Moved};
use windlass_sys::{fd, process, signals, spawn};

use super::context::{ContainerHooks, Context};

/// Runs hooks in order, up to the first that fails.
pub(crate) fn run(name: &str, hooks: &[Hook], state: &serde_json::Value) -> Result<()> {
    run_with(name, hooks, None, state)
}

/// Runs hooks. A hook without an environment of its own gets `env`, or the environment of this process.
fn run_with(name: &str, hooks: &[Hook], env: Option<&[String]>, state: &serde_json::Value) -> Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, env, state).map_err(|why| failure(name, index, hook, &why))?;
    }
    Ok(())
}

/// Runs all poststop hooks. A failing hook becomes a warning (runtime.md, "Lifecycle", step 13).
pub(crate) fn run_poststop(hooks: &[Hook], state: &serde_json::Value) -> Vec<Diagnostic> {
    let outcomes = hooks.iter().enumerate().map(|(index, hook)| (index, hook, run_one(hook, None, state)));
    outcomes
        .filter_map(|(index, hook, outcome)| {
            let why = outcome.err()?;
            let error = failure("poststop", index, hook, &why);
            Some(Diagnostic { pointer: format!("/hooks/poststop/{index}"), msg: error.message().to_string() })
        })
        .collect()
}

fn failure(name: &str, index: usize, hook: &Hook, why: &str) -> Error {
    Error::new(Kind::Hook, format!("error running {name} hook #{index}: {}: {why}", hook.path))
        .with_origin(Origin::Config(format!("/hooks/{name}/{index}").into()))
}

pub(super) fn create_container(cx: &mut Context<'_>) -> Result<()> {
    // The hooks find the container's files below their working directory. No later step needs the current one.
    let root = cx.root()?;
    windlass_sys::mount::change_directory(root).with_context(|| "cannot enter the root filesystem")?;
    // The status is `creating` until create has finished (runtime.md, "State").
    in_container("createContainer", |hooks| &hooks.create_container, None, Status::Creating, cx)?;
    // Signals are blocked here, so SIGPIPE is pending if a hook has not read its state. Ignoring it discards it; the
    // default action, which the program gets, would end init.
    signals::ignore_sigpipe().with_context(|| "cannot ignore SIGPIPE")
}

pub(super) fn start_container(cx: &mut Context<'_>) -> Result<()> {
    // SIGPIPE already has its default action, for the program. A hook that does not read its state would kill us.
    signals::ignore_sigpipe().with_context(|| "cannot ignore SIGPIPE")?;
    in_container("startContainer", |hooks| &hooks.start_container, Some(&cx.program.env), Status::Created, cx)?;
    signals::default_sigpipe().with_context(|| "cannot reset the signals")
}

fn in_container(
    name: &str,
    which: impl Fn(&windlass_base::spec::Hooks) -> &Vec<Hook>,
    env: Option<&[String]>,
    status: Status,
    cx: &Context<'_>,
) -> Result<()> {
    let Some(ContainerHooks { hooks, state }) = cx.hooks else { return Ok(()) };
    run_with(name, which(hooks), env, &state.document(status, nix::unistd::getpid().as_raw()))
}

/// Runs one hook. The error says why it failed, with the last of its output.
fn run_one(hook: &Hook, env: Option<&[String]>, state: &serde_json::Value) -> std::result::Result<(), String> {
    let (output, theirs) = pipe::new().map_err(|failed| format!("cannot read its output: {failed}"))?;
    let copy = fd::duplicate(theirs.as_fd()).map_err(|failed| failed.to_string())?;
    let mut command = spawn::command(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        command.args(args);
    }
    let own = (!hook.env.is_empty()).then_some(hook.env.as_slice());
    if let Some(env) = own.or(env) {
        command.env_clear().envs(env.iter().filter_map(|variable| variable.split_once('=')));
    }
    let mut child = command.stdin(Stdio::piped()).stdout(theirs).stderr(copy).spawn().map_err(|error| {
        error
            .raw_os_error()
            .map_or(error.to_string(), |raw| windlass_base::error::describe(nix::errno::Errno::from_raw(raw)))
    })?;
    // Closes our copies of the hook's ends: a pipe ends only when all copies are closed.
    drop(command);
    let seconds = hook.timeout.and_then(|seconds| u64::try_from(seconds).ok());
    let deadline = seconds.map_or(Deadline::NEVER, |seconds| Deadline::after(Duration::from_secs(seconds)));
    let mut output = OutputTail::of(output);
    let exit = match communicate(&mut child, state.to_string().as_bytes(), &mut output, deadline) {
        Ok(Some(exit)) => exit,
        ended => {
            let _ = child.kill();
            let _ = child.wait();
            let seconds = seconds.unwrap_or_default();
            return Err(ended.err().unwrap_or_else(|| format!("timed out after {seconds} s and was killed")));
        }
    };
    if exit.success() {
        return Ok(());
    }
    let how = match (exit.code(), std::os::unix::process::ExitStatusExt::signal(&exit)) {
        (Some(code), _) => format!("exit status {code}"),
        // Engines match the signal's meaning, which is all that runc prints.
        (None, Some(signal)) => format!("{}: {}", process::Exit::Signal(signal), signals::meaning(signal)),
        (None, None) => "no exit status".into(),
    };
    let output = output.text();
    Err(if output.is_empty() { how } else { format!("{how}, output: {output}") })
}

/// The interval of looks at the hook if the kernel or a seccomp filter refuses a pidfd.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Gives the hook its state and collects what it prints, until it ends; `None` if the deadline passes first. The
/// hook need not read the state. Processes that it leaves behind are not waited for, even if they keep its output
/// open.
fn communicate(
    child: &mut std::process::Child,
    mut state: &[u8],
    output: &mut OutputTail,
    deadline: Deadline,
) -> std::result::Result<Option<std::process::ExitStatus>, String> {
    let text = |failed: windlass_sys::SyscallError| failed.to_string();
    let pidfd = process::open_pid(child.id() as i32).ok();
    let mut stdin = child.stdin.take().map(OwnedFd::from);
    if let Some(stdin) = &stdin {
        stream::never_block(stdin.as_fd()).map_err(text)?;
    }
    loop {
        let mut fds = Vec::with_capacity(3);
        fds.extend(pidfd.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        fds.extend(output.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        fds.extend(stdin.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
        let until = match &pidfd {
            Some(_) => deadline,
            None => Deadline::after(deadline.left().map_or(LOOK_INTERVAL, |left| left.min(LOOK_INTERVAL))),
        };
        let ready = poll::poll(&mut fds, until).map_err(text)?;
        output.take();
        if let Some(fd) = &stdin {
            match stream::write(fd.as_fd(), state) {
                Ok(Moved::Bytes(n)) if n < state.len() => state = &state[n..],
                Ok(Moved::Later) => {}
                // The hook has read everything, or has closed its standard input.
                _ => stdin = None,
            }
        }
        if let Some(exit) = child.try_wait().map_err(|error| error.to_string())? {
            output.take();
            return Ok(Some(exit));
        }
        if !ready && deadline.has_passed() {
            return Ok(None);
        }
    }
}

/// The last of what a hook prints.
struct OutputTail {
    output: Option<OwnedFd>,
    kept: Vec<u8>,
}

impl OutputTail {
    /// How many bytes are kept.
    const KEPT: usize = 1024;
    /// How many pieces are read in one go: more than a pipe holds.
    const PIECES: usize = 32;

    fn of(output: OwnedFd) -> OutputTail {
        let output = Some(output).filter(|output| stream::never_block(output.as_fd()).is_ok());
        OutputTail { output, kept: Vec::new() }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(AsFd::as_fd)
    }

    /// Reads what the pipe holds, without waiting.
    fn take(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..Self::PIECES {
            let Some(output) = &self.output else { return };
            match stream::read(output.as_fd(), &mut buffer) {
                Ok(Moved::Bytes(n)) => {
                    self.kept.extend_from_slice(&buffer[..n]);
                    self.kept.drain(..self.kept.len().saturating_sub(Self::KEPT));
                }
                Ok(Moved::Later) => return,
                Ok(Moved::End) | Err(_) => self.output = None,
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).trim().to_string()
    }
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
        assert_eq!(run_one(&hook("kill -9 $$", None), None, &state), Err("signal 9 (SIGKILL): killed".into()));
        // A filter of system calls that kills: SIGSYS.
        let killed = run_one(&hook("kill -s SYS $$; echo no", None), None, &state).unwrap_err();
        assert!(killed.ends_with(": bad system call"), "{killed}");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let state = serde_json::json!({});
        assert_eq!(run_one(&hook("sleep 9", Some(1)), None, &state), Err("timed out after 1 s and was killed".into()));
    }

    #[test]
    fn a_state_that_nobody_reads_does_not_stop_the_clock() {
        let state = serde_json::json!({"annotations": {"large": "x".repeat(1 << 20)}});
        assert_eq!(run_one(&hook("sleep 9", Some(1)), None, &state), Err("timed out after 1 s and was killed".into()));
        assert_eq!(run_one(&hook("exit 0", None), None, &state), Ok(()));
        let counts = hook("[ $(wc -c) -gt 1048576 ]", Some(60));
        assert_eq!(run_one(&counts, None, &state), Ok(()), "who reads it gets all of it");
    }

    #[test]
    fn what_a_hook_leaves_behind_is_not_waited_for() {
        let state = serde_json::json!({"annotations": {"large": "x".repeat(1 << 20)}});
        let start = std::time::Instant::now();
        assert_eq!(run_one(&hook("sleep 20 <&0 & exit 0", None), None, &state), Ok(()));
        assert!(start.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn of_much_output_the_end_is_kept() {
        let state = serde_json::json!({});
        let error = run_one(&hook("yes | head -c 10000000; echo end; exit 3", None), None, &state).expect_err("3");
        assert!(error.starts_with("exit status 3, output: ") && error.ends_with("\nend"), "{error}");
        assert!(error.len() < 2 * OutputTail::KEPT);
    }

    #[test]
    fn every_poststop_hook_runs() {
        let state = serde_json::json!({});
        let warnings = run_poststop(&[hook("exit 1", None), hook("exit 0", None), hook("exit 2", None)], &state);
        let pointers: Vec<_> = warnings.iter().map(|w| w.pointer.as_str()).collect();
        assert_eq!(pointers, ["/hooks/poststop/0", "/hooks/poststop/2"]);
    }
}
