//! See `windlass_shim::frontend::native::fuzz::journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_shim::frontend::native::fuzz::journal(bytes));
