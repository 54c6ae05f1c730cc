//! The relay of `attach` and `exec` between the caller's stdio and a shim. It runs in the command's process and not in
//! the shim, so it may use threads.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::json;

use windlass_client::{Client, Error, Frame, Input};
use windlass_sys::terminal;

/// The keys that detach: ctrl-p ctrl-q.
const LEAVE: [u8; 2] = [0x10, 0x11];

/// Finds the detach keys among what is typed.
#[derive(Default)]
struct DetachKeys {
    /// Whether the first of them was typed last. It is passed on if the second does not follow.
    held: bool,
}

impl DetachKeys {
    /// The bytes to pass on, and whether the detach keys come behind them.
    fn find(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len() + 1);
        for &byte in typed {
            if self.held && byte == LEAVE[1] {
                return (out, true);
            }
            out.extend_from_slice(self.end());
            self.held = byte == LEAVE[0];
            if !self.held {
                out.push(byte);
            }
        }
        (out, false)
    }

    /// What is passed on if no more is typed.
    fn end(&mut self) -> &'static [u8] {
        if std::mem::take(&mut self.held) { &LEAVE[..1] } else { &[] }
    }
}

/// The caller's terminal, which is in raw mode until this is dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Raw> {
        let saved = tcgetattr(io::stdin().as_fd()).ok()?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Raw(saved))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

/// Relays stdio until the process has ended. The client must be attached. Returns false if the caller has detached by
/// the keys. Missing output is an error.
pub(super) fn relay(
    state: &Path,
    id: &str,
    exec: Option<&str>,
    client: &mut Client,
    tty: bool,
    stdin: bool,
) -> Result<bool, Error> {
    let at_terminal = tty && stdin && io::stdin().is_terminal();
    let mut winch = SigSet::empty();
    winch.add(Signal::SIGWINCH);
    // Blocked before threads start, so that all inherit it; one of them waits for the signal.
    let _ = winch.thread_block();
    let raw = if at_terminal { Raw::enter() } else { None };
    if raw.is_some() {
        let (state, id, exec) = (state.to_owned(), id.to_owned(), exec.map(str::to_owned));
        std::thread::spawn(move || follow_size(&state, &id, exec.as_deref(), &winch));
    }
    let left = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    if stdin {
        let (mut input, left, keys) = (client.input()?, left.clone(), raw.is_some());
        std::thread::spawn(move || {
            // An error means that the shim has closed the connection, which the other direction reports.
            if pass_input(&mut input, keys).unwrap_or(false) {
                left.store(true, std::sync::atomic::Ordering::SeqCst);
                let _ = input.detach();
            }
        });
    }
    let has_left = || left.load(std::sync::atomic::Ordering::SeqCst);
    loop {
        match client.frame() {
            Ok(Some(Frame::Stdout(bytes))) => write(&mut io::stdout(), &bytes)?,
            Ok(Some(Frame::Stderr(bytes))) => write(&mut io::stderr(), &bytes)?,
            Ok(None) => return Ok(!has_left()),
            Err(_) if has_left() => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

fn write(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

/// Passes standard input on. Returns true if the detach keys were typed.
fn pass_input(input: &mut Input, keys: bool) -> io::Result<bool> {
    let mut buffer = vec![0; 16 * 1024];
    let mut detach_keys = DetachKeys::default();
    loop {
        let n = match io::stdin().read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let (passed, detaches) = match (n, keys) {
            (0, _) => (detach_keys.end().to_vec(), false),
            (_, true) => detach_keys.find(&buffer[..n]),
            (_, false) => (buffer[..n].to_vec(), false),
        };
        // An empty piece would close the input.
        if !passed.is_empty() {
            input.write(&passed)?;
        }
        if detaches {
            return Ok(true);
        }
        if n == 0 {
            return input.write(&[]).map(|()| false);
        }
    }
}

fn follow_size(state: &Path, id: &str, exec: Option<&str>, winch: &SigSet) {
    let Ok(mut client) = Client::connect(state, id) else { return };
    loop {
        if let Ok((rows, columns)) = terminal::size(io::stdin().as_fd()) {
            // An error means that the process has ended, which the end of its output shows too.
            let _ = client.call("resize", json!({"exec": exec, "rows": rows, "columns": columns}));
        }
        if winch.wait().is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is passed on of these pieces of typed text, and whether the detach keys were found.
    fn passed(pieces: &[&str]) -> (String, bool) {
        let (mut keys, mut all) = (DetachKeys::default(), Vec::new());
        for piece in pieces {
            let (out, detaches) = keys.find(piece.as_bytes());
            all.extend(out);
            if detaches {
                return (String::from_utf8(all).expect("text"), true);
            }
        }
        all.extend_from_slice(keys.end());
        (String::from_utf8(all).expect("text"), false)
    }

    #[test]
    fn all_that_is_typed_but_the_detach_keys_is_passed_on() {
        let found = |text: &str| (text.to_owned(), true);
        let not_found = |text: &str| (text.to_owned(), false);
        assert_eq!(passed(&["exit\n\x10\x11more"]), found("exit\n"));
        assert_eq!(passed(&["exit\n\x10", "\x11"]), found("exit\n"));
        assert_eq!(passed(&["\x10\x10\x11"]), found("\x10"));
        assert_eq!(passed(&["\x10a\x11", "b\x10", "c"]), not_found("\x10a\x11b\x10c"));
        assert_eq!(passed(&["\x11\x10\x10a"]), not_found("\x11\x10\x10a"));
        assert_eq!(passed(&["a\x10"]), not_found("a\x10"), "the end of the input behind the first key");
    }
}
