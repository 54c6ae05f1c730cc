//! The connections between unix sockets, over sock_diag(7).

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, sockopt};
use nix::sys::time::TimeVal;

use super::{Called, Result};

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// `UDIAG_SHOW_PEER` (linux/unix_diag.h).
const SHOW_PEER: u32 = 4;
/// `UNIX_DIAG_PEER`.
const PEER: u16 = 2;
/// Bytes of `struct nlmsghdr` (netlink(7)).
const HEADER: usize = 16;
/// Bytes of `struct unix_diag_msg`.
const MESSAGE: usize = 16;
/// Bytes of one answer: the kernel fills no more.
const ANSWER: usize = 32 * 1024;
/// How long to wait for the kernel, in seconds.
const TIMEOUT: i64 = 10;

/// The inodes of all unix sockets of this thread's network namespace, each with the inode of the socket that it is
/// connected to; 0 if there is none.
pub fn unix_peers() -> Result<BTreeMap<u32, u32>> {
    let socket = nix::sys::socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )
    .called(|| "socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG)".into())?;
    nix::sys::socket::setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT, 0))
        .called(|| "setsockopt(SO_RCVTIMEO)".into())?;
    sendto(socket.as_raw_fd(), &request(), &NetlinkAddr::new(0, 0), MsgFlags::empty())
        .called(|| "sendto(SOCK_DIAG_BY_FAMILY, AF_UNIX)".into())?;
    let mut peers = BTreeMap::new();
    let mut buffer = vec![0; ANSWER];
    let called = || "recv(SOCK_DIAG_BY_FAMILY)".into();
    loop {
        let length = match nix::sys::socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            received => received.called(called)?,
        };
        if read(&buffer[..length], &mut peers).called(called)? {
            return Ok(peers);
        }
    }
}

fn request() -> Vec<u8> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut out = Vec::new();
    out.extend_from_slice(&(HEADER as u32 + 24).to_ne_bytes());
    out.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    // struct unix_diag_req: the family, all states, any inode, what to show, no cookie.
    out.extend_from_slice(&[libc::AF_UNIX as u8, 0, 0, 0]);
    out.extend_from_slice(&u32::MAX.to_ne_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&SHOW_PEER.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out
}

/// Reads one datagram. Returns true if it was the last.
fn read(mut bytes: &[u8], peers: &mut BTreeMap<u32, u32>) -> nix::Result<bool> {
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).map(|it| u32::from_ne_bytes(it.try_into().expect("four bytes")))
    };
    let half =
        |bytes: &[u8], at: usize| bytes.get(at..at + 2).map(|it| u16::from_ne_bytes(it.try_into().expect("two bytes")));
    while let (Some(length), Some(kind)) = (word(bytes, 0), half(bytes, 4)) {
        let length = length as usize;
        let message = bytes.get(HEADER..length).ok_or(Errno::EBADMSG)?;
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                // A negative error number.
                return Err(
                    word(message, 0).map_or(Errno::EBADMSG, |number| Errno::from_raw((number as i32).wrapping_neg()))
                );
            }
            _ => {}
        }
        let mut peer = 0;
        let mut attributes = message.get(MESSAGE..).unwrap_or_default();
        while let (Some(length), Some(kind)) = (half(attributes, 0), half(attributes, 2)) {
            if kind == PEER {
                peer = word(attributes, 4).unwrap_or(0);
            }
            attributes = attributes.get(usize::from(length).next_multiple_of(4).max(4)..).unwrap_or_default();
        }
        if let Some(inode) = word(message, 4) {
            peers.insert(inode, peer);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::{fd, socket};

    #[test]
    fn the_two_ends_of_a_pair_are_connected_to_each_other() {
        let (one, other) = socket::pair().expect("a pair");
        let inode = |socket: &std::os::fd::OwnedFd| fd::stat(socket.as_fd()).expect("stat").st_ino as u32;
        let peers = unix_peers().expect("sock_diag");
        assert_eq!(peers.get(&inode(&one)), Some(&inode(&other)));
        assert_eq!(peers.get(&inode(&other)), Some(&inode(&one)));
        let alone = socket::datagram().expect("a socket");
        assert_eq!(unix_peers().expect("sock_diag").get(&inode(&alone)), Some(&0));
    }
}
