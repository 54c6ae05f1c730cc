//! What the standard library cannot do with a socket: a limit for connect(2), long paths, descriptors, the peer.

use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{self, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::stat::Mode;

/// Connects to the socket at `path`, which may be longer than an address (unix(7)). If the listener's queue is full for
/// so long, the error is of the kind [`io::ErrorKind::WouldBlock`].
pub(crate) fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let stream = UnixStream::from(socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?);
    let opened = match UnixAddr::new(path) {
        Err(Errno::ENAMETOOLONG) => Some(nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?),
        _ => None,
    };
    let short = opened.as_ref().map(|fd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())));
    let address = UnixAddr::new(short.as_deref().unwrap_or(path))?;
    // SO_SNDTIMEO is the limit of connect(2) too (socket(7)).
    stream.set_write_timeout(Some(timeout))?;
    let deadline = Instant::now() + timeout;
    loop {
        match socket::connect(stream.as_raw_fd(), &address) {
            Err(Errno::EINTR) if Instant::now() < deadline => {}
            Err(Errno::EINTR) => return Err(io::ErrorKind::WouldBlock.into()),
            other => break other?,
        }
    }
    stream.set_write_timeout(None)?;
    Ok(stream)
}

/// The process id of the process that listens at the other end, as it was when it began to listen.
pub(crate) fn peer_pid(stream: &UnixStream) -> io::Result<i32> {
    Ok(socket::getsockopt(&stream.as_fd(), sockopt::PeerCredentials)?.pid())
}

/// Sends all bytes, with a descriptor.
pub(crate) fn send(stream: &mut UnixStream, bytes: &[u8], passed: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [passed.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let sent = loop {
        match socket::sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    // The descriptor is sent with the first bytes.
    stream.write_all(&bytes[sent..])
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::sys::socket::Backlog;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn a_listener_with_a_full_queue_is_waited_for_and_not_for_ever() {
        let path = std::env::temp_dir().join(format!("windlass-client-full-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        let listener = listener.expect("a socket");
        socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).expect("short")).expect("bound");
        socket::listen(&listener, Backlog::new(0).expect("a number")).expect("listens");
        let _queued = connect(&path, SHORT).expect("there is room for one");
        let begun = Instant::now();
        assert_eq!(connect(&path, SHORT).expect_err("full").kind(), io::ErrorKind::WouldBlock);
        assert!(begun.elapsed() >= SHORT);
        let listener = std::os::unix::net::UnixListener::from(listener);
        let late = std::thread::spawn({
            let path = path.clone();
            move || connect(&path, 100 * SHORT)
        });
        std::thread::sleep(SHORT);
        assert!(!late.is_finished(), "the queue is full");
        drop(listener.accept().expect("the first"));
        let mut late = late.join().expect("no panic").expect("there is room again");
        // The limit was for the connection alone.
        assert_eq!(late.write_timeout().expect("asked"), None);
        let (mut accepted, _) = listener.accept().expect("the second");
        accepted.write_all(b"x").expect("sent");
        late.read_exact(&mut [0]).expect("received");
        assert_eq!(peer_pid(&late).expect("it has listened"), std::process::id() as i32);
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_path_that_is_longer_than_an_address_is_connected_to() {
        let parent = std::env::temp_dir().join(format!("windlass-client-long-{}", std::process::id()));
        let dir = parent.join("d".repeat(120));
        std::fs::create_dir_all(&dir).expect("made");
        // Bound by a short path, and found by the long one.
        let link = parent.join("l");
        std::os::unix::fs::symlink(&dir, &link).expect("linked");
        let listener = std::os::unix::net::UnixListener::bind(link.join("s")).expect("listens");
        connect(&dir.join("s"), SHORT).expect("connected");
        listener.accept().expect("accepted");
        let missing = connect(&dir.join("none"), SHORT).expect_err("no socket");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        std::fs::remove_dir_all(parent).expect("removed");
    }
}
