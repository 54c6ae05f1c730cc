//! See `windlass_sys::netlink::fuzz::datagram`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_sys::netlink::fuzz::datagram(bytes));
