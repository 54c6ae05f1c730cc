//! The text of a plan: for `explain`, for the debug log, and for the `step` of an error.

use std::fmt::{self, Write as _};

use windlass_base::mount::{MountAttributes, Propagation, PropagationChange};
use windlass_base::namespaces::{KINDS, Namespaces};
use windlass_base::spec::escape;

use crate::create::Plan;
use crate::host::Maps;
use crate::mount::{Mount, MountKind, Node, Source};
use crate::step::{Action, Identity, Pivot, ResourceLimit};
use crate::topology::Joiner;

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::MapIds => f.write_str("ask the runtime to write the id maps"),
            Action::Scope => f.write_str("wait to be put into the scope"),
            Action::EnterUserNamespace { uid, gid } => write!(f, "become user {uid}:{gid} of the user namespace"),
            Action::Join(id) => write!(f, "join namespace {}", id.index()),
            Action::Copy(source) => write!(f, "copy source {}", source.index()),
            Action::Unshare(kinds) => write!(f, "unshare the {} namespace", kind_names(*kinds)),
            Action::KeyLabel(label) => write!(f, "set SELinux label {label:?} for new keys"),
            Action::SessionKeyring(name) => write!(f, "join the session keyring {name:?}"),
            Action::LoopbackUp => f.write_str("bring the loopback interface up"),
            Action::Hostname(name) => write!(f, "set the hostname to {name:?}"),
            Action::Domainname(name) => write!(f, "set the domainname to {name:?}"),
            Action::LeaveMounts => f.write_str("leave the runtime's mount namespace"),
            Action::ReturnToMounts => f.write_str("return to it with a root that is attached nowhere"),
            Action::Propagation(flags) => write!(f, "make all mounts {}", plural(flags.to)),
            Action::Rootfs { path, .. } => write!(f, "attach the root filesystem {path}"),
            Action::Mount(mount) => mount.fmt(f),
            Action::Node(node) => node.fmt(f),
            Action::DevLinks => f.write_str("make the links of /dev"),
            Action::Console { device: true, .. } => f.write_str("allocate the terminal and /dev/console"),
            Action::Console { device: false, .. } => f.write_str("allocate the terminal"),
            Action::JoinPid => f.write_str("join the PID namespace of the container"),
            Action::Fork { .. } => f.write_str("fork a child into it, which does the remaining steps"),
            Action::NetDevices => f.write_str("ask the runtime to move network devices in"),
            Action::RuntimeHooks => f.write_str("ask the runtime to run the prestart and createRuntime hooks"),
            Action::CreateContainerHooks => f.write_str("run the createContainer hooks"),
            Action::HoldProc => f.write_str("take a procfs to write to"),
            Action::Pivot(pivot) => pivot.fmt(f),
            Action::RootPropagation(flags) => write!(f, "make / {}", plural(flags.to)),
            Action::Readonly(path) => write!(f, "make the mount {path} read-only"),
            Action::Sysctl(key, value) => write!(f, "set sysctl {key} to {value:?}"),
            Action::ReadonlyPath(path) => write!(f, "make {path} read-only"),
            Action::Mask(path) => write!(f, "mask {path}"),
            Action::Umask(mask) => write!(f, "set the umask to {mask:04o}"),
            Action::MakeWorkingDirectory(path) => write!(f, "make the working directory {path} if missing"),
            Action::Limit(ResourceLimit { name, soft, hard, .. }) => {
                write!(f, "set {name} to {soft}, at most {hard}")
            }
            Action::Scheduler(attributes) => write!(f, "set scheduling policy {}", attributes.policy),
            Action::IoPriority(priority) => write!(f, "set I/O priority {}:{}", priority >> 13, priority & 0x1fff),
            Action::Affinity(_) => f.write_str("set the CPU affinity"),
            Action::MemoryPolicy(mode, _) => write!(f, "set memory policy {mode:#x}"),
            Action::Personality(domain) => write!(f, "set personality {domain:#x}"),
            Action::AppArmor(profile) => write!(f, "set AppArmor profile {profile:?} for the program"),
            Action::SeLinux(label) => write!(f, "set SELinux label {label:?} for the program"),
            Action::Identity(identity) => identity.fmt(f),
            Action::NoNewPrivileges => f.write_str("set no_new_privs"),
            Action::WorkingDirectory(path) => write!(f, "change into {path:?}"),
            Action::WorkingDirectoryAsUser(path) => write!(f, "change into {path:?} as the user, if refused before"),
            Action::FindExecutable => f.write_str("find the program"),
            Action::Seccomp(seccomp) => {
                write!(f, "install the seccomp filter, {} instructions", seccomp.filter.program.len())
            }
            Action::Capabilities(sets) => write!(f, "leave capabilities {:#x}", sets.effective),
            Action::Ready => f.write_str("report, and wait for start"),
            Action::StartContainerHooks => f.write_str("run the startContainer hooks"),
            Action::Execute => f.write_str("execute the program"),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.mode & 0o170_000 {
            0o060_000 => "block device",
            0o010_000 => "fifo",
            _ => "character device",
        };
        match self.source {
            Some(_) => write!(f, "bind the host's {kind} on {}", self.path),
            None => write!(f, "make the {kind} {} {}:{}", self.path, self.major, self.minor),
        }
    }
}

