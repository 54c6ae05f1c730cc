//! One entry of `mounts`, which becomes a step and a source.

use windlass_base::mount::MountAttributes;
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::Mount as MountEntry;

use crate::builder::PlanBuilder;
use crate::inputs::Inputs;
use crate::mount::{Idmap, Mount, MountKind, Resolution, Source, SourceId, may_cover};
use crate::mount_options::{self, Extent, MountOptions};
use crate::path::RootPath;
use crate::step::Action;
use crate::topology::check_ranges;

/// Whether files and directories can be made in a new filesystem of this type, as later mounts, device nodes and the
/// working directory may need. Nothing is made on a disk: read-only means that not even its journal is written.
fn takes_files(kind: &str, source: &str) -> bool {
    !matches!(kind, "proc" | "sysfs" | "cgroup" | "cgroup2" | "mqueue" | "devpts") && !source.starts_with('/')
}

/// One mount to plan.
pub(crate) struct Entry<'a> {
    pointer: String,
    mount: &'a MountEntry,
    options: MountOptions,
    inputs: Inputs<'a>,
}

impl<'a> Entry<'a> {
    /// The entry at this index of `mounts`, with its final options.
    pub(crate) fn new(index: usize, mount: &'a MountEntry, options: MountOptions, inputs: Inputs<'a>) -> Entry<'a> {
        Entry { pointer: format!("/mounts/{index}"), mount, options, inputs }
    }

    /// Adds the mount. A later step makes a new filesystem read-only, when everything in it exists; then its path is
    /// returned.
    pub(crate) fn plan(mut self, builder: &mut PlanBuilder) -> Option<RootPath> {
        let destination = self.destination(builder)?;
        let bind = self.options.bind.or((self.mount.kind == "bind").then_some(Extent::Mount));
        if destination.is_root() && bind.is_none() {
            builder.fault(self.below("destination"), "a new filesystem on / would hide the root filesystem");
        }
        let idmap = self.idmap(bind.is_some(), builder);
        if self.options.copy_up && (bind.is_some() || self.mount.kind != "tmpfs") {
            builder.fault(self.option("tmpcopyup"), "tmpcopyup is for tmpfs only");
        }
        let readonly = (self.options.set | self.options.set_all).contains(MountAttributes::RDONLY);
        let late = bind.is_none() && readonly && takes_files(&self.mount.kind, &self.mount.source);
        if late {
            self.options.set -= MountAttributes::RDONLY;
            self.options.set_all -= MountAttributes::RDONLY;
        }
        let plain = bind.is_none() && matches!(self.mount.kind.as_str(), "proc" | "sysfs");
        let what = match bind {
            Some(extent) => self.bind(extent, idmap, builder),
            None => self.new_filesystem(builder)?,
        };
        let label = self.mount_label();
        let labels_root = bind.is_none() && self.mount.kind == "mqueue" && !label.is_empty();
        let step = Mount {
            destination: destination.clone(),
            resolution: if plain { Resolution::NoSymlinks } else { Resolution::InRoot },
            what,
            set: self.options.set | self.options.set_all,
            propagation: self.options.propagation.clone(),
            old_flags: self.options.old_flags,
            copy_up: self.options.copy_up,
            late_readonly: late,
            labelled: !label.is_empty() && !self.has_data("context"),
            root_label: labels_root.then(|| label.into()),
        };
        builder.config(self.pointer, Action::Mount(step));
        late.then_some(destination)
    }

    fn below(&self, field: &str) -> String {
        format!("{}/{field}", self.pointer)
    }

    fn option(&self, key: &str) -> String {
        option(&self.pointer, self.mount, key)
    }

    fn has_data(&self, key: &str) -> bool {
        self.options.data.iter().any(|(known, _)| known == key)
    }

    /// The destination below the root, or `None` if it is faulty.
    fn destination(&self, builder: &mut PlanBuilder) -> Option<RootPath> {
        let text = &self.mount.destination;
        let Some(mut destination) = RootPath::new(text).filter(|_| !text.is_empty()) else {
            let msg = if text.is_empty() { "a mount needs a destination" } else { "the destination has a NUL byte" };
            builder.fault(self.below("destination"), msg);
            return None;
        };
        if !text.starts_with('/') {
            let msg = format!("mount destination {text:?} is not absolute; taken from /");
            builder.warn(self.below("destination"), msg);
        }
        let root_on_host = self.inputs.options.root_on_host.as_ref();
        if let Some(rest) = root_on_host.and_then(|root| destination.without(root)) {
            let msg =
                format!("mount destination {text:?} begins with the path of the root on the host: taken as {rest}");
            builder.warn(self.below("destination"), msg);
            destination = rest;
        }
        if destination.is_below("/proc") && !destination.is("/proc") && !may_cover(&destination) {
            let msg = format!("{text:?} cannot be mounted because it is inside /proc");
            builder.fault(self.below("destination"), msg);
        }
        Some(destination)
    }

    fn bind(&self, extent: Extent, idmap: Option<Idmap>, builder: &mut PlanBuilder) -> MountKind {
        if self.mount.source.is_empty() {
            builder.fault(self.below("source"), "a bind mount needs a source");
        }
        for (key, _) in &self.options.data {
            builder.warn(self.option(key), format!("option {key:?} has no meaning for a bind mount"));
        }
        // Without a propagation option the copy stays a slave: the container sees later mounts of the host, but not the
        // host those of the container.
        MountKind::Bind(builder.source(Source {
            path: self.mount.source.clone(),
            pointer: self.below("source"),
            target: self.mount.destination.clone(),
            recursive: extent == Extent::Tree,
            set: self.options.set,
            clear: self.options.clear,
            reset: self.options.reset,
            set_all: self.options.set_all,
            clear_all: self.options.clear_all,
            propagation: self.options.propagation.clone(),
            idmap,
            device: None,
            fallback: false,
        }))
    }

    fn new_filesystem(&self, builder: &mut PlanBuilder) -> Option<MountKind> {
        match self.mount.kind.as_str() {
            "" => {
                builder.fault(self.below("type"), "a mount needs a type, unless it is a bind mount");
                None
            }
            "cgroup" | "cgroup2" => {
                for (key, _) in &self.options.data {
                    builder.warn(self.option(key), format!("option {key:?} has no meaning for cgroup2"));
                }
                let fallback = self.fallback("cgroup2", builder);
                // cgroup2 has one superblock. A mount from the host's cgroup namespace sets its options anew, for the
                // host too.
                let shared = !self.inputs.topology.new.contains(Namespaces::CGROUP);
                let options = self.inputs.options.host.cgroup2.iter().filter(|_| shared);
                let data = options.map(|option| (option.clone(), None)).collect();
                Some(MountKind::New { kind: "cgroup2".into(), source: self.mount.source.clone(), data, fallback })
            }
            kind => {
                let fallback = self.fallback(kind, builder);
                let mut data = self.data();
                if kind == "devpts" {
                    self.without_unmapped_group(&mut data, builder);
                }
                Some(MountKind::New { kind: kind.into(), source: self.mount.source.clone(), data, fallback })
            }
        }
    }

    /// The host's mount that is bound if the kernel refuses a new one.
    ///
    /// Root of a user namespace may mount a filesystem that shows a namespace only if the user namespace owns that
    /// namespace. Otherwise the host's mount looks the same.
    fn fallback(&self, kind: &str, builder: &mut PlanBuilder) -> Option<SourceId> {
        let (_, shown, path) = SHOWN.iter().find(|row| row.0 == kind)?;
        let Inputs { topology, options, .. } = self.inputs;
        let of_the_initial_user_namespace = !topology.user_namespace() && options.host.nested.is_none();
        if of_the_initial_user_namespace || topology.new.contains(*shown) {
            return None;
        }
        // The options hold for all mounts below, which come along: the caller may be allowed to write to the cgroups
        // there, but the container must not be (CVE-2023-25809). Access times mean nothing in these filesystems, and a
        // user namespace may not change them (mount_namespaces(7)).
        let times = MountAttributes::ATIME | MountAttributes::NODIRATIME;
        let asked = (self.options.set | self.options.set_all) - times;
        let set_all = if kind == "sysfs" { asked | MountAttributes::RDONLY } else { asked };
        Some(builder.source(Source {
            path: (*path).into(),
            pointer: self.pointer.clone(),
            target: (*path).into(),
            recursive: true,
            set_all,
            fallback: true,
            ..Source::default()
        }))
    }

    /// The options of a new filesystem, with the SELinux context if the filesystem takes one. mqueue does not: the
    /// kernel has made the superblock together with the IPC namespace.
    fn data(&self) -> Vec<(String, Option<String>)> {
        let mut data = self.options.data.clone();
        let label = self.mount_label();
        let unlabelled = matches!(self.mount.kind.as_str(), "mqueue" | "proc" | "sysfs");
        if !label.is_empty() && !unlabelled && !self.has_data("context") {
            data.push(("context".into(), Some(label.into())));
        }
        data
    }

    /// `linux.mountLabel`, which has no effect without SELinux.
    fn mount_label(&self) -> &'a str {
        if self.inputs.options.host.selinux { &self.inputs.linux.mount_label } else { "" }
    }

    /// Leaves out a group that the user namespace does not have, since the kernel would refuse the option.
    /// Engines give terminals to the group `tty`, 5, and a user namespace of one id has no such group.
    fn without_unmapped_group(&self, data: &mut Vec<(String, Option<String>)>, builder: &mut PlanBuilder) {
        let Inputs { topology, options, .. } = self.inputs;
        let groups = match (&topology.gid_mappings[..], &options.host.nested) {
            ([], Some(groups)) if !topology.user_namespace() => groups,
            ([], _) => return,
            (groups, _) => groups,
        };
        let mapped = |gid: u32| groups.iter().any(|mapping| mapping.to_host(gid).is_some());
        data.retain(|(key, value)| {
            let gid = value.as_ref().filter(|_| key == "gid").and_then(|gid| gid.parse().ok());
            let keep = gid.is_none_or(mapped);
            if !keep {
                let msg = format!("gid={} is left out: the user namespace has no such group", gid.unwrap_or_default());
                builder.warn(self.option("gid"), msg);
            }
            keep
        });
    }

    fn idmap(&self, bind: bool, builder: &mut PlanBuilder) -> Option<Idmap> {
        let MountEntry { uid_mappings, gid_mappings, destination, .. } = self.mount;
        let listed = !uid_mappings.is_empty() || !gid_mappings.is_empty();
        if !listed && self.options.idmap.is_none() {
            return None;
        }
        let Inputs { linux, topology, .. } = self.inputs;
        let option = || self.option(if self.options.idmap == Some(Extent::Tree) { "ridmap" } else { "idmap" });
        let listed_at = |name: &str| self.below(&format!("{name}Mappings"));
        if !bind {
            let at = match (uid_mappings.is_empty(), gid_mappings.is_empty()) {
                (false, _) => listed_at("uid"),
                (true, false) => listed_at("gid"),
                (true, true) => option(),
            };
            let msg = format!("id-mapped mounts are only supported for bind-mounts ({destination:?} is not one)");
            builder.fault(at, msg);
        }
        if listed && (uid_mappings.is_empty() || gid_mappings.is_empty()) {
            let alone = if gid_mappings.is_empty() { "uid" } else { "gid" };
            builder.fault(listed_at(alone), "id-mapped mounts need both uidMappings and gidMappings");
        }
        if !listed && !topology.user_namespace() {
            let msg = "idmap without mappings needs a user namespace with mappings to take them from";
            builder.fault(option(), msg);
        }
        for (name, mappings) in [("uid", uid_mappings), ("gid", gid_mappings)] {
            check_ranges(&listed_at(name), mappings, builder);
        }
        let (uids, gids) = match (listed, topology.new.contains(Namespaces::USER)) {
            (true, _) => (uid_mappings.clone(), gid_mappings.clone()),
            (false, true) => (linux.uid_mappings.clone(), linux.gid_mappings.clone()),
            // The joined namespace has its own maps, whatever the configuration says.
            (false, false) => (Vec::new(), Vec::new()),
        };
        Some(Idmap { uids, gids, recursive: self.options.idmap == Some(Extent::Tree) })
    }
}

/// The pointer of the option that has this key.
pub(crate) fn option(pointer: &str, mount: &windlass_base::spec::Mount, key: &str) -> String {
    let has = |option: &String| mount_options::keys(option).any(|known| known == key);
    match mount.options.iter().position(has) {
        Some(index) => format!("{pointer}/options/{index}"),
        None => format!("{pointer}/options"),
    }
}

/// Filesystems that show a namespace, the namespace, and their mount point on the host.
const SHOWN: &[(&str, Namespaces, &str)] = &[
    ("cgroup2", Namespaces::CGROUP, "/sys/fs/cgroup"),
    ("mqueue", Namespaces::IPC, "/dev/mqueue"),
    ("proc", Namespaces::PID, "/proc"),
    ("sysfs", Namespaces::NET, "/sys"),
];
