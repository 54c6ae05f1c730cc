//! The verbs of the command line, one file for each group. A verb takes the options that were parsed,
//! calls the crates that do the work, and prints the result.

mod bundle;
mod caller;
mod checkpoint;
mod create;
mod events;
mod exec;
mod explain;
mod host_check;
mod inspect;
mod limits;
mod passed_fds;
mod planning;
mod prepared;
mod program_check;
mod session;
mod signal;

use std::ffi::OsString;

use crate::cli::{self, Command, features};
use crate::log::Log;
use windlass_apply::StepTimer;
use windlass_args::print;
use windlass_base::error::Result;
use windlass_sys::process::SingleThreaded;
use windlass_sys::signals;

use passed_fds::PassedFds;
use session::Session;

/// Runs the program and returns its exit code. A failure is reported once, here.
pub fn run(args: impl Iterator<Item = OsString>) -> u8 {
    let (global, command) = match cli::parse(args) {
        Ok(parsed) => parsed,
        Err(rejected) => {
            let log = Log::open(&rejected.global).unwrap_or_else(|_| Log::stderr(&rejected.global));
            log.fail(&rejected.error, &[]);
            return rejected.exit;
        }
    };
    // A caller's RLIMIT_FSIZE is reported as any other shortage. `run` in the foreground blocks all signals.
    if !matches!(&command, Command::Run(run) if !run.detach) {
        let _ = signals::block_sigxfsz();
    }
    // This comes first: later the program's own descriptors could be mistaken for the caller's.
    let passed = PassedFds::find(&command);
    let log = match Log::open(&global) {
        Ok(log) => log.install(),
        Err(error) => {
            Log::stderr(&global).fail(&error, &[]);
            return 1;
        }
    };
    let exit_of_failure = if matches!(command, Command::Exec(_)) { cli::EXIT_EXEC } else { 1 };
    let passed = match passed {
        Ok(passed) => passed,
        Err(error) => {
            log.fail(&error, &[]);
            return exit_of_failure;
        }
    };
    let mut session = Session { global: &global, debug: log.debugs(), passed, warnings: Vec::new() };
    let mut total = StepTimer::start(session.debug);
    let outcome = dispatch(command, &mut session);
    total.done("all of it");
    match outcome {
        Ok(code) => {
            log.warn(&session.warnings);
            code
        }
        Err(error) => {
            log.fail(&error, &session.warnings);
            exit_of_failure
        }
    }
}

fn dispatch(command: Command, session: &mut Session<'_>) -> Result<u8> {
    let done = |result: Result<()>| result.map(|()| 0);
    match command {
        Command::Create(options) => done(create::create(&options, session, &SingleThreaded::check()?)),
        Command::Run(options) => create::run(&options, session, &SingleThreaded::check()?),
        Command::Start { id } => done(create::start(&id, session)),
        Command::Exec(options) => exec::exec(*options, session, &SingleThreaded::check()?),
        Command::Kill { id, signal, all } => done(signal::kill(&id, signal, all, session)),
        Command::Delete { id, force } => done(signal::delete(&id, force, session)),
        Command::State { id } => done(inspect::state(&id, session)),
        Command::List { format, quiet } => done(inspect::list(format, quiet, session)),
        Command::Ps { id, format, args } => done(inspect::ps(&id, format, &args, session)),
        Command::Pause { id } => done(limits::pause(&id, session)),
        Command::Resume { id } => done(limits::resume(&id, session)),
        Command::Update(update) => done(limits::update(&update, session)),
        Command::Events { id, interval, stats } => done(events::events(&id, interval, stats, session)),
        Command::Spec { bundle, rootless } => {
            let user = if rootless {
                cli::spec::SpecUser::User { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
            } else {
                cli::spec::SpecUser::Root
            };
            done(cli::spec::write(&bundle, &cli::spec::text(session.global.name, user)))
        }
        Command::Checkpoint(options) => checkpoint::checkpoint(&options, session),
        Command::Restore(options) => create::restore(&options, session, &SingleThreaded::check()?),
        Command::Features => done(print(&features::document(&supported()))),
        Command::Doctor { json } => inspect::doctor(json, session, &SingleThreaded::check()?),
        Command::Explain(options) => done(explain::explain(&options, session)),
        Command::Check { bundle, config, format } => explain::check(&bundle, config.as_deref(), format, session),
        Command::Print(text) => done(print(&text)),
    }
}

/// The features of the other crates and of this kernel, for `features`.
fn supported() -> features::Supported<'static> {
    features::Supported {
        mount_options: windlass_plan::mount_options::names().collect(),
        memory_policy_modes: windlass_plan::MEMORY_MODES.iter().map(|row| row.0).collect(),
        memory_policy_flags: windlass_plan::MEMORY_FLAGS.iter().map(|row| row.0).collect(),
        cgroup_v1: cfg!(feature = "cgroup-v1"),
        kernel_takes: windlass_sys::probe::seccomp_knows,
    }
}
