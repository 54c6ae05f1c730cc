//! Containers on disk: a file of the state root holds what cannot be read from the process and the cgroup.
#![doc(hidden)]
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

mod container;
mod document;
mod exit;
mod exit_namespace;
mod exit_pin;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod process_stat;
mod record;
mod reservation;
mod state;
mod store;
mod unusable;

pub use container::{Container, INIT_NAME};
pub use exit_namespace::check as check_exit_pins;
pub use files::notify_directory;
pub use process_stat::{ended_unexecuted, process_stat};
pub use record::write_exit;
pub use reservation::Reservation;
pub use state::{InitProcess, State, Status, SystemdUnit, VERSION};
pub use store::Store;
