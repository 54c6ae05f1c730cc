//! CRIU (<https://criu.org>) as a program that gets requests over a socket: its messages, one run of it, its log and
//! its images.
//!
//! `criu swrk 3` answers requests at descriptor 3. One message is one packet. During a dump or a restore it sends
//! notifications, and waits for the answer to each.
#![doc(hidden)]
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

pub mod flags;
pub mod image;
pub mod log;
pub mod message;
pub mod program;
pub mod session;
