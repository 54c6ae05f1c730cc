//! A D-Bus client for a caller of systemd: one connection, no threads, calls that wait for their reply
//! (<https://dbus.freedesktop.org/doc/dbus-specification.html>).
//!
//! No existing library fits. zbus starts threads, and the runtime may neither clone nor unshare with several threads.
//! rustbus adds as much to the binary as all cgroup code of windlass, and connects to message buses only; systemd's
//! own socket saves half of the round trips. `src/dbus/tests/dbus.rs` compares the messages with those of rustbus.
#![doc(hidden)]
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

mod connection;
mod message;

pub use connection::{Connection, Peer, Reply};
pub use message::{Call, Message, MessageType, decode, encode};
