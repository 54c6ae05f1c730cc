//! Network interfaces of the host that the container gets (config-linux.md, "Network Devices").
//!
//! Each interface is moved while init waits in its network namespace, with its permanent addresses of global scope, and
//! is up when init continues. Addresses of other kinds and routes, which the kernel drops with a move, stay dropped.
//! The runtime does nothing about an interface afterwards: when the container's network namespace ends, the kernel
//! gives a physical interface back to the first network namespace of the host, under the name that it had in the
//! container, and removes a virtual one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_sys::netlink::{Address, Link, Netlink};
use windlass_sys::{fd, process};

/// `IFA_RT_PRIORITY` and `IFA_PROTO` of linux/if_addr.h, which libc does not have.
const IFA_RT_PRIORITY: u16 = 9;
const IFA_PROTO: u16 = 11;

/// The attributes of an address that can be set again.
const KEPT_ATTRIBUTES: [u16; 7] = [
    libc::IFA_ADDRESS,
    libc::IFA_LOCAL,
    libc::IFA_LABEL,
    libc::IFA_BROADCAST,
    libc::IFA_CACHEINFO,
    IFA_RT_PRIORITY,
    IFA_PROTO,
];

/// The flags that the administrator sets. The kernel sets the others itself.
const KEPT_FLAGS: u32 = libc::IFA_F_NODAD
    | libc::IFA_F_HOMEADDRESS
    | libc::IFA_F_MANAGETEMPADDR
    | libc::IFA_F_NOPREFIXROUTE
    | libc::IFA_F_MCAUTOJOIN;

/// Moves interfaces (name on the host, name inside) into the network namespace of the process
/// `pid`. A `%d` in the name inside stands for a number that the kernel chooses.
///
/// Nothing is moved before all interfaces are known to exist and all names inside to be free. If
/// one cannot be moved, those that were are moved back, with their addresses; a failure of that is
/// logged.
pub fn move_all(devices: &[(String, String)], pid: i32) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let mut ends = Ends::open(pid).map_err(|error| error.with_origin(Origin::config("/linux/netDevices")))?;
    let mut all = Vec::with_capacity(devices.len());
    for (host, inside) in devices {
        all.push(ends.find(host, inside).map_err(|error| of(error, host))?);
    }
    let mut moved: Vec<(&Device<'_>, u32)> = Vec::new();
    for (number, device) in all.iter().enumerate() {
        let failure = match ends.move_in(device, number) {
            Ok(index) => {
                moved.push((device, index));
                ends.make_usable(device, index).err()
            }
            Err(error) => Some(error),
        };
        if let Some(error) = failure {
            for (device, index) in moved.into_iter().rev() {
                ends.move_back(device, index);
            }
            return Err(of(error, device.host));
        }
    }
    Ok(())
}

fn of(error: Error, host: &str) -> Error {
    error.with_origin(Origin::Config(format!("/linux/netDevices/{}", windlass_base::spec::escape(host)).into()))
}

/// An interface to be moved, as it was on the host.
struct Device<'a> {
    host: &'a str,
    inside: &'a str,
    link: Link,
    /// Its permanent addresses.
    addresses: Vec<Address>,
    /// Whether the container has an interface of the name on the host.
    host_name_taken: bool,
}

/// The two network namespaces.
struct Ends {
    host: Netlink,
    container: Netlink,
    host_namespace: OwnedFd,
    container_namespace: OwnedFd,
}

