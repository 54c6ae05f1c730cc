//! Messages on standard error.

use std::io::Write;

use windlass_base::error::printable;

/// The program's name in messages, unless it is called by another.
pub(super) const NAME: &str = "windlass-shim";

/// Prints `text` as a message of the program `name`. Lines after the first are indented, so that none looks like
/// another message. Control characters are escaped (`printable`), because a terminal would interpret them.
///
/// Errors are ignored: standard error may be a closed pipe or a file on a full disk.
pub(super) fn print_error(name: &str, text: &str) {
    let _ = std::io::stderr().write_all(lines_of(name, text).as_bytes());
}

fn lines_of(name: &str, text: &str) -> String {
    let lines: Vec<_> = text.trim_end_matches('\n').split('\n').map(printable).collect();
    format!("{}: {}\n", printable(name), lines.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_s_words_reach_the_terminal_as_text() {
        let lines = lines_of("conmon \u{1b}c", "no \u{1b}[2J\nconmon: all is well\r\n");
        assert_eq!(lines, "conmon \\u{1b}c: no \\u{1b}[2J\n  conmon: all is well\\r\n");
    }
}
