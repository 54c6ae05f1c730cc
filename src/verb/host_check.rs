//! Finds elements of a configuration that this host does not have. Nothing is changed.
//!
//! `check` reports them beforehand. When `create` fails, they are reported with the error, so that one attempt names
//! everything that is missing.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::error::{Diagnostic, Origin, describe};
use windlass_base::spec::{Linux, Process, Resources, Spec, escape};
use windlass_plan::explain::kind_names;
use windlass_plan::{Action, MountKind, Plan, RootPath};
use windlass_sys::mount::{Filesystem, points};
use windlass_sys::{fd, process};

use super::program_check;

/// Finds all missing elements. The current directory must be the bundle.
pub(super) fn faults(spec: &Spec) -> Vec<Diagnostic> {
    let mut check = HostCheck::default();
    if let Some(root) = &spec.root
        && let Some(found) = check.look("/root/path", &root.path)
        && !found.is_dir()
    {
        check.fault("/root/path", format!("{:?}: not a directory", root.path));
    }
    check.sources(spec);
    check.hooks(spec);
    if let Some(process) = &spec.process {
        check.process(process);
        check.0.extend(program_check::fault(process, spec));
    }
    if let Some(linux) = &spec.linux {
        check.namespaces(linux);
        check.linux(linux);
        linux.resources.iter().for_each(|resources| check.resources(resources));
    }
    check.0
}

#[derive(Default)]
struct HostCheck(Vec<Diagnostic>);

impl HostCheck {
    fn fault(&mut self, pointer: impl Into<String>, msg: impl Into<String>) {
        self.0.push(Diagnostic { pointer: pointer.into(), msg: msg.into() });
    }

    /// Whether there is a file at `path`, with a fault if not. Planning reports an empty path.
    fn exists(&mut self, pointer: impl Into<String>, path: &str) -> bool {
        self.look(pointer, path).is_some()
    }

    /// The metadata of `path`, with a fault if it cannot be read. Planning reports an empty path.
    fn look(&mut self, pointer: impl Into<String>, path: &str) -> Option<fs::Metadata> {
        match fs::metadata(path) {
            _ if path.is_empty() => {}
            Ok(found) => return Some(found),
            Err(error) => {
                let text = error.raw_os_error().map_or(error.to_string(), |raw| describe(Errno::from_raw(raw)));
                self.fault(pointer, format!("{path:?}: {text}"));
            }
        }
        None
    }

    fn sources(&mut self, spec: &Spec) {
        let root = spec.root.as_ref().and_then(|root| std::path::absolute(&root.path).ok());
        for (index, mount) in spec.mounts.iter().enumerate() {
            if !mount.is_bind() {
                continue;
            }
            // A source below an earlier mount of the container may appear with that mount.
            let inside = std::path::absolute(&mount.source).ok().zip(root.as_ref()).and_then(|(source, root)| {
                let rest = source.strip_prefix(root).ok()?;
                RootPath::new(rest.to_str()?)
            });
            let whole = RootPath::new(&mount.source);
            // A destination may begin with the root's path on the host.
            let appears = |path: RootPath| {
                let below =
                    |path: &RootPath| spec.mounts[..index].iter().any(|earlier| path.is_below(&earlier.destination));
                below(&path) || whole.as_ref().is_some_and(below)
            };
            if !inside.is_some_and(appears) {
                self.exists(format!("/mounts/{index}/source"), &mount.source);
            }
        }
    }

    fn hooks(&mut self, spec: &Spec) {
        for (name, hooks) in spec.hooks.iter().flat_map(|hooks| hooks.all()) {
            // A startContainer hook is a path in the container.
            for (index, hook) in hooks.iter().enumerate().filter(|_| name != "startContainer") {
                let pointer = format!("/hooks/{name}/{index}/path");
                if self.exists(&pointer, &hook.path) && !is_program(Path::new(&hook.path)) {
                    self.fault(pointer, format!("{:?}: permission denied: not an executable file", hook.path));
                }
            }
        }
    }

