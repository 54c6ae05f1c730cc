//! Unix sockets.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, sockopt,
};

use super::{Called, Result, SyscallError, check, fd_name};

/// A connected pair that keeps message boundaries.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .called(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)".into())
}

fn new(kind: SockType) -> Result<OwnedFd> {
    new_with(kind, SockFlag::empty())
}

fn new_with(kind: SockType, flags: SockFlag) -> Result<OwnedFd> {
    nix::sys::socket::socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | flags, None)
        .called(|| format!("socket(AF_UNIX, {kind:?})"))
}

fn address(path: &Path) -> Result<UnixAddr> {
    UnixAddr::new(path).called(|| format!("sockaddr_un({path:?})"))
}

/// A stream socket connected to `path`.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    let socket = new(SockType::Stream)?;
    connect_to(&socket, path)?;
    Ok(socket)
}

/// Connects a non-blocking socket without waiting. A listener whose queue is full is `EAGAIN`.
pub fn connect_now(path: &Path) -> Result<OwnedFd> {
    let socket = new_with(SockType::Stream, SockFlag::SOCK_NONBLOCK)?;
    connect_to(&socket, path)?;
    Ok(socket)
}

fn block(socket: BorrowedFd<'_>) -> Result<()> {
    let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty());
    nix::fcntl::fcntl(socket, flags).called(|| "fcntl(F_SETFL)".into()).map(drop)
}

/// connect(2); a path too long for an address goes by `/proc/self/fd`.
fn connect_to(socket: &OwnedFd, path: &Path) -> Result<()> {
    let long = path.as_os_str().len() >= 108;
    let holder = if long { Some(super::fd::open(path, nix::fcntl::OFlag::O_PATH)?) } else { None };
    let short: Option<std::path::PathBuf> =
        holder.as_ref().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()).into());
    let address = address(short.as_deref().unwrap_or(path))?;
    nix::sys::socket::connect(socket.as_raw_fd(), &address).called(|| format!("connect({path:?})"))
}

/// A message socket that listens as `name` in the directory `dir`.
pub fn listen_at(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let socket = new(SockType::SeqPacket)?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    nix::sys::socket::bind(socket.as_raw_fd(), &address(path.as_ref())?).called(|| format!("bind({path:?})"))?;
    nix::sys::socket::listen(&socket, Backlog::MAXALLOWABLE).called(|| format!("listen({name:?})"))?;
    Ok(socket)
}

/// A message socket connected to the one that listens as `name` in `dir`. `ECONNREFUSED` when its
/// owner has died.
pub fn connect_at(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let socket = new(SockType::SeqPacket)?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    nix::sys::socket::connect(socket.as_raw_fd(), &address(path.as_ref())?).called(|| format!("connect({name:?})"))?;
    Ok(socket)
}

/// accept4(2).
pub fn accept(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    loop {
        match nix::sys::socket::accept4(socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Err(Errno::EINTR) => {}
            other => {
                let raw = other.called(|| format!("accept4({})", fd_name(socket)))?;
                return Ok(super::owned::from_raw(raw.into()));
            }
        }
    }
}

/// Sends one message with descriptors. Fails with `EPIPE`, and without a signal, if the peer has closed.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    loop {
        match nix::sys::socket::sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(Errno::EINTR) => {}
            Ok(n) if n < bytes.len() => {
                return Err(SyscallError { call: format!("sendmsg({n})").into(), errno: Errno::EMSGSIZE });
            }
            other => {
                return other.called(|| format!("sendmsg({}, {} bytes)", fd_name(socket), bytes.len())).map(drop);
            }
        }
    }
}

/// shutdown(2). The peer reads what was sent before, and then end of file.
pub fn shutdown(socket: BorrowedFd<'_>, how: Shutdown) {
    // It fails only if the peer has closed, which is no different.
    let _ = nix::sys::socket::shutdown(socket.as_raw_fd(), how);
}

/// Most descriptors of one message (`SCM_MAX_FD`, unix(7)).
const MOST_DESCRIPTORS: usize = 253;

/// Receives one message into `buffer`, with the first of the descriptors that came with it; the others are closed. No
/// bytes mean that the peer has closed. Fails with EMSGSIZE for a message that was cut off, and with EMFILE if its
/// descriptors do not fit into this process.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let (bytes, fds) = receive_all(socket, buffer)?;
    Ok((bytes, fds.into_iter().next()))
}

/// Receives one message, as [`receive`] does, with all descriptors that came with it.
pub fn receive_all(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    match receive_answer(socket, buffer) {
        // The error is reported once, before the messages of the other end, and hides none of them (unix(7)).
        Err(failed) if failed.errno == Errno::ECONNRESET => receive_answer(socket, buffer),
        other => other,
    }
}

