//! The process: the order in which it gives up its powers.
//!
//! The bounding set is dropped while the process still has CAP_SETPCAP. The ids change while it keeps its
//! capabilities, and the other sets are reduced last.
//!
//! The seccomp filter is installed as late as possible, after `start`: a profile is written for the program,
//! and may refuse calls that the runtime itself makes. Without `noNewPrivileges` the kernel demands
//! CAP_SYS_ADMIN for the installation (seccomp(2)), so this capability is kept until then and dropped next. A
//! filter with a listener is installed before init reports that it is ready, because the runtime then hands
//! the listener on.
//!
//! tests/plans.rs holds this order.

use std::path::PathBuf;

use windlass_base::abi::bits_of_list;
use windlass_base::capability::CapabilitySet;
use windlass_base::spec::{IdMapping, Linux, Process, User};

use crate::builder::PlanBuilder;
use crate::capabilities::capabilities;
use crate::host::{Host, Maps};
use crate::inputs::Inputs;
use crate::scheduling;
use crate::seccomp::seccomp;
use crate::step::{Action, Identity, Seccomp};
use crate::topology::Topology;

/// Adds the steps of the process that `create` makes, up to its execution.
pub(crate) fn process(inputs: Inputs<'_>, builder: &mut PlanBuilder) {
    let Some(process) = &inputs.spec.process else {
        // Only `start` needs the process, and reports that it is missing.
        builder.always(READY, Action::Ready);
        builder.config("/process", Action::Execute);
        return;
    };
    scheduling::limits(process, inputs.linux, "/process", builder);
    if let Some(adj) = process.oom_score_adj.filter(|adj| !(-1000..=1000).contains(adj)) {
        builder.fault("/process/oomScoreAdj", format!("oomScoreAdj {adj} is not between -1000 and 1000"));
    }
    if let Some(affinity) = &process.exec_cpu_affinity {
        for (name, list) in [("initial", &affinity.initial), ("final", &affinity.last)] {
            if bits_of_list(list).is_none() {
                builder.fault(format!("/process/execCPUAffinity/{name}"), format!("invalid CPU list {list:?}"));
            }
        }
    }
    let start_hooks = inputs.spec.hooks.as_ref().is_some_and(|hooks| !hooks.start_container.is_empty());
    Credentials {
        process,
        linux: inputs.linux,
        topology: inputs.topology,
        host: &inputs.options.host,
        pointer: "/process",
        start_hooks,
    }
    .plan(builder);
}

const READY: &str = "the runtime reports that all is ready, and `start` lets the program run";

/// The inputs of the last steps of a process.
pub(crate) struct Credentials<'a> {
    pub process: &'a Process,
    pub linux: &'a Linux,
    pub topology: &'a Topology,
    pub host: &'a Host,
    /// JSON Pointer of the process.
    pub pointer: &'a str,
    /// Whether there are startContainer hooks.
    pub start_hooks: bool,
}

