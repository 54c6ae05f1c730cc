//! See `windlass_shim::frontend::neutral::fuzz::event_log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_shim::frontend::neutral::fuzz::event_log(bytes));