impl fmt::Display for Pivot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pivot::PivotRoot => "pivot the root",
            Pivot::Move => "move the root over / and chroot",
            Pivot::Chroot => "chroot into the root filesystem",
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "become {}:{}", self.uid, self.gid)?;
        if !self.groups.is_empty() {
            write!(f, " with groups {:?}", self.groups)?;
        }
        let sets = &self.capabilities;
        write!(f, " with capabilities {:#x}, bounded by {:#x}", sets.effective, sets.bounding)?;
        if !self.until_filtered.is_empty() {
            write!(f, ", and {:#x} for the filter", self.until_filtered)?;
        }
        Ok(())
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            MountKind::Bind(_) => write!(f, "bind on {}", self.destination)?,
            MountKind::New { kind, .. } => write!(f, "mount {kind} on {}", self.destination)?,
        }
        let mut options = attribute_names(self.set);
        if let MountKind::New { data, .. } = &self.what {
            options.extend(data.iter().map(|(key, value)| match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            }));
        }
        if self.copy_up {
            options.push("with a copy of what was there".into());
        }
        options.extend(self.root_label.iter().map(|label| format!("labelled {label}")));
        options.extend(self.propagation.iter().map(propagation_word));
        write_options(f, &options)?;
        match &self.what {
            MountKind::New { fallback: Some(_), .. } => f.write_str(", or bind the host's"),
            _ => Ok(()),
        }
    }
}

/// The names of `MOUNT_ATTR_*`.
fn attribute_names(set: MountAttributes) -> Vec<String> {
    let names = [
        (MountAttributes::RDONLY, "ro"),
        (MountAttributes::NOSUID, "nosuid"),
        (MountAttributes::NODEV, "nodev"),
        (MountAttributes::NOEXEC, "noexec"),
        (MountAttributes::NOATIME, "noatime"),
        (MountAttributes::STRICTATIME, "strictatime"),
        (MountAttributes::NODIRATIME, "nodiratime"),
        (MountAttributes::NOSYMFOLLOW, "nosymfollow"),
    ];
    names.iter().filter(|(bit, _)| set.intersects(*bit)).map(|(_, name)| (*name).into()).collect()
}

fn write_options(f: &mut fmt::Formatter<'_>, options: &[String]) -> fmt::Result {
    if options.is_empty() { Ok(()) } else { write!(f, ", {}", options.join(",")) }
}

/// A propagation as the word of a mount option.
fn propagation_word(change: &PropagationChange) -> String {
    let word = match change.to {
        Propagation::Shared => "shared",
        Propagation::Slave => "slave",
        Propagation::Unbindable => "unbindable",
        Propagation::Private => "private",
    };
    format!("{}{word}", if change.recursive { "r" } else { "" })
}

fn plural(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Shared => "shared",
        Propagation::Slave => "slaves",
        Propagation::Unbindable => "unbindable",
        Propagation::Private => "private",
    }
}

