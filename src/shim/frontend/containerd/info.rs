//! `-info` and `-v`: describe the runtime and the shim.

use std::path::Path;

use super::error::Error;
use super::message::Any;
use super::message::options::Options;
use super::message::start::{Info, Version};
use super::{bundle, io};
use crate::command::{self, Finished};
use windlass_base::protobuf::Message;
use windlass_sys::poll::Deadline;

/// The type of the features document of the runtime-spec.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// The commit that the shim was built from.
const REVISION: &str = match option_env!("WINDLASS_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// The name by which the program was called.
pub(super) fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    Path::new(&path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The name of the runtime in containerd: for `containerd-shim-runc-v2` it is `io.containerd.runc.v2`.
fn runtime_name(program: &str) -> String {
    let name = program.strip_prefix("containerd-shim-").and_then(|rest| rest.rsplit_once('-'));
    name.map_or_else(|| format!("io.containerd.{program}"), |(name, version)| format!("io.containerd.{name}.{version}"))
}

/// Prints containerd's `RuntimeInfo`.
pub(super) fn main() -> Result<(), Error> {
    let given = Any::decode(&io::input()?).ok().filter(|any| *any != Any::default());
    let options = Options::read(given.as_ref())?;
    let runtime = bundle::runtime(&options, "", None)?;
    // As in containerd's own shim, a runtime without the command has no features.
    let features = command::run(&runtime.binary, &["features".into()], Deadline::after(command::TIMEOUT));
    let features = features.ok().filter(Finished::success);
    let info = Info {
        name: runtime_name(&program()),
        version: Some(Version { version: env!("CARGO_PKG_VERSION").into(), revision: REVISION.into() }),
        options: given,
        features: features.map(|finished| Any { type_url: FEATURES.into(), value: finished.stdout }),
    };
    io::print(&info.encode())
}

/// Prints the version as text.
pub(super) fn version() -> Result<(), Error> {
    let text = format!("{}:\n  Version:  {}\n  Revision: {REVISION}\n", program(), env!("CARGO_PKG_VERSION"));
    io::print(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_runtime_is_that_of_the_program() {
        assert_eq!(runtime_name("containerd-shim-runc-v2"), "io.containerd.runc.v2");
        assert_eq!(runtime_name("containerd-shim-my-own-v2"), "io.containerd.my-own.v2");
        assert_eq!(runtime_name("windlass-shim"), "io.containerd.windlass-shim");
    }
}
