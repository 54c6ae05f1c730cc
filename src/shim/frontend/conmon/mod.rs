//! The role of conmon(8), which podman and CRI-O start once for each container and each exec.
//!
//! The caller is answered on pipes (`pipes`). Clients attach through a socket and set the terminal's size through
//! two fifos in the bundle (`endpoints`). The exit status is written to a file and given to a command.
//! `docs/conmon.md` lists the differences from conmon.
//!
//! ```text
//! caller ──argv──> settings ──fork──> supervisor: runtime create ──> sync pipe: the pid
//!                  (the caller's child        │
//!                   leaves at once)           └─ exit ──> exit file ──> sync pipe ──> exit command
//! ```

mod arguments;
mod endpoints;
mod error;
mod front;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod image;
mod logs;
mod messages;
mod notify;
mod pipes;
mod settings;

use std::ffi::{CString, OsString};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use self::arguments::Arguments;
use self::error::Error;
pub(crate) use self::front::ConmonFront;
use self::messages::{Level, Messages};
use self::pipes::Pipes;
use self::settings::{ExitCommand, Settings};
use crate::Supervisor;
use crate::call;
use crate::frontend::control::Controlled;
use crate::frontend::stderr::print_error;
use crate::frontend::upgradable;
use crate::log::Logger;
use crate::pipe;
use crate::stdio::Log;
use windlass_sys::process::{self, Forked, SingleThreaded};
use windlass_sys::spawn::{self, Environment, Spawn};
use windlass_sys::{self as sys, descriptors, fd};

/// The version of conmon that this program replaces. Callers choose their flags by it.
const VERSION: &str = "2.2.1";

