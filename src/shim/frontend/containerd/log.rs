//! The shim's own messages: lines in the fifo `log` of the bundle, which containerd copies to its log.
//!
//! The fifo is opened for each line, because there are few, and the shim never waits for it. Without a reader the line
//! is lost.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::SystemTime;

use nix::fcntl::OFlag;

use windlass_sys::{clock, fd, stream};

/// Writes a warning for the administrator.
pub(super) fn warn(bundle: &Path, text: &str) {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    if let Ok(fifo) = fd::open(bundle.join("log"), flags) {
        let _ = stream::write(fifo.as_fd(), line(clock::wall(), text).as_bytes());
    }
}

fn line(at: SystemTime, text: &str) -> String {
    // A quoted value has the escapes of Go, which include those of JSON.
    let (time, text) = (windlass_base::rfc3339::nanoseconds(at), serde_json::Value::from(text));
    format!("time=\"{time}\" level=warning msg={text} runtime=windlass-shim\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        let line = line(SystemTime::UNIX_EPOCH, "a \"b\"\nc\u{1b}");
        assert!(line.ends_with("level=warning msg=\"a \\\"b\\\"\\nc\\u001b\" runtime=windlass-shim\n"), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn nobody_is_waited_for() {
        warn(Path::new("/nonexistent"), "lost");
    }
}
