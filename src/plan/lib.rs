//! From a configuration to what will be done, before anything is done.
//!
//! Pure: no system calls, no files, no clock, no environment. Whatever must be looked at (is the
//! source a directory? does the path exist?) is an intention here and is looked at by the step
//! itself, through a descriptor, when its turn comes.
//!
//! A [`Plan`] has four parts: the [`Topology`] (which processes and namespaces), where mounts come
//! from ([`Source`]), the cgroup, and the [`Step`]s of init in order.
//! `exec` gets a plan of the same steps.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod blame;
pub mod cgroup;
mod check;
#[cfg(feature = "oci-spec")]
pub mod convert;
pub mod device_rules;
mod devices;
pub mod exec;
pub mod explain;
mod hooks;
mod host;
pub mod mount_options;
mod path;
mod process;
mod resctrl;
mod rootfs;
mod texts;
mod topology;
pub mod unit;

use std::path::PathBuf;

pub use blame::innermost;
pub use check::{Findings, check};
pub use devices::BOUND;
pub use host::{Host, Maps};
pub use path::RootPath;
pub use process::{Identity, MEMORY_FLAGS, MEMORY_MODES, ProcessCapabilities, Seccomp};
pub use rootfs::{Idmap, Mount, Source, SourceId, Target, What, may_cover};
pub use topology::{Join, Joiner, Topology};
#[doc(inline)]
pub use windlass_base::{capability::CapabilitySet, error, spec};

use windlass_base::abi::SchedulerAttributes;
use windlass_base::error::{Error, Fault, Origin, Result};
use windlass_base::mount::PropagationChange;
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::{ConsoleSize, IdMapping, Spec, Version};

#[cfg(doctest)]
#[doc = include_str!("README.md")]
struct Readme;

/// Everything `create` will do.
#[derive(Debug)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// Which processes and namespaces.
    pub topology: Topology,
    /// Mounts to copy; steps name them by [`SourceId`].
    pub sources: Vec<Source>,
    /// Whether init asks the runtime for sources that its user cannot reach. It does in a user namespace,
    /// if the runtime has CAP_SYS_ADMIN over the host's mounts.
    pub asks: bool,
    /// Path of the root filesystem, from the bundle.
    pub root: String,
    /// The scope that is its cgroup, where systemd makes it.
    pub unit: Option<unit::Unit>,
    /// Whether the host's root is somebody else, who alone could attach a device filter.
    pub rootless: bool,
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

impl Plan {
    /// A source that a step names.
    pub fn source(&self, id: SourceId) -> Option<&Source> {
        self.sources.get(id.index())
    }

    /// Adds a source.
    pub fn add_source(&mut self, source: Source) -> SourceId {
        self.sources.push(source);
        SourceId::new(self.sources.len() - 1)
    }
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
    /// In a user namespace nodes cannot be made: one of the host, from [`Plan::sources`], is bound.
    pub source: Option<SourceId>,
}

/// A closed set: each variant is one thing that a reader of a plan wants to see as one line.
#[derive(Clone, Debug)]
pub enum Action {
    /// Wait until the runtime has written the id maps.
    MapIds,
    /// Wait until systemd has put init into its scope.
    Scope,
    /// Become root of the user namespace.
    BecomeRoot(u32, u32),
    /// Join a namespace that the runtime has opened.
    Join(usize),
    /// Copy the mount of a source before its turn.
    Copy(SourceId),
    /// Make these namespaces in a process of our own.
    Unshare(Namespaces),
    /// A session keyring of the container's own.
    SessionKeyring(String),
    /// Bring the loopback interface up.
    LoopbackUp,
    /// Set the hostname.
    Hostname(String),
    /// Set the NIS domainname.
    Domainname(String),
    /// Leave the runtime's mount namespace for a new one, to come back by [`Action::ReturnToMounts`].
    LeaveMounts,
    /// Go back to the runtime's mount namespace, with a copy of the root filesystem and its mounts that is
    /// attached nowhere.
    ReturnToMounts,
    /// Set the propagation of all mounts of the new mount namespace.
    Propagation(PropagationChange),
    /// Attach the root filesystem where it will be pivoted from, or only find it where there is no
    /// mount namespace to attach it in.
    Rootfs {
        /// Its copy.
        source: Option<SourceId>,
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
        /// Whether it becomes the controlling terminal at once, or when the process is born.
        controlling: bool,
    },
    /// Join the PID namespace of the container, where the next child is born.
    JoinPid,
    /// Make the process that does the remaining steps, born in the PID namespace that was joined. The process
    /// in between stays only until the program is executed.
    Born {
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
    /// Change into the working directory with the powers of the runtime; a refusal is not final.
    WorkingDirectory(PathBuf),
    /// Change into it as the container's user, where the runtime was refused.
    WorkingDirectoryAsUser(PathBuf),
    /// Find the program in the container.
    FindExecutable,
    /// Install the seccomp filter.
    Seccomp(Seccomp),
    /// Give up what installing the filter needed: only these capabilities are left.
    Capabilities(ProcessCapabilities),
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

impl Program {
    /// With every variable once, for getenv(3) takes the first of several and what was added to
    /// the configuration's stands behind it.
    pub fn new(args: Vec<String>, mut env: Vec<String>) -> Program {
        let mut seen = std::collections::BTreeSet::new();
        env.reverse();
        env.retain(|variable| seen.insert(variable.split('=').next().unwrap_or_default().to_owned()));
        env.reverse();
        Program { args, env }
    }
}

/// PATH where the environment has none, as execvp(3) takes it.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the command line adds to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The root filesystem's absolute path on the host, where that is not `/`. A destination that begins with it
    /// is meant from there, as with runc.
    pub root_on_host: Option<RootPath>,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// The end of the session keyring's name. Whoever knows the whole name can make the keyring first
    /// (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING), so `create` takes one that nobody can guess.
    pub keyring: String,
    /// What the host's kernel has, as far as planning depends on it.
    pub host: Host,
    /// Which systemd makes the cgroup, if one does.
    pub systemd: Option<unit::Systemd>,
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

    fn source(&mut self, source: Source) -> SourceId {
        self.sources.push(source);
        SourceId::new(self.sources.len() - 1)
    }

    fn done<T>(self, make: impl FnOnce(Draft) -> T) -> Result<T> {
        if self.faults.is_empty() {
            return Ok(make(self));
        }
        // Some messages quote what was found, and a terminal or a log takes no NUL.
        let readable = |fault: Fault| Fault { msg: fault.msg.replace('\0', "\\0"), ..fault };
        Err(Error::faults(self.faults.into_iter().map(readable).collect()))
    }
}

/// Plans `create`. All faults of the configuration that can be known before acting are reported
/// at once.
pub fn create(id: &str, spec: &Spec, options: &Options) -> Result<Plan> {
    let mut draft = Draft::default();
    let version = version(spec, &mut draft);
    texts::without_nul(spec, &mut draft);
    let empty = windlass_base::spec::Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&empty);
    let topology = topology::topology(linux, &options.host, &mut draft);
    let mut limits = match &linux.resources {
        Some(resources) => cgroup::limits(resources, version, &mut draft.faults, &mut draft.warnings),
        None => {
            cgroup::limits(&windlass_base::spec::Resources::default(), version, &mut draft.faults, &mut draft.warnings)
        }
    };