/// Runs the front end with the arguments after the program's name.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    match run(arguments) {
        Ok(status) => ExitCode::from(status as u8),
        Err(error) => {
            print_error("conmon", &error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Prints to standard output. Succeeds if the reader closes it early.
fn print(text: &str) -> Result<i32, Error> {
    windlass_args::print(text).map(|()| 0).map_err(|error| Error::Print(error.to_string()))
}

fn run(arguments: Vec<OsString>) -> Result<i32, Error> {
    let arguments = Arguments::parse(arguments)?;
    if arguments.help {
        return print(&arguments::help());
    }
    if arguments.version {
        let commit = option_env!("WINDLASS_COMMIT").unwrap_or("unknown");
        let own = env!("CARGO_PKG_VERSION");
        return print(&format!("conmon version {VERSION}\ncommit: windlass-shim {own} ({commit})\n"));
    }
    let whole_lines = arguments.no_container_partial_message;
    let (settings, mut process) = Settings::from_arguments(arguments)?;
    if whole_lines && !process.stdio.logs.iter().any(|log| matches!(log, Log::Journald(_))) {
        print_error("conmon", "--no-container-partial-message has no effect without journald log driver");
    }
    // Before the fork, because until then the exit status reports a failure to the caller.
    for log in &process.stdio.logs {
        Logger::open(log).map_err(Error::Log)?;
    }
    let mut inherited = descriptors::inherited()?;
    let mut pipes = Pipes::take(&mut inherited, settings.key)?;
    if settings.attach_first && pipes.attach.is_none() {
        return Err(Error::Invalid("--attach specified but _OCI_ATTACHPIPE was not".into()));
    }
    let oom_score_adj = lower_oom_score().ok();
    pipes.wait_for_start();
    if !settings.stay {
        let proof = SingleThreaded::check()?;
        match process::fork(CloneFlags::empty(), None, &proof)? {
            Forked::Child => {}
            Forked::Parent(child) => process::exit_now(write_pid(&settings, child.pid)),
        }
    }
    // Other inherited descriptors stay open while the process runs: the caller may have reserved ports with them.
    let held = inherited.split_off(&process.preserve_fds.last().map_or(3, |last| last + 1));
    // A caller may leave numbers out (podman's --preserve-fd). A descriptor that the shim opens at such a number is not
    // the process's.
    process.preserve_fds.retain(|number| inherited.contains_key(number));
    let messages = Rc::new(Messages::new(settings.level, settings.syslog, &settings.container.id));
    let setup = || -> sys::Result<Supervisor> {
        // This fails only for the leader of a process group, which the caller's child may be.
        let _ = nix::unistd::setsid();
        if !settings.passthrough {
            front::stdio_to_null()?;
        }
        Supervisor::new()
    };
    // Standard error is the null device now, so the failure is reported on the caller's pipe.
    let mut core = setup().inspect_err(|failed| {
        pipes.report(-1, Some(&failed.to_string()));
    })?;
    core.oom_score_adj = oom_score_adj;
    core.listen_pid = settings.listen_pid;
    core.wait_for_only_reader = true;
    core.reserved_descriptors = held.into_values().collect();
    let mut front = ConmonFront::new(Rc::new(settings), messages, pipes, process, inherited);
    front.begin(&mut core);
    let front = Controlled::new(front, &core);
    Ok(serve(core, front)?)
}

/// The front end of a conmon with these arguments, which answers on that pipe, for the simulation.
#[cfg(simulated)]
pub(crate) fn simulated(
    words: Vec<OsString>,
    sync: std::os::fd::OwnedFd,
    core: &mut Supervisor,
) -> Result<ConmonFront, String> {
    let text = |error: Error| error.to_string();
    let (settings, process) = Settings::from_arguments(Arguments::parse(words).map_err(text)?).map_err(text)?;
    let messages = Rc::new(Messages::new(Level::Error, false, &settings.container.id));
    let pipes = Pipes { key: settings.key, sync: Some(sync), start: None, attach: None };
    core.wait_for_only_reader = true;
    let mut front = ConmonFront::new(Rc::new(settings), messages, pipes, process, Default::default());
    front.begin(core);
    Ok(front)
}

/// Serves on after an upgrade.
pub(super) fn resume((core, front): (Supervisor, Controlled<ConmonFront>)) -> sys::Result<i32> {
    serve(core, front)
}

fn serve(mut core: Supervisor, mut front: Controlled<ConmonFront>) -> sys::Result<i32> {
    let status = upgradable::serve(&mut core, &mut front)?;
    let (settings, messages) = (front.front.settings.clone(), front.front.messages.clone());
    drop(front);
    if let Some(exit) = &settings.exit
        && let Err(failed) = run_at_exit(exit, core)
    {
        messages.log(Level::Error, &format!("cannot run the exit command: {failed}"));
    }
    Ok(status)
}

/// Sets the lowest OOM score, so that the shim is killed last when memory is short. Returns the previous score, which
/// the runtime gets.
fn lower_oom_score() -> sys::Result<String> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let before = fd::read_small(fd::CWD, FILE)?;
    fd::write_once(fd::open(FILE, OFlag::O_WRONLY)?.as_fd(), b"-1000")?;
    Ok(String::from_utf8_lossy(&before).trim().to_string())
}

/// In the parent: writes the child's process id for the caller. Returns the exit status.
fn write_pid(settings: &Settings, pid: i32) -> i32 {
    let Some(file) = &settings.pid_file else { return 0 };
    match fd::write_pid(file, pid) {
        Ok(()) => 0,
        Err(failed) => {
            print_error("conmon", &format!("Failed to write conmon pidfile: {failed}"));
            1
        }
    }
}

/// Attempts to run the exit command, and the pause between them. Without the command podman does not clean up, and
/// memory and processes may be short at the end of a container.
const ATTEMPTS: u32 = 5;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Runs the exit command and waits for it. The processes that it starts are not reaped here: one of them may be the
/// next shim of the same container.
fn run_at_exit(exit: &ExitCommand, mut core: Supervisor) -> sys::Result<()> {
    let oom_score_adj = core.oom_score_adj.take();
    drop(core);
    process::resign_as_subreaper()?;
    let program = call::text(&exit.program);
    let arguments: Vec<CString> =
        std::iter::once(program.clone()).chain(exit.arguments.iter().map(|word| call::text(word))).collect();
    let environment: Vec<CString> = call::environment().collect();
    let start = || {
        // Not the shim's own stdio, which the log driver passthrough gives to the process.
        let null = pipe::null()?;
        spawn::start(&Spawn {
            path: &program,
            arguments: &arguments,
            environment: Environment::Given(&environment),
            stdio: [null.as_fd(); 3],
            preserve: &[],
            extra: &[],
            directory: None,
            oom_score_adj: oom_score_adj.as_deref(),
            die_with_parent: false,
            session: false,
            listen_pid: false,
        })
    };
    let mut started = start();
    for _ in 1..ATTEMPTS {
        if !started.as_ref().is_err_and(|failed| is_transient(failed.errno)) {
            break;
        }
        std::thread::sleep(PAUSE);
        started = start();
    }
    started?.wait().map(drop)
}

/// Whether a later attempt may succeed after this error.
fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::ETXTBSY | Errno::EINTR)
}
