//! From a configuration to what will be done, before anything is done.
//!
//! Pure: no system calls, no files, no clock, no environment. Whatever must be looked at (is the
//! source a directory? does the path exist?) is an intention here and is looked at by the step
//! itself, through a descriptor, when its turn comes.
//!
//! A [`Plan`] has four parts: the [`Topology`] (which processes and namespaces), what the runtime
//! opens on the host beforehand ([`Source`]), the cgroup, and the [`Step`]s of init in order.
//! `exec` gets a plan of the same steps.

pub mod cgroup;
pub mod device_rules;
pub mod exec;
pub mod explain;
pub mod mount_options;
mod path;
mod process;
mod resctrl;
mod rootfs;
mod texts;
mod topology;

use std::path::PathBuf;

pub use path::RootPath;
pub use process::{Identity, MEMORY_FLAGS, MEMORY_MODES, Seccomp};
pub use rootfs::{Idmap, Mount, Source, Target, What, may_cover};
pub use topology::{Join, Joiner, Topology};

use crate::abi::SchedulerAttributes;
use crate::error::{Error, Fault, Origin, Result};
use crate::spec::{ConsoleSize, IdMapping, Spec};

/// Everything `create` will do.
#[derive(Debug)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// Which processes and namespaces.
    pub topology: Topology,
    /// What the runtime opens on the host before init exists; steps refer to it by index.
    pub sources: Vec<Source>,
    /// The cgroup's limits and device rules.
    pub limits: cgroup::Limits,
    /// Where the cgroup should be (`linux.cgroupsPath`).
    pub cgroups_path: String,
    /// Value for `/proc/PID/oom_score_adj`.
    pub oom_score_adj: Option<i64>,
    /// Interfaces to move into the network namespace.
    pub net_devices: Vec<(String, String)>,
    /// What init does, in order.
    pub init: Vec<Step>,
    /// What was asked for and will not be done, or not as written.
    pub warnings: Vec<Fault>,
}

/// One thing to do, and who asked for it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Who asked.
    pub origin: Origin,
    /// What to do.
    pub action: Action,
}

/// How the new root becomes `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pivot {
    /// pivot_root(2).
    PivotRoot,
    /// `MS_MOVE` and chroot(2), for a root on a ramfs (`--no-pivot`).
    Move,
    /// chroot(2): there is no mount namespace of the container's own.
    Chroot,
}

/// A device node to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where.
    pub path: RootPath,
    /// File type and permission bits.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// In a user namespace nodes cannot be made: the host's, from [`Plan::sources`], is bound.
    pub source: Option<usize>,
}

/// A closed set: each variant is one thing that a reader of a plan wants to see as one line.
#[derive(Clone, Debug)]
pub enum Action {
    /// Wait until the runtime has written the id maps.
    MapIds,
    /// Become root of the user namespace.
    BecomeRoot(u32, u32),
    /// Join a namespace that the runtime has opened.
    Join(usize),
    /// Make these namespaces (`CLONE_NEW*`) in a process of our own.
    Unshare(u64),
    /// A session keyring of the container's own.
    SessionKeyring(String),
    /// Bring the loopback interface up.
    LoopbackUp,
    /// Set the hostname.
    Hostname(String),
    /// Set the NIS domainname.
    Domainname(String),
    /// Set the propagation of all mounts of the new mount namespace.
    Propagation(u64),
    /// Attach the root filesystem where it will be pivoted from, or only find it where there is no
    /// mount namespace to attach it in.
    Rootfs {
        /// Its copy.
        source: Option<usize>,
        /// Its path on the host; relative to the bundle.
        path: String,
    },
    /// Mount.
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
    },
    /// Let the runtime move network interfaces in.
    NetDevices,
    /// Let the runtime run the prestart and createRuntime hooks.
    RuntimeHooks,
    /// Run the createContainer hooks.
    CreateContainerHooks,
    /// Make the new root `/`.
    Pivot(Pivot),
    /// Set the propagation of `/`; `MS_*`, with `MS_REC` for all below.
    RootPropagation(u64),
    /// Make a mount read-only that had to be written to until now.
    Readonly(RootPath),
    /// Set a kernel parameter.
    Sysctl(String, String),
    /// Make a path read-only, with all below it.
    ReadonlyPath(RootPath),
    /// Hide a path.
    Mask(RootPath),
    /// Set the file mode creation mask.
    Umask(u32),
    /// Make the working directory if it is missing.
    MakeWorkingDirectory(RootPath),
    /// Set a resource limit: number, name, soft, hard.
    Limit(u32, String, u64, u64),
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
    /// Change into the working directory.
    WorkingDirectory(PathBuf),
    /// Find the program in the container.
    FindExecutable,
    /// Install the seccomp filter.
    Seccomp(Seccomp),
    /// Tell the runtime that all is prepared, and wait for `start`.
    Ready,
    /// Run the startContainer hooks.
    StartContainerHooks,
    /// Execute the program.
    Execute,
}

