//! The harnesses of the cases. Each starts [`init`], which starts the runner as its only lasting child and returns the
//! runner's result lines.

pub mod host;
pub mod init;
mod serial;
pub mod uml;

/// Runs the runner with `words` in the harness of this name and passes on each printed line. `on_line` returns whether
/// the line was a result; other lines are shown or kept for the error text. `Err`: why the harness failed.
pub fn run(name: &str, words: &[String], on_line: &mut dyn FnMut(&str) -> bool) -> Result<(), String> {
    match name {
        "uml" => uml::run(words, on_line),
        _ => host::run(words, on_line),
    }
}
