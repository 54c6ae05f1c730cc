//! The three pipes between the caller and the shim, whose numbers are in the environment.
//!
//! On the sync pipe the shim reports the result. A byte on the start pipe means that the caller is ready for the
//! shim to go on. On the attach pipe the shim reports that the caller can attach to an exec, before it starts.
//!
//! podman passes message sockets, CRI-O stream sockets or pipes. Each answer is therefore one write(2).

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use serde_json::json;

use super::error::Error;
use crate::{Interest, Poll};
use windlass_sys::Result;
use windlass_sys::stream::{self, Moved};

/// Longest answer in bytes: callers read a message into a buffer of one page and lose the rest.
const LONGEST: usize = 4096;

/// The key of the number in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberKey {
    /// With `--api-version`: podman, and newer versions of CRI-O.
    Data,
    /// Without `--api-version`, for a container.
    Pid,
    /// Without `--api-version`, for an exec, whose only answer is the exit status.
    ExitCode,
}

/// The pipes that are still open.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) key: NumberKey,
    pub(super) sync: Option<OwnedFd>,
    pub(super) start: Option<OwnedFd>,
    pub(super) attach: Option<OwnedFd>,
}

impl Pipes {
    /// Takes the pipes out of the inherited descriptors.
    pub(super) fn take(inherited: &mut BTreeMap<i32, OwnedFd>, key: NumberKey) -> std::result::Result<Pipes, Error> {
        let mut named = |variable: &str| match std::env::var(variable) {
            Err(_) => Ok(None),
            Ok(number) => {
                let fd = number.parse().ok().and_then(|number| inherited.remove(&number));
                fd.map(Some).ok_or_else(|| Error::Invalid(format!("{variable}={number} is not an open descriptor")))
            }
        };
        Ok(Pipes {
            key,
            sync: named("_OCI_SYNCPIPE")?,
            start: named("_OCI_STARTPIPE")?,
            attach: named("_OCI_ATTACHPIPE")?,
        })
    }

    /// Waits until the caller is ready, for example until it has moved the shim to its cgroup.
    pub(super) fn wait_for_start(&self) {
        if let Some(start) = &self.start {
            let mut buffer = [0; 4096];
            // A byte, the end of the pipe and an error all mean that the caller is ready.
            let _ = when_ready(start, Interest::Read, || stream::read(start.as_fd(), &mut buffer));
        }
    }

    /// Reports to the caller of an exec that the attach socket exists.
    pub(super) fn report_attachable(&mut self) {
        if let Some(attach) = self.attach.take() {
            send(&attach, &answer(self.key, 0, None));
        }
    }

    /// Reports the process id. For a container this is the last report. Returns false if the caller has closed the
    /// pipe already.
    pub(super) fn report_pid(&mut self, pid: i32, exec: bool) -> bool {
        if self.key == NumberKey::ExitCode {
            return true;
        }
        let sent = self.report(pid, None);
        if !exec {
            self.sync = None;
        }
        sent
    }

    /// Reports a number, and the reason if there is one. Returns false if the caller has closed the pipe, or cannot be
    /// answered: then the pipe is closed, so that the caller does not wait, and the exit file has the status.
    pub(super) fn report(&mut self, number: i32, message: Option<&str>) -> bool {
        let sent = self.sync.as_ref().is_none_or(|sync| send(sync, &answer(self.key, number, message)));
        if !sent {
            self.sync = None;
        }
        sent
    }
}

/// Repeats `attempt` until it moves something, and waits for the pipe between attempts: the caller may have made the
/// pipe non-blocking.
fn when_ready(pipe: &OwnedFd, interest: Interest, mut attempt: impl FnMut() -> Result<Moved>) -> Result<Moved> {
    loop {
        match attempt() {
            Ok(Moved::Later) => {
                let poll = Poll::new()?;
                poll.watch(pipe, 0, interest)?;
                poll.wait(None, &mut Vec::new())?;
            }
            other => return other,
        }
    }
}

fn send(pipe: &OwnedFd, answer: &[u8]) -> bool {
    when_ready(pipe, Interest::Write, || stream::write(pipe.as_fd(), answer)).is_ok()
}

