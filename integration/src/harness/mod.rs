//! Where cases run. Each harness ends up in [`init`], which starts the runner
//! as its only lasting child and hands the runner's result lines back.

pub mod host;
pub mod init;
pub mod uml;

use crate::args::Args;
use crate::report::Event;

/// Runs the cases that `args` asks for in the harness of this name, passing
/// each event on as it comes. `Err` says why the harness could not do its work.
pub fn run(name: &str, args: &Args, on_event: &mut dyn FnMut(Event)) -> Result<(), String> {
    match name {
        "uml" => uml::run(args, on_event),
        _ => host::run(args, on_event),
    }
}
