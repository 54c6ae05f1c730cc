//! Hooks: their place among the steps, and their faults.

use windlass_base::namespaces::Namespaces;
use windlass_base::spec::{Linux, Spec};

use crate::builder::PlanBuilder;
use crate::step::Action;
use crate::topology::Topology;

/// Adds the hooks that run before the pivot and the network interfaces that they may look for, and reports the faults
/// of all hooks.
pub(crate) fn hooks(spec: &Spec, topology: &Topology, linux: &Linux, builder: &mut PlanBuilder) {
    if !linux.net_devices.is_empty() && topology.has(Namespaces::NET) {
        builder.config("/linux/netDevices", Action::NetDevices);
    }
    let Some(hooks) = &spec.hooks else { return };
    for (name, list) in hooks.all() {
        for (index, hook) in list.iter().enumerate() {
            let pointer = format!("/hooks/{name}/{index}");
            if hook.path.is_empty() {
                builder.fault(format!("{pointer}/path"), "a hook needs a path");
            } else if !hook.path.starts_with('/') {
                builder.fault(format!("{pointer}/path"), format!("hook path {:?} is not absolute", hook.path));
            }
            if hook.timeout.is_some_and(|seconds| seconds <= 0) {
                builder.fault(format!("{pointer}/timeout"), "a hook's timeout must be more than 0 seconds");
            }
        }
    }
    if !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty() {
        let name = if hooks.prestart.is_empty() { "/hooks/createRuntime" } else { "/hooks/prestart" };
        builder.config(name, Action::RuntimeHooks);
    }
    if !hooks.create_container.is_empty() {
        builder.config("/hooks/createContainer", Action::CreateContainerHooks);
    }
}
