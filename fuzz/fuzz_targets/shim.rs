//! See `frames::check`.
#![no_main]

#[path = "../../src/shim/tests/support/frames.rs"]
mod frames;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| frames::check(bytes));
