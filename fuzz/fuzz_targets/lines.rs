//! See `windlass_client::fuzz::lines`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_client::fuzz::lines(bytes));