fn answer(key: NumberKey, number: i32, message: Option<&str>) -> Vec<u8> {
    let key = match key {
        NumberKey::Data => "data",
        NumberKey::Pid => "pid",
        NumberKey::ExitCode => "exit_code",
    };
    let mut message = message.map(str::to_string);
    loop {
        let text = match &message {
            None => format!("{{\"{key}\": {number}}}\n"),
            Some(message) => format!("{{\"{key}\": {number}, \"message\": {}}}\n", json!(message)),
        };
        match &mut message {
            Some(message) if text.len() > LONGEST => {
                let mut end = message.len() * LONGEST / text.len();
                while !message.is_char_boundary(end) {
                    end -= 1;
                }
                message.truncate(end);
            }
            _ => return text.into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_sys::fd;

    #[test]
    fn an_answer_is_a_line_as_callers_parse_it() {
        assert_eq!(answer(NumberKey::Data, 42, None), b"{\"data\": 42}\n");
        assert_eq!(answer(NumberKey::Pid, 42, None), b"{\"pid\": 42}\n");
        let sent = answer(NumberKey::ExitCode, -1, Some("say \"no\"\n"));
        assert_eq!(sent, b"{\"exit_code\": -1, \"message\": \"say \\\"no\\\"\\n\"}\n");
    }

    #[test]
    fn pipes_that_do_not_block_are_waited_for_and_not_asked_again_and_again() {
        let pause = std::time::Duration::from_millis(50);
        let (read_end, write_end) = windlass_sys::pipe::new().expect("a pipe");
        stream::never_block(read_end.as_fd()).expect("set");
        stream::never_block(write_end.as_fd()).expect("set");
        let caller = std::thread::spawn(move || {
            std::thread::sleep(pause);
            stream::write(write_end.as_fd(), b"x").expect("written");
            write_end
        });
        let (mut attempts, mut buffer) = (0, vec![0; 65536]);
        let start = when_ready(&read_end, Interest::Read, || {
            attempts += 1;
            stream::read(read_end.as_fd(), &mut buffer)
        });
        assert_eq!((start, attempts), (Ok(Moved::Bytes(1)), 2));
        let write_end = caller.join().expect("the caller");
        while let Ok(Moved::Bytes(_)) = stream::write(write_end.as_fd(), &buffer[..4096]) {}
        let caller = std::thread::spawn(move || {
            std::thread::sleep(pause);
            stream::read(read_end.as_fd(), &mut buffer).expect("read");
            read_end
        });
        let mut attempts = 0;
        let sent = when_ready(&write_end, Interest::Write, || {
            attempts += 1;
            stream::write(write_end.as_fd(), b"sent")
        });
        assert_eq!((sent, attempts), (Ok(Moved::Bytes(4)), 2));
        drop(caller.join().expect("the caller"));
        assert!(!send(&write_end, b"sent"), "the caller has left");
    }

    #[test]
    fn a_caller_that_cannot_be_answered_reads_the_end() {
        let full = || fd::open("/dev/full", nix::fcntl::OFlag::O_WRONLY).expect("/dev/full");
        for exec in [false, true] {
            let mut pipes = Pipes { key: NumberKey::Data, sync: Some(full()), start: None, attach: None };
            assert!(!pipes.report_pid(42, exec));
            assert!(pipes.sync.is_none(), "it would wait until the process ends, and take the exit status for the pid");
        }
    }

    #[test]
    fn a_long_message_is_cut_so_that_it_is_still_an_answer() {
        for filler in ["x", "ä", "\n", "\u{1}"] {
            let sent = answer(NumberKey::Data, -1, Some(&filler.repeat(9000)));
            assert!(sent.len() <= LONGEST && sent.len() > LONGEST / 8, "{} of {filler:?}", sent.len());
            let parsed: serde_json::Value = serde_json::from_slice(&sent).expect("JSON");
            assert!(parsed["message"].as_str().is_some_and(|text| text.starts_with(filler)));
        }
    }
}
