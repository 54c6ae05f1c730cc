//! The root filesystem: mounts, devices, the pivot, and masked and read-only paths.

use windlass_base::error::Origin;
use windlass_base::mount::{Propagation, PropagationChange};
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::{Linux, Mount as MountEntry, Process, Spec, escape};

use crate::builder::PlanBuilder;
use crate::inputs::Inputs;
use crate::mount::{Source, SourceId};
use crate::mount_options::{self, MountOptions};
use crate::mounts::Entry;
use crate::options::Options;
use crate::path::RootPath;
use crate::step::{Action, Pivot, Step};
use crate::{devices, hooks};

/// The mount namespace in which init makes its mounts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MountNamespace {
    /// The container's own.
    Own,
    /// A temporary namespace, which init leaves again: the container has none of its own.
    Temporary,
    /// The runtime's, in which nothing is mounted.
    Runtimes,
}

impl MountNamespace {
    fn of(inputs: Inputs<'_>) -> MountNamespace {
        let Inputs { spec, linux, topology, options } = inputs;
        if topology.has(Namespaces::MOUNT) {
            MountNamespace::Own
        } else if !topology.user_namespace() && has_mounts(spec, linux, options) {
            MountNamespace::Temporary
        } else {
            MountNamespace::Runtimes
        }
    }

    /// Whether init's mounts stay out of the runtime's mount namespace.
    fn is_apart(self) -> bool {
        self != MountNamespace::Runtimes
    }
}

/// Adds the sources and steps of the root filesystem.
pub(crate) fn rootfs(inputs: Inputs<'_>, builder: &mut PlanBuilder) {
    let Inputs { spec, linux, topology, options } = inputs;
    match &spec.root {
        None => builder.fault("/root", "root is missing: a container needs a root filesystem"),
        Some(root) if root.path.is_empty() => builder.fault("/root/path", "root.path is empty"),
        Some(_) => {}
    }
    let namespace = MountNamespace::of(inputs);
    if namespace != MountNamespace::Own {
        without_mount_namespace(spec, linux, topology.user_namespace(), builder);
    }
    if namespace == MountNamespace::Temporary {
        builder.always("what it mounts must not be the host's", Action::LeaveMounts);
    }
    let propagation = root_propagation(linux, builder).filter(|_| namespace == MountNamespace::Own);
    let before_slaves = builder.steps.len();
    attach(namespace, propagation, spec, builder);
    if !linux.mount_label.is_empty() && !options.host.selinux {
        // Without SELinux a label of files separates nothing, so nothing is lost. A label of the process is an error.
        builder.warn("/linux/mountLabel", "the label is ignored: SELinux is not enabled on this host");
    }
    let late_readonly = mounts(inputs, namespace, builder);
    if namespace.is_apart() && !topology.user_namespace() {
        copy_shared(before_slaves, builder);
    }
    let bind_nodes = topology.user_namespace() || options.host.nested.is_some();
    devices::devices(inputs, bind_nodes, builder);
    if let Some(process) = spec.process.as_ref().filter(|process| process.terminal) {
        let size = process.console_size.clone();
        builder.config("/process/terminal", Action::Console { size, device: true, controlling: true });
    }
    hooks::hooks(spec, topology, linux, builder);
    restrict(linux, builder);
    pivot(inputs, namespace, builder);
    finish(inputs, propagation, late_readonly, builder);
    if spec.root.as_ref().is_some_and(|root| root.readonly) && namespace.is_apart() {
        let path = RootPath::new("/").expect("no NUL");
        builder.config("/root/readonly", Action::Readonly(path));
    }
    if namespace == MountNamespace::Temporary {
        builder.always("it has no mount namespace of its own", Action::ReturnToMounts);
    }
}

