//! Network interfaces and their addresses, over rtnetlink(7).
//!
//! A [`Netlink`] belongs to the network namespace in which its thread was when it was opened. To work in another
//! namespace, enter it, open a [`Netlink`], and return.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod message;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::TimeVal;

use super::{Called, Result, SyscallError, check, fd_name};

pub use message::{Address, Link};
use message::{Malformed, Message, Request};

/// The time to wait for the kernel, in seconds. In fact it answers before the sending of the request returns.
const REPLY_TIMEOUT: i64 = 10;
/// The longest datagram of a dump (the kernel's `NLMSG_GOODSIZE`, and its growth for larger buffers).
const BUFFER: usize = 64 * 1024;
/// Most requests of a dump that changes while it is read.
const DUMPS: usize = 16;

/// A connection to one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Connects to the network namespace that this thread is in.
    pub fn open() -> Result<Netlink> {
        let kind = SockProtocol::NetlinkRoute;
        let socket = nix::sys::socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, kind)
            .called(|| "socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)".into())?;
        nix::sys::socket::setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(REPLY_TIMEOUT, 0))
            .called(|| "setsockopt(SO_RCVTIMEO)".into())?;
        // Since Linux 4.12 replies can have an error text and leave the request out. Older kernels refuse the options.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            let _ = turn_on(socket.as_fd(), option);
        }
        Ok(Netlink { socket, sequence: 0 })
    }

    /// The interface with this name or alternative name. Fails with `ENODEV` if there is none.
    pub fn link_by_name(&mut self, name: &str) -> Result<Link> {
        let request = Request::link(libc::RTM_GETLINK, libc::NLM_F_REQUEST | libc::NLM_F_ACK, 0, 0, 0);
        self.link(request.text(libc::IFLA_IFNAME, name), &|| format!("RTM_GETLINK {name:?}"))
    }

    /// The interface of this number. Fails with `ENODEV` if there is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link> {
        let request = Request::link(libc::RTM_GETLINK, libc::NLM_F_REQUEST | libc::NLM_F_ACK, index, 0, 0);
        self.link(request, &|| format!("RTM_GETLINK {index}"))
    }

    fn link(&mut self, request: Request, call: &dyn Fn() -> String) -> Result<Link> {
        let mut link = None;
        self.ask(request, call, &mut |message| {
            if message.kind == libc::RTM_NEWLINK {
                link = Some(message::link(message.payload)?);
            }
            Ok(())
        })?;
        link.ok_or_else(|| SyscallError { call: self.shown(call()), errno: Errno::ENODEV })
    }

    /// All addresses of an interface, in the order in which they are used.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<Address>> {
        let any = Address { family: 0, prefix: 0, scope: 0, flags: 0, attributes: Vec::new() };
        for _ in 0..DUMPS {
            let mut out = Vec::new();
            let request = Request::address(libc::RTM_GETADDR, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, 0, &any);
            let whole = self.ask(request, &|| "RTM_GETADDR".into(), &mut |message| {
                if message.kind == libc::RTM_NEWADDR {
                    let (owner, address) = message::address(message.payload)?;
                    if owner == index {
                        out.push(address);
                    }
                }
                Ok(())
            })?;
            if whole {
                return Ok(out);
            }
        }
        Err(SyscallError { call: self.shown("RTM_GETADDR"), errno: Errno::EINTR })
    }

    /// Moves an interface to another network namespace, where it is called `name`. The kernel
    /// takes it down and drops its addresses.
    ///
    /// Fails with `EEXIST` if the name is taken there, and with `EINVAL` if the interface may not leave its namespace.
    /// A failure may leave it in the other namespace under its old name.
    pub fn move_link(&mut self, index: u32, namespace: BorrowedFd<'_>, name: &str) -> Result<()> {
        let fd = namespace.as_raw_fd();
        let request = Request::link(libc::RTM_SETLINK, libc::NLM_F_REQUEST | libc::NLM_F_ACK, index, 0, 0)
            .attribute(libc::IFLA_NET_NS_FD, &fd.to_ne_bytes())
            .text(libc::IFLA_IFNAME, name);
        self.order(request, &|| format!("RTM_SETLINK {index}, IFLA_NET_NS_FD {fd}, IFLA_IFNAME {name:?}"))
    }

    /// Renames an interface. In `name` a `%d` stands for the least number that is free.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<()> {
        let request = Request::link(libc::RTM_SETLINK, libc::NLM_F_REQUEST | libc::NLM_F_ACK, index, 0, 0);
        self.order(request.text(libc::IFLA_IFNAME, name), &|| format!("RTM_SETLINK {index}, IFLA_IFNAME {name:?}"))
    }

    /// Sets an interface up.
    pub fn set_up(&mut self, index: u32) -> Result<()> {
        let up = libc::IFF_UP as u32;
        let request = Request::link(libc::RTM_SETLINK, libc::NLM_F_REQUEST | libc::NLM_F_ACK, index, up, up);
        self.order(request, &|| format!("RTM_SETLINK {index}, IFF_UP"))
    }

    /// Gives an interface an address.
    pub fn add_address(&mut self, index: u32, address: &Address) -> Result<()> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let mut request = Request::address(libc::RTM_NEWADDR, flags, index, address);
        for (kind, value) in &address.attributes {
            request = request.attribute(*kind, value);
        }
        request = request.attribute(libc::IFA_FLAGS, &address.flags.to_ne_bytes());
        self.order(request, &|| format!("RTM_NEWADDR {index}, {address}"))
    }

    /// Sends a request that is answered with success or an error alone.
    fn order(&mut self, request: Request, call: &dyn Fn() -> String) -> Result<()> {
        self.ask(request, call, &mut |_| Ok(())).map(drop)
    }

    /// Sends a request and gives every message of the answer to `each`. Returns whether the answer is consistent: a
    /// dump is inconsistent if its subject changed meanwhile.
    fn ask(
        &mut self,
        request: Request,
        call: &dyn Fn() -> String,
        each: &mut dyn FnMut(Message<'_>) -> std::result::Result<(), Malformed>,
    ) -> Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&request.finish(self.sequence), call)?;
        let malformed = |_: Malformed| SyscallError {
            call: self.shown("malformed reply to ".to_string() + &call()),
            errno: Errno::EBADMSG,
        };
        let mut buffer = vec![0; BUFFER];
        let mut consistent = true;
        loop {
            let n = self.receive(&mut buffer, call)?;
            let mut rest = &buffer[..n];
            if n == 0 {
                return Err(malformed(Malformed));
            }
            while let Some(message) = message::next_message(&mut rest).map_err(malformed)? {
                // The message belongs to an earlier answer that was not read to its end.
                if message.sequence != self.sequence {
                    continue;
                }
                consistent &= i32::from(message.flags) & libc::NLM_F_DUMP_INTR == 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(consistent),
                    libc::NLMSG_ERROR => {
                        let verdict = message::verdict(message).map_err(malformed)?;
                        let Some(errno) = verdict.errno else { return Ok(consistent) };
                        let words = verdict.text.map_or(String::new(), |text| format!(" ({text})"));
                        return Err(SyscallError { call: self.shown(call() + &words), errno });
                    }
                    _ => each(message).map_err(malformed)?,
                }
            }
        }
    }

    fn send(&self, bytes: &[u8], call: &dyn Fn() -> String) -> Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        loop {
            match nix::sys::socket::sendto(self.socket.as_raw_fd(), bytes, &kernel, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop).map_err(|errno| SyscallError { call: self.shown(call()), errno }),
            }
        }
    }

    fn receive(&self, buffer: &mut [u8], call: &dyn Fn() -> String) -> Result<usize> {
        loop {
            match nix::sys::socket::recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), buffer) {
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(SyscallError { call: self.shown("no reply to ".to_string() + &call()), errno });
                }
                // Any process may send to this socket. Only the kernel's messages count.
                Ok((_, Some(sender))) if sender.pid() != 0 => {}
                Ok((n, _)) => return Ok(n),
            }
        }
    }

    fn shown(&self, what: impl AsRef<str>) -> std::borrow::Cow<'static, str> {
        format!("sendto({}, {})", fd_name(&self.socket), what.as_ref()).into()
    }
}

/// Brings the loopback interface of this network namespace up (netdevice(7)).
pub fn loopback_up() -> Result<()> {
    let socket = nix::sys::socket::socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .or_else(|_| nix::sys::socket::socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None))
        .called(|| "socket(AF_INET, SOCK_DGRAM)".into())?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is an ifreq that outlives the call, as SIOCSIFFLAGS asks.
    let returned = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    check(returned.into(), || "ioctl(SIOCSIFFLAGS, \"lo\")".into()).map(drop)
}

/// Sets an option of the netlink level to 1.
fn turn_on(socket: BorrowedFd<'_>, option: libc::c_int) -> Result<()> {
    let one: libc::c_int = 1;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: these options read one int, which outlives the call and has the size given.
    let returned =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const one).cast(), size) };
    check(returned.into(), || format!("setsockopt(SOL_NETLINK, {option})")).map(drop)
}
