//! The bytes of netlink(7) and rtnetlink(7) messages. Pure; numbers are in the host's byte order.
//!
//! The messages come from the kernel, but every length is checked all the same: a message that contradicts its own
//! lengths is [`Malformed`], never a panic.

use nix::errno::Errno;

/// Size of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Size of the head of an attribute (`struct rtattr`).
const ATTRIBUTE: usize = 4;
/// Size of `struct ifinfomsg`.
const LINK: usize = 16;
/// Size of `struct ifaddrmsg`.
const ADDRESS: usize = 8;
/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`, which are no part of an attribute's type.
const TYPE_FLAGS: u16 = 0xc000;
/// `NLM_F_CAPPED`: the reply does not repeat the request's payload.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: attributes follow in a reply (`NETLINK_EXT_ACK`).
const WITH_ATTRIBUTES: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: the kernel's text about an error.
const ERROR_TEXT: u16 = 1;

/// A message that contradicts its own lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

type Result<T> = std::result::Result<T, Malformed>;

/// Messages and attributes start at multiples of 4.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    let bytes = bytes.get(at..at + 2).ok_or(Malformed)?;
    Ok(u16::from_ne_bytes(bytes.try_into().expect("two bytes")))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..at + 4).ok_or(Malformed)?;
    Ok(u32::from_ne_bytes(bytes.try_into().expect("four bytes")))
}

/// A request that is being put together.
pub(crate) struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: i32) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
        Request(bytes)
    }

    /// A request about a link; index 0 if an attribute names it. The state bits (`IFF_*`) in `change` are changed.
    pub(crate) fn link(kind: u16, flags: i32, index: u32, state: u32, change: u32) -> Request {
        let mut request = Request::new(kind, flags);
        // Family AF_UNSPEC, padding, device type.
        request.0.extend([0; 4]);
        for number in [index, state, change] {
            request.0.extend(number.to_ne_bytes());
        }
        request
    }

    /// A request about an address of the link `index`.
    pub(crate) fn address(kind: u16, flags: i32, index: u32, address: &Address) -> Request {
        let mut request = Request::new(kind, flags);
        // The flags that fit here are repeated, with the others, in an attribute.
        request.0.extend([address.family, address.prefix, address.flags as u8, address.scope]);
        request.0.extend(index.to_ne_bytes());
        request
    }

    /// Adds an attribute.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        let length = (ATTRIBUTE + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    /// Adds an attribute that is a string.
    pub(crate) fn text(self, kind: u16, value: &str) -> Request {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// The whole message.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// `RTM_*` or `NLMSG_*`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    /// The bytes after the header.
    pub payload: &'a [u8],
}

/// Takes the first message off `bytes`; `None` at their end.
pub(crate) fn next_message<'a>(bytes: &mut &'a [u8]) -> Result<Option<Message<'a>>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let length = u32_at(bytes, 0)? as usize;
    let payload = bytes.get(HEADER..length).ok_or(Malformed)?;
    let message = Message { kind: u16_at(bytes, 4)?, flags: u16_at(bytes, 6)?, sequence: u32_at(bytes, 8)?, payload };
    *bytes = bytes.get(aligned(length)..).unwrap_or_default();
    Ok(Some(message))
}

/// Takes the first attribute off `bytes`; `None` at their end.
fn next_attribute<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u16, &'a [u8])>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let length = usize::from(u16_at(bytes, 0)?);
    let kind = u16_at(bytes, 2)? & !TYPE_FLAGS;
    let value = bytes.get(ATTRIBUTE..length).ok_or(Malformed)?;
    *bytes = bytes.get(aligned(length)..).unwrap_or_default();
    Ok(Some((kind, value)))
}

/// A string of the kernel, up to its NUL if it has one.
fn text_of(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// The kernel's answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The error; `None` for success.
    pub errno: Option<Errno>,
    /// The kernel's text about the error, if there is one.
    pub text: Option<String>,
}

/// Reads an `NLMSG_ERROR`, which is an acknowledgement too.
pub(crate) fn verdict(message: Message<'_>) -> Result<Verdict> {
    let code = u32_at(message.payload, 0)? as i32;
    // A negated errno; the kernel sends no positive number.
    let errno = match code {
        0 => None,
        _ => Some(code.checked_neg().filter(|code| *code > 0).map(Errno::from_raw).ok_or(Malformed)?),
    };
    let mut text = None;
    if message.flags & WITH_ATTRIBUTES != 0 {
        let request = u32_at(message.payload, 4)? as usize;
        let skip = 4 + if message.flags & CAPPED != 0 { HEADER } else { aligned(request) };
        let mut rest = message.payload.get(skip..).ok_or(Malformed)?;
        while let Some((kind, value)) = next_attribute(&mut rest)? {
            if kind == ERROR_TEXT {
                text = Some(text_of(value));
            }
        }
    }
    Ok(Verdict { errno, text })
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in its network namespace.
    pub index: u32,
    /// Its name there.
    pub name: String,
    /// Whether it is up as far as the administrator is concerned (`IFF_UP`).
    pub up: bool,
}

/// Reads the payload of an `RTM_NEWLINK`.
pub(crate) fn link(payload: &[u8]) -> Result<Link> {
    let index = u32_at(payload, 4)?;
    let up = u32_at(payload, 8)? & libc::IFF_UP as u32 != 0;
    let mut rest = payload.get(LINK..).ok_or(Malformed)?;
    let mut name = None;
    while let Some((kind, value)) = next_attribute(&mut rest)? {
        if kind == libc::IFLA_IFNAME {
            name = Some(text_of(value));
        }
    }
    Ok(Link { index, name: name.ok_or(Malformed)?, up })
}

/// An address of a network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// Bits of the network's part.
    pub prefix: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
    /// `IFA_*` and their values, flags excepted.
    pub attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// The value of an attribute.
    pub fn attribute(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| value.as_slice())
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // With a peer IFA_ADDRESS is the other end.
        let bytes = self.attribute(libc::IFA_LOCAL).or_else(|| self.attribute(libc::IFA_ADDRESS)).unwrap_or_default();
        if let Ok(four) = <[u8; 4]>::try_from(bytes) {
            write!(f, "{}/{}", std::net::Ipv4Addr::from(four), self.prefix)
        } else if let Ok(sixteen) = <[u8; 16]>::try_from(bytes) {
            write!(f, "{}/{}", std::net::Ipv6Addr::from(sixteen), self.prefix)
        } else {
            write!(f, "address of family {}", self.family)
        }
    }
}

/// Reads the payload of an `RTM_NEWADDR`: the link's index, and the address.
pub(crate) fn address(payload: &[u8]) -> Result<(u32, Address)> {
    let [family, prefix, few_flags, scope] = *payload.first_chunk().ok_or(Malformed)?;
    let index = u32_at(payload, 4)?;
    let mut rest = payload.get(ADDRESS..).ok_or(Malformed)?;
    let mut address = Address { family, prefix, scope, flags: few_flags.into(), attributes: Vec::new() };
    while let Some((kind, value)) = next_attribute(&mut rest)? {
        match kind {
            libc::IFA_FLAGS => address.flags = u32_at(value, 0)?,
            _ => address.attributes.push((kind, value.to_vec())),
        }
    }
    Ok((index, address))
}

#[cfg(test)]
mod tests;
