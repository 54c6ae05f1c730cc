//! The properties of reading any datagram as an answer of rtnetlink: the property test on stable and the fuzz target on
//! nightly call the same function.

use super::message::{HEADER, Request, address, link, next_message, verdict};

/// Reads a datagram to its end. An address that was read must be written unchanged.
pub fn datagram(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some(message)) = next_message(&mut rest) {
        assert!(message.payload.len() + HEADER <= bytes.len());
        let _ = link(message.payload);
        if let Ok(verdict) = verdict(message) {
            assert!(verdict.errno.is_none_or(|errno| errno as i32 >= 0));
        }
        let Ok((index, found)) = address(message.payload) else { continue };
        let mut request = Request::address(0, 0, index, &found);
        for (kind, value) in &found.attributes {
            request = request.attribute(*kind, value);
        }
        let flags = found.flags.to_ne_bytes();
        let written = request.attribute(libc::IFA_FLAGS, &flags).finish(0);
        assert_eq!(address(&written[HEADER..]), Ok((index, found)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Request;
    use proptest::prelude::*;
    use proptest::sample::Index;

    /// An address, an interface and a refusal with words.
    fn datagram() -> Vec<u8> {
        let address = super::super::message::Address {
            family: libc::AF_INET as u8,
            prefix: 24,
            scope: 0,
            flags: 0x80,
            attributes: Vec::new(),
        };
        let mut bytes = Request::address(libc::RTM_NEWADDR, 0, 7, &address)
            .attribute(libc::IFA_LOCAL, &[10, 1, 2, 3])
            .text(libc::IFA_LABEL, "eth0")
            .finish(1);
        bytes.extend(Request::link(libc::RTM_NEWLINK, 0, 3, 1, 0).text(libc::IFLA_IFNAME, "ab0").finish(2));
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_datagrams(edits in prop::collection::vec((any::<Index>(), any::<u8>()), 0..5), end in any::<Index>()) {
            let mut bytes = datagram();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            super::datagram(&bytes);
            super::datagram(&bytes[..end.index(bytes.len())]);
        }
    }
}
