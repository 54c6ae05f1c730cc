//! Closing a file without waiting until the kernel has freed its content.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Result, socket};

/// A reference to a file. Once it is dropped, a thread of the kernel drops the reference, and not this process. If it
/// is the last reference to a file without a name, that thread frees the content, which takes 2 ms for 16 MiB. The last
/// close of an inotify instance waits for a grace period of the kernel, which takes 8 to 16 ms.
///
/// The file is in a message in the queue of a socket that is itself in that message. Nobody can receive it, so the
/// kernel collects both as garbage (unix(7), `SCM_RIGHTS`), in a work queue; older kernels do it in close(2).
pub struct DeferredClose {
    _socket: OwnedFd,
    /// The kernel looks for garbage when a socket is closed. So this socket is closed after the other has become
    /// garbage.
    _sender: OwnedFd,
}

impl DeferredClose {
    /// Takes a reference to an open file, by one of its descriptors.
    pub fn of(file: BorrowedFd<'_>) -> Result<DeferredClose> {
        // execve(2) closes descriptors in the order of their numbers.
        let (socket, sender) = socket::pair()?;
        socket::send(sender.as_fd(), b"\0", &[file, socket.as_fd()])?;
        Ok(DeferredClose { _socket: socket, _sender: sender })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pipe;
    use crate::poll::{Deadline, readable};

    #[test]
    fn a_file_stays_open_until_it_is_dropped_and_is_closed_then() {
        let (reader, writer) = pipe::new().expect("a pipe");
        let deferred = DeferredClose::of(writer.as_fd()).expect("deferred");
        drop(writer);
        assert!(!readable(reader.as_fd(), Deadline::after(Duration::ZERO)).expect("poll"), "closed early");
        drop(deferred);
        assert!(readable(reader.as_fd(), Deadline::after(Duration::from_secs(60))).expect("poll"), "never closed");
    }
}
