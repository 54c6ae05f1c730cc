//! Where cases run. Each harness ends up in [`init`], which starts the runner
//! as its only lasting child and hands the runner's result lines back.

pub mod host;
pub mod init;
mod serial;
pub mod uml;

/// Runs the runner with `words` in the harness of this name and passes on each line that it prints.
/// `on_line` says whether the line was a result; another is shown or kept for the error text.
/// `Err` says why the harness could not do its work.
pub fn run(name: &str, words: &[String], on_line: &mut dyn FnMut(&str) -> bool) -> Result<(), String> {
    match name {
        "uml" => uml::run(words, on_line),
        _ => host::run(words, on_line),
    }
}
