use super::*;

/// An `RTM_NEWADDR` payload for 10.1.2.3/24 on link 7, with flags that need the attribute.
fn sample_address() -> Vec<u8> {
    let address = Address { family: libc::AF_INET as u8, prefix: 24, scope: 0, flags: 0x80, attributes: Vec::new() };
    let bytes = Request::address(libc::RTM_NEWADDR, 0, 7, &address)
        .attribute(libc::IFA_LOCAL, &[10, 1, 2, 3])
        .attribute(libc::IFA_FLAGS, &0x280_u32.to_ne_bytes())
        .text(libc::IFA_LABEL, "eth0")
        .finish(1);
    bytes[HEADER..].to_vec()
}

#[test]
fn a_request_to_rename_has_the_layout_of_rtnetlink() {
    let bytes = Request::link(libc::RTM_SETLINK, 5, 3, 0, 0).text(libc::IFLA_IFNAME, "ab0").finish(9);
    let mut want = Vec::new();
    want.extend(40_u32.to_ne_bytes()); // 16 header, 16 ifinfomsg, 4 + 4 attribute
    want.extend(libc::RTM_SETLINK.to_ne_bytes());
    want.extend(5_u16.to_ne_bytes());
    want.extend(9_u32.to_ne_bytes());
    want.extend([0; 4]); // port
    want.extend([0; 4]); // family, padding, type
    want.extend(3_u32.to_ne_bytes());
    want.extend([0; 8]); // flags, change
    want.extend(8_u16.to_ne_bytes());
    want.extend(3_u16.to_ne_bytes());
    want.extend(*b"ab0\0");
    assert_eq!(bytes, want);
}

#[test]
fn attributes_are_padded_to_four_bytes_and_say_their_true_length() {
    let bytes = Request::link(libc::RTM_SETLINK, 0, 1, 0, 0).attribute(1, &[1]).attribute(2, &[2; 4]).finish(0);
    let mut rest = &bytes[HEADER + LINK..];
    assert_eq!(rest.len(), 16);
    assert_eq!(next_attribute(&mut rest), Ok(Some((1, &[1][..]))));
    assert_eq!(next_attribute(&mut rest), Ok(Some((2, &[2; 4][..]))));
    assert_eq!(next_attribute(&mut rest), Ok(None));
}

#[test]
fn several_messages_of_one_datagram_are_read_in_order() {
    let mut bytes = Request::link(libc::RTM_NEWLINK, 2, 1, 0, 0).attribute(9, &[0; 5]).finish(4);
    bytes.extend(Request::link(libc::NLMSG_DONE as u16, 2, 0, 0, 0).finish(4));
    let mut rest = &bytes[..];
    let first = next_message(&mut rest).expect("well formed").expect("first");
    assert_eq!((first.kind, first.flags, first.sequence), (libc::RTM_NEWLINK, 2, 4));
    assert_eq!(next_message(&mut rest).expect("well formed").expect("second").kind, libc::NLMSG_DONE as u16);
    assert_eq!(next_message(&mut rest), Ok(None));
}

#[test]
fn an_address_keeps_its_attributes_and_takes_its_flags_from_the_wide_one() {
    let (index, address) = address(&sample_address()).expect("well formed");
    assert_eq!((index, address.flags, address.prefix), (7, 0x280, 24));
    assert_eq!(address.to_string(), "10.1.2.3/24");
    assert_eq!(address.attribute(libc::IFA_LABEL), Some(&b"eth0\0"[..]));
    assert_eq!(address.attribute(libc::IFA_FLAGS), None);
}

#[test]
fn an_address_of_ipv6_is_shown_as_such() {
    let attributes = vec![(libc::IFA_ADDRESS, std::net::Ipv6Addr::LOCALHOST.octets().to_vec())];
    let address = Address { family: libc::AF_INET6 as u8, prefix: 128, scope: 0, flags: 0, attributes };
    assert_eq!(address.to_string(), "::1/128");
}

#[test]
fn a_link_without_a_name_is_malformed() {
    let bytes = Request::link(libc::RTM_NEWLINK, 0, 4, libc::IFF_UP as u32, 0).finish(0);
    assert_eq!(link(&bytes[HEADER..]), Err(Malformed));
    let bytes = Request::link(libc::RTM_NEWLINK, 0, 4, libc::IFF_UP as u32, 0).text(libc::IFLA_IFNAME, "x").finish(0);
    assert_eq!(link(&bytes[HEADER..]), Ok(Link { index: 4, name: "x".into(), up: true }));
}

fn error_message(flags: u16, code: i32, after: &[u8]) -> Vec<u8> {
    let mut payload = code.to_ne_bytes().to_vec();
    payload.extend(20_u32.to_ne_bytes()); // The refused request: a header and four bytes.
    payload.extend([0; 12]);
    if flags & CAPPED == 0 {
        payload.extend([0xee; 4]);
    }
    payload.extend(after);
    payload
}

#[test]
fn the_kernels_words_are_found_behind_a_whole_and_a_capped_request() {
    let mut words = 10_u16.to_ne_bytes().to_vec();
    words.extend(ERROR_TEXT.to_ne_bytes());
    words.extend(*b"no go\0\0\0");
    for flags in [WITH_ATTRIBUTES, WITH_ATTRIBUTES | CAPPED] {
        let payload = error_message(flags, -22, &words);
        let message = Message { kind: libc::NLMSG_ERROR as u16, flags, sequence: 1, payload: &payload };
        let want = Verdict { errno: Some(Errno::EINVAL), text: Some("no go".into()) };
        assert_eq!(verdict(message), Ok(want));
    }
}

#[test]
fn a_verdict_without_error_is_an_acknowledgement_and_a_positive_code_is_nonsense() {
    for (code, want) in [(0, Ok(Verdict { errno: None, text: None })), (22, Err(Malformed)), (i32::MIN, Err(Malformed))]
    {
        let payload = error_message(CAPPED, code, &[]);
        assert_eq!(verdict(Message { kind: 2, flags: CAPPED, sequence: 1, payload: &payload }), want, "{code}");
    }
}

#[test]
fn lengths_that_lie_are_malformed() {
    for bytes in [
        &[1, 0][..],                                            // Too short for a length.
        &[15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], // Shorter than the header.
        &[0xff; 16][..],                                        // Longer than what is there.
    ] {
        let mut rest = bytes;
        assert_eq!(next_message(&mut rest), Err(Malformed), "{bytes:?}");
    }
    for bytes in [&[4][..], &[3, 0, 1, 0][..], &[0, 0, 0, 0][..], &[9, 0, 1, 0, 1, 2, 3, 4][..]] {
        let mut rest = bytes;
        assert_eq!(next_attribute(&mut rest), Err(Malformed), "{bytes:?}");
    }
}

#[test]
fn no_prefix_and_no_changed_byte_makes_the_parser_panic_or_loop() {
    let whole = sample_address();
    for end in 0..whole.len() {
        let _ = address(&whole[..end]);
        let _ = link(&whole[..end]);
        for value in [0, 1, 3, 0x7f, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[end] = value;
            let _ = address(&changed);
            let _ = link(&changed);
            let mut rest = &changed[..];
            while let Ok(Some(message)) = next_message(&mut rest) {
                let _ = verdict(message);
            }
            let message = Message { kind: 2, flags: WITH_ATTRIBUTES, sequence: 0, payload: &changed };
            let _ = verdict(message);
        }
    }
}
