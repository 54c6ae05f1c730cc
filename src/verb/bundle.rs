//! A bundle that was read. It is planned, and when a step fails, all its other faults are reported, too.

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use windlass_base::error::{Diagnostic, Error, Kind, Origin, Result, WithContext};
use windlass_base::spec::{self, Mount, Namespace, Spec};
use windlass_cgroup as cgroup;
use windlass_plan::{self as plan, Options, Plan, RootPath};
use windlass_sys::{fd, process};

use super::host_check;

/// A bundle that was read. Its directory is the current one.
pub(super) struct Bundle {
    pub path: PathBuf,
    /// The text of config.json.
    pub text: Vec<u8>,
    pub spec: Spec,
    /// Members that cannot be read. If there is one, there is no plan.
    pub faults: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
}

impl Bundle {
    /// Reads a bundle, and makes its directory the current one. `config` replaces its config.json.
    pub(super) fn read(bundle: &Path, config: Option<&Path>) -> Result<Bundle> {
        let config = config.map(absolute).transpose()?;
        let origin = |error: Error| error.with_origin(Origin::Flag("--bundle".into()));
        process::change_directory(bundle)
            .with_context(|| format!("cannot enter the bundle {bundle:?}"))
            .map_err(origin)?;
        let path = std::env::current_dir().with_context(|| "cannot find out where the bundle is")?;
        let text = read_config(&path, config.as_deref())?;
        let spec::Read { value: spec, faults, warnings } = spec::read(&text, "config.json")?;
        Ok(Bundle { path, text, spec, faults, warnings })
    }

    /// Adds to the options what planning needs to know for this configuration.
    pub(super) fn prepare(&self, options: &mut Options) -> Result<()> {
        let path = self.spec.root.as_ref().map(|root| self.path.join(&root.path));
        let path = path.as_ref().and_then(|path| RootPath::new(path.to_str()?));
        options.root_on_host = path.filter(|path| !path.is_root());
        let labelled = self.spec.linux.as_ref().is_some_and(|linux| !linux.mount_label.is_empty());
        options.host.selinux = labelled && host_check::selinux();
        let is_cgroup = |mount: &Mount| matches!(mount.kind.as_str(), "cgroup" | "cgroup2");
        let is_own = |namespace: &Namespace| namespace.kind == "cgroup" && namespace.path.is_empty();
        let namespaces = self.spec.linux.iter().flat_map(|linux| &linux.namespaces);
        if self.spec.mounts.iter().any(is_cgroup) && !namespaces.into_iter().any(is_own) {
            options.host.cgroup2 = cgroup::options_of_cgroup2()?;
        }
        Ok(())
    }

    /// Plans `create`. The error has all members that cannot be read, and the faults that planning finds in the others.
    pub(super) fn plan(&self, id: &str, options: &Options) -> Result<Plan> {
        let planned = plan::create(id, &self.spec, options);
        if self.faults.is_empty() {
            let mut plan = planned?;
            plan.warnings.splice(0..0, self.warnings.iter().cloned());
            return Ok(plan);
        }
        let mut all = self.faults.clone();
        let of_namespaces =
            |fault: &Diagnostic| NAMESPACES.starts_with(&fault.pointer) || is_below(&fault.pointer, NAMESPACES);
        // The meaning of other members depends on the namespaces.
        if !all.iter().any(of_namespaces) {
            let found = planned.err().map(Error::into_faults).unwrap_or_default();
            all.extend(found.into_iter().filter(|fault| !follows(fault, &self.faults)));
        }
        Err(Error::faults(all))
    }

    /// Completes a failure to make the container. Names the innermost member that caused it, and all other elements of
    /// the configuration that this host does not have.
    pub(super) fn explain(&self, error: Error) -> Error {
        if !matches!(error.origin(), Some(Origin::Config(_))) {
            return error;
        }
        let error = match plan::innermost(&error, &self.spec) {
            Some(pointer) => error.blame(Origin::config(pointer)),
            None => error,
        };
        let (root, others): (Vec<Diagnostic>, Vec<Diagnostic>) =
            host_check::faults(&self.spec).into_iter().partition(|fault| fault.pointer == "/root/path");
        let asked = error.origin().map(Origin::to_string).unwrap_or_default();
        let others =
            others.into_iter().filter(|fault| fault.pointer != asked && !is_below(&asked, &fault.pointer)).collect();
        match root.into_iter().next() {
            // Without a root later steps fail too, with messages about something else.
            Some(root) if asked != root.pointer => {
                Error::config(root.pointer, root.msg).with_kind(Kind::InvalidConfig).and_faults(others)
            }
            _ => error.and_faults(others),
        }
    }
}

/// An absolute path for a relative one of the command line: the current directory is about to change.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot find out where {path:?} is"))
}

/// The text of config.json in the current directory, or of the file of `--config`.
fn read_config(bundle: &Path, config: Option<&Path>) -> Result<Vec<u8>> {
    let path = config.unwrap_or(Path::new("config.json"));
    fd::document(path).map_err(|failed| {
        let missing = failed.errno == Errno::ENOENT;
        let asked = if config.is_some() { "--config" } else { "--bundle" };
        let error = failed
            .context(format!("JSON specification file {} not found", path.display()))
            .with_origin(Origin::Flag(asked.into()))
            .with_step(format!("runtime: read the bundle {bundle:?}"));
        match (missing, config) {
            (true, None) => error
                .with_kind(Kind::NotFound)
                .with_hint("a bundle is a directory with a config.json: `windlass spec` writes one"),
            (true, Some(_)) => error.with_kind(Kind::NotFound),
            (false, _) => error,
        }
    })
}

const NAMESPACES: &str = "/linux/namespaces";

/// Whether `pointer` names a member below `other`.
fn is_below(pointer: &str, other: &str) -> bool {
    pointer.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a fault only follows from a member that could not be read and so counts as absent.
fn follows(fault: &Diagnostic, unread: &[Diagnostic]) -> bool {
    unread.iter().any(|other| {
        fault.pointer == other.pointer
            || is_below(&fault.pointer, &other.pointer)
            || is_below(&other.pointer, &fault.pointer)
    })
}
