//! The names of processes.

use std::rc::Rc;

/// Names a process: the init of a container, or an exec in it.
///
/// The order puts init before the execs of the same container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    /// The container's id.
    pub container: Rc<str>,
    /// The exec's id. `None` is init.
    pub exec: Option<Rc<str>>,
}

impl ProcessId {
    /// The init of a container.
    pub fn init(container: &str) -> ProcessId {
        ProcessId { container: container.into(), exec: None }
    }

    /// An exec. Protocols use the empty id for init.
    pub fn of(container: &str, exec: &str) -> ProcessId {
        ProcessId { container: container.into(), exec: (!exec.is_empty()).then(|| exec.into()) }
    }

    /// Whether this is the init of its container.
    pub fn is_init(&self) -> bool {
        self.exec.is_none()
    }

    /// The id that messages show: the exec's, or for init the container's.
    pub fn name(&self) -> &str {
        self.exec.as_deref().unwrap_or(&self.container)
    }
}
