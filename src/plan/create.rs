//! The plan of `create`.

use windlass_base::error::{Diagnostic, Result};
use windlass_base::spec::{Linux, Resources, Spec, Version};

use crate::builder::PlanBuilder;
use crate::host::Host;
use crate::inputs::Inputs;
use crate::mount::{Source, SourceId};
use crate::options::Options;
use crate::step::{Action, Step};
use crate::topology::{self, Topology};
use crate::{cgroup, process, resctrl, rootfs, texts, unit};

/// Everything `create` will do.
#[derive(Debug)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// Processes and namespaces.
    pub topology: Topology,
    /// Mounts to copy; steps name them by [`SourceId`].
    pub sources: Vec<Source>,
    /// Whether init asks the runtime for sources that its user cannot reach. Init asks in a user namespace, if the
    /// runtime has CAP_SYS_ADMIN over the host's mounts.
    pub init_asks_for_sources: bool,
    /// Path of the root filesystem, from the bundle.
    pub root: String,
    /// The scope that is the container's cgroup, if systemd makes it.
    pub unit: Option<unit::Unit>,
    /// Whether the runtime runs without the power of the host's root, which alone can attach a device filter.
    pub rootless: bool,
    /// The cgroup's limits and device rules.
    pub limits: cgroup::Limits,
    /// `linux.cgroupsPath`.
    pub cgroups_path: String,
    /// Value for `/proc/PID/oom_score_adj`.
    pub oom_score_adj: Option<i64>,
    /// Interfaces to move into the network namespace.
    pub net_devices: Vec<(String, String)>,
    /// The steps of init, in order.
    pub init: Vec<Step>,
    /// Elements of the configuration that `create` will not carry out, or not as written.
    pub warnings: Vec<Diagnostic>,
}

impl Plan {
    /// A source that a step names.
    pub fn source(&self, id: SourceId) -> Option<&Source> {
        self.sources.get(id.index())
    }

    /// Whether a seccomp agent gets the listener of a filter (`linux.seccomp.listenerPath`).
    pub fn has_seccomp_agent(&self) -> bool {
        let listens =
            |step: &Step| matches!(&step.action, Action::Seccomp(seccomp) if !seccomp.listener_path.is_empty());
        self.init.iter().any(listens)
    }

    /// Adds a source.
    pub fn add_source(&mut self, source: Source) -> SourceId {
        self.sources.push(source);
        SourceId::new(self.sources.len() - 1)
    }
}

/// Plans `create`. All faults of the configuration that can be known before acting are reported
/// at once.
pub fn create(id: &str, spec: &Spec, options: &Options) -> Result<Plan> {
    let mut builder = PlanBuilder::default();
    let version = version(spec, &mut builder);
    texts::without_nul(spec, &mut builder);
    let empty = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&empty);
    let topology = topology::topology(linux, &options.host, &mut builder);
    let inputs = Inputs { spec, linux, topology: &topology, options };
    let unlimited = Resources::default();
    let resources = linux.resources.as_ref().unwrap_or(&unlimited);
    let mut limits = cgroup::limits(resources, version, &mut builder.faults, &mut builder.warnings);

    topology::enter(&topology, &mut builder);
    let entered = builder.steps.len();
    if !options.no_new_keyring {
        if let Some(process) = &spec.process {
            process::key_label(process, "/process", &mut builder);
        }
        builder.always("a session keyring of its own", Action::SessionKeyring(format!("_ses.{id}{}", options.keyring)));
    }
    topology::configure(&topology, spec, linux, &mut builder);
    rootfs::rootfs(inputs, &mut builder);
    topology::enter_cgroup(entered, &topology, linux, options, &mut builder);
    process::process(inputs, &mut builder);

    let unit = options.systemd.and_then(|systemd| unit::unit(id, spec, &limits, systemd, &mut builder.faults));
    let init_asks_for_sources = check_rootless(&topology, &options.host, &mut builder);
    let rootless = options.host.rootless();
    if rootless {
        limits.devices = None;
    }

    resctrl::check(linux, &mut builder);
    let net_devices = topology::net_devices(&topology, linux, &mut builder);
    let oom_score_adj = oom_score_adj(spec, &options.host, &mut builder);
    let cgroups_path = linux.cgroups_path.clone();
    let id = id.to_string();
    builder.build(|builder| Plan {
        id,
        topology,
        sources: builder.sources,
        init_asks_for_sources,
        root: spec.root.as_ref().map_or_else(String::new, |root| root.path.clone()),
        unit,
        rootless,
        limits,
        cgroups_path,
        oom_score_adj,
        net_devices,
        init: builder.steps,
        warnings: builder.warnings,
    })
}

/// Refuses what an ordinary user cannot do. Returns whether the runtime can do more with the host's mounts than init.
fn check_rootless(topology: &Topology, host: &Host, builder: &mut PlanBuilder) -> bool {
    if host.administers() {
        return topology.user_namespace();
    }
    if !topology.user_namespace() {
        builder.fault("/linux/namespaces", "rootless container requires user namespaces");
    }
    for source in builder.sources.iter().filter(|source| source.idmap.is_some()) {
        let pointer = source.pointer.clone();
        let msg = "only root can map the ids of a mount of the host";
        builder.faults.push(Diagnostic { pointer, msg: msg.into() });
    }
    false
}

/// The value of `oom_score_adj`. An ordinary user cannot go below the runtime's own, which systemd's user managers set
/// to 100 or 200.
fn oom_score_adj(spec: &Spec, host: &Host, builder: &mut PlanBuilder) -> Option<i64> {
    let wanted = spec.process.as_ref()?.oom_score_adj?;
    if host.rootless() && wanted < host.oom_score_adj {
        let msg = format!("oomScoreAdj stays at {}: only root may lower it", host.oom_score_adj);
        builder.warn("/process/oomScoreAdj", msg);
        return None;
    }
    Some(wanted)
}

fn version(spec: &Spec, builder: &mut PlanBuilder) -> Option<Version> {
    let version = Version::read(&spec.oci_version);
    match version {
        Some(Version { major: 1, .. }) => {}
        _ if spec.oci_version.is_empty() => builder.fault("/ociVersion", "ociVersion is missing"),
        _ => builder.fault(
            "/ociVersion",
            format!("unsupported ociVersion {:?}: this runtime knows 1.0 to 1.3", spec.oci_version),
        ),
    }
    if version.is_some() && spec.oci_version.starts_with('v') {
        builder.warn("/ociVersion", format!("ociVersion {:?} is not a SemVer: its v is ignored", spec.oci_version));
    }
    version
}
