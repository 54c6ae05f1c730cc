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
    client.clear_timeouts()?;
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
    let mut held = false;
    loop {
        let n = match io::stdin().read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if n == 0 {
            return input.write(&[]).map(|()| false);
        }
        if !keys {
            input.write(&buffer[..n])?;
            continue;
        }
        let mut out = Vec::with_capacity(n + 1);
        for &byte in &buffer[..n] {
            if held && byte == LEAVE[1] {
                return Ok(true);
            }
            if std::mem::take(&mut held) {
                out.push(LEAVE[0]);
            }
            held = byte == LEAVE[0];
            if !held {
                out.push(byte);
            }
        }
        if !out.is_empty() {
            input.write(&out)?;
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
