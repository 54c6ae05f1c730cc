//! See `windlass_shim::frontend::conmon::fuzz::arguments`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_shim::frontend::conmon::fuzz::arguments(bytes));
