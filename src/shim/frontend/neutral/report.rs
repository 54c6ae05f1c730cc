//! The one line that the server writes for the program that started it.

use std::os::fd::AsFd;

use nix::fcntl::OFlag;
use serde_json::{Value, json};

use super::wire;
use crate::Refusal;
use crate::frontend::stderr::{NAME, print_error};
use windlass_sys::{descriptors, fd};

/// The standard output, on which the program that started the server waits for one line.
pub(super) struct Report;

impl Report {
    /// Writes the line, and closes the output.
    pub(super) fn write(line: &Value) {
        use std::io::Write;
        // The waiting program may have been killed meanwhile. The container goes on.
        if let Err(error) = writeln!(std::io::stdout(), "{line}") {
            print_error(NAME, &format!("the result of the start cannot be reported: {error}"));
        }
        if let Ok(null) = fd::open("/dev/null", OFlag::O_RDWR) {
            let _ = descriptors::install_at(null.as_fd(), 1);
        }
    }

    /// Writes why there is no container.
    pub(super) fn fail(refusal: &Refusal) {
        Report::write(&json!({"v": 1, "error": wire::error(refusal)}));
    }
}
