//! Work that may wait for a disk or for another process, done in a child while the loop goes on.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;

use crate::Poll;
use windlass_sys::process::{self, Child, Exit, Forked, SingleThreaded};
use windlass_sys::stream::{self, Moved};
use windlass_sys::{Result, fd, socket};

/// A running child, and what is to be done with its result.
#[derive(Debug)]
pub struct Job<T> {
    /// Its number, part of the key that it is watched under.
    pub serial: u64,
    /// The child.
    pub child: Child,
    /// What is to be done then.
    pub then: T,
    result: OwnedFd,
}

/// The exit codes of the child: its result is a fact, or the pipe has the reason of its failure.
const NO: i32 = 0;
const FAILED: i32 = 1;
const YES: i32 = 2;

/// Longest reason of a failure; a pipe holds as much without being read.
const LONGEST: usize = 4096;

impl<T> Job<T> {
    /// Starts `work` in a child, which keeps `kept` open and no other descriptor. Its result is a fact, or
    /// why it has failed.
    pub fn start(
        (serial, key): (u64, u64),
        poll: &Poll,
        kept: Option<&OwnedFd>,
        then: T,
        work: impl FnOnce() -> std::result::Result<bool, String>,
    ) -> Result<Job<T>> {
        let (result, end) = socket::pipe()?;
        stream::never_block(result.as_fd())?;
        let proof = SingleThreaded::check()?;
        match process::fork(CloneFlags::empty(), None, &proof)? {
            Forked::Parent(child) => {
                poll.watch(&child.pidfd, key, crate::Interest::Read)?;
                Ok(Job { serial, child, then, result })
            }
            Forked::Child => {
                let kept: Vec<_> = kept.iter().map(|fd| fd.as_fd()).chain([end.as_fd()]).collect();
                fd::close_all_but(3, &kept);
                let _ = process::die_with_parent();
                let status = match work() {
                    Ok(fact) => {
                        if fact {
                            YES
                        } else {
                            NO
                        }
                    }
                    Err(text) => {
                        let _ = stream::write(end.as_fd(), &text.as_bytes()[..text.len().min(LONGEST)]);
                        FAILED
                    }
                };
                process::exit_now(status)
            }
        }
    }

    /// The result, once the child has ended. `None`: it has not.
    pub fn result(&self) -> Option<std::result::Result<bool, String>> {
        let exit = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(exit)) => exit,
            Err(failed) => return Some(Err(failed.to_string())),
        };
        Some(match exit {
            Exit::Code(NO) => Ok(false),
            Exit::Code(YES) => Ok(true),
            Exit::Code(FAILED) => {
                let mut text = vec![0; LONGEST];
                let length = match stream::read(self.result.as_fd(), &mut text) {
                    Ok(Moved::Bytes(n)) => n,
                    _ => 0,
                };
                Err(String::from_utf8_lossy(&text[..length]).into_owned())
            }
            exit => Err(format!("a child of the shim ended with {exit}")),
        })
    }
}