/// The names of namespaces, as `linux.namespaces` has them.
pub fn kind_names(kinds: Namespaces) -> String {
    KINDS.iter().filter(|row| kinds.contains(row.2)).map(|row| row.0).collect::<Vec<_>>().join(", ")
}

/// One line of an explanation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// The process that carries it out: `runtime` or `init`.
    pub process: &'static str,
    /// The text of the action.
    pub what: String,
    /// The origin: a JSON Pointer, a flag, or a reason in parentheses.
    pub asked_by: String,
}

/// The lines of the runtime.
#[derive(Default)]
struct RuntimeLines(Vec<Line>);

impl RuntimeLines {
    fn add(&mut self, what: impl Into<String>, asked_by: impl Into<String>) {
        self.0.push(Line { process: "runtime", what: what.into(), asked_by: asked_by.into() });
    }
}

impl Plan {
    /// The plan, line by line, in the order of its execution.
    ///
    /// `program` is the program that is executed in the end.
    pub fn lines(&self, program: &[String]) -> Vec<Line> {
        let mut runtime = RuntimeLines::default();
        runtime.add(format!("reserve the container {:?}", self.id), "(every container has a state)");
        self.cgroup_lines(&mut runtime);
        self.clone_lines(&mut runtime);
        self.service_lines(&mut runtime);
        let mut out = runtime.0;
        out.extend(self.init.iter().map(|step| Line {
            process: "init",
            what: match &step.action {
                Action::Execute if !program.is_empty() => format!("execute {program:?}"),
                action => self.describe(action),
            },
            asked_by: step.origin.to_string(),
        }));
        out
    }

    /// Adds the lines for the cgroup.
    fn cgroup_lines(&self, runtime: &mut RuntimeLines) {
        let every = "(every container has a cgroup)";
        match (&self.unit, self.cgroups_path.as_str()) {
            (Some(unit), _) => {
                let manager = if unit.user { "the user's systemd" } else { "systemd" };
                runtime.add(format!("ask {manager} for the scope {} once init is cloned", unit.name), every);
                for property in &unit.properties {
                    runtime.add(format!("set its {} to {}", property.name, property.value), &*property.pointer);
                }
            }
            (None, "") => runtime.add(format!("make the cgroup {}", self.id), every),
            (None, path) => runtime.add(format!("make the cgroup {path}"), "/linux/cgroupsPath"),
        }
        for write in &self.limits.writes {
            runtime.add(format!("write {:?} to {}", write.value, write.file), &*write.pointer);
        }
        if let Some(devices) = &self.limits.devices {
            let n = devices.instructions.len();
            let asked_by = if devices.asked { "/linux/resources/devices" } else { "(containers may use few devices)" };
            runtime.add(format!("attach the device filter, {n} instructions"), asked_by);
        }
        if self.limits.devices.is_none() && self.rootless {
            runtime.add("attach no device filter", "(only the host's root could)");
        }
    }

    /// Adds the lines for processes and namespaces.
    fn clone_lines(&self, runtime: &mut RuntimeLines) {
        let topology = &self.topology;
        for join in &topology.joined {
            let verb = if join.joiner == Joiner::Runtime { "join for the clone" } else { "open for init" };
            runtime.add(format!("{verb} the {} namespace {}", kind_names(join.kind), join.path), &*join.pointer);
        }
        for (clock, offset) in &topology.time_offsets {
            let what = format!("offset {clock} by {}.{:09} s", offset.secs, offset.nanosecs);
            runtime.add(what, format!("/linux/timeOffsets/{}", escape(clock)));
        }
        if topology.intermediate {
            runtime.add("clone a process that joins the user namespace and clones init", "/linux/namespaces");
        }
        let new = kind_names(if topology.intermediate { topology.new } else { topology.clone });
        let what = if new.is_empty() { "clone init".into() } else { format!("clone init with new namespaces: {new}") };
        runtime.add(what, "/linux/namespaces");
        if !topology.uid_mappings.is_empty() {
            let how = match topology.maps {
                Maps::Direct => "write the id maps",
                Maps::Own => "deny setgroups and write the id maps",
                Maps::Helpers => "write the id maps with newuidmap and newgidmap",
            };
            runtime.add(how, "/linux/uidMappings");
        }
    }

