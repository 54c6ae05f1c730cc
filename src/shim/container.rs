//! Containers, as a front end describes them.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::{Runtime, Timeouts};

/// The facts that are fixed for the life of a container.
#[derive(Clone, Debug)]
pub struct Container {
    pub id: Rc<str>,
    pub bundle: PathBuf,
    /// The runtime that runs it.
    pub runtime: Runtime,
    /// How long a call of the runtime may take.
    pub timeouts: Timeouts,
    /// How long output is read after a process has ended, when another process still holds its
    /// pipe open.
    pub drain: Duration,
    /// Whether the shim kills the other processes when init ends. That is needed if init has no PID namespace of its
    /// own, because the kernel does not kill them there.
    pub kill_on_exit: bool,
    /// Empty files that are made after an OOM kill (conmon's `oom`).
    pub oom_files: Vec<PathBuf>,
    /// Whether the exit record is synced to disk before the end is reported. Tests switch it off.
    pub sync: bool,
}