    fn process(&mut self, process: &Process) {
        let most = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse::<u64>().ok());
        for (index, limit) in process.rlimits.iter().enumerate() {
            if limit.kind == "RLIMIT_NOFILE"
                && let Some(most) = most.filter(|most| limit.hard > *most)
            {
                let msg = format!("RLIMIT_NOFILE cannot exceed /proc/sys/fs/nr_open, which is {most}");
                self.fault(format!("/process/rlimits/{index}/hard"), msg);
            }
        }
        let apparmor = fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
        if !process.apparmor_profile.is_empty() && !apparmor.starts_with('Y') {
            self.fault("/process/apparmorProfile", "AppArmor is not enabled on this host");
        }
        if !process.selinux_label.is_empty() && !selinux() {
            self.fault("/process/selinuxLabel", "SELinux is not enabled on this host");
        }
    }

    fn namespaces(&mut self, linux: &Linux) {
        for (index, entry) in linux.namespaces.iter().enumerate() {
            let pointer = format!("/linux/namespaces/{index}/path");
            if !self.exists(&pointer, &entry.path) {
                continue;
            }
            // Opening a FIFO would block.
            let file = fs::metadata(&entry.path).is_ok_and(|found| found.is_file());
            let look = || fd::open(&entry.path, OFlag::O_RDONLY).and_then(|file| process::namespace_kind(file.as_fd()));
            match file.then(look) {
                Some(Ok(kind)) if kind_names(kind) == entry.kind => {}
                Some(Err(failed)) if failed.errno != Errno::ENOTTY => {
                    self.fault(pointer, format!("{:?}: {}", entry.path, describe(failed.errno)));
                }
                _ => self.fault(pointer, format!("{:?} is not a {} namespace", entry.path, entry.kind)),
            }
        }
    }

    fn linux(&mut self, linux: &Linux) {
        for key in linux.sysctl.keys() {
            let path = if key.contains('/') { key.clone() } else { key.replace('.', "/") };
            let of_every_namespace = path.starts_with("kernel/") || path.starts_with("fs/mqueue/");
            if of_every_namespace && !Path::new("/proc/sys").join(&path).exists() {
                self.fault(format!("/linux/sysctl/{}", escape(key)), format!("this kernel has no parameter {key:?}"));
            }
        }
        for name in linux.net_devices.keys().filter(|name| !name.contains(['/', '\0'])) {
            let devices = Path::new("/sys/class/net");
            if devices.exists() && !devices.join(name).exists() {
                let msg = format!("there is no network device {name:?} in the runtime's network namespace");
                self.fault(format!("/linux/netDevices/{}", escape(name)), msg);
            }
        }
        let mounts = || fs::read("/proc/self/mountinfo").unwrap_or_default();
        if linux.intel_rdt.is_some() && !points(&mounts()).iter().any(|(_, kind)| *kind == b"resctrl") {
            self.fault("/linux/intelRdt", "no resctrl filesystem is mounted on this host");
        }
        if let Some(seccomp) = &linux.seccomp
            && let Ok(profile) = serde_json::from_str::<windlass_seccomp::Profile<'_>>(seccomp.get())
            && !profile.listener_path.is_empty()
        {
            let pointer = "/linux/seccomp/listenerPath";
            let path = Path::new(&*profile.listener_path);
            if self.exists(pointer, &profile.listener_path)
                && fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket())
            {
                self.fault(pointer, format!("{path:?} is not a socket"));
            }
        }
    }

    fn resources(&mut self, resources: &Resources) {
        if let Some(io) = &resources.block_io {
            let lists = [
                ("throttleReadBpsDevice", &io.throttle_read_bps_device),
                ("throttleWriteBpsDevice", &io.throttle_write_bps_device),
                ("throttleReadIOPSDevice", &io.throttle_read_iops_device),
                ("throttleWriteIOPSDevice", &io.throttle_write_iops_device),
            ];
            for (name, devices) in lists {
                for (index, device) in devices.iter().enumerate() {
                    self.disk(&format!("{name}/{index}"), device.major, device.minor);
                }
            }
            for (index, device) in io.weight_device.iter().enumerate() {
                self.disk(&format!("weightDevice/{index}"), device.major, device.minor);
            }
        }
        for (index, limit) in resources.hugepage_limits.iter().enumerate() {
            let units = [("KB", 1), ("MB", 1024), ("GB", 1024 * 1024)];
            let size = units.iter().find_map(|(unit, factor)| {
                let number = limit.page_size.strip_suffix(unit)?.parse::<u64>().ok()?;
                number.checked_mul(*factor)
            });
            let sizes = Path::new("/sys/kernel/mm/hugepages");
            if let Some(size) = size
                && !sizes.join(format!("hugepages-{size}kB")).exists()
            {
                let pointer = format!("/linux/resources/hugepageLimits/{index}/pageSize");
                self.fault(pointer, format!("this kernel has no huge pages of {:?}", limit.page_size));
            }
        }
    }

    fn disk(&mut self, place: &str, major: i64, minor: i64) {
        if Path::new("/sys/dev/block").exists() && !Path::new(&format!("/sys/dev/block/{major}:{minor}")).exists() {
            let msg = format!("this host has no block device {major}:{minor}");
            self.fault(format!("/linux/resources/blockIO/{place}/major"), msg);
        }
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Whether SELinux is enabled.
pub(super) fn selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// The longest value that fsconfig(2) takes, without its NUL. Longer ones go through mount(2).
const LONGEST_VALUE: usize = 255;

/// Filesystems that this kernel does not have, and options that they do not accept. Each filesystem is configured with
/// fsconfig(2) but never created.
pub(super) fn filesystems(plan: &Plan, spec: &Spec) -> Vec<Diagnostic> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let is_known =
        |kind: &str| known.is_empty() || known.lines().any(|line| line.split('\t').next_back() == Some(kind));
    let mut out = Vec::new();
    for step in &plan.init {
        let (Action::Mount(mount), Origin::Config(pointer)) = (&step.action, &step.origin) else { continue };
        let MountKind::New { kind, data, .. } = &mount.what else { continue };
        if !is_known(kind) {
            let msg = format!("this kernel does not know the filesystem {kind:?}, unless a module brings it");
            out.push(Diagnostic { pointer: format!("{pointer}/type"), msg });
            continue;
        }
        // A user who may not open the filesystem gets no answer.
        let Ok(filesystem) = Filesystem::open(kind) else { continue };
        for (key, value) in data {
            if value.as_ref().is_some_and(|value| value.len() > LONGEST_VALUE) {
                continue;
            }
            if let Err(failed) = filesystem.set(key, value.as_deref()) {
                let error = failed
                    .context(format!("cannot mount {kind} on {}", mount.destination))
                    .with_origin(step.origin.clone());
                let pointer = windlass_plan::innermost(&error, spec).unwrap_or_else(|| pointer.to_string());
                out.push(Diagnostic { pointer, msg: error.message().into() });
            }
        }
    }
    out
}