    topology::enter(&topology, &mut draft);
    let entered = draft.steps.len();
    if !options.no_new_keyring {
        draft.always("a session keyring of its own", Action::SessionKeyring(format!("_ses.{id}{}", options.keyring)));
    }
    topology::configure(&topology, spec, linux, &mut draft);
    rootfs::rootfs(spec, linux, &topology, options, &mut draft);
    topology::enter_cgroup(entered, &topology, linux, options, &mut draft);
    process::process(spec, linux, &topology, options, &mut draft);

    let unit = options.systemd.and_then(|systemd| unit::unit(id, spec, &limits, systemd, &mut draft.faults));
    let asks = powers(&topology, &options.host, &mut draft);
    let rootless = options.host.rootless();
    if rootless {
        limits.devices = None;
    }

    resctrl::check(linux, &mut draft);
    let net_devices = topology::net_devices(&topology, linux, &mut draft);
    let oom_score_adj = oom_score_adj(spec, &options.host, &mut draft);
    let cgroups_path = linux.cgroups_path.clone();
    let id = id.to_string();
    draft.done(|draft| Plan {
        id,
        topology,
        sources: draft.sources,
        asks,
        root: spec.root.as_ref().map_or_else(String::new, |root| root.path.clone()),
        unit,
        rootless,
        limits,
        cgroups_path,
        oom_score_adj,
        net_devices,
        init: draft.steps,
        warnings: draft.warnings,
    })
}

/// What an ordinary user cannot do, and whether the runtime can do more with the host's mounts than
/// init.
fn powers(topology: &Topology, host: &Host, draft: &mut Draft) -> bool {
    if host.administers() {
        return topology.user_namespace();
    }
    if !topology.user_namespace() {
        draft.fault("/linux/namespaces", "rootless container requires user namespaces");
    }
    for source in draft.sources.iter().filter(|source| source.idmap.is_some()) {
        let pointer = source.pointer.clone();
        let msg = "only root can map the ids of a mount of the host";
        draft.faults.push(Fault { pointer, msg: msg.into() });
    }
    false
}

/// Below its own value an ordinary user cannot go; user managers of systemd give theirs 100 or 200.
fn oom_score_adj(spec: &Spec, host: &Host, draft: &mut Draft) -> Option<i64> {
    let wanted = spec.process.as_ref()?.oom_score_adj?;
    if host.rootless() && wanted < host.oom_score_adj {
        let msg = format!("oomScoreAdj stays at {}: only root may lower it", host.oom_score_adj);
        draft.warn("/process/oomScoreAdj", msg);
        return None;
    }
    Some(wanted)
}

fn version(spec: &Spec, draft: &mut Draft) -> Option<Version> {
    let version = Version::read(&spec.oci_version);
    match version {
        Some(Version { major: 1, .. }) => {}
        _ if spec.oci_version.is_empty() => draft.fault("/ociVersion", "ociVersion is missing"),
        _ => draft.fault(
            "/ociVersion",
            format!("unsupported ociVersion {:?}: this runtime knows 1.0 to 1.3", spec.oci_version),
        ),
    }
    if version.is_some() && spec.oci_version.starts_with('v') {
        draft.warn("/ociVersion", format!("ociVersion {:?} is no SemVer: its v is left out", spec.oci_version));
    }
    version
}

/// The fault for a word that is unknown or missing.
pub(crate) fn unknown(what: &str, word: &str) -> String {
    if word.is_empty() { format!("{what} is missing") } else { format!("unknown {what} {word:?}") }
}

/// A mapping as a line of `/proc/PID/uid_map`.
pub fn map_text(mappings: &[IdMapping]) -> String {
    mappings.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect()
}
