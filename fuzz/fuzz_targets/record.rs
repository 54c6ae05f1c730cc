//! See `windlass_store::fuzz::record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_store::fuzz::record(bytes));
