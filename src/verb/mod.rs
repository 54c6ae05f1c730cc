//! The verbs of the command line, one file each: what stands between the options that were
//! parsed and the parts that do the work.

mod bundle;
mod caller;
mod create;
mod events;
mod exec;
mod explain;
mod inspect;
mod lacking;
mod limits;
mod passed;
mod signal;

use std::ffi::OsString;

use crate::cli::{self, Command, Global, features};
use crate::log::Log;
use windlass_apply::Laps;
use windlass_args::print;
use windlass_base::error::{Error, Fault, Result};
use windlass_store::Store;
use windlass_sys::process::SingleThreaded;

use passed::Passed;

/// What every verb has at hand.
pub struct Session<'a> {
    /// The flags before the verb.
    pub global: &'a Global,
    /// Whether init reports each step.
    pub debug: bool,
    /// Descriptors that the caller has us pass on.
    pub passed: Passed,
    /// What was warned about; a failure carries it, a success reports it.
    pub warnings: Vec<Fault>,
}

impl Session<'_> {
    /// The containers.
    pub fn store(&self) -> Result<Store> {
        Store::open(&self.global.root)
    }

    /// Adds warnings; with `--strict` the first is an error.
    pub fn warn(&mut self, warnings: Vec<Fault>) -> Result<()> {
        if self.global.strict && !warnings.is_empty() {
            return Err(Error::faults(warnings));
        }
        self.warnings.extend(warnings);
        Ok(())
    }
}

/// Runs the program: parses, does, reports once, and gives the exit code.
pub fn run(args: impl Iterator<Item = OsString>) -> u8 {
    let (global, command) = match cli::parse(args) {
        Ok(parsed) => parsed,
        Err(rejected) => {
            let log = Log::open(&rejected.global).unwrap_or_else(|_| Log::stderr(&rejected.global));
            log.fail(&rejected.error, &[]);
            return rejected.exit;
        }
    };
    // Before anything is opened.
    let passed = Passed::find(&command);
    let log = match Log::open(&global) {
        Ok(log) => log.install(),
        Err(error) => {
            Log::stderr(&global).fail(&error, &[]);
            return 1;
        }
    };
    let failure = if matches!(command, Command::Exec(_)) { cli::EXIT_EXEC } else { 1 };
    let passed = match passed {
        Ok(passed) => passed,
        Err(error) => {
            log.fail(&error, &[]);
            return failure;
        }
    };
    let mut session = Session { global: &global, debug: log.debugs(), passed, warnings: Vec::new() };
    let mut all = Laps::begin(session.debug);
    let outcome = dispatch(command, &mut session);
    all.done("all of it");
    match outcome {
        Ok(code) => {
            log.warn(&session.warnings);
            code
        }
        Err(error) => {
            log.fail(&error, &session.warnings);
            failure
        }
    }
}

fn dispatch(command: Command, session: &mut Session<'_>) -> Result<u8> {
    let done = |result: Result<()>| result.map(|()| 0);
    match command {
        Command::Create(options) => done(create::create(options, session, &SingleThreaded::check()?)),
        Command::Run(options) => create::run(options, session, &SingleThreaded::check()?),
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
            let whom = if rootless {
                cli::spec::For::User { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
            } else {
                cli::spec::For::Root
            };
            done(cli::spec::write(&bundle, &cli::spec::text(session.global.name, whom)))
        }
        Command::Features => done(print(&features::document(&known()))),
        Command::Doctor { json } => inspect::doctor(json, session, &SingleThreaded::check()?),
        Command::Explain(options) => done(explain::explain(&options, session)),
        Command::Check { bundle, config, format } => explain::check(&bundle, config.as_deref(), format, session),
        Command::Print(text) => done(print(&text)),
    }
}

fn known() -> features::Known<'static> {
    features::Known {
        mount_options: windlass_plan::mount_options::names().collect(),
        memory_policy_modes: windlass_plan::MEMORY_MODES.iter().map(|row| row.0).collect(),
        memory_policy_flags: windlass_plan::MEMORY_FLAGS.iter().map(|row| row.0).collect(),
        cgroup_v1: cfg!(feature = "cgroup-v1"),
        kernel_takes: windlass_sys::probe::seccomp_knows,
    }
}