impl Ends {
    fn open(pid: i32) -> Result<Ends> {
        let context = || "cannot open the container's network namespace";
        // A namespace is a thread's, so /proc/self could be wrong.
        let host_namespace = fd::open("/proc/thread-self/ns/net", OFlag::O_RDONLY).with_context(context)?;
        let container_namespace = fd::open(format!("/proc/{pid}/ns/net"), OFlag::O_RDONLY).with_context(context)?;
        let [ours, theirs] = [&host_namespace, &container_namespace].map(|namespace| fd::stat(namespace.as_fd()));
        let (ours, theirs) = (ours.with_context(context)?, theirs.with_context(context)?);
        if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino) {
            let msg = "unable to move network devices: the container is in the runtime's own network namespace";
            return Err(Error::new(Kind::InvalidConfig, msg));
        }
        Ok(Ends {
            host: Netlink::open().with_context(|| "cannot open a socket for network devices")?,
            container: open_in(container_namespace.as_fd(), host_namespace.as_fd())?,
            host_namespace,
            container_namespace,
        })
    }

    /// Finds the interface, and verifies that its name in the container is free.
    fn find<'a>(&mut self, host: &'a str, inside: &'a str) -> Result<Device<'a>> {
        let context = || format!("cannot find network device {host:?}");
        let link = self.host.link_by_name(host).with_context(context)?;
        let mut addresses = self.host.addresses(link.index).with_context(context)?;
        addresses.retain(|address| address.flags & libc::IFA_F_PERMANENT != 0);
        if !inside.contains('%') && self.is_taken(inside)? {
            let msg = format!(
                "cannot move network device {host:?} into the container: it has an interface {inside:?} already"
            );
            return Err(Error::new(Kind::InvalidConfig, msg).with_hint("give the device another name with \"name\""));
        }
        let host_name_taken = self.is_taken(&link.name)?;
        Ok(Device { host, inside, link, addresses, host_name_taken })
    }

    fn is_taken(&mut self, name: &str) -> Result<bool> {
        match self.container.link_by_name(name) {
            Ok(_) => Ok(true),
            Err(failed) if failed.errno == Errno::ENODEV => Ok(false),
            Err(failed) => Err(failed.context("cannot look at the container's network devices")),
        }
    }

    /// Moves the interface in under its new name; returns its index there.
    fn move_in(&mut self, device: &Device<'_>, number: usize) -> Result<u32> {
        let context =
            || format!("cannot move network device {:?} into the container as {:?}", device.host, device.inside);
        // The kernel chooses the name for a template, and the index may change with the move. So the interface arrives
        // under a name that we know, by which its new index is found, and is renamed then.
        let template = device.inside.contains('%');
        let arrival = if template { format!("wl{:x}.{number}", std::process::id()) } else { device.inside.to_string() };
        let namespace = self.container_namespace.as_fd();
        let moved = self.host.move_link(device.link.index, namespace, &arrival);
        let index = match moved.and_then(|()| self.container.link_by_name(&arrival)) {
            Ok(link) => link.index,
            Err(failed) => {
                // The kernel moves first and renames second.
                if self.host.link_by_index(device.link.index).is_err() {
                    self.move_back_from(device, &[&arrival, &device.link.name]);
                }
                return Err(failed.context(context()));
            }
        };
        if template && let Err(failed) = self.container.rename(index, device.inside) {
            self.move_back(device, index);
            return Err(failed.context(context()));
        }
        Ok(index)
    }

    /// Gives the moved interface its addresses and sets it up.
    fn make_usable(&mut self, device: &Device<'_>, index: u32) -> Result<()> {
        let context = || format!("cannot find network device {:?} in the container", device.host);
        let name = self.container.link_by_index(index).with_context(context)?.name;
        for address in device.addresses.iter().filter(|address| address.scope == libc::RT_SCOPE_UNIVERSE) {
            let again = again(address, &device.link.name, &name);
            self.container.add_address(index, &again).with_context(|| {
                format!("cannot give network device {:?} its address {address} in the container", device.host)
            })?;
        }
        self.container
            .set_up(index)
            .with_context(|| format!("cannot set network device {:?} up in the container", device.host))
    }

    /// Moves back what arrived under one of these names.
    fn move_back_from(&mut self, device: &Device<'_>, names: &[&str]) {
        for name in names {
            // An interface that was there before is not ours to move.
            if *name == device.link.name && device.host_name_taken {
                continue;
            }
            if let Ok(link) = self.container.link_by_name(name) {
                return self.move_back(device, link.index);
            }
        }
        ::log::warn!("network device {:?} is lost in the container", device.host);
    }

    /// Undoes a move, as far as the kernel allows it.
    fn move_back(&mut self, device: &Device<'_>, index: u32) {
        if let Err(failed) = self.restore(device, index) {
            ::log::warn!("cannot bring network device {:?} back from the container: {failed}", device.host);
        }
    }

    fn restore(&mut self, device: &Device<'_>, index: u32) -> windlass_sys::Result<()> {
        self.container.move_link(index, self.host_namespace.as_fd(), &device.link.name)?;
        let index = self.host.link_by_name(&device.link.name)?.index;
        for address in &device.addresses {
            match self.host.add_address(index, &again(address, "", "")) {
                // The kernel has added some addresses itself.
                Err(failed) if failed.errno != Errno::EEXIST => return Err(failed),
                _ => {}
            }
        }
        if device.link.up { self.host.set_up(index) } else { Ok(()) }
    }
}

