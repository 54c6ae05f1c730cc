//! Plans a bundle, and completes a failure by everything else that is wrong with the bundle.

use windlass_base::error::{Error, Fault, Kind, Origin, Result};
use windlass_base::spec::{Mount, Namespace};
use windlass_cgroup as cgroup;
use windlass_plan::{self as plan, Options, Plan, RootPath};

use super::create::Read;
use super::lacking;

impl Read {
    /// Adds what planning needs to know for this configuration.
    pub(super) fn prepare(&self, options: &mut Options) -> Result<()> {
        let path = self.spec.root.as_ref().map(|root| self.bundle.join(&root.path));
        let path = path.as_ref().and_then(|path| RootPath::new(path.to_str()?));
        options.root_on_host = path.filter(|path| !path.is_root());
        let labelled = self.spec.linux.as_ref().is_some_and(|linux| !linux.mount_label.is_empty());
        options.host.selinux = labelled && lacking::selinux();
        let cgroups = |mount: &Mount| matches!(mount.kind.as_str(), "cgroup" | "cgroup2");
        let own = |namespace: &Namespace| namespace.kind == "cgroup" && namespace.path.is_empty();
        let namespaces = self.spec.linux.iter().flat_map(|linux| &linux.namespaces);
        if self.spec.mounts.iter().any(cgroups) && !namespaces.into_iter().any(own) {
            options.host.cgroup2 = cgroup::options_of_cgroup2()?;
        }
        Ok(())
    }

    /// Plans `create`. An error has what is wrong with the types of the configuration, and what
    /// planning finds in the rest of it.
    pub(super) fn plan(&self, id: &str, options: &Options) -> Result<Plan> {
        let planned = plan::create(id, &self.spec, options);
        if self.faults.is_empty() {
            let mut plan = planned?;
            plan.warnings.splice(0..0, self.warnings.iter().cloned());
            return Ok(plan);
        }
        let mut all = self.faults.clone();
        // The rest cannot be judged where the namespaces are not known.
        if !all.iter().any(|fault| "/linux/namespaces".starts_with(&fault.pointer) || below(&fault.pointer, NAMESPACES))
        {
            let found = planned.err().map(Error::into_faults).unwrap_or_default();
            all.extend(found.into_iter().filter(|fault| !follows(fault, &self.faults)));
        }
        Err(Error::faults(all))
    }

    /// Completes a failure to make the container: by the innermost member that is to blame, and by everything else
    /// in the configuration that this host lacks.
    pub(super) fn explain(&self, error: Error) -> Error {
        if !matches!(error.asked_by(), Some(Origin::Config(_))) {
            return error;
        }
        let error = match plan::innermost(&error, &self.spec) {
            Some(pointer) => error.blame(Origin::config(pointer)),
            None => error,
        };
        let (root, others): (Vec<Fault>, Vec<Fault>) =
            lacking::faults(&self.spec).into_iter().partition(|fault| fault.pointer == "/root/path");
        let asked = error.asked_by().map(Origin::to_string).unwrap_or_default();
        let others =
            others.into_iter().filter(|fault| fault.pointer != asked && !below(&asked, &fault.pointer)).collect();
        match root.into_iter().next() {
            // Later steps fail because of it, with messages about something else.
            Some(root) if asked != root.pointer => {
                Error::config(root.pointer, root.msg).kind_is(Kind::InvalidConfig).and_faults(others)
            }
            _ => error.and_faults(others),
        }
    }
}

const NAMESPACES: &str = "/linux/namespaces";

/// Whether `pointer` is that of an element below `other`.
fn below(pointer: &str, other: &str) -> bool {
    pointer.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a fault only follows from an element that could not be read and so counts as absent.
fn follows(fault: &Fault, unread: &[Fault]) -> bool {
    unread.iter().any(|other| {
        fault.pointer == other.pointer || below(&fault.pointer, &other.pointer) || below(&other.pointer, &fault.pointer)
    })
}
