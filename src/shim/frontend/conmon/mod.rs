//! conmon's contract: what podman and CRI-O start for each container and each exec.
//!
//! Described by its callers' use and by conmon(8): one process per container; the caller is
//! answered on pipes (`pipes`), the exit is a file and a command, clients come in through a
//! socket and two fifos in the bundle (`doors`). `docs/conmon.md` has what differs from conmon.
//!
//! ```text
//! caller ──argv──> settings ──fork──> supervisor: runtime create ──> sync pipe: the pid
//!                  (the caller's child        │
//!                   leaves at once)           └─ exit ──> exit file ──> sync pipe ──> exit command
//! ```

mod arguments;
mod doors;
mod front;
mod logs;
mod messages;
mod notify;
mod pipes;
mod settings;

use std::ffi::{CString, OsString};
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use self::arguments::Arguments;
use self::front::Front;
use self::messages::{Level, Messages};
use self::pipes::Pipes;
use self::settings::{ExitCommand, Settings};
use crate::Supervisor;
use crate::call;
use crate::frontend::complaint::complain;
use crate::log::Logger;
use crate::pipe;
use crate::serve;
use windlass_sys::process::{self, Forked, SingleThreaded};
use windlass_sys::spawn::Spawn;
use windlass_sys::{self as sys, descriptors, fd};

/// The version of conmon whose contract this is: callers ask for it, and choose flags by it.
const VERSION: &str = "2.2.1";

/// Runs it.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    match run(arguments) {
        Ok(status) => ExitCode::from(status as u8),
        Err(text) => {
            complain("conmon", &text);
            ExitCode::FAILURE
        }
    }
}

/// For a reader who may leave after the first line.
fn say(text: &str) -> Result<i32, String> {
    windlass_args::print(text).map(|()| 0).map_err(|error| error.to_string())
}

fn run(arguments: Vec<OsString>) -> Result<i32, String> {
    let arguments = Arguments::parse(arguments).map_err(|text| format!("option parsing failed: {text}"))?;
    if arguments.help {
        return say(&arguments::help());
    }
    if arguments.version {
        let commit = option_env!("WINDLASS_COMMIT").unwrap_or("unknown");
        let own = env!("CARGO_PKG_VERSION");
        return say(&format!("conmon version {VERSION}\ncommit: windlass-shim {own} ({commit})\n"));
    }
    let (settings, mut process) = Settings::of(arguments)?;
    // While we are the caller's child, and our exit status is an answer.
    for log in &process.stdio.logs {
        Logger::open(log).map_err(|failed| format!("Failed to open log file: {failed}"))?;
    }
    let mut inherited = descriptors::inherited();
    let pipes = Pipes::take(&mut inherited, settings.key)?;
    let oom_score_adj = protect().ok();
    pipes.wait_for_start();
    if !settings.stay {
        let proof = SingleThreaded::check().map_err(|failed| failed.to_string())?;
        match process::fork(CloneFlags::empty(), None, &proof).map_err(|failed| failed.to_string())? {
            Forked::Child => {}
            Forked::Parent(child) => process::exit_now(write_pid(&settings, child.pid)),
        }
    }
    // What is not the process's is held for as long as it runs: ports that the caller has
    // reserved for it, and the like.
    let held = inherited.split_off(&process.preserve_fds.last().map_or(3, |last| last + 1));
    // A caller may leave numbers out (podman's --preserve-fd). What we open at these is not for the process.
    process.preserve_fds.retain(|number| inherited.contains_key(number));
    let messages = Messages::new(settings.level, settings.syslog, &settings.container.id);
    let setup = || {
        // Fails only for a group's leader, which the caller's own child may be.
        let _ = nix::unistd::setsid();
        if !settings.passthrough {
            front::leave_stdio()?;
        }
        Supervisor::new()
    };
    let mut core = setup().map_err(|failed| failed.to_string())?;
    core.oom_score_adj = oom_score_adj;
    core.listen_pid = settings.listen_pid;
    core.patient = true;
    core.held = held.into_values().collect();
    let mut front = Front::new(&settings, &messages, pipes, process, inherited);
    front.begin(&mut core);
    let status = serve(&mut core, &mut front).map_err(|failed| failed.to_string())?;
    drop(front);
    if let Some(exit) = &settings.exit
        && let Err(failed) = run_at_exit(exit, core)
    {
        messages.say(Level::Error, &format!("cannot run the exit command: {failed}"));
    }
    Ok(status)
}

/// Makes us the last to be killed for want of memory. Gives what the runtime gets instead: what
/// we had before.
fn protect() -> sys::Result<String> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let before = fd::read_small(fd::CWD, FILE)?;
    fd::write_once(fd::open(FILE, OFlag::O_WRONLY)?.as_fd(), b"-1000")?;
    Ok(String::from_utf8_lossy(&before).trim().to_string())
}

/// In the parent: the child's process id for the caller, and our exit status.
fn write_pid(settings: &Settings, pid: i32) -> i32 {
    let Some(file) = &settings.pid_file else { return 0 };
    match crate::exit::put(file, pid.to_string().as_bytes(), false) {
        Ok(()) => 0,
        Err(failed) => {
            complain("conmon", &format!("Failed to write conmon pidfile: {failed}"));
            1
        }
    }
}

/// Runs the exit command and waits for it. What it starts is not ours to reap: it may be the next
/// run of the same container.
fn run_at_exit(exit: &ExitCommand, mut core: Supervisor) -> sys::Result<()> {
    let oom_score_adj = core.oom_score_adj.take();
    drop(core);
    process::leave_orphans()?;
    let program = call::text(&exit.program);
    let arguments: Vec<CString> =
        std::iter::once(program.clone()).chain(exit.arguments.iter().map(|word| call::text(word))).collect();
    // With the log driver passthrough the process has our own stdio.
    let null = pipe::null()?;
    let child = Spawn {
        path: &program,
        arguments: &arguments,
        environment: &call::environment().collect::<Vec<_>>(),
        stdio: [null.as_fd(); 3],
        preserve: &[],
        extra: &[],
        directory: None,
        oom_score_adj: oom_score_adj.as_deref(),
        die_with_parent: false,
        session: false,
        listen_pid: false,
    }
    .start()?;
    child.wait().map(drop)
}