/// The process that a plan ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
}

/// What the command line adds to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// What the host's kernel has, as far as planning depends on it.
    pub host: Host,
}

/// Facts about the host that planning depends on; looked up once by the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Capabilities that this process has to give away, as bits.
    pub capabilities: u64,
}

/// The steps and the faults found while making them.
#[derive(Default)]
pub(crate) struct Draft {
    pub steps: Vec<Step>,
    pub sources: Vec<Source>,
    pub faults: Vec<Fault>,
    pub warnings: Vec<Fault>,
}

impl Draft {
    fn step(&mut self, origin: Origin, action: Action) {
        self.steps.push(Step { origin, action });
    }

    fn config(&mut self, pointer: impl Into<String>, action: Action) {
        self.step(Origin::Config(pointer.into().into()), action);
    }

    fn always(&mut self, why: &'static str, action: Action) {
        self.step(Origin::Default(why.into()), action);
    }

    fn fault(&mut self, pointer: impl Into<String>, msg: impl Into<String>) {
        self.faults.push(Fault { pointer: pointer.into(), msg: msg.into() });
    }

    fn warn(&mut self, pointer: impl Into<String>, msg: impl Into<String>) {
        self.warnings.push(Fault { pointer: pointer.into(), msg: msg.into() });
    }

    fn source(&mut self, source: Source) -> usize {
        self.sources.push(source);
        self.sources.len() - 1
    }

    fn done<T>(self, make: impl FnOnce(Draft) -> T) -> Result<T> {
        if self.faults.is_empty() { Ok(make(self)) } else { Err(Error::faults(self.faults)) }
    }
}

/// Plans `create`. All faults of the configuration that can be known before acting are reported
/// at once.
pub fn create(id: &str, spec: &Spec, options: &Options) -> Result<Plan> {
    let mut draft = Draft::default();
    check_version(spec, &mut draft);
    texts::without_nul(spec, &mut draft);
    let empty = crate::spec::Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&empty);
    let topology = topology::topology(linux, &mut draft);
    let limits = match &linux.resources {
        Some(resources) => cgroup::limits(resources, &mut draft.faults, &mut draft.warnings),
        None => cgroup::limits(&crate::spec::Resources::default(), &mut draft.faults, &mut draft.warnings),
    };

    topology::enter(&topology, linux, &mut draft);
    if !options.no_new_keyring {
        draft.always("a session keyring of its own", Action::SessionKeyring(format!("_ses.{id}")));
    }
    topology::configure(&topology, spec, linux, &mut draft);
    rootfs::rootfs(spec, linux, &topology, options, &mut draft);
    process::process(spec, linux, &topology, options, &mut draft);

    resctrl::check(linux, &mut draft);
    let net_devices = topology::net_devices(&topology, linux, &mut draft);
    let oom_score_adj = spec.process.as_ref().and_then(|p| p.oom_score_adj);
    let cgroups_path = linux.cgroups_path.clone();
    let id = id.to_string();
    draft.done(|draft| Plan {
        id,
        topology,
        sources: draft.sources,
        limits,
        cgroups_path,
        oom_score_adj,
        net_devices,
        init: draft.steps,
        warnings: draft.warnings,
    })
}

fn check_version(spec: &Spec, draft: &mut Draft) {
    let mut numbers = spec
        .oci_version
        .splitn(3, '.')
        .map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(1), Some(_)) => {}
        _ if spec.oci_version.is_empty() => draft.fault("/ociVersion", "ociVersion is missing"),
        _ => draft.fault(
            "/ociVersion",
            format!("unsupported ociVersion {:?}: this runtime knows 1.0 to 1.3", spec.oci_version),
        ),
    }
}

/// A mapping as a line of `/proc/PID/uid_map`.
pub fn map_text(mappings: &[IdMapping]) -> String {
    mappings.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect()
}
