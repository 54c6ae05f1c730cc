//! The kernel of the simulation: `windlass-sys` as the shim sees it, with another clock, other processes and another
//! way to wait.
//!
//! Pipes, fifos, sockets, files, epoll(7) and inotify(7) are the machine's own: with one thread they do the same
//! each time. Time passes only when the loop waits, and then as far as the next thing happens. Programs that the
//! shim starts are played by a `World`. What the shim forks is forked, and goes on when the world wants it to.
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
