//! The base of all parts of windlass: errors and hints, ids, numbers of the kernel, values of D-Bus, messages of
//! protocol buffers, the configuration, and the record of an exit. It makes no system call.
#![doc(hidden)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(not(test), warn(unreachable_pub))]

pub mod abi;
pub mod capability;
pub mod error;
pub mod exit_record;
pub mod hint;
pub mod id;
pub mod mount;
pub mod mountinfo;
pub mod namespaces;
pub mod protobuf;
pub mod rfc3339;
pub mod spec;
pub mod variant;
