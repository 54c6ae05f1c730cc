//! A CRIU that plays a script: `@criu SCRIPT swrk 3`. The script has a word for each action:
//!
//! ```text
//! old         as the first: it is of version 3.17
//! birth       makes a child of the caller that sleeps, and reports setup-namespaces with it
//! foreign     reports setup-namespaces with process 1
//! kill        kills the caller
//! done, fail  answers the request; other: as if another had been asked for
//! garbage     sends what is not a message
//! eof         ends
//! endless     reports steps as long as somebody listens
//! stay        answers that it failed, and does not end for 15 seconds
//! NAME        reports the step of this name
//! ```
//!
//! After a step it waits for the answer. If that is no, it reports network-unlock, answers that it failed and ends, as
//! CRIU does. When the caller is gone, it kills the processes that it has made.

use crate::sys;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::{Pid, close, getppid, pause};
use std::process::ExitCode;

/// The descriptor of the connection, as CRIU has it.
const SOCKET: i32 = 3;

const NOTIFY: u64 = 6;
const VERSION: u64 = 10;

/// `@criu SCRIPT swrk 3`.
pub fn main(words: &[String]) -> ExitCode {
    let mut script: Vec<&str> = words.first().map_or("", String::as_str).split(' ').collect();
    let mut fake = Fake { asked: 0, born: None };
    let old = script.first() == Some(&"old");
    if old {
        script.remove(0);
    }
    if script.first() == Some(&"mute") || fake.version(old).is_none() {
        return ExitCode::FAILURE;
    }
    let played = fake.play(&script);
    if let (None, Some(pid)) = (played, fake.born) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    ExitCode::from(u8::from(played.is_none()))
}

struct Fake {
    /// The type of the request.
    asked: u64,
    born: Option<i32>,
}

impl Fake {
    fn version(&self, old: bool) -> Option<()> {
        receive()?;
        let numbers: &[(u64, u64)] = if old { &[(1, 3), (2, 17), (4, 1)] } else { &[(1, 4), (2, 1), (4, 1)] };
        let version: Vec<u8> = numbers.iter().flat_map(|(field, number)| number_field(*field, *number)).collect();
        say(&[answer(VERSION, true), bytes_field(10, &version)].concat())
    }

    /// `None`: it was refused, or the caller has gone.
    fn play(&mut self, script: &[&str]) -> Option<()> {
        self.asked = field(&receive()?, 1)?;
        for word in script {
            match *word {
                "done" => say(&answer(self.asked, true))?,
                "fail" => {
                    say(&[answer(self.asked, false), number_field(7, 52)].concat())?;
                    return None;
                }
                "other" => say(&answer(3 - self.asked, true))?,
                "garbage" => say(&[0xff; 3])?,
                "eof" => return None,
                "endless" => loop {
                    self.step("pre-dump", None)?;
                },
                "stay" => {
                    say(&[answer(self.asked, false), number_field(7, 52)].concat())?;
                    std::thread::sleep(std::time::Duration::from_secs(15));
                    return None;
                }
                "kill" => {
                    let _ = kill(getppid(), Signal::SIGKILL);
                    receive()?;
                }
                "birth" => {
                    self.born = Some(birth()?);
                    self.step("setup-namespaces", self.born)?;
                }
                "foreign" => self.step("setup-namespaces", Some(1))?,
                name => self.step(name, self.born)?,
            }
        }
        Some(())
    }

    fn step(&self, name: &str, pid: Option<i32>) -> Option<()> {
        let pid = pid.map_or(Vec::new(), |pid| number_field(2, pid as u64));
        let step = [bytes_field(1, name.as_bytes()), pid].concat();
        say(&[answer(NOTIFY, true), bytes_field(5, &step)].concat())?;
        if field(&receive()?, 3) == Some(1) {
            return Some(());
        }
        say(&[answer(NOTIFY, true), bytes_field(5, &bytes_field(1, b"network-unlock"))].concat())?;
        receive()?;
        say(&[answer(self.asked, false), number_field(7, 52)].concat())?;
        None
    }
}

/// A child of the caller, as CRIU makes the first process.
fn birth() -> Option<i32> {
    let flags = i64::from(libc::CLONE_PARENT);
    let pid = sys::syscall(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]).ok()?;
    if pid == 0 {
        let _ = close(SOCKET);
        loop {
            pause();
        }
    }
    i32::try_from(pid).ok()
}

fn say(message: &[u8]) -> Option<()> {
    send(SOCKET, message, MsgFlags::MSG_NOSIGNAL).ok().map(drop)
}

/// The next message; `None`: the caller has gone.
fn receive() -> Option<Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    let length = recv(SOCKET, &mut buffer, MsgFlags::empty()).ok().filter(|length| *length > 0)?;
    buffer.truncate(length);
    Some(buffer)
}

/// The first fields of each of CRIU's messages: the type of the request, and whether it was done.
fn answer(kind: u64, success: bool) -> Vec<u8> {
    [number_field(1, kind), number_field(2, u64::from(success))].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

/// A field of a message.
pub fn number_field(field: u64, number: u64) -> Vec<u8> {
    [varint(field << 3), varint(number)].concat()
}

/// A field of bytes.
pub fn bytes_field(field: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// The number of a field in a message that has only numbers and bytes.
fn field(message: &[u8], wanted: u64) -> Option<u64> {
    let mut rest = message.iter().copied();
    let mut number = || {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = rest.next()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some((value, rest.clone()));
            }
        }
        None
    };
    loop {
        let (tag, _) = number()?;
        let (value, after) = number()?;
        if tag & 7 == 2 {
            let length = usize::try_from(value).ok()?;
            let skipped = message.len() - after.len() + length;
            return field(message.get(skipped..)?, wanted);
        }
        if tag >> 3 == wanted {
            return Some(value);
        }
    }
}
