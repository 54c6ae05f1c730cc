//! The facts that findings are made of.

/// All of them.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The kernel.
    pub kernel: Kernel,
    /// Who asks.
    pub user: User,
    /// User namespaces.
    pub user_namespaces: UserNamespaces,
    /// Control groups.
    pub cgroups: Cgroups,
    /// Security modules.
    pub labels: Labels,
    /// systemd.
    pub systemd: Bus,
    /// Where the state of containers would be, and whether that can be written.
    pub state_root: (String, bool),
}

/// The kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As uname(2) says it.
    pub release: String,
    /// System calls that the runtime cannot do without and that it does not have, with the version
    /// that brought each.
    pub missing_calls: Vec<(&'static str, &'static str)>,
    /// Namespaces that it does not have.
    pub missing_namespaces: Vec<&'static str>,
    /// Filesystems of a default container that it does not have.
    pub missing_filesystems: Vec<&'static str>,
    /// Whether seccomp filters can be installed.
    pub seccomp: bool,
    /// Whether a seccomp filter can have a listener.
    pub seccomp_listener: bool,
    /// Why a device filter cannot be loaded, where the runtime would load one.
    pub device_filter: Option<String>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct User {
    /// Effective user id.
    pub uid: u32,
    /// Their name.
    pub name: String,
    /// Whether the host's root is somebody else.
    pub rootless: bool,
    /// Whether they are root of a user namespace.
    pub nested: bool,
    /// Ids in `/etc/subuid` that are theirs.
    pub subordinate_uids: u64,
    /// The same for groups.
    pub subordinate_gids: u64,
    /// newuidmap(1).
    pub newuidmap: Helper,
    /// newgidmap(1).
    pub newgidmap: Helper,
}

/// A program that maps ids for ordinary users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// It is in PATH, and has the power.
    Works,
    /// It is in PATH, without set-user-id bit or capability.
    Powerless,
    /// It is not in PATH.
    Absent,
}

/// User namespaces.
#[derive(Clone, Debug)]
pub struct UserNamespaces {
    /// What came of making one and mounting in it: the error.
    pub refused: Option<String>,
    /// `user.max_user_namespaces`.
    pub most: Option<u64>,
    /// `kernel.unprivileged_userns_clone`, of Debian's kernels.
    pub debian_switch: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, of Ubuntu's.
    pub apparmor_switch: Option<u64>,
}

/// Control groups.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// Where cgroup2 is mounted.
    pub unified: Option<String>,
    /// Controllers that are mounted as version 1.
    pub v1: Vec<String>,
    /// Controllers that cgroup2 has on this host.
    pub all: Vec<String>,
    /// The cgroup that we are in.
    pub own: String,
    /// Whether a cgroup can be made from there.
    pub usable: bool,
    /// Controllers that it could have.
    pub delegated: Vec<String>,
}

/// Security modules.
#[derive(Clone, Debug)]
pub struct Labels {
    /// Whether AppArmor is enabled.
    pub apparmor: bool,
    /// Whether SELinux is enabled, and enforces.
    pub selinux: Option<bool>,
}

/// systemd: the instance that would make the cgroups.
#[derive(Clone, Debug)]
pub struct Bus {
    /// Whether it has booted this host.
    pub booted: bool,
    /// Its version, or why it cannot be reached.
    pub reached: Result<u32, String>,
    /// Controllers that a user's instance has.
    pub controllers: Vec<String>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<String>,
    /// Whether the user's instance stays when they log out.
    pub lingers: bool,
}
