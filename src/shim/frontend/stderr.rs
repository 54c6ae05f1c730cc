//! What the shim says on standard error.

use std::io::Write;

use windlass_base::error::printable;

/// The program's name, where it is called by no other.
pub(super) const NAME: &str = "windlass-shim";

/// Says `text` in the name of a program. Its first line stands behind the name and the others are indented, so that
/// no part of it looks like a message of its own; what a terminal would obey is shown as an escape (`printable`).
///
/// Nobody listening, a closed pipe or a full disk, is no reason to fail.
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
        let said = lines_of("conmon \u{1b}c", "no \u{1b}[2J\nconmon: all is well\r\n");
        assert_eq!(said, "conmon \\u{1b}c: no \\u{1b}[2J\n  conmon: all is well\\r\n");
    }
}
