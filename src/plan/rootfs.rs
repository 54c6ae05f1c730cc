//! The root filesystem: mounts, devices, the pivot, and what is hidden or read-only in the end.

use windlass_base::error::Origin;
use windlass_base::mount::{MountAttributes, MsFlags, Propagation, PropagationChange};
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::{IdMapping, Linux, Process, Root, Spec};

use super::mount_options::{self, Options as MountOptions};
use super::{Action, Draft, Host, Node, Options, Pivot, RootPath, Step, Topology};

/// The ids of an idmapped mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idmap {
    /// User ids; empty: those of the user namespace that the container joins.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
    /// Whether everything below is mapped as well.
    pub recursive: bool,
}

/// Names one of [`Plan::sources`](super::Plan::sources).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId(usize);

impl SourceId {
    /// The source at this index.
    pub const fn new(index: usize) -> SourceId {
        SourceId(index)
    }

    /// Its index.
    pub const fn index(self) -> usize {
        self.0
    }
}

/// A mount that is copied, in the container's mount namespace, to be attached elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Its path before the root is changed, from the bundle.
    pub path: String,
    /// JSON Pointer of who named it.
    pub pointer: String,
    /// What the user calls it, for messages.
    pub target: String,
    /// With all mounts below it.
    pub recursive: bool,
    /// Attributes of the mount to set and clear.
    pub set: MountAttributes,
    /// Attributes to clear.
    pub clear: MountAttributes,
    /// Attributes to clear unless the kernel has locked them.
    pub reset: MountAttributes,
    /// Attributes to set on all.
    pub set_all: MountAttributes,
    /// Attributes to clear on all.
    pub clear_all: MountAttributes,
    /// Propagations, in order.
    pub propagation: Vec<PropagationChange>,
    /// Ids to map.
    pub idmap: Option<Idmap>,
    /// A device node: one that is not at the path is made where that is possible.
    pub device: Option<Box<Node>>,
    /// Whether it may be missing: it only stands in for something better.
    pub fallback: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A copy of a mount of the host, from [`super::Plan::sources`].
    Bind(SourceId),
    /// A new filesystem.
    New {
        /// Its type.
        kind: String,
        /// Its source.
        source: String,
        /// Its options.
        data: Vec<(String, Option<String>)>,
        /// The host's, from [`super::Plan::sources`]: bound where the kernel refuses a new one.
        fallback: Option<SourceId>,
    },
}

/// How the destination is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Links within the root are followed, what is missing is made.
    Any,
    /// No component may be a link: proc and sysfs are trusted by everything that follows.
    Plain,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub destination: RootPath,
    /// How the destination is found.
    pub target: Target,
    /// What.
    pub what: What,
    /// Attributes of a new filesystem's mount.
    pub set: MountAttributes,
    /// Propagations of a new filesystem's mount.
    pub propagation: Vec<PropagationChange>,
    /// Flags that only mount(2) takes.
    pub old_flags: MsFlags,
    /// Starts with a copy of what was there.
    pub copy_up: bool,
    /// Can be written to until a later [`Action::Readonly`].
    pub late_readonly: bool,
    /// Its option `context` is `linux.mountLabel`.
    pub labelled: bool,
}

