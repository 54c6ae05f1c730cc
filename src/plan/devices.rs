//! Device nodes: the default ones of every container, and the nodes of the configuration.

use windlass_base::error::Diagnostic;
use windlass_base::mount::{MountAttributes, Propagation, PropagationChange};
use windlass_base::spec::{Device, Spec};

use crate::builder::{PlanBuilder, unknown};
use crate::inputs::Inputs;
use crate::mount::{Node, Source};
use crate::path::RootPath;
use crate::step::Action;

/// Whether `/dev` comes from the host with its nodes. Every devtmpfs is the host's.
fn directory_is_hosts(spec: &Spec, root_on_host: Option<&RootPath>) -> bool {
    spec.mounts.iter().any(|mount| {
        let path = RootPath::new(&mount.destination)
            .map(|path| root_on_host.and_then(|root| path.without(root)).unwrap_or(path));
        (mount.is_bind() || mount.kind == "devtmpfs") && path.is_some_and(|path| path.is("/dev"))
    })
}

/// The devices that the specification promises (config-linux.md, "Default Devices").
const DEFAULT_DEVICES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The flags of a bound node's mount, since the container's user may own a node of the host.
pub const BOUND: MountAttributes = MountAttributes::NOSUID.union(MountAttributes::NOEXEC);

/// Adds the nodes. In a user namespace they are bound, since nobody in it can make them. A `/dev` that comes
/// from the host has its own nodes and is left alone.
pub(crate) fn devices(inputs: Inputs<'_>, bind_nodes: bool, builder: &mut PlanBuilder) {
    let Inputs { spec, linux, options, .. } = inputs;
    let hosts = directory_is_hosts(spec, options.root_on_host.as_ref());
    let mut wanted: Vec<(String, Node)> = Vec::new();
    for (name, major, minor) in DEFAULT_DEVICES.iter().filter(|_| !hosts) {
        let path = RootPath::new(&format!("/dev/{name}")).expect("no NUL");
        if linux.devices.iter().any(|device| RootPath::new(&device.path).as_ref() == Some(&path)) {
            continue;
        }
        let node = Node { path, mode: 0o020_666, major: *major, minor: *minor, uid: 0, gid: 0, source: None };
        wanted.push((String::new(), node));
    }
    for (index, device) in linux.devices.iter().enumerate() {
        let pointer = format!("/linux/devices/{index}");
        match node(device) {
            Ok(node) if hosts && node.path.is_below("/dev") => {
                builder.warn(pointer, format!("{} is not made: /dev is the host's", node.path));
            }
            Ok(node) => wanted.push((pointer, node)),
            Err(fault) => {
                builder.faults.push(Diagnostic { pointer: format!("{pointer}{}", fault.pointer), msg: fault.msg })
            }
        }
    }
    for (pointer, mut node) in wanted {
        let named = if pointer.is_empty() { "/linux/devices".to_string() } else { pointer.clone() };
        if bind_nodes && node.mode & 0o170_000 != 0o010_000 {
            node.source = Some(builder.source(Source {
                path: node.path.to_string(),
                pointer: named,
                target: node.path.to_string(),
                set: BOUND,
                propagation: vec![PropagationChange::of_mount(Propagation::Private)],
                device: Some(Box::new(node.clone())),
                ..Source::default()
            }));
        }
        match pointer.is_empty() {
            true => builder.always("every container has this device", Action::Node(node)),
            false => builder.config(pointer, Action::Node(node)),
        }
    }
    if !hosts {
        builder.always("programs expect these links in /dev", Action::DevLinks);
    }
}

fn node(device: &Device) -> Result<Node, Diagnostic> {
    let fault = |field: &str, msg: String| Diagnostic { pointer: field.into(), msg };
    let path = RootPath::new(&device.path).filter(|path| device.path.starts_with('/') && !path.is_root()).ok_or_else(
        || match device.path.as_str() {
            "" => fault("/path", "a device needs a path".into()),
            path => fault("/path", format!("device path {path:?} is not an absolute path below the root")),
        },
    )?;
    let kind = match device.kind.as_str() {
        "c" | "u" => 0o020_000,
        "b" => 0o060_000,
        "p" => 0o010_000,
        other => {
            return Err(fault("/type", unknown("device type", other) + ": it must be one of b, c, u and p"));
        }
    };
    // The kernel has 12 bits for the major and 20 for the minor number (linux/kdev_t.h). It would truncate larger
    // numbers, and the node would be another device's.
    let number = |field: &str, value: Option<i64>, bits: u32| match value {
        None if kind == 0o010_000 => Ok(0),
        None => Err(fault(field, "a device needs its numbers, unless it is a fifo".into())),
        Some(value) => u32::try_from(value)
            .ok()
            .filter(|number| number >> bits == 0)
            .ok_or_else(|| fault(field, format!("device number {value} is out of range: it has {bits} bits"))),
    };
    Ok(Node {
        path,
        // A set-user-id bit means nothing on a device.
        mode: kind | device.file_mode.unwrap_or(0o666) & 0o777,
        major: number("/major", device.major, 12)?,
        minor: number("/minor", device.minor, 20)?,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::node;
    use windlass_base::spec::Device;

    #[test]
    fn a_node_has_permissions_and_no_set_user_id_bit() {
        let device = Device { path: "/dev/x".into(), kind: "p".into(), file_mode: Some(0o4751), ..Device::default() };
        assert_eq!(node(&device).expect("a valid device").mode, 0o010_751);
        let device = Device { file_mode: None, ..device };
        assert_eq!(node(&device).expect("a valid device").mode, 0o010_666);
    }
}
