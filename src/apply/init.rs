//! The part of the new process: its steps, one by one. The last executes the program.

use std::os::fd::AsFd;
use std::time::Instant;

use windlass_base::error::{Error, Origin, Result};
use windlass_plan::{Action, Step};
use windlass_store::INIT_NAME;
use windlass_sys::process;
use windlass_sys::progress::Progress;

use super::action::apply;
use super::context::{Barrier, Context};
use super::sync::{InitSync, encode_failure};

/// How the steps are watched.
#[derive(Clone, Copy)]
pub struct Watch {
    /// Counts the steps for the runtime.
    pub progress: Progress,
    /// Whether each step is reported with its duration.
    pub debug: bool,
    /// Whether the process stays dumpable until its ids are mapped: newuidmap(1) maps the ids of a process only if the
    /// process's files in /proc belong to the caller.
    pub mapped_first: bool,
}

/// Carries out the steps; the last executes the program. Never returns: a failure is reported to the runtime or
/// to `start`, whichever waits, and ends the process with status 255.
pub(crate) fn run(steps: &[Step], describe: &dyn Fn(&Step) -> String, watch: Watch, mut cx: Context<'_>) -> ! {
    let error = match begin(watch.mapped_first).and_then(|()| each(steps, describe, watch, &mut cx)) {
        Err(error) => error,
        Ok(()) => Error::new(windlass_base::error::Kind::Protocol, "the plan does not end with a program"),
    };
    report(&cx, &error);
    process::exit_now(255)
}

/// Reports an error before the first step to the runtime, and ends this process.
pub(crate) fn fail(sync: &InitSync, error: &Error) -> ! {
    sync.failed(error);
    process::exit_now(255)
}

fn begin(mapped_first: bool) -> Result<()> {
    // This process has descriptors of the host. Until it executes the program, when the kernel makes it dumpable
    // again, nobody in the container may read them through /proc or ptrace(2).
    if !mapped_first {
        process::set_nondumpable()?;
    }
    process::die_with_parent()?;
    process::set_comm(INIT_NAME);
    // The process leaves the caller's session, whose terminal is not the container's.
    let _ = nix::unistd::setsid();
    windlass_sys::sched::umask(0);
    Ok(())
}

/// The lines for before the first step and before the execution. runc's own lines are in brackets: its suite and other
/// readers of a debug log look for them.
const BEGINS: &str = "init: begins (nsexec container setup; child process in init())";
const EXECUTES: &str = "init: all is set up (init: closing the pipe to signal completion; setns_init: about to exec)";

/// Carries out the steps. Only here, the step is added to an error.
fn each(steps: &[Step], describe: &dyn Fn(&Step) -> String, watch: Watch, cx: &mut Context<'_>) -> Result<()> {
    if watch.debug {
        cx.sync.log(BEGINS);
    }
    for (index, step) in steps.iter().enumerate() {
        watch.progress.at(index + 1);
        if watch.debug && matches!(step.action, Action::Ready) {
            cx.sync.log(EXECUTES);
        }
        let begun = watch.debug.then(Instant::now);
        apply(&step.action, cx).map_err(|error| {
            let error = match &step.action {
                // Engines match these words of runc.
                Action::Mount(mount) => error.prefixed(format!(
                    "error during container init: error mounting to rootfs at {:?}",
                    mount.destination.to_string()
                )),
                _ => error,
            };
            error.with_origin(step.origin.clone()).with_step(format!(
                "init {}/{}: {}",
                index + 1,
                steps.len(),
                describe(step)
            ))
        })?;
        if let Some(begun) = begun {
            let micros = begun.elapsed().as_micros();
            let asked = match &step.origin {
                Origin::Config(by) | Origin::Flag(by) | Origin::Default(by) => by,
            };
            let line = format!("init {}/{} {} ({asked}) {micros}us", index + 1, steps.len(), describe(step));
            cx.sync.log(&line);
        }
    }
    Ok(())
}

/// Reports a failure to the runtime; once `start` has opened the barrier, to that `start`, and on standard error,
/// which is the container's log.
fn report(cx: &Context<'_>, error: &Error) {
    let Barrier::Opened { start, .. } = &cx.barrier else { return cx.sync.failed(error) };
    // `start` comes first: standard error may be a pipe that nobody reads, and writing to it may block or kill.
    let _ = windlass_sys::socket::send(start.as_fd(), &encode_failure(error), &[]);
    eprintln!("{error}");
}