/// Adds the sources and steps of the root filesystem.
pub(super) fn rootfs(spec: &Spec, linux: &Linux, topology: &Topology, options: &Options, draft: &mut Draft) {
    let none = Root::default();
    let root = spec.root.as_ref().unwrap_or(&none);
    match &spec.root {
        None => draft.fault("/root", "root is missing: a container needs a root filesystem"),
        Some(root) if root.path.is_empty() => draft.fault("/root/path", "root.path is empty"),
        Some(_) => {}
    }
    let own_namespace = topology.has(Namespaces::MOUNT);
    // Whether init makes its mounts in a namespace that it leaves again.
    let apart = !own_namespace && !topology.user_namespace() && has_mounts(spec, linux, options);
    if !own_namespace {
        without_mount_namespace(spec, linux, topology.user_namespace(), draft);
    }
    if apart {
        draft.always("what it mounts must not be the host's", Action::LeaveMounts);
    }
    let propagation = root_propagation(linux, draft).filter(|_| own_namespace);
    let own_mounts = own_namespace || apart;
    if own_mounts {
        // Mounts of the host still arrive unless the configuration says otherwise; ours never leave.
        draft.always(
            "mounts made here must not reach the host",
            Action::Propagation(PropagationChange::of_tree(Propagation::Slave)),
        );
    }
    // A slave hears of the host's mounts, so its copy must not be cut off from them.
    let slave = propagation.is_some_and(|change| change.to == Propagation::Slave);
    let before_slaves = draft.steps.len().saturating_sub(usize::from(own_mounts));
    let source = own_mounts.then(|| {
        draft.source(Source {
            path: root.path.clone(),
            pointer: "/root/path".into(),
            target: "/".into(),
            recursive: true,
            propagation: if slave { Vec::new() } else { vec![PropagationChange::of_tree(Propagation::Private)] },
            ..Source::default()
        })
    });
    draft.config("/root/path", Action::Rootfs { source, path: root.path.clone() });

    if !linux.mount_label.is_empty() && !options.host.selinux {
        // There is nothing that a label of files could keep apart, so nothing is lost. A label of the process is an
        // error.
        draft.warn("/linux/mountLabel", "the label is ignored: SELinux is not enabled on this host");
    }
    let mut late_readonly = Vec::new();
    for (index, mount) in spec.mounts.iter().enumerate() {
        let mut words = MountOptions::read(mount.options.iter().map(String::as_str));
        if apart {
            without_propagation(index, mount, &mut words, draft);
        }
        if let Some(path) = mount_step(index, mount, words, linux, topology, options, draft) {
            late_readonly.push((index, path));
        }
    }
    if own_mounts && !topology.user_namespace() {
        copy_shared(before_slaves, draft);
    }
    let bind_nodes = topology.user_namespace() || options.host.nested.is_some();
    super::devices::devices(spec, linux, bind_nodes, draft);
    if spec.process.as_ref().is_some_and(|process| process.terminal) {
        let size = spec.process.as_ref().and_then(|process| process.console_size.clone());
        draft.config("/process/terminal", Action::Console { size, device: true, controlling: true });
    }
    super::hooks::hooks(spec, topology, linux, draft);
    restrict(linux, draft);

    let pivot = if !own_mounts {
        Pivot::Chroot
    } else if options.no_pivot {
        Pivot::Move
    } else {
        Pivot::PivotRoot
    };
    // A user namespace may be refused a procfs of its own; the caller's can be reached only until then.
    if (topology.user_namespace() || options.host.nested.is_some()) && writes_to_proc(spec, linux) {
        draft.always("kernel parameters and labels are written there", Action::HoldProc);
    }
    draft.config("/root/path", Action::Pivot(pivot));
    if let Some(flags) = propagation {
        draft.config("/linux/rootfsPropagation", Action::RootPropagation(flags));
    }
    for (key, value) in &linux.sysctl {
        draft.config(
            format!("/linux/sysctl/{}", windlass_base::spec::escape(key)),
            Action::Sysctl(key.clone(), value.clone()),
        );
    }
    let cwd = spec.process.as_ref().and_then(|process| RootPath::new(&process.cwd));
    if let Some(path) = cwd.filter(|path| !path.is_root()) {
        // While the root can still be written to.
        draft.config("/process/cwd", Action::MakeWorkingDirectory(path));
    }
    for (index, path) in late_readonly {
        draft.config(format!("/mounts/{index}/options"), Action::Readonly(path));
    }
    if root.readonly && own_mounts {
        let path = RootPath::new("/").expect("no NUL");
        draft.config("/root/readonly", Action::Readonly(path));
    }
    if apart {
        draft.always("it has no mount namespace of its own", Action::ReturnToMounts);
    }
}

fn writes_to_proc(spec: &Spec, linux: &Linux) -> bool {
    let labelled = |process: &Process| !process.apparmor_profile.is_empty() || !process.selinux_label.is_empty();
    !linux.sysctl.is_empty() || spec.process.as_ref().is_some_and(labelled)
}