    /// Adds the lines for what the runtime does at the clone of init.
    fn service_lines(&self, runtime: &mut RuntimeLines) {
        if self.init_asks_for_sources && !self.sources.is_empty() {
            let user = self.init.iter().find(|step| matches!(step.action, Action::EnterUserNamespace { .. }));
            let what = "copy for init, in its mount namespace, what its user may not reach";
            runtime.add(what, user.map(|step| step.origin.to_string()).unwrap_or_default());
        }
        if let Some(adj) = self.oom_score_adj {
            runtime.add(format!("set oom_score_adj to {adj}"), "/process/oomScoreAdj");
        }
        for (host, inside) in &self.net_devices {
            let what = format!("move network device {host} in as {inside}");
            runtime.add(what, format!("/linux/netDevices/{}", escape(host)));
        }
    }

    /// The text of one action, with the names of the namespaces and sources that it refers to.
    pub fn describe(&self, action: &Action) -> String {
        match action {
            Action::Join(id) => match self.topology.joined.get(id.index()) {
                Some(join) => format!("join the {} namespace {}", kind_names(join.kind), join.path),
                None => action.to_string(),
            },
            Action::Copy(source) => match self.source(*source) {
                Some(source) => format!("{source}, while it is the host's peer"),
                None => action.to_string(),
            },
            Action::Mount(Mount { what: MountKind::Bind(source), destination, .. }) => match self.source(*source) {
                Some(source) => {
                    let word = if source.recursive { "rbind" } else { "bind" };
                    format!("{word} {} on {destination}{}", source.path, source.options())
                }
                None => action.to_string(),
            },
            Action::Mount(Mount { what: MountKind::New { fallback: Some(source), .. }, .. })
            | Action::Rootfs { source: Some(source), .. }
            | Action::Node(Node { source: Some(source), .. }) => match self.source(*source) {
                Some(source) => format!("{action}{}", source.options()),
                None => action.to_string(),
            },
            _ => action.to_string(),
        }
    }

    /// The text of `explain`.
    pub fn text(&self, program: &[String]) -> String {
        let lines = self.lines(program);
        let processes = if self.topology.intermediate {
            "3 processes (runtime, joiner, init)"
        } else {
            "2 processes (runtime, init)"
        };
        let mut out = format!("{}: {processes}, {} steps\n", self.id, lines.len());
        let mut n = 0;
        let mut last = "";
        for line in &lines {
            n = if line.process == last { n + 1 } else { 1 };
            last = line.process;
            let _ = writeln!(out, "{:>8} {n:>3}  {:<64} {}", line.process, line.what, line.asked_by);
        }
        for warning in &self.warnings {
            let _ = writeln!(out, " warning      {:<64} {}", warning.msg, warning.pointer);
        }
        out
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mounts = if self.recursive { "mounts" } else { "mount" };
        write!(f, "copy the {mounts} at {} for {}{}", self.path, self.target, self.options())
    }
}

impl Source {
    /// The options of the mount, with a comma before each.
    fn options(&self) -> String {
        let all = |name: String| format!("r{name}");
        let mut options = attribute_names(self.set);
        options.extend(attribute_names(self.set_all).into_iter().map(all));
        // A policy of access times is set by clearing the field.
        let cleared = |bits: MountAttributes, set: MountAttributes| {
            attribute_names(bits & !set & !MountAttributes::ATIME).into_iter().map(|name| format!("not {name}"))
        };
        options.extend(cleared(self.clear, self.set));
        options.extend(cleared(self.clear_all, self.set_all).map(all));
        options.extend(self.propagation.iter().map(propagation_word));
        options.extend(self.idmap.as_ref().map(|idmap| if idmap.recursive { "ridmap" } else { "idmap" }.into()));
        if options.is_empty() { String::new() } else { format!(", {}", options.join(",")) }
    }
}
