//! containerd's shim protocol, version 2 and 3 of the task service.
//!
//! containerd runs the binary as `containerd-shim-NAME-vN` with an action: `start` (`start`) makes the lasting shim, or
//! finds the one of the same pod, and prints its address; the shim (`server`) answers calls on ttrpc ([`ttrpc`]) and
//! sends events back (`outbox`); `delete` (`delete`) cleans up after the shim; `-info` (`info`) reports the features of
//! the runtime.
//!
//! ```text
//!  containerd --start--> us --spawn--> shim: listener on fd 0
//!      |  ^                             |  connection: frames <-> service: messages -> supervisor
//!      |  '---Forward: one at a time----|  outbox: events, until acknowledged
//!      '------calls, any order--------->'  jobs: mounts and loggers, in children
//! ```
//!
//! # Why the codecs are written by hand
//!
//! The messages are flat and few; a table of field numbers ([`message`]) and fewer than 500 lines
//! (`windlass_base::protobuf`, [`ttrpc`]) read and write them all. The crates that generate them bring 25 packages
//! (containerd-shim-protos 0.12, 50 with those of the build) or 136 (containerd-shim 0.12). A
//! bare skeleton on the latter has 321 kB of proportional memory in ten idle instances with
//! threads, 489 kB with async; a shim without them 144 kB, and the one in Go 3265 kB. They
//! also answer a service that they do not know with code 3, where containerd waits for 12 to try
//! another version. The generated types are the oracle of our tests instead.

mod answer;
mod arguments;
mod bundle;
mod connection;
mod connections;
mod delete;
mod error;
mod frames;
mod front;
mod idmapped;
mod image;
mod info;
mod io;
mod job;
mod key;
mod lifetime;
mod log;
mod logger;
pub mod message;
mod mounts;
mod outbox;
mod pending;
mod server;
mod service;
mod spooling;
mod start;
mod stats;
mod stdio;
mod task;
mod tasks;
pub mod ttrpc;

use std::ffi::OsString;
use std::process::ExitCode;

use arguments::{Action, Arguments};

use super::control::Controlled;
use super::stderr::print_error;
use crate::Supervisor;

pub(crate) use front::ContainerdFront;

/// Serves on after an upgrade.
pub(super) fn resume((core, front): (Supervisor, Controlled<ContainerdFront>)) -> windlass_sys::Result<i32> {
    front::serve(core, front)
}

/// The front end of a shim on this listener, for the simulation.
#[cfg(simulated)]
pub(crate) fn simulated(
    listener: std::os::fd::OwnedFd,
    bundle: std::path::PathBuf,
    events: &str,
    core: &crate::Supervisor,
) -> windlass_sys::Result<ContainerdFront> {
    front::ContainerdFront::on(listener, bundle, "default", events, core)
}

/// The exit record as `delete` finds it, for the simulation.
#[cfg(simulated)]
pub(crate) fn recorded(bundle: &std::path::Path, id: &str) -> Option<crate::exit::Record> {
    delete::record(bundle, id)
}

/// Runs the action.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let done = Arguments::parse(words).and_then(|arguments| match arguments.action {
        Action::Serve => front::main(&arguments),
        Action::Start => start::main(&arguments),
        Action::Delete => delete::main(&arguments),
        Action::Info => info::main(),
        Action::Version => info::version(),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows this text as the reason.
            print_error(&info::program(), &error.to_string());
            ExitCode::FAILURE
        }
    }
}
