//! The shim: the process that stays with a container after the runtime and the engine have left.
//! It keeps the stdio of the container's processes open, reaps them, and reports how they ended.
//!
//! The shim is one thread with one epoll loop (`poll`). Its core (`supervisor`) knows no
//! protocol. It runs the runtime's binary (`runtime`), moves bytes (`stdio`, `log`), reaps
//! (`reaper`) and writes exit records (`exit`). A front end translates a protocol to
//! [`Request`]s and [`Event`]s; it implements [`Front`] and is served by [`serve`]. The core runs
//! the runtime as a separate program, so a `create` that crashes cannot take the stdio with it.
//!
//! ```text
//!  engine <--> front end --Request--> supervisor --spawn--> runtime binary
//!                        <--Reply---             <-pidfd--- container's processes
//!                        <--Event---             <-splice-> pipes, ptys, fifos, logs
//! ```
//!
//! The end of a process always takes these steps in this order: the process is reaped, the OOM
//! counter is read, the output is drained (for a bounded time), the exit record is written, synced
//! and renamed, and only then does the front end get the event. If the record cannot be written after
//! five tries, the end is reported without it.
#![doc(hidden)]
#![forbid(unsafe_code)]
// The simulation and tests see less of the same sources.
#![cfg_attr(not(any(test, simulated)), warn(unreachable_pub))]

mod call;
mod calls;
mod client;
mod command;
mod console;
mod container;
mod containers;
mod effects;
mod exit;
mod front;
pub mod frontend;
mod gone;
mod id;
mod image;
mod image_check;
mod inotify;
mod input;
mod key;
mod launch;
mod life;
mod log;
mod moment;
mod notifier;
mod oom;
mod outlet;
mod pause;
mod pipe;
mod poll;
mod process;
mod processes;
mod pump;
mod reaper;
mod refusal;
mod request;
mod runtime;
mod runtime_state;
mod scratch;
#[cfg(simulated)]
pub mod simulation;
mod sink;
mod spare;
mod spool;
pub mod stdio;
mod streams;
mod supervisor;
mod table;
mod turn;
mod upgrade;
mod upgrade_error;
mod upgrade_request;

pub use call::server_environment;
pub use container::Container;
pub use exit::{ExitFile, ExitStatus};
pub use front::{Front, serve};
pub use id::ProcessId;
pub use poll::{Interest, Poll, Ready};
pub use process::{HOLD, Making, NewProcess, Phase, ProcessState};
pub use refusal::{Code, Refusal};
pub use request::{Event, Reply, Request, WaitToken};
pub use runtime::{Runtime, Timeouts};
pub use stdio::{Framing, Log, Output, Spooling, Stdin, Stdio, WhenFull};
pub use supervisor::Supervisor;