/// Adds the step that attaches the root filesystem, or only finds it in the runtime's mount namespace.
fn attach(namespace: MountNamespace, propagation: Option<PropagationChange>, spec: &Spec, builder: &mut PlanBuilder) {
    let path = spec.root.as_ref().map(|root| root.path.clone()).unwrap_or_default();
    let source = namespace.is_apart().then(|| {
        // Mounts of the host still arrive unless the configuration says otherwise; mounts made here never leave.
        let slaves = PropagationChange::of_tree(Propagation::Slave);
        builder.always("mounts made here must not reach the host", Action::Propagation(slaves));
        // A slave receives the host's mounts, so its copy must not be cut off from them.
        let slave = propagation.is_some_and(|change| change.to == Propagation::Slave);
        let private = PropagationChange::of_tree(Propagation::Private);
        builder.source(Source {
            path: path.clone(),
            pointer: "/root/path".into(),
            target: "/".into(),
            recursive: true,
            propagation: if slave { Vec::new() } else { vec![private] },
            ..Source::default()
        })
    });
    builder.config("/root/path", Action::Rootfs { source, path });
}

/// Adds the mounts. Returns index and path of those that are made read-only later.
fn mounts(inputs: Inputs<'_>, namespace: MountNamespace, builder: &mut PlanBuilder) -> Vec<(usize, RootPath)> {
    let mut late_readonly = Vec::new();
    for (index, mount) in inputs.spec.mounts.iter().enumerate() {
        let mut options = MountOptions::read(mount.options.iter().map(String::as_str));
        if namespace == MountNamespace::Temporary {
            without_propagation(index, mount, &mut options, builder);
        }
        if let Some(path) = Entry::new(index, mount, options, inputs).plan(builder) {
            late_readonly.push((index, path));
        }
    }
    late_readonly
}

fn pivot(inputs: Inputs<'_>, namespace: MountNamespace, builder: &mut PlanBuilder) {
    let Inputs { spec, linux, topology, options } = inputs;
    let pivot = if !namespace.is_apart() {
        Pivot::Chroot
    } else if options.no_pivot {
        Pivot::Move
    } else {
        Pivot::PivotRoot
    };
    // The kernel may refuse a user namespace its own procfs, and the caller's is out of reach after the pivot.
    if (topology.user_namespace() || options.host.nested.is_some()) && writes_to_proc(spec, linux) {
        builder.always("kernel parameters and labels are written there", Action::HoldProc);
    }
    builder.config("/root/path", Action::Pivot(pivot));
}

