//! windlass: an OCI container runtime.
#![deny(unsafe_code)]

pub mod error;
pub mod spec;
pub mod sys;
