//! See `windlass_shim::log::fuzz::written`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_shim::log::fuzz::written(bytes));
