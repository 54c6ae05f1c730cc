use std::os::fd::AsFd;

use crate::Log;
use crate::key::Kind;
use crate::poll::{Poll, Ready};
use crate::scratch::Scratch;
use crate::stdio::{LogFile, Output, Stdio};
use crate::streams::Streams;
use windlass_sys::fd;
use windlass_sys::poll::Deadline;

/// The kernel looks at a pipe's bytes before it looks at its writers. Bytes that are written in between come with
/// EPOLLHUP alone.
#[test]
fn a_pipe_that_has_only_hung_up_is_read_to_its_end() {
    let (poll, mut scratch) = (Poll::new().expect("epoll"), Scratch::new().expect("memory"));
    let path = std::env::temp_dir().join(format!("windlass-hangup-{}", std::process::id()));
    let file = LogFile { path: path.clone(), ..LogFile::default() };
    let stdio =
        Stdio { stdout: Output::Attach, stderr: Output::Attach, logs: vec![Log::Raw(file)], ..Stdio::default() };
    let (mut streams, [_, stdout, stderr]) = Streams::open(stdio, false, 1, &poll).expect("streams");
    // Until then standard error is the runtime's.
    assert_eq!(streams.runtime_done(false, &poll, &mut scratch), b"");
    for (sub, text, pipe) in [(0, "out ", stdout), (1, "err", stderr)] {
        fd::write_all(pipe.as_fd(), text.as_bytes(), Deadline::NEVER).expect("written");
        drop(pipe);
        let ready = Ready { read: false, write: false, hangup: true };
        streams.ready(Kind::Source, sub, ready, &poll, &mut scratch, true);
    }
    assert_eq!(std::fs::read_to_string(&path).expect("a log"), "out err");
    assert!(!streams.is_hung_up());
    std::fs::remove_file(path).expect("removed");
}
