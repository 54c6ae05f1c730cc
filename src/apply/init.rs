//! The child's story: it does its steps one by one, and the last is the program.

use std::time::Instant;

use windlass_base::error::{Error, Origin, Result};
use windlass_plan::{Action, Step};
use windlass_store::INIT_NAME;
use windlass_sys::process;
use windlass_sys::progress::Progress;

use super::action::apply;
use super::context::Context;
use super::sync::{InitSync, encode_failure};

/// How the steps are watched.
#[derive(Clone, Copy)]
pub struct Watch {
    /// Counts the steps for the runtime.
    pub progress: Progress,
    /// Whether each is reported with its duration.
    pub debug: bool,
    /// Whether others of the same user may look into it until its ids are mapped: newuidmap(1)
    /// takes it for the caller's own by that.
    pub mapped_first: bool,
}

/// Does the steps; the last executes the program. Never returns: a failure is reported to
/// whoever waits, and ends the process with status 255.
pub fn run(steps: &[Step], describe: &dyn Fn(&Step) -> String, watch: Watch, mut cx: Context<'_>) -> ! {
    cx.progress = Some(watch.progress);
    let error = match begin(watch.mapped_first).and_then(|()| each(steps, describe, watch, &mut cx)) {
        Err(error) => error,
        Ok(()) => Error::new(windlass_base::error::Kind::Protocol, "the plan does not end with a program"),
    };
    report(&cx, &error);
    process::exit_now(255)
}

/// Tells the runtime of an error before the first step, and ends this process.
pub fn fail(sync: &InitSync, error: &Error) -> ! {
    sync.failed(error);
    process::exit_now(255)
}

fn begin(mapped_first: bool) -> Result<()> {
    // Nobody in the container may look into this process, which has the host's descriptors, until
    // it executes; the kernel sets dumpable anew then.
    if !mapped_first {
        process::set_nondumpable()?;
    }
    process::die_with_parent()?;
    process::set_comm(INIT_NAME);
    // Not in the caller's session: its terminal is not the container's.
    let _ = nix::unistd::setsid();
    windlass_sys::sched::umask(0);
    Ok(())
}

/// The one place that adds to an error where it happened.
fn each(steps: &[Step], describe: &dyn Fn(&Step) -> String, watch: Watch, cx: &mut Context<'_>) -> Result<()> {
    for (index, step) in steps.iter().enumerate() {
        watch.progress.at(index + 1);
        let begun = watch.debug.then(Instant::now);
        apply(&step.action, cx).map_err(|error| {
            let error = match &step.action {
                // Callers look for these words of runc's.
                Action::Mount(mount) => error.before(format!(
                    "error during container init: error mounting to rootfs at {:?}",
                    mount.destination.to_string()
                )),
                _ => error,
            };
            error.origin(step.origin.clone()).step(format!("init {}/{}: {}", index + 1, steps.len(), describe(step)))
        })?;
        if let Some(begun) = begun {
            let micros = begun.elapsed().as_micros();
            let asked = match &step.origin {
                Origin::Config(who) | Origin::Flag(who) | Origin::Default(who) => who,
            };
            let line = format!("init {}/{} {} ({asked}) {micros}us", index + 1, steps.len(), describe(step));
            cx.sync.log(&line);
        }
    }
    Ok(())
}

/// Before `start`, the runtime hears of it; after, the `start` that waits does, and standard
/// error, which is the container's log.
fn report(cx: &Context<'_>, error: &Error) {
    match &cx.starter {
        None => cx.sync.failed(error),
        Some(starter) => {
            use std::os::fd::AsFd;
            // First to who waits: standard error may be a pipe that nobody reads, and the end of us.
            let _ = windlass_sys::socket::send(starter.as_fd(), &encode_failure(error), &[]);
            eprintln!("{error}");
        }
    }
}
