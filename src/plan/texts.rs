//! NUL bytes in a configuration.
//!
//! The kernel's strings end at a NUL byte, so a text with one would be cut, or refused when half of the container
//! exists.

use windlass_base::spec::{Hooks, Mount, Spec, escape};

use crate::builder::PlanBuilder;

/// Finds NUL bytes in the texts for the kernel that are not checked elsewhere.
pub(crate) fn without_nul(spec: &Spec, builder: &mut PlanBuilder) {
    let mut check = |pointer: String, text: &str| {
        if text.contains('\0') {
            builder.fault(pointer, format!("{text:?} has a NUL byte"));
        }
    };
    check("/hostname".into(), &spec.hostname);
    check("/domainname".into(), &spec.domainname);
    if let Some(root) = &spec.root {
        check("/root/path".into(), &root.path);
    }
    if let Some(process) = &spec.process {
        check("/process/cwd".into(), &process.cwd);
        check("/process/apparmorProfile".into(), &process.apparmor_profile);
        check("/process/selinuxLabel".into(), &process.selinux_label);
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        of_mount(index, mount, &mut check);
    }
    if let Some(hooks) = &spec.hooks {
        of_hooks(hooks, &mut check);
    }
    let Some(linux) = &spec.linux else { return };
    check("/linux/mountLabel".into(), &linux.mount_label);
    check("/linux/cgroupsPath".into(), &linux.cgroups_path);
    for (index, namespace) in linux.namespaces.iter().enumerate() {
        check(format!("/linux/namespaces/{index}/path"), &namespace.path);
    }
    for (key, value) in &linux.sysctl {
        check(format!("/linux/sysctl/{}", escape(key)), key);
        check(format!("/linux/sysctl/{}", escape(key)), value);
    }
    for (host, device) in &linux.net_devices {
        check(format!("/linux/netDevices/{}", escape(host)), host);
        check(format!("/linux/netDevices/{}/name", escape(host)), &device.name);
    }
}

fn of_mount(index: usize, mount: &Mount, check: &mut impl FnMut(String, &str)) {
    check(format!("/mounts/{index}/source"), &mount.source);
    check(format!("/mounts/{index}/type"), &mount.kind);
    for (option, text) in mount.options.iter().enumerate() {
        check(format!("/mounts/{index}/options/{option}"), text);
    }
}

fn of_hooks(hooks: &Hooks, check: &mut impl FnMut(String, &str)) {
    for (name, list) in hooks.all() {
        for (index, hook) in list.iter().enumerate() {
            check(format!("/hooks/{name}/{index}/path"), &hook.path);
            for (list, texts) in [("args", &hook.args), ("env", &hook.env)] {
                for (at, text) in texts.iter().enumerate() {
                    check(format!("/hooks/{name}/{index}/{list}/{at}"), text);
                }
            }
        }
    }
}