/// A connection to `namespace`. This thread enters it for the opening, and returns to `own`.
fn open_in(namespace: BorrowedFd<'_>, own: BorrowedFd<'_>) -> Result<Netlink> {
    process::setns(namespace, Namespaces::NET).with_context(|| "cannot enter the container's network namespace")?;
    let opened = Netlink::open();
    if let Err(failed) = process::setns(own, Namespaces::NET) {
        process::cannot_leave("the container's network", &failed);
    }
    opened.with_context(|| "cannot open a socket for the container's network devices")
}

/// The address as it is set again on the interface, whose name was `old` and is `new`.
fn again(address: &Address, old: &str, new: &str) -> Address {
    let mut again = address.clone();
    again.flags &= KEPT_FLAGS;
    again.attributes.retain(|(kind, _)| KEPT_ATTRIBUTES.contains(kind));
    for (kind, value) in &mut again.attributes {
        if *kind == libc::IFA_LABEL {
            *value = relabelled(value, old, new).unwrap_or_else(|| value.clone());
        }
    }
    again
}

/// Changes a label with the name of its interface, with which it begins. Returns `None` if it does not begin so, or
/// would become too long.
fn relabelled(label: &[u8], old: &str, new: &str) -> Option<Vec<u8>> {
    let rest = label.strip_prefix(old.as_bytes())?;
    // The name alone, or the name with an alias.
    if !matches!(rest.first(), None | Some(0 | b':')) {
        return None;
    }
    let label = [new.as_bytes(), rest].concat();
    (label.len() <= libc::IFNAMSIZ).then_some(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(flags: u32, attributes: Vec<(u16, Vec<u8>)>) -> Address {
        Address { family: libc::AF_INET as u8, prefix: 24, scope: 0, flags, attributes }
    }

    #[test]
    fn an_address_loses_what_only_the_kernel_can_say() {
        let flags = libc::IFA_F_PERMANENT | libc::IFA_F_SECONDARY | libc::IFA_F_TENTATIVE | libc::IFA_F_NOPREFIXROUTE;
        let before = address(flags, vec![(libc::IFA_LOCAL, vec![10, 0, 0, 1]), (libc::IFA_MULTICAST, vec![1; 4])]);
        let after = again(&before, "eth0", "net1");
        assert_eq!(after, address(libc::IFA_F_NOPREFIXROUTE, vec![(libc::IFA_LOCAL, vec![10, 0, 0, 1])]));
    }

    #[test]
    fn a_label_follows_the_interfaces_name() {
        for (label, want) in [
            (&b"eth0\0"[..], Some(&b"net1\0"[..])),
            (b"eth0:web\0", Some(b"net1:web\0")),
            (b"eth01\0", None),
            (b"uplink\0", None),
            (b"eth0", Some(b"net1")),
        ] {
            assert_eq!(relabelled(label, "eth0", "net1").as_deref(), want, "{label:?}");
        }
        assert_eq!(relabelled(b"eth0:alias123\0", "eth0", "long-name0"), None);
    }

    #[test]
    fn no_devices_need_no_namespace() {
        assert_eq!(move_all(&[], -1), Ok(()));
    }
}