impl Credentials<'_> {
    /// Adds the steps from the umask to the execution. See the module's documentation for their order.
    pub(crate) fn plan(&self, builder: &mut PlanBuilder) {
        let seccomp = seccomp(self.linux, builder);
        self.check(builder);
        self.for_the_program(builder);
        let identity = self.identity(seccomp.is_some(), builder);
        let (capabilities, until_filtered) = (identity.capabilities, identity.until_filtered);
        let directory = PathBuf::from(&self.process.cwd);
        builder.config(self.field("cwd"), Action::WorkingDirectory(directory.clone()));
        builder.config(self.field("user"), Action::Identity(identity));
        builder.config(self.field("cwd"), Action::WorkingDirectoryAsUser(directory));
        if self.process.no_new_privileges {
            builder.config(self.field("noNewPrivileges"), Action::NoNewPrivileges);
        }
        builder.config(self.field("args/0"), Action::FindExecutable);
        let listened = seccomp.as_ref().is_some_and(|seccomp| seccomp.filter.needs_listener);
        if !listened {
            builder.always(READY, Action::Ready);
        }
        if let Some(seccomp) = seccomp {
            check_filter(&seccomp, !until_filtered.is_empty(), builder);
            builder.config("/linux/seccomp", Action::Seccomp(seccomp));
            if !until_filtered.is_empty() {
                builder.config(self.field("capabilities"), Action::Capabilities(capabilities));
            }
        }
        if listened {
            builder.always(READY, Action::Ready);
        }
        if self.start_hooks {
            builder.config("/hooks/startContainer", Action::StartContainerHooks);
        }
        builder.config(self.field("args"), Action::Execute);
    }

    fn field(&self, name: &str) -> String {
        format!("{}/{name}", self.pointer)
    }

    fn check(&self, builder: &mut PlanBuilder) {
        let Process { cwd, args, env, .. } = self.process;
        if cwd.is_empty() {
            builder.fault(self.field("cwd"), "Cwd property must not be empty");
        } else if !cwd.starts_with('/') {
            builder.fault(self.field("cwd"), format!("Cwd must be an absolute path (is {cwd:?})"));
        }
        match args.first().map(String::as_str) {
            None => builder.fault(self.field("args"), "args must not be empty"),
            Some("") => builder.fault(self.field("args/0"), "args must not be empty: the first of them is the program"),
            Some(_) => {}
        }
        for (name, list) in [("args", args), ("env", env)] {
            for (index, _) in list.iter().enumerate().filter(|(_, text)| text.contains('\0')) {
                builder.fault(self.field(&format!("{name}/{index}")), format!("{name} must not have a NUL byte"));
            }
        }
    }

    /// Adds the steps whose settings the program inherits: the umask and the labels.
    fn for_the_program(&self, builder: &mut PlanBuilder) {
        match self.process.user.umask {
            Some(umask) => builder.config(self.field("user/umask"), Action::Umask(umask & 0o777)),
            None => builder.always("init worked with an umask of 0", Action::Umask(0o022)),
        }
        if !self.process.apparmor_profile.is_empty() {
            builder.config(self.field("apparmorProfile"), Action::AppArmor(self.process.apparmor_profile.clone()));
        }
        if !self.process.selinux_label.is_empty() {
            builder.config(self.field("selinuxLabel"), Action::SeLinux(self.process.selinux_label.clone()));
        }
    }

    fn identity(&self, filtered: bool, builder: &mut PlanBuilder) -> Identity {
        // In a user namespace of its own init has every capability, whatever the runtime has.
        let grantable = if self.topology.user_namespace() { CapabilitySet::all() } else { self.host.capabilities };
        let sets = self.process.capabilities.as_ref();
        let capabilities =
            sets.map(|sets| capabilities(sets, grantable, &self.field("capabilities"), builder)).unwrap_or_default();
        let user = &self.process.user;
        check_ids(user, self.topology, self.pointer, builder);
        let until_filtered = if filtered && !self.process.no_new_privileges {
            CapabilitySet::SYS_ADMIN & grantable & !capabilities.effective
        } else {
            CapabilitySet::empty()
        };
        Identity { uid: user.uid, gid: user.gid, groups: user.additional_gids.clone(), capabilities, until_filtered }
    }
}

/// Adds the label of the session keyring: the process's own, since it could not use a keyring with the runtime's label.
pub(crate) fn key_label(process: &Process, pointer: &str, builder: &mut PlanBuilder) {
    if !process.selinux_label.is_empty() {
        builder.config(format!("{pointer}/selinuxLabel"), Action::KeyLabel(process.selinux_label.clone()));
    }
}

/// Finds a filter that refuses the calls between its installation and the program. The container could never
/// start, and init might be unable to report why. `drops`: whether capabilities are dropped in between.
fn check_filter(seccomp: &Seccomp, drops: bool, builder: &mut PlanBuilder) {
    for (name, needed) in [("execve", true), ("capset", drops)] {
        if needed && seccomp.filter.refuses(windlass_seccomp::Arch::native(), name) {
            let msg = format!("the seccomp profile refuses {name}, without which no program can be executed below it");
            builder.fault("/linux/seccomp", msg);
        }
    }
}

/// Finds ids that the user namespace does not have.
fn check_ids(user: &User, topology: &Topology, pointer: &str, builder: &mut PlanBuilder) {
    let mapped = |mappings: &[IdMapping], id: u32| {
        mappings.is_empty() || mappings.iter().any(|mapping| mapping.to_host(id).is_some())
    };
    let mut ids = vec![("uid", "uid".to_string(), user.uid), ("gid", "gid".into(), user.gid)];
    for (index, gid) in user.additional_gids.iter().enumerate() {
        ids.push(("gid", format!("additionalGids/{index}"), *gid));
    }
    for (kind, field, id) in ids {
        let mappings = if kind == "uid" { &topology.uid_mappings } else { &topology.gid_mappings };
        let pointer = format!("{pointer}/user/{field}");
        if id == u32::MAX {
            builder.fault(pointer, format!("{id} is not a valid {kind}"));
        } else if !mapped(mappings, id) {
            builder.fault(pointer, format!("{kind} {id} is not mapped in the container's user namespace"));
        } else if topology.maps == Maps::Own && field.starts_with("additionalGids") {
            builder
                .fault(pointer, "supplementary groups need subordinate ids: with one's own alone, setgroups is denied");
        }
    }
}