/// Whether anything is mounted, or made of mounts.
fn has_mounts(spec: &Spec, linux: &Linux, options: &Options) -> bool {
    let readonly = spec.root.as_ref().is_some_and(|root| root.readonly);
    let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
    let restricted = !linux.masked_paths.is_empty() || !linux.readonly_paths.is_empty();
    // Its `/dev/console` is a mount, and so are devices that cannot be made.
    !spec.mounts.is_empty() || readonly || terminal || restricted || options.host.nested.is_some()
}

/// Makes a mount private whatever its options say, for the namespace in which it is made does not last.
fn without_propagation(index: usize, mount: &windlass_base::spec::Mount, words: &mut MountOptions, draft: &mut Draft) {
    let other =
        |word: &String| mount_options::propagation(word).is_some_and(|change| change.to != Propagation::Private);
    if let Some(at) = mount.options.iter().position(other) {
        let msg = format!(
            "option {:?} has no effect without a private MNT namespace: the mount is private",
            mount.options[at]
        );
        draft.warn(format!("/mounts/{index}/options/{at}"), msg);
    }
    words.propagation = vec![PropagationChange::of_tree(Propagation::Private)];
}

/// Adds the steps that copy shared sources before all mounts become slaves. A shared mount must stay a peer of
/// the host's, so that each side sees what the other mounts, and a copy of a slave would be a slave. In a user
/// namespace all mounts are slaves from the beginning (mount_namespaces(7)).
fn copy_shared(at: usize, draft: &mut Draft) {
    let shared = |source: &Source| source.propagation.iter().any(|change| change.to == Propagation::Shared);
    let copies = draft.sources.iter().enumerate().filter(|(_, source)| shared(source)).map(|(index, source)| Step {
        origin: Origin::Config(source.pointer.clone().into()),
        action: Action::Copy(SourceId::new(index)),
    });
    let copies: Vec<Step> = copies.collect();
    draft.steps.splice(at..at, copies);
}

/// What is hidden and what cannot be changed. Before the pivot, while the host's `/dev/null` can
/// still be reached; kernel parameters are set through a procfs of our own that has none of this.
fn restrict(linux: &Linux, draft: &mut Draft) {
    for (name, paths, action) in [
        ("readonlyPaths", &linux.readonly_paths, Action::ReadonlyPath as fn(RootPath) -> Action),
        ("maskedPaths", &linux.masked_paths, Action::Mask),
    ] {
        let mut seen = std::collections::BTreeSet::new();
        for (index, text) in paths.iter().enumerate() {
            let pointer = format!("/linux/{name}/{index}");
            match RootPath::new(text).filter(|path| text.starts_with('/') && !path.is_root()) {
                Some(path) if !seen.insert(path.clone()) => {}
                Some(path) => draft.config(pointer, action(path)),
                None if text.is_empty() => draft.fault(pointer, "the path is missing"),
                None => draft.fault(pointer, format!("{text:?} is not an absolute path below the root")),
            }
        }
    }
}

/// What cannot be done without a mount namespace of its own. In a user namespace init has no power over the
/// runtime's mount namespace, so it could not come back to it. What is attached nowhere has no propagation.
fn without_mount_namespace(spec: &Spec, linux: &Linux, user_namespace: bool, draft: &mut Draft) {
    let readonly = spec.root.as_ref().is_some_and(|root| root.readonly);
    let propagates =
        mount_options::propagation(&linux.rootfs_propagation).is_some_and(|change| change.to != Propagation::Private);
    let what = [
        ("/mounts", user_namespace && !spec.mounts.is_empty(), "mount filesystems"),
        ("/linux/maskedPaths", user_namespace && !linux.masked_paths.is_empty(), "restrict sys entries"),
        ("/linux/readonlyPaths", user_namespace && !linux.readonly_paths.is_empty(), "restrict sys entries"),
        ("/root/readonly", user_namespace && readonly, "make the root read-only"),
        ("/linux/rootfsPropagation", propagates, "set the root's propagation"),
    ];
    for (pointer, asked, doing) in what {
        if asked {
            draft.fault(pointer, format!("unable to {doing} without a private MNT namespace"));
        }
    }
}

