//! The kernel of the simulation: the interface of `windlass-sys`, with a simulated clock, simulated processes and a
//! simulated wait.
//!
//! Pipes, fifos, sockets, files, epoll(7) and inotify(7) are the machine's own: with one thread they do the same each
//! time. Time passes only while the loop waits, up to the next action of the world. A `World` simulates the programs
//! that the shim starts. Forks of the shim are real, and wait until the world releases them.
#![forbid(unsafe_code)]

pub mod clock;
pub mod descriptors;
pub mod epoll;
pub mod fd;
pub mod handover;
pub mod kernel;
pub mod pipe;
pub mod process;
pub mod socket;
pub mod spawn;
pub mod stream;
pub mod terminal;

pub use windlass_sys::*;
