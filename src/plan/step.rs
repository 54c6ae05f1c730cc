//! The steps of a plan.

use std::path::PathBuf;

use windlass_base::abi::SchedulerAttributes;
use windlass_base::capability::CapabilitySet;
use windlass_base::error::Origin;
use windlass_base::mount::PropagationChange;
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::ConsoleSize;

use crate::mount::{Mount, Node, SourceId};
use crate::path::RootPath;

/// One action and its origin.
#[derive(Clone, Debug)]
pub struct Step {
    /// The origin.
    pub origin: Origin,
    /// The action.
    pub action: Action,
}

/// How the new root becomes `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pivot {
    /// pivot_root(2).
    PivotRoot,
    /// `MS_MOVE` and chroot(2), for a root on a ramfs (`--no-pivot`).
    Move,
    /// chroot(2), for a container without a mount namespace of its own.
    Chroot,
}

/// A resource limit (setrlimit(2)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceLimit {
    /// The number of the resource.
    pub resource: u32,
    /// Its name, as config.json has it: `RLIMIT_NOFILE`.
    pub name: String,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// Names one of [`Topology::joined`](crate::Topology::joined).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinId(usize);

impl JoinId {
    /// The namespace at this index.
    pub const fn new(index: usize) -> JoinId {
        JoinId(index)
    }

    /// Its index.
    pub const fn index(self) -> usize {
        self.0
    }
}

/// The action of a step. Each variant is one line of `explain`.
#[derive(Clone, Debug)]
pub enum Action {
    /// Wait until the runtime has written the id maps.
    MapIds,
    /// Wait until systemd has put init into its scope.
    Scope,
    /// Become this user and group of the user namespace.
    EnterUserNamespace {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// Join a namespace that the runtime has opened.
    Join(JoinId),
    /// Copy the mount of a source before its turn.
    Copy(SourceId),
    /// Make these namespaces in a process of our own.
    Unshare(Namespaces),
    /// Set the SELinux label of keys and keyrings that this process makes from here on.
    KeyLabel(String),
    /// Make a session keyring of the container's own.
    SessionKeyring(String),
    /// Bring the loopback interface up.
    LoopbackUp,
    /// Set the hostname.
    Hostname(String),
    /// Set the NIS domainname.
    Domainname(String),
    /// Leave the runtime's mount namespace for a new one, to come back by [`Action::ReturnToMounts`].
    LeaveMounts,
    /// Go back to the runtime's mount namespace, with an unattached copy of the root filesystem and its mounts.
    ReturnToMounts,
    /// Set the propagation of all mounts of the new mount namespace.
    Propagation(PropagationChange),
    /// Attach the root filesystem at the place that it is pivoted from, or only find it if there is no mount namespace
    /// to attach it in.
    Rootfs {
        /// Its copy.
        source: Option<SourceId>,
        /// Its path on the host; relative to the bundle.
        path: String,
    },
    /// Make a mount.
    Mount(Mount),
    /// Make a device node.
    Node(Node),
    /// Make the links of `/dev`.
    DevLinks,
    /// Allocate the terminal, hand its master out, and make it stdio.
    Console {
        /// Its size.
        size: Option<ConsoleSize>,
        /// Whether `/dev/console` is made as well.
        device: bool,
        /// Whether it becomes the controlling terminal at once, or in the process that [`Action::Fork`] makes.
        controlling: bool,
    },
    /// Join the PID namespace of the container, of which the next child is a member.
    JoinPid,
    /// Clone the process that does the remaining steps into the PID namespace that was joined. The
    /// intermediate process stays until the program is executed.
    Fork {
        /// Whether standard input is a terminal that becomes the controlling one.
        terminal: bool,
    },
    /// Let the runtime move network interfaces in.
    NetDevices,
    /// Let the runtime run the prestart and createRuntime hooks.
    RuntimeHooks,
    /// Run the createContainer hooks.
    CreateContainerHooks,
    /// Take a procfs to write to, before the caller's is out of reach.
    HoldProc,
    /// Make the new root `/`.
    Pivot(Pivot),
    /// Set the propagation of `/`.
    RootPropagation(PropagationChange),
    /// Make a mount read-only that had to be written to until now.
    Readonly(RootPath),
    /// Set a kernel parameter.
    Sysctl(String, String),
    /// Make a path and all below it read-only.
    ReadonlyPath(RootPath),
    /// Hide a path.
    Mask(RootPath),
    /// Set the file mode creation mask.
    Umask(u32),
    /// Make the working directory if it is missing.
    MakeWorkingDirectory(RootPath),
    /// Set a resource limit.
    Limit(ResourceLimit),
    /// Set the scheduling policy.
    Scheduler(SchedulerAttributes),
    /// Set the I/O priority.
    IoPriority(u32),
    /// Set the CPU affinity.
    Affinity(Vec<u64>),
    /// Set the NUMA memory policy.
    MemoryPolicy(i32, Vec<u64>),
    /// Set the execution domain.
    Personality(u64),
    /// Set the AppArmor profile of the process to be executed.
    AppArmor(String),
    /// Set the SELinux label of the process to be executed.
    SeLinux(String),
    /// Take the container user's ids and capabilities.
    Identity(Identity),
    /// Set `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivileges,
    /// Change into the working directory with the powers of the runtime; a refusal is not final.
    WorkingDirectory(PathBuf),
    /// Change into it as the container's user, if the runtime was refused.
    WorkingDirectoryAsUser(PathBuf),
    /// Find the program in the container.
    FindExecutable,
    /// Install the seccomp filter.
    Seccomp(Seccomp),
    /// Give up the capability that installing the filter needed: only these are left.
    Capabilities(ProcessCapabilities),
    /// Tell the runtime that all is prepared, and wait for `start`.
    Ready,
    /// Run the startContainer hooks.
    StartContainerHooks,
    /// Execute the program.
    Execute,
}

/// Ids and capability sets to take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups: exactly these.
    pub groups: Vec<u32>,
    /// Capability sets; empty if the configuration has none.
    pub capabilities: ProcessCapabilities,
    /// Further capabilities until [`Action::Capabilities`], for installing a filter.
    pub until_filtered: CapabilitySet,
}

/// The five capability sets of a process (capabilities(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCapabilities {
    /// Bounding set.
    pub bounding: CapabilitySet,
    /// Effective set.
    pub effective: CapabilitySet,
    /// Permitted set.
    pub permitted: CapabilitySet,
    /// Inheritable set.
    pub inheritable: CapabilitySet,
    /// Ambient set.
    pub ambient: CapabilitySet,
}

/// A compiled seccomp filter and where its listener goes.
#[derive(Clone)]
pub struct Seccomp {
    /// The program and its flags.
    pub filter: std::rc::Rc<windlass_seccomp::Filter>,
    /// `listenerPath`.
    pub listener_path: String,
    /// `listenerMetadata`.
    pub listener_metadata: String,
}

impl std::fmt::Debug for Seccomp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seccomp({} instructions, listener {:?})", self.filter.program.len(), self.listener_path)
    }
}