/// Adds what follows the pivot, while the root can still be written to, and then makes mounts read-only.
fn finish(
    inputs: Inputs<'_>,
    propagation: Option<PropagationChange>,
    late_readonly: Vec<(usize, RootPath)>,
    builder: &mut PlanBuilder,
) {
    if let Some(change) = propagation {
        builder.config("/linux/rootfsPropagation", Action::RootPropagation(change));
    }
    for (key, value) in &inputs.linux.sysctl {
        let action = Action::Sysctl(key.clone(), value.clone());
        builder.config(format!("/linux/sysctl/{}", escape(key)), action);
    }
    let cwd = inputs.spec.process.as_ref().and_then(|process| RootPath::new(&process.cwd));
    if let Some(path) = cwd.filter(|path| !path.is_root()) {
        builder.config("/process/cwd", Action::MakeWorkingDirectory(path));
    }
    for (index, path) in late_readonly {
        builder.config(format!("/mounts/{index}/options"), Action::Readonly(path));
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
    // A terminal's `/dev/console` is a mount, and so are devices that cannot be made.
    !spec.mounts.is_empty() || readonly || terminal || restricted || options.host.nested.is_some()
}

/// Makes a mount private whatever its options say, since the mount namespace is a temporary one.
fn without_propagation(index: usize, mount: &MountEntry, options: &mut MountOptions, builder: &mut PlanBuilder) {
    let other =
        |word: &String| mount_options::propagation(word).is_some_and(|change| change.to != Propagation::Private);
    if let Some(at) = mount.options.iter().position(other) {
        let msg = format!(
            "option {:?} has no effect without a private MNT namespace: the mount is private",
            mount.options[at]
        );
        builder.warn(format!("/mounts/{index}/options/{at}"), msg);
    }
    options.propagation = vec![PropagationChange::of_tree(Propagation::Private)];
}

/// Adds the steps that copy shared sources before all mounts become slaves. A shared mount must stay a peer of
/// the host's, so that each side sees what the other mounts, and a copy of a slave would be a slave. In a user
/// namespace all mounts are slaves from the beginning (mount_namespaces(7)).
fn copy_shared(at: usize, builder: &mut PlanBuilder) {
    let shared = |source: &Source| source.propagation.iter().any(|change| change.to == Propagation::Shared);
    let copies = builder.sources.iter().enumerate().filter(|(_, source)| shared(source)).map(|(index, source)| Step {
        origin: Origin::Config(source.pointer.clone().into()),
        action: Action::Copy(SourceId::new(index)),
    });
    let copies: Vec<Step> = copies.collect();
    builder.steps.splice(at..at, copies);
}

/// Adds the masked and the read-only paths. They come before the pivot, while the host's `/dev/null` can still be
/// reached. Kernel parameters are set later, through a procfs on which nothing is masked.
fn restrict(linux: &Linux, builder: &mut PlanBuilder) {
    for (name, paths, action) in [
        ("readonlyPaths", &linux.readonly_paths, Action::ReadonlyPath as fn(RootPath) -> Action),
        ("maskedPaths", &linux.masked_paths, Action::Mask),
    ] {
        let mut seen = std::collections::BTreeSet::new();
        for (index, text) in paths.iter().enumerate() {
            let pointer = format!("/linux/{name}/{index}");
            match RootPath::new(text).filter(|path| text.starts_with('/') && !path.is_root()) {
                Some(path) if !seen.insert(path.clone()) => {}
                Some(path) => builder.config(pointer, action(path)),
                None if text.is_empty() => builder.fault(pointer, "the path is missing"),
                None => builder.fault(pointer, format!("{text:?} is not an absolute path below the root")),
            }
        }
    }
}

/// Finds elements that need a mount namespace of the container's own. In a user namespace init has no power over the
/// runtime's mount namespace, so it could not return there after a stay in a temporary one. An unattached root has no
/// propagation.
fn without_mount_namespace(spec: &Spec, linux: &Linux, user_namespace: bool, builder: &mut PlanBuilder) {
    let readonly = spec.root.as_ref().is_some_and(|root| root.readonly);
    let propagates =
        mount_options::propagation(&linux.rootfs_propagation).is_some_and(|change| change.to != Propagation::Private);
    let what = [
        ("/mounts", user_namespace && !spec.mounts.is_empty(), "mount filesystems"),
        ("/linux/maskedPaths", user_namespace && !linux.masked_paths.is_empty(), "restrict sys entries"),
        ("/linux/readonlyPaths", user_namespace && !linux.readonly_paths.is_empty(), "restrict sys entries"),
        ("/root/readonly", user_namespace && readonly, "make the root read-only"),
        ("/linux/rootfsPropagation", propagates, "set the root's propagation"),
        // Root of a user namespace can make no nodes, and the host's can only be mounted.
        ("/linux/namespaces", user_namespace, "provide /dev/null and the other devices in a user namespace"),
    ];
    for (pointer, asked, action) in what {
        if asked {
            builder.fault(pointer, format!("unable to {action} without a private MNT namespace"));
        }
    }
}

/// The propagation of the root. A word without `r` changes the root alone, since the mounts below have options of their
/// own.
fn root_propagation(linux: &Linux, builder: &mut PlanBuilder) -> Option<PropagationChange> {
    if linux.rootfs_propagation.is_empty() {
        return None;
    }
    let change = mount_options::propagation(&linux.rootfs_propagation);
    if change.is_none() {
        let msg = format!("rootfsPropagation={} is not supported", linux.rootfs_propagation);
        builder.fault("/linux/rootfsPropagation", msg);
    }
    change
}
