//! The facts about a host from which findings are made.

/// All facts.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub kernel: Kernel,
    pub user: User,
    pub user_namespaces: UserNamespaces,
    pub cgroups: Cgroups,
    pub security_modules: SecurityModules,
    pub systemd: SystemdInstance,
    /// The state root, and whether it can be written.
    pub state_root: (String, bool),
}

/// The kernel.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The release of uname(2).
    pub release: String,
    /// System calls that the runtime needs and this kernel does not have, with the version of Linux that added each.
    pub missing_calls: Vec<(&'static str, &'static str)>,
    /// Kinds of namespaces that this kernel does not have.
    pub missing_namespaces: Vec<&'static str>,
    /// Filesystems of a default container that this kernel does not have.
    pub missing_filesystems: Vec<&'static str>,
    /// Whether seccomp filters can be installed.
    pub seccomp: bool,
    /// Whether a seccomp filter can have a listener.
    pub seccomp_listener: bool,
    /// The reason why a device filter cannot be loaded; `None` if it can be, or if the user needs none.
    pub device_filter: Option<String>,
    /// The reason why the kernel does not keep the exit of a container; `None` if it does.
    pub exit_not_kept: Option<String>,
}

/// The user.
#[derive(Clone, Debug)]
pub(crate) struct User {
    /// The effective user id.
    pub uid: u32,
    pub name: String,
    /// Whether the user is not root of the host.
    pub rootless: bool,
    /// Whether the user is root of a user namespace.
    pub nested: bool,
    /// The number of subordinate user ids (subuid(5)).
    pub subordinate_uids: u64,
    /// The number of subordinate group ids (subgid(5)).
    pub subordinate_gids: u64,
    /// newuidmap(1).
    pub newuidmap: Helper,
    /// newgidmap(1).
    pub newgidmap: Helper,
}

/// Whether newuidmap(1) or newgidmap(1) can map ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helper {
    /// It is in PATH, with set-user-id bit or capability.
    Works,
    /// It is in PATH, without set-user-id bit or capability.
    Powerless,
    /// It is not in PATH.
    Absent,
}

/// User namespaces.
#[derive(Clone, Debug)]
pub(crate) struct UserNamespaces {
    /// The error of making one and mounting in it.
    pub refused: Option<String>,
    /// `user.max_user_namespaces`.
    pub max: Option<u64>,
    /// `kernel.unprivileged_userns_clone`, of Debian's kernels.
    pub debian_switch: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, of Ubuntu's kernels.
    pub apparmor_switch: Option<u64>,
}

/// Control groups.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    /// The mount point of cgroup2.
    pub unified: Option<String>,
    /// Controllers that are mounted as cgroup v1.
    pub v1: Vec<String>,
    /// Controllers of cgroup2 on this host.
    pub all: Vec<String>,
    /// The cgroup of this process.
    pub own: String,
    /// Whether a container's cgroup can be made.
    pub usable: bool,
    /// Controllers that the container's cgroup would have.
    pub delegated: Vec<String>,
}

/// Security modules.
#[derive(Clone, Debug)]
pub(crate) struct SecurityModules {
    /// Whether AppArmor is enabled.
    pub apparmor: bool,
    /// Whether SELinux enforces; `None` if it is not enabled.
    pub selinux: Option<bool>,
}

/// The instance of systemd that would make the cgroups: the system's or the user's.
#[derive(Clone, Debug)]
pub(crate) struct SystemdInstance {
    /// Whether systemd has booted this host.
    pub booted: bool,
    /// Its version, or the reason why it cannot be reached.
    pub reached: Result<u32, String>,
    /// Controllers that are delegated to it.
    pub controllers: Vec<String>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<String>,
    /// Whether the user's instance stays after the logout (`loginctl enable-linger`).
    pub lingers: bool,
}