/// [`receive_all`] after sending something. Fails with `ECONNRESET` if the other end was closed before it had read
/// that.
pub fn receive_answer(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let (bytes, fds, flags) = loop {
        match receive_message(socket, buffer, 0) {
            Err(failed) if failed.errno == Errno::EINTR => {}
            other => break other?,
        }
    };
    // The buffer has room for all numbers. So the control data was cut off because the kernel could not make one of
    // the descriptors (unix(7)).
    if flags & libc::MSG_CTRUNC != 0
        && let Err(failed) = super::fd::duplicate(socket)
    {
        return Err(SyscallError { call: "recvmsg(SCM_RIGHTS)".into(), ..failed });
    }
    if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(SyscallError { call: "recvmsg: a message too long".into(), errno: Errno::EMSGSIZE });
    }
    Ok((bytes, fds))
}

/// recvmsg(2): the number of bytes, every descriptor that the kernel made for the message, and `msg_flags`. nix is not
/// used, since it returns no descriptors of a message that was cut off.
fn receive_message(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
) -> Result<(usize, Vec<OwnedFd>, libc::c_int)> {
    /// A buffer with the alignment of the headers in it.
    #[repr(C, align(8))]
    struct Control([u8; HEADER + size_of::<libc::c_int>() * MOST_DESCRIPTORS]);
    let mut control = Control([0; _]);
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeroes is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&raw mut slice, 1);
    (header.msg_control, header.msg_controllen) = (control.0.as_mut_ptr().cast(), control.0.len() as _);
    // SAFETY: the header names one buffer and one space for control data with their true lengths; all
    // three outlive the call.
    let returned = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_CMSG_CLOEXEC) };
    let bytes = check(returned as libc::c_long, || format!("recvmsg({})", fd_name(socket)))? as usize;
    let control = &control.0[..(header.msg_controllen as usize).min(control.0.len())];
    Ok((bytes, descriptors(control).map(|raw| super::owned::from_raw(raw.into())).collect(), header.msg_flags))
}

/// Bytes of a `struct cmsghdr` (cmsg(3)): the length with the header, and two numbers.
const HEADER: usize = size_of::<usize>() + 2 * size_of::<libc::c_int>();

/// The numbers of the descriptors in control data.
fn descriptors(mut control: &[u8]) -> impl Iterator<Item = i32> {
    let number = |bytes: &[u8]| i32::from_ne_bytes(bytes.try_into().expect("four bytes"));
    let mut rights = Vec::new();
    while control.len() >= HEADER {
        let (length, kind) = control[..HEADER].split_at(size_of::<usize>());
        let length = usize::from_ne_bytes(length.try_into().expect("as many bytes as its size"));
        let Some(data) = control.get(HEADER..length) else { break };
        if (number(&kind[..4]), number(&kind[4..])) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            rights.push(data);
        }
        control = control.get(length.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
    rights.into_iter().flat_map(|data| data.chunks_exact(4)).map(number)
}

/// A datagram socket that receives as `name` in the directory `dir`, from anybody who can reach it. A socket that was
/// left there is replaced.
pub fn bind_datagram_at(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    super::fd::unlink_if_exists(dir, name.as_ref())?;
    let socket = new(SockType::Datagram)?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    nix::sys::socket::bind(socket.as_raw_fd(), &address(path.as_ref())?).called(|| format!("bind({path:?})"))?;
    super::fd::chmod_at(dir, name, 0o777)?;
    Ok(socket)
}

/// A datagram socket connected to `path`; a leading `@` means the abstract namespace, as for
/// sd_notify(3). A receiver that does not read makes a send `EAGAIN` after `timeout_seconds` seconds.
pub fn connect_datagram(path: &str, timeout_seconds: u32) -> Result<OwnedFd> {
    let socket = new(SockType::Datagram)?;
    let timeout = nix::sys::time::TimeVal::new(timeout_seconds.into(), 0);
    nix::sys::socket::setsockopt(&socket, sockopt::SendTimeout, &timeout)
        .called(|| "setsockopt(SO_SNDTIMEO)".into())?;
    match path.strip_prefix('@') {
        Some(name) => {
            let address = UnixAddr::new_abstract(name.as_bytes()).called(|| format!("sockaddr_un({path:?})"))?;
            nix::sys::socket::connect(socket.as_raw_fd(), &address).called(|| format!("connect({path:?})"))?;
        }
        None => connect_to(&socket, path.as_ref())?,
    }
    Ok(socket)
}

/// Receives one datagram without waiting; descriptors that come with it are closed. Returns `None` if there is none.
/// The length is the datagram's own, which may be more than `buffer` holds.
pub fn receive_datagram(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<usize>> {
    loop {
        match nix::sys::socket::recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            other => return other.called(|| format!("recv({})", fd_name(socket))).map(Some),
        }
    }
}

/// The user id of the process at the other end (`SO_PEERCRED`).
pub fn peer_uid(socket: BorrowedFd<'_>) -> Result<u32> {
    nix::sys::socket::getsockopt(&socket.as_fd(), sockopt::PeerCredentials)
        .map(|c| c.uid())
        .called(|| "getsockopt(SO_PEERCRED)".into())
}

/// A stream socket that listens as `name` in the directory `dir`, with this mode.
pub fn listen_stream_at(dir: BorrowedFd<'_>, name: &str, mode: u32) -> Result<OwnedFd> {
    let socket = new(SockType::Stream)?;
    super::stream::never_block(socket.as_fd())?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    nix::sys::socket::bind(socket.as_raw_fd(), &address(path.as_ref())?).called(|| format!("bind({name:?})"))?;
    // The mode is set before listen(2), so that nobody can connect in between.
    let listens = super::fd::chmod_at(dir, name, mode)
        .and_then(|()| nix::sys::socket::listen(&socket, Backlog::MAXALLOWABLE).called(|| format!("listen({name:?})")));
    if listens.is_err() {
        let _ = super::fd::unlinkat(dir, name);
    }
    listens.map(|()| socket)
}

/// accept4(2) on a listener that never blocks; neither does the connection. Returns `None` if nobody connects.
pub fn accept_now(socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    match nix::sys::socket::accept4(socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => Ok(None),
        other => {
            let raw = other.called(|| format!("accept4({})", fd_name(socket)))?;
            Ok(Some(super::owned::from_raw(raw.into())))
        }
    }
}

/// Makes the socket blocking, with a timeout for receiving; after that it is `EAGAIN`.
pub fn set_receive_timeout(socket: BorrowedFd<'_>, milliseconds: i64) -> Result<()> {
    use nix::sys::time::TimeValLike;
    block(socket)?;
    let limit = nix::sys::time::TimeVal::milliseconds(milliseconds);
    nix::sys::socket::setsockopt(&socket, sockopt::ReceiveTimeout, &limit).called(|| "setsockopt(SO_RCVTIMEO)".into())
}

/// Sends without waiting and without a signal; returns how many bytes were sent.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    nix::sys::socket::send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
}

