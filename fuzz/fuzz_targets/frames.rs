//! See `windlass_client::fuzz::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_client::fuzz::frames(bytes));
