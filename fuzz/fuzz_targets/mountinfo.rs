//! See `windlass_cgroup::fuzz::mountinfo`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| windlass_cgroup::fuzz::mountinfo(bytes));
