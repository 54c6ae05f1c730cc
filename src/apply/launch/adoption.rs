//! The launch of `restore`: its process becomes CRIU, and the one that CRIU makes is adopted.

use std::os::fd::AsFd;
use std::time::Duration;

use windlass_base::error::Result;
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::Child;

use super::{Handler, Launch, Process, next, not_credible};
use crate::sync::Message;

impl<H: Handler> Launch<H> {
    /// Answers the process until it has executed a program that is not the container's.
    pub(crate) fn until_executed(&mut self) -> Result<()> {
        loop {
            match next(&mut self.sync)? {
                Message::Failed(error) => return Err(error),
                Message::Ask(question) => self.answer(question)?,
                Message::End => {
                    self.timer.done("have it executed");
                    return Ok(());
                }
                other => return Err(not_credible(&format!("says {other:?}"))),
            }
        }
    }

    /// Takes `child`, which the process has made, for the container's process. The process becomes the predecessor,
    /// which ends by itself.
    pub(crate) fn adopt(&mut self, child: Child) -> Result<()> {
        self.predecessor = Process(Some(self.process.replace(child)));
        self.handler.adopted(self.process.child())
    }

    /// The process.
    pub(crate) fn child(&self) -> &Child {
        self.process.child()
    }

    /// Leaves the predecessor to another process, which takes care of it.
    pub(crate) fn release_predecessor(&mut self) {
        drop(self.predecessor.0.take());
    }

    /// The process and its predecessor; the process itself twice if the runtime made it.
    pub(crate) fn child_and_predecessor(&self) -> (&Child, &Child) {
        let child = self.process.child();
        (child, self.predecessor.0.as_ref().unwrap_or(child))
    }

    /// The process id of the predecessor, or of the process itself if the runtime made it.
    pub(crate) fn predecessor_pid(&self) -> i32 {
        self.child_and_predecessor().1.pid
    }

    /// Reports the process that was adopted.
    pub(crate) fn adopted_is_ready(&mut self) -> Result<()> {
        self.handler.ready(self.process.child())
    }

    /// Waits this long for the end of the predecessor, and then kills it.
    pub(crate) fn end_predecessor(&mut self, timeout: Duration) {
        let (_, predecessor) = self.child_and_predecessor();
        if !poll::readable(predecessor.pidfd.as_fd(), Deadline::after(timeout)).unwrap_or(false) {
            predecessor.kill();
        }
        if let Some(predecessor) = self.predecessor.0.take() {
            let _ = predecessor.wait();
        }
    }
}