/// A word without `r` changes the root alone, since what is mounted below has options of its own.
fn root_propagation(linux: &Linux, draft: &mut Draft) -> Option<PropagationChange> {
    if linux.rootfs_propagation.is_empty() {
        return None;
    }
    let change = mount_options::propagation(&linux.rootfs_propagation);
    if change.is_none() {
        let msg = format!("rootfsPropagation={} is not supported", linux.rootfs_propagation);
        draft.fault("/linux/rootfsPropagation", msg);
    }
    change
}

/// What may be mounted on below `/proc`; as runc and the images that need it have it.
const BELOW_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Whether something may be mounted on this path of a procfs.
pub fn may_cover(path: &RootPath) -> bool {
    BELOW_PROC.iter().any(|allowed| path.is(allowed))
}

/// Whether files and directories can be made in a new filesystem of this type, as later mounts, device nodes and
/// the working directory may need. On a disk nothing is made: read-only means that nothing is written to it, not
/// even its journal.
fn takes_files(kind: &str, source: &str) -> bool {
    !matches!(kind, "proc" | "sysfs" | "cgroup" | "cgroup2" | "mqueue" | "devpts") && !source.starts_with('/')
}

/// Adds one mount. A new filesystem that is to be read-only is made so later, when everything in it has
/// been made; its path is returned.
fn mount_step(
    index: usize,
    mount: &windlass_base::spec::Mount,
    mut options: MountOptions,
    linux: &Linux,
    topology: &Topology,
    planning: &Options,
    draft: &mut Draft,
) -> Option<RootPath> {
    let pointer = format!("/mounts/{index}");
    let Some(mut destination) = RootPath::new(&mount.destination).filter(|_| !mount.destination.is_empty()) else {
        let msg =
            if mount.destination.is_empty() { "a mount needs a destination" } else { "the destination has a NUL byte" };
        draft.fault(format!("{pointer}/destination"), msg);
        return None;
    };
    if !mount.destination.starts_with('/') {
        draft.warn(
            format!("{pointer}/destination"),
            format!("mount destination {:?} is not absolute; taken from /", mount.destination),
        );
    }
    if let Some(rest) = planning.root_on_host.as_ref().and_then(|root| destination.without(root)) {
        draft.warn(
            format!("{pointer}/destination"),
            format!(
                "mount destination {:?} begins with the path of the root on the host: taken as {rest}",
                mount.destination
            ),
        );
        destination = rest;
    }
    if destination.is_below("/proc") && !destination.is("/proc") && !may_cover(&destination) {
        draft.fault(
            format!("{pointer}/destination"),
            format!("{:?} cannot be mounted because it is inside /proc", mount.destination),
        );
    }
    let bind = options.bind.or((mount.kind == "bind").then_some(false));
    if destination.is_root() && bind.is_none() {
        draft.fault(format!("{pointer}/destination"), "a new filesystem on / would hide the root filesystem");
    }
    let idmap = idmap(&pointer, mount, &options, bind.is_some(), linux, topology, draft);
    if options.copy_up && (bind.is_some() || mount.kind != "tmpfs") {
        draft.fault(option(&pointer, mount, "tmpcopyup"), "tmpcopyup is for tmpfs only");
    }
    let readonly = (options.set | options.set_all).contains(MountAttributes::RDONLY);
    let late = bind.is_none() && readonly && takes_files(&mount.kind, &mount.source);
    if late {
        options.set &= !MountAttributes::RDONLY;
        options.set_all &= !MountAttributes::RDONLY;
    }
    let plain = bind.is_none() && matches!(mount.kind.as_str(), "proc" | "sysfs");
    let what = match (bind, mount.kind.as_str()) {
        (Some(recursive), _) => {
            if mount.source.is_empty() {
                draft.fault(format!("{pointer}/source"), "a bind mount needs a source");
            }
            for (key, _) in &options.data {
                draft.warn(option(&pointer, mount, key), format!("option {key:?} has no meaning for a bind mount"));
            }
            What::Bind(draft.source(bound(&pointer, mount, recursive, &options, idmap)))
        }
        (None, "cgroup" | "cgroup2") => {
            for (key, _) in &options.data {
                draft.warn(option(&pointer, mount, key), format!("option {key:?} has no meaning for cgroup2"));
            }
            let fallback = fallback("cgroup2", &pointer, &options, topology, &planning.host, draft);
            // There is one superblock. From the host's cgroup namespace a mount sets its options anew, for the host too.
            let shared = !topology.new.contains(Namespaces::CGROUP);
            let data = planning.host.cgroup2.iter().filter(|_| shared).map(|option| (option.clone(), None)).collect();
            What::New { kind: "cgroup2".into(), source: String::new(), data, fallback }
        }
        (None, "") => {
            draft.fault(format!("{pointer}/type"), "a mount needs a type, unless it is a bind mount");
            return None;
        }
        (None, kind) => {
            let fallback = fallback(kind, &pointer, &options, topology, &planning.host, draft);
            let mut data = data(kind, &options, mount_label(linux, &planning.host));
            if kind == "devpts" {
                without_unmapped_group(&option(&pointer, mount, "gid"), &mut data, topology, &planning.host, draft);
            }
            What::New { kind: kind.into(), source: mount.source.clone(), data, fallback }
        }
    };
    let step = Mount {
        destination: destination.clone(),
        target: if plain { Target::Plain } else { Target::Any },
        what,
        set: options.set | options.set_all,
        propagation: options.propagation,
        old_flags: options.old_flags,
        copy_up: options.copy_up,
        late_readonly: late,
        labelled: !mount_label(linux, &planning.host).is_empty()
            && !options.data.iter().any(|(key, _)| key == "context"),
    };
    draft.config(pointer, Action::Mount(step));
    late.then_some(destination)
}

