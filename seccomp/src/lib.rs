//! Compiles OCI seccomp profiles to BPF.
#![forbid(unsafe_code)]
