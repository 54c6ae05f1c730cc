//! The three pipes to the caller, whose numbers are in the environment: on the sync pipe it is
//! told what became of its request, a byte on the start pipe says that it is ready for us to go
//! on, and on the attach pipe it is told that it can attach to an exec before that starts.
//!
//! podman's are message sockets, CRI-O's stream sockets or pipes: each answer is one write(2).

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use serde_json::json;

use crate::shim::{Interest, Poll};
use crate::sys::stream::{self, Moved};

/// Bytes of one answer, for callers read a message with a buffer of a page, and lose the rest.
const LONGEST: usize = 4096;

/// The key of the number in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// podman's, and CRI-O's since it knows `--api-version`.
    Data,
    /// The old one for a container.
    Pid,
    /// The old one for an exec, which gets no answer before its end.
    ExitCode,
}

/// The ends that are open.
#[derive(Debug)]
pub(super) struct Pipes {
    key: Key,
    sync: Option<OwnedFd>,
    pub(super) start: Option<OwnedFd>,
    attach: Option<OwnedFd>,
}

impl Pipes {
    /// Takes the pipes out of the descriptors that we were started with.
    pub(super) fn take(inherited: &mut BTreeMap<i32, OwnedFd>, key: Key) -> Result<Pipes, String> {
        let mut named = |variable: &str| match std::env::var(variable) {
            Err(_) => Ok(None),
            Ok(number) => {
                let fd = number.parse().ok().and_then(|number| inherited.remove(&number));
                fd.map(Some).ok_or_else(|| format!("{variable}={number} is no open descriptor"))
            }
        };
        Ok(Pipes {
            key,
            sync: named("_OCI_SYNCPIPE")?,
            start: named("_OCI_STARTPIPE")?,
            attach: named("_OCI_ATTACHPIPE")?,
        })
    }

    /// Waits until the caller says go, for example when it has moved us to our cgroup.
    pub(super) fn wait_for_start(&self) {
        if let Some(start) = &self.start {
            let mut buffer = [0; 4096];
            // The caller may have given us a pipe that does not block.
            while let Ok(Moved::Later) = stream::read(start.as_fd(), &mut buffer) {
                if !wait(start, Interest::Read) {
                    break;
                }
            }
        }
    }

    /// Tells the caller of an exec that the attach socket is there.
    pub(super) fn tell_attachable(&mut self) {
        if let Some(attach) = self.attach.take() {
            send(&attach, &answer(self.key, 0, None));
        }
    }

    /// Tells that the process is made. That is the last word for a container. False: the caller
    /// has left before it could learn that.
    pub(super) fn tell_pid(&mut self, pid: i32, exec: bool) -> bool {
        if self.key == Key::ExitCode {
            return true;
        }
        let told = self.tell(pid, None);
        if !exec {
            self.sync = None;
        }
        told
    }

    /// Tells a number, and why if there is something to say. False: the caller has left. It does
    /// not want to know then; the exit file is there for the next one.
    pub(super) fn tell(&mut self, number: i32, message: Option<&str>) -> bool {
        self.sync.as_ref().is_none_or(|sync| send(sync, &answer(self.key, number, message)))
    }
}

/// Waits until a pipe is ready, or a signal has come. False: it cannot be waited for.
fn wait(pipe: &OwnedFd, interest: Interest) -> bool {
    let waited = Poll::new().and_then(|poll| {
        poll.watch(pipe, 0, interest)?;
        poll.wait(None, &mut Vec::new())
    });
    waited.is_ok()
}

fn send(pipe: &OwnedFd, answer: &[u8]) -> bool {
    loop {
        match stream::write(pipe.as_fd(), answer) {
            // A pipe that does not block is waited for, as one that does would be.
            Ok(Moved::Later) if wait(pipe, Interest::Write) => {}
            other => return other.is_ok(),
        }
    }
}

fn answer(key: Key, number: i32, message: Option<&str>) -> Vec<u8> {
    let key = match key {
        Key::Data => "data",
        Key::Pid => "pid",
        Key::ExitCode => "exit_code",
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

    #[test]
    fn an_answer_is_a_line_as_callers_parse_it() {
        assert_eq!(answer(Key::Data, 42, None), b"{\"data\": 42}\n");
        assert_eq!(answer(Key::Pid, 42, None), b"{\"pid\": 42}\n");
        let told = answer(Key::ExitCode, -1, Some("say \"no\"\n"));
        assert_eq!(told, b"{\"exit_code\": -1, \"message\": \"say \\\"no\\\"\\n\"}\n");
    }

    /// Milliseconds of processor time that this thread has used.
    fn used() -> i64 {
        use nix::sys::resource::{UsageWho, getrusage};
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("getrusage");
        let milliseconds = |time: nix::sys::time::TimeVal| time.tv_sec() * 1000 + time.tv_usec() / 1000;
        milliseconds(usage.user_time()) + milliseconds(usage.system_time())
    }

    #[test]
    fn pipes_that_do_not_block_are_waited_for_without_work() {
        let pause = std::time::Duration::from_millis(500);
        let (read_end, write_end) = crate::sys::socket::pipe().expect("a pipe");
        stream::never_block(read_end.as_fd()).expect("set");
        stream::never_block(write_end.as_fd()).expect("set");
        let before = used();
        let caller = std::thread::spawn(move || {
            std::thread::sleep(pause);
            stream::write(write_end.as_fd(), b"x").expect("written");
            write_end
        });
        let pipes = Pipes { key: Key::Data, sync: None, start: Some(read_end), attach: None };
        pipes.wait_for_start();
        let write_end = caller.join().expect("the caller");
        let read_end = pipes.start.expect("it stays");
        while let Ok(Moved::Bytes(_)) = stream::write(write_end.as_fd(), &[0; 4096]) {}
        let caller = std::thread::spawn(move || {
            std::thread::sleep(pause);
            let mut buffer = vec![0; 65536];
            while let Ok(Moved::Bytes(_)) = stream::read(read_end.as_fd(), &mut buffer) {}
            read_end
        });
        assert!(send(&write_end, b"told"));
        let read_end = caller.join().expect("the caller");
        assert!(used() - before < 250, "{} ms of work in a second of waiting", used() - before);
        let mut buffer = [0; 8];
        while let Ok(Moved::Bytes(n)) = stream::read(read_end.as_fd(), &mut buffer) {
            assert_eq!(&buffer[..n], b"told");
        }
    }

    #[test]
    fn a_long_message_is_cut_so_that_it_is_still_an_answer() {
        for filler in ["x", "ä", "\n", "\u{1}"] {
            let told = answer(Key::Data, -1, Some(&filler.repeat(9000)));
            assert!(told.len() <= LONGEST && told.len() > LONGEST / 8, "{} of {filler:?}", told.len());
            let parsed: serde_json::Value = serde_json::from_slice(&told).expect("JSON");
            assert!(parsed["message"].as_str().is_some_and(|text| text.starts_with(filler)));
        }
    }
}