/// The pointer of the option that has this key.
pub(super) fn option(pointer: &str, mount: &windlass_base::spec::Mount, key: &str) -> String {
    let has = |option: &String| mount_options::keys(option).any(|known| known == key);
    match mount.options.iter().position(has) {
        Some(index) => format!("{pointer}/options/{index}"),
        None => format!("{pointer}/options"),
    }
}

fn bound(
    pointer: &str,
    mount: &windlass_base::spec::Mount,
    recursive: bool,
    options: &MountOptions,
    idmap: Option<Idmap>,
) -> Source {
    // Without a propagation option it stays a slave: the container sees what the host mounts later, and
    // the host sees nothing of the container's.
    Source {
        path: mount.source.clone(),
        pointer: format!("{pointer}/source"),
        target: mount.destination.clone(),
        recursive,
        set: options.set,
        clear: options.clear,
        reset: options.reset,
        set_all: options.set_all,
        clear_all: options.clear_all,
        propagation: options.propagation.clone(),
        idmap,
        device: None,
        fallback: false,
    }
}

/// Filesystems that show a namespace, that namespace, and where the host has them mounted.
const SHOWN: &[(&str, Namespaces, &str)] = &[
    ("cgroup2", Namespaces::CGROUP, "/sys/fs/cgroup"),
    ("mqueue", Namespaces::IPC, "/dev/mqueue"),
    ("proc", Namespaces::PID, "/proc"),
    ("sysfs", Namespaces::NET, "/sys"),
];

/// Root of a user namespace may mount only what shows a namespace that this one owns; the host's
/// own is bound in the place of another, as it would look the same.
fn fallback(
    kind: &str,
    pointer: &str,
    options: &MountOptions,
    topology: &Topology,
    host: &Host,
    draft: &mut Draft,
) -> Option<SourceId> {
    let (_, shown, path) = SHOWN.iter().find(|row| row.0 == kind)?;
    let below_root = !topology.user_namespace() && host.nested.is_none();
    if below_root || topology.new.contains(*shown) {
        return None;
    }
    // What is mounted below comes along, and what is asked for is meant for all of it: the cgroups there
    // may be the caller's to write to, and so never the container's (CVE-2023-25809). Access times mean
    // nothing in these filesystems, and a user namespace may not change them (mount_namespaces(7)).
    let asked = (options.set | options.set_all) & !(MountAttributes::ATIME | MountAttributes::NODIRATIME);
    let set_all = if kind == "sysfs" { asked | MountAttributes::RDONLY } else { asked };
    Some(draft.source(Source {
        path: (*path).into(),
        pointer: pointer.into(),
        target: (*path).into(),
        recursive: true,
        set_all,
        fallback: true,
        ..Source::default()
    }))
}

