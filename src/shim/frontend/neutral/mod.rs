//! The engine-neutral mode: a shim with a documented protocol of one JSON object per line, and the commands that use
//! the protocol.
//!
//! ```text
//!  run --> STATE/ID/ --> server (this program, executed again)  <-- shim.sock --> clients
//!   |                       |-- exit.json, events.log, log
//!   `-- prints one line <---'
//! ```
//!
//! An engine that restarts finds everything in the directory: `shim.lock` is locked while the shim lives, `subscribe`
//! repeats the events that the engine has not acknowledged, and the files hold what a dead shim has recorded.
//! `docs/shim-protocol.md` describes the protocol.

mod adopt;
mod attach;
pub(super) mod connection;
mod container_dir;
mod dead;
mod event_log;
mod front;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod image;
mod logs;
mod report;
mod requests;
mod run;
mod shims;
#[cfg(simulated)]
mod simulated;
mod stalled;
pub mod table;
mod verbs;
pub(super) mod wire;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use crate::Supervisor;
use crate::frontend::stderr::{NAME, print_error};
use crate::frontend::upgradable;
use verbs::{Failure, Invocation};
use windlass_args::{Environment, Matches, Words, count, help, print};

/// Runs a command, or the server.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    if arguments.first().is_some_and(|word| word == "@serve") {
        return ExitCode::from(front::main(&arguments[1..]) as u8);
    }
    match verb(arguments) {
        Ok(status) => ExitCode::from(status as u8),
        Err(Failure(message)) => {
            print_error(NAME, &message);
            ExitCode::FAILURE
        }
    }
}

pub(crate) use front::NeutralFront;
#[cfg(simulated)]
pub(crate) use simulated::{RunRequest, adopt, begin, keeps, last_event};

/// Serves on after an upgrade.
pub(super) fn resume((mut core, mut front): (Supervisor, NeutralFront)) -> windlass_sys::Result<i32> {
    upgradable::serve(&mut core, &mut front)
}

fn verb(arguments: Vec<OsString>) -> Result<i32, Failure> {
    let mut words = Words::new(arguments.into_iter());
    let mut matches = Matches::default();
    words.global(table::GLOBAL, &mut matches)?;
    if matches.switch("version") {
        print(&help::version(NAME))?;
        return Ok(0);
    }
    let name = matches.operands.first().and_then(|word| word.to_str()).filter(|_| !matches.switch("help"));
    let Some(name) = name else {
        let about = "Stays with a container, keeps its stdio, reports its exit.";
        print(&help::program(NAME, about, table::VERBS, table::GLOBAL))?;
        return Ok(0);
    };
    let verb = table::verb(name).ok_or_else(|| Failure(format!("there is no verb {name:?}; --help lists them")))?;
    let mut matches = Matches::default();
    words.verb(verb.flags, verb.operands, &mut matches)?;
    if matches.switch("help") {
        print(&help::verb(NAME, verb))?;
        return Ok(0);
    }
    count(verb, matches.operands.len(), NAME)?;
    let state = matches.path("state-dir").unwrap_or_else(|| Environment::current().shims());
    match verb.name {
        "run" => Ok(run::run(&state, &matches)),
        "adopt" => {
            let id = matches.operands.first().map(OsString::as_os_str).and_then(OsStr::to_str).unwrap_or_default();
            Ok(run::adopt(&state, id))
        }
        "list" => shims::list(&state),
        "upgrade" => shims::upgrade(&state, &matches),
        name => Invocation { state: &state, matches: &matches }.run(name),
    }
}