/// `SIOCOUTQ`: bytes that the other end has not read, with the kernel's overhead for each piece.
pub fn unread_by_peer(socket: BorrowedFd<'_>) -> usize {
    let mut n: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the number of TIOCOUTQ) writes one int, which outlives the call.
    let returned = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut n) };
    if returned == 0 { n.max(0) as usize } else { 0 }
}

/// Receives without waiting. A message that does not fit is cut off.
pub fn receive_now(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    nix::sys::socket::recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)
}

/// Receives from a stream socket without waiting, with the last descriptor that was passed with the bytes.
pub fn receive_passed(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<(usize, Option<OwnedFd>)> {
    let received = receive_message(socket, buffer, libc::MSG_DONTWAIT);
    received.map(|(bytes, fds, _)| (bytes, fds.into_iter().last())).map_err(|failed| failed.errno)
}

/// Sets a timeout for sending; after that it is `EAGAIN`.
pub fn set_send_timeout(socket: BorrowedFd<'_>, milliseconds: u32) -> Result<()> {
    use nix::sys::time::TimeValLike;
    let limit = nix::sys::time::TimeVal::milliseconds(milliseconds.into());
    nix::sys::socket::setsockopt(&socket, sockopt::SendTimeout, &limit).called(|| "setsockopt(SO_SNDTIMEO)".into())
}

/// Sends one datagram to a path without waiting, with `fd` if it is given.
pub fn send_datagram_to(
    socket: BorrowedFd<'_>,
    path: &str,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> nix::Result<usize> {
    datagram_to(socket, path, bytes, fd, MsgFlags::MSG_DONTWAIT)
}

/// Like [`send_datagram_to`], but waits if the receiver's queue is full.
pub fn send_datagram_blocking(
    socket: BorrowedFd<'_>,
    path: &str,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> nix::Result<usize> {
    datagram_to(socket, path, bytes, fd, MsgFlags::empty())
}

fn datagram_to(
    socket: BorrowedFd<'_>,
    path: &str,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
    flags: MsgFlags,
) -> nix::Result<usize> {
    let address = match path.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
        None => UnixAddr::new(path)?,
    };
    let raw: Vec<i32> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    nix::sys::socket::sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, Some(&address))
}

/// A datagram socket without a name.
pub fn datagram() -> Result<OwnedFd> {
    new(SockType::Datagram)
}

/// Whether the kernel has SO_PASSCRED for sockets of the network. Since Linux 6.16 only sockets that can use it have
/// it.
pub fn network_has_passcred() -> bool {
    let socket = nix::sys::socket::socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    // Without the protocol there are no such sockets either.
    socket.is_ok_and(|socket| nix::sys::socket::getsockopt(&socket, sockopt::PassCred).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of the descriptors that are open in this process and refer to `of`.
    fn copies(of: &OwnedFd) -> usize {
        let wanted = super::super::fd::stat(of.as_fd()).expect("stat");
        let open = super::super::directory::names(
            super::super::fd::open("/proc/self/fd", nix::fcntl::OFlag::O_RDONLY).expect("open").as_fd(),
        );
        let same = |name: &std::ffi::OsString| {
            std::fs::metadata(Path::new("/proc/self/fd").join(name)).is_ok_and(|other| {
                use std::os::unix::fs::MetadataExt;
                (other.dev(), other.ino()) == (wanted.st_dev, wanted.st_ino)
            })
        };
        open.expect("read").iter().filter(|name| same(name)).count()
    }

    #[test]
    fn what_was_sent_before_a_reset_is_heard() {
        let (ours, theirs) = pair().expect("a pair");
        send(ours.as_fd(), b"unread", &[]).expect("sent");
        send(theirs.as_fd(), b"last words", &[]).expect("sent");
        drop(theirs);
        let mut buffer = [0; 16];
        let (n, _) = receive(ours.as_fd(), &mut buffer).expect("heard");
        assert_eq!(&buffer[..n], b"last words");
        assert_eq!(receive(ours.as_fd(), &mut buffer).expect("the end").0, 0);
    }

    #[test]
    fn every_descriptor_of_a_message_has_an_owner() {
        let (ours, theirs) = pair().expect("socketpair");
        let kept = datagram().expect("socket");
        for count in [1, 2, 3, 253] {
            send(theirs.as_fd(), b"x", &vec![kept.as_fd(); count]).expect("sent");
            let (n, fd) = receive(ours.as_fd(), &mut [0; 8]).expect("received");
            assert_eq!((n, fd.is_some()), (1, true));
            assert_eq!(copies(&kept), 2, "of {count}");
            drop(fd);
            assert_eq!(copies(&kept), 1, "of {count}");
        }
    }

    #[test]
    fn a_message_that_is_cut_off_leaves_no_descriptor() {
        let (ours, theirs) = pair().expect("socketpair");
        let kept = datagram().expect("socket");
        send(theirs.as_fd(), b"longer", &[kept.as_fd(); 3]).expect("sent");
        let failed = receive(ours.as_fd(), &mut [0; 2]).expect_err("cut off");
        assert_eq!(failed.errno, Errno::EMSGSIZE);
        assert_eq!(copies(&kept), 1);
    }

    #[test]
    fn a_message_without_descriptors_and_the_end() {
        let (ours, theirs) = pair().expect("socketpair");
        send(theirs.as_fd(), b"abc", &[]).expect("sent");
        let mut buffer = [0; 8];
        let (n, fd) = receive(ours.as_fd(), &mut buffer).expect("received");
        assert_eq!((&buffer[..n], fd.is_none()), (&b"abc"[..], true));
        drop(theirs);
        assert_eq!(receive(ours.as_fd(), &mut buffer).expect("received").0, 0);
    }

    #[test]
    fn no_program_inherits_a_descriptor_that_was_received() {
        let (ours, theirs) = pair().expect("a pair");
        send(ours.as_fd(), b"x", &[ours.as_fd()]).expect("sent");
        let (_, received) = receive(theirs.as_fd(), &mut [0; 8]).expect("received");
        let flags = nix::fcntl::fcntl(received.expect("a descriptor"), nix::fcntl::FcntlArg::F_GETFD).expect("flags");
        assert_eq!(flags, libc::FD_CLOEXEC);
    }

    #[test]
    fn no_program_inherits_a_socket() {
        let dir = std::env::temp_dir().join(format!("windlass-sockets-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let root = crate::fd::open(&dir, nix::fcntl::OFlag::O_PATH).expect("opened");
        let (one, two) = pair().expect("a pair");
        let packets = listen_at(root.as_fd(), "packets").expect("it listens");
        let asked = connect_at(root.as_fd(), "packets").expect("connected");
        let answered = accept(packets.as_fd()).expect("accepted");
        let stream = listen_stream_at(root.as_fd(), "stream", 0o600).expect("it listens");
        let client = connect_now(&dir.join("stream")).expect("connected");
        let served = accept_now(stream.as_fd()).expect("accepted").expect("a client");
        for socket in [one, two, packets, asked, answered, stream, client, served, datagram().expect("a socket")] {
            let flags = nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_GETFD).expect("flags");
            assert_eq!(flags, libc::FD_CLOEXEC, "{socket:?}");
        }
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
