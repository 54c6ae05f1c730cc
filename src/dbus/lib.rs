//! A client of D-Bus, as small as talking to systemd needs: one connection, no threads, calls that
//! wait for their answer (<https://dbus.freedesktop.org/doc/dbus-specification.html>).
//!
//! Known libraries were weighed: zbus leaves threads behind, and a process with threads may neither
//! clone nor unshare here; rustbus does not, but adds as much to the binary as all that windlass
//! has for cgroups, and knows only message buses, where systemd's own socket saves the bus and
//! half of the round trips. It is the oracle of `src/dbus/tests/dbus.rs`.
#![doc(hidden)]
#![forbid(unsafe_code)]

mod connection;
mod message;

pub use connection::{Answer, Connection, Peer};
pub use message::{Call, Message, decode, encode};
