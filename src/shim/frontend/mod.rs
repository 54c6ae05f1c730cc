//! The protocols of the shim. The name of the program selects one: `containerd-shim-NAME-vN` containerd's, `conmon`
//! conmon's. Under any other name the first argument selects it (`containerd`, `conmon`), or is a command of the
//! engine-neutral mode.

pub mod conmon;
pub mod containerd;
mod control;
mod created;
mod image;
mod listener;
pub mod neutral;
mod resume;
mod stderr;
pub(crate) mod upgradable;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use upgradable::Mode;

/// Runs the front end that the arguments select. The first argument is the program's name.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut arguments: Vec<OsString> = arguments.collect();
    if let Some(status) = resume::main(&arguments) {
        return status;
    }
    let name = arguments.first().map(|path| Path::new(path).file_name().unwrap_or_default().to_os_string());
    match protocol(name.as_deref().unwrap_or_default(), arguments.get(1).map(OsString::as_os_str)) {
        (Mode::Conmon, named) => conmon::main(without_first(&mut arguments, named)),
        (Mode::Containerd, named) => containerd::main(without_first(&mut arguments, named)),
        (Mode::Neutral, _) => neutral::main(without_first(&mut arguments, false)),
    }
}

/// The protocol, and whether the first argument selected it.
fn protocol(name: &OsStr, first: Option<&OsStr>) -> (Mode, bool) {
    let name = name.as_encoded_bytes();
    if name.starts_with(b"containerd-shim-") {
        return (Mode::Containerd, false);
    }
    if name == b"conmon" {
        return (Mode::Conmon, false);
    }
    match first.map(OsStr::as_encoded_bytes) {
        Some(b"conmon") => (Mode::Conmon, true),
        Some(b"containerd") => (Mode::Containerd, true),
        _ => (Mode::Neutral, false),
    }
}

/// The arguments after the program's name, and with `named` after the protocol's name.
fn without_first(arguments: &mut Vec<OsString>, named: bool) -> Vec<OsString> {
    arguments.drain(..(1 + usize::from(named)).min(arguments.len()));
    std::mem::take(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_chooses_and_then_the_first_argument() {
        let chosen = |name: &str, first: &str| protocol(name.as_ref(), Some(first.as_ref()));
        assert_eq!(chosen("containerd-shim-runc-v2", "conmon"), (Mode::Containerd, false));
        assert_eq!(chosen("conmon", "containerd"), (Mode::Conmon, false));
        assert_eq!(chosen("windlass-shim", "conmon"), (Mode::Conmon, true));
        assert_eq!(chosen("windlass-shim", "run"), (Mode::Neutral, false));
    }
}