/// A terminal is given to the group `tty`, 5, if there is one: a user namespace of one id has none,
/// and the kernel refuses the option.
fn without_unmapped_group(
    pointer: &str,
    data: &mut Vec<(String, Option<String>)>,
    topology: &Topology,
    host: &Host,
    draft: &mut Draft,
) {
    let groups = match (&topology.gid_mappings[..], &host.nested) {
        ([], Some(groups)) if !topology.user_namespace() => groups,
        ([], _) => return,
        (groups, _) => groups,
    };
    let mapped = |gid: u32| groups.iter().any(|m| gid >= m.container_id && gid - m.container_id < m.size);
    data.retain(|(key, value)| {
        let gid = value.as_ref().filter(|_| key == "gid").and_then(|gid| gid.parse().ok());
        let keep = gid.is_none_or(mapped);
        if !keep {
            let msg = format!("gid={} is left out: the user namespace has no such group", gid.unwrap_or_default());
            draft.warn(pointer, msg);
        }
        keep
    });
}

fn idmap(
    pointer: &str,
    mount: &windlass_base::spec::Mount,
    options: &MountOptions,
    bind: bool,
    linux: &Linux,
    topology: &Topology,
    draft: &mut Draft,
) -> Option<Idmap> {
    let listed = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if !listed && options.idmap.is_none() {
        return None;
    }
    let option = || option(pointer, mount, if options.idmap == Some(true) { "ridmap" } else { "idmap" });
    let listed_at = |name: &str| format!("{pointer}/{name}Mappings");
    if !bind {
        let at = match (mount.uid_mappings.is_empty(), mount.gid_mappings.is_empty()) {
            (false, _) => listed_at("uid"),
            (true, false) => listed_at("gid"),
            (true, true) => option(),
        };
        draft.fault(
            at,
            format!("id-mapped mounts are only supported for bind-mounts ({:?} is not one)", mount.destination),
        );
    }
    if listed && (mount.uid_mappings.is_empty() || mount.gid_mappings.is_empty()) {
        let alone = if mount.gid_mappings.is_empty() { "uid" } else { "gid" };
        draft.fault(listed_at(alone), "id-mapped mounts need both uidMappings and gidMappings");
    }
    if !listed && !topology.user_namespace() {
        let msg = "idmap without mappings needs a user namespace with mappings to take them from";
        draft.fault(option(), msg);
    }
    for (name, mappings) in [("uid", &mount.uid_mappings), ("gid", &mount.gid_mappings)] {
        super::topology::check_ranges(&listed_at(name), mappings, draft);
    }
    let (uids, gids) = match (listed, topology.new.contains(Namespaces::USER)) {
        (true, _) => (mount.uid_mappings.clone(), mount.gid_mappings.clone()),
        (false, true) => (linux.uid_mappings.clone(), linux.gid_mappings.clone()),
        // The joined namespace has them, whatever the configuration says.
        (false, false) => (Vec::new(), Vec::new()),
    };
    Some(Idmap { uids, gids, recursive: options.idmap.unwrap_or(false) })
}

/// `linux.mountLabel`, where that has a meaning.
fn mount_label<'a>(linux: &'a Linux, host: &Host) -> &'a str {
    if host.selinux { &linux.mount_label } else { "" }
}

/// The options of a new filesystem, with the SELinux context where the filesystem takes one.
fn data(kind: &str, options: &MountOptions, label: &str) -> Vec<(String, Option<String>)> {
    let mut data = options.data.clone();
    let unlabelled = matches!(kind, "mqueue" | "proc" | "sysfs");
    if !label.is_empty() && !unlabelled && !data.iter().any(|(key, _)| key == "context") {
        data.push(("context".into(), Some(label.into())));
    }
    data
}
