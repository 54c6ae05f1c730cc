//! Interfaces moved between network namespaces of the tests' own.
//!
//! Needs root and ip(8); the interfaces are virtual, so the kernel must know veth. Each test runs
//! in a thread that has left the network namespace of the others for a new one, its "host"; the
//! "container" is a process that sleeps in another.

use std::process::{Child, Command, Output, Stdio};

use nix::sched::{CloneFlags, unshare};
use windlass_apply::move_network_devices;
use windlass_base::error::{Error, Kind};

/// A process in a network namespace of its own.
struct Container(Child);

impl Container {
    fn new() -> Container {
        let script = "echo ready; exec sleep 300";
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1)");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Container(child)
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// ip(8) inside.
    fn ip(&self, args: &str) -> String {
        let pid = self.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &pid, "ip"]).args(args.split(' '));
        done(command.output().expect("nsenter(1)"), args)
    }

    fn gets(&self, devices: &[(&str, &str)]) -> Result<(), Error> {
        let devices: Vec<_> = devices.iter().map(|(host, inside)| (host.to_string(), inside.to_string())).collect();
        move_network_devices(&devices, self.pid())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn done(output: Output, what: &str) -> String {
    assert!(output.status.success(), "ip {what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// ip(8) in this thread's network namespace.
fn ip(args: &str) -> String {
    done(Command::new("ip").args(args.split(' ')).output().expect("ip(8)"), args)
}

/// Enters a new network namespace with one pair of interfaces, `v0` and `v1`. Returns false, with the reason on stderr,
/// if that is impossible.
fn host_with_a_pair() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT RUN: network namespaces need root");
        return false;
    }
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
        eprintln!("NOT RUN: no new network namespace: {errno}");
        return false;
    }
    let made = Command::new("ip").args(["link", "add", "v0", "type", "veth", "peer", "name", "v1"]).output();
    match made {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            eprintln!("NOT RUN: no veth: {}", String::from_utf8_lossy(&output.stderr));
            false
        }
        Err(error) => {
            eprintln!("NOT RUN: no ip(8): {error}");
            false
        }
    }
}

/// The words of a line of `ip -o`, which begin with the interface's number.
fn has(text: &str, words: &str) -> bool {
    text.split_whitespace().collect::<Vec<_>>().join(" ").contains(words)
}

#[test]
fn an_interface_arrives_renamed_and_up_with_its_permanent_global_addresses() {
    if !host_with_a_pair() {
        return;
    }
    for args in [
        "link set v0 mtu 1300",
        "link set v0 up",
        "link set v1 up",
        "addr add 10.9.8.7/24 brd + dev v0 label v0:web",
        "addr add 10.9.8.9/24 dev v0",
        "addr add 192.0.2.1 peer 192.0.2.2/32 dev v0 noprefixroute metric 77",
        "addr add fd00:1::7/64 dev v0 nodad",
        "addr add 169.254.3.4/16 dev v0 scope link",
        "addr add 10.9.9.9/24 dev v0 valid_lft 500 preferred_lft 500",
    ] {
        ip(args);
    }
    let container = Container::new();
    container.gets(&[("v0", "net1")]).expect("moved");

    assert!(!ip("-o link").contains("v0"), "{}", ip("-o link"));
    let link = container.ip("-o link show net1");
    assert!(has(&link, "mtu 1300") && link.contains(",UP"), "{link}");
    let addresses = container.ip("-o addr show net1");
    for want in [
        "inet 10.9.8.7/24 brd 10.9.8.255 scope global net1:web",
        "inet 10.9.8.9/24 scope global secondary net1",
        "inet 192.0.2.1 peer 192.0.2.2/32 metric 77 scope global noprefixroute net1",
        "inet6 fd00:1::7/64 scope global nodad",
    ] {
        assert!(has(&addresses, want), "{want:?} is not in\n{addresses}");
    }
    for gone in ["169.254.3.4", "10.9.9.9"] {
        assert!(!addresses.contains(gone), "{gone} is in\n{addresses}");
    }
}

#[test]
fn a_name_that_is_taken_inside_is_refused_before_anything_is_moved() {
    if !host_with_a_pair() {
        return;
    }
    let container = Container::new();
    container.ip("link add taken type veth peer name other");
    let error = container.gets(&[("v0", "fine"), ("v1", "taken")]).expect_err("the name is taken");
    assert_eq!(error.kind(), Kind::InvalidConfig);
    assert_eq!(error.origin().map(ToString::to_string).as_deref(), Some("/linux/netDevices/v1"));
    assert!(error.message().contains("an interface \"taken\" already"), "{error}");
    assert!(has(&ip("-o link"), "v0@v1") && !container.ip("-o link").contains("fine"));
}

#[test]
fn an_interface_that_does_not_exist_is_named_before_anything_is_moved() {
    if !host_with_a_pair() {
        return;
    }
    let container = Container::new();
    let error = container.gets(&[("v0", "v0"), ("eth9/x", "e")]).expect_err("there is no eth9/x");
    assert_eq!(error.errno(), Some(nix::errno::Errno::ENODEV));
    assert_eq!(error.origin().map(ToString::to_string).as_deref(), Some("/linux/netDevices/eth9~1x"));
    assert!(has(&ip("-o link"), "v0@v1"));
}

#[test]
fn when_the_last_interface_cannot_be_moved_the_others_come_back_as_they_were() {
    if !host_with_a_pair() {
        return;
    }
    for args in
        ["link set v0 up", "link set v1 up", "addr add 10.9.8.7/24 dev v0", "addr add 169.254.3.4/16 dev v0 scope link"]
    {
        ip(args);
    }
    let container = Container::new();
    let error = container.gets(&[("v0", "net1"), ("v1", "net2"), ("lo", "lo9")]).expect_err("lo stays where it is");
    assert_eq!(error.errno(), Some(nix::errno::Errno::EINVAL), "{:?}", error.call());
    assert_eq!(error.origin().map(ToString::to_string).as_deref(), Some("/linux/netDevices/lo"));
    let host = ip("-o addr show v0");
    assert!(
        has(&host, "inet 10.9.8.7/24 scope global v0") && has(&host, "inet 169.254.3.4/16 scope link v0"),
        "{host}"
    );
    assert!(ip("-o link show v0").contains(",UP"));
    assert_eq!(container.ip("-o link").lines().filter(|line| line.contains("veth") || line.contains("net")).count(), 0);
}

#[test]
fn the_kernel_fills_in_the_number_of_a_template() {
    if !host_with_a_pair() {
        return;
    }
    let container = Container::new();
    container.ip("link add eth0 type veth peer name other");
    ip("addr add 10.9.8.7/24 dev v1");
    container.gets(&[("v0", "eth%d"), ("v1", "eth%d")]).expect("moved");
    assert!(container.ip("-o link show eth1").contains(",UP"));
    assert!(has(&container.ip("-o addr show eth2"), "inet 10.9.8.7/24 scope global eth2"));
}

#[test]
fn names_and_numbers_of_the_host_may_be_taken_inside() {
    if !host_with_a_pair() {
        return;
    }
    // The interfaces have the same names, and the same numbers, since they are the first two after lo.
    let container = Container::new();
    container.ip("link add v1 type veth peer name v0");
    ip("addr add 10.9.8.7/24 dev v0");
    container.gets(&[("v0", "net1"), ("v1", "net2")]).expect("moved");
    assert!(has(&container.ip("-o addr show net1"), "inet 10.9.8.7/24 scope global net1"));
    assert!(container.ip("-o link show net2").contains(",UP"));
    assert!(has(&container.ip("-o link"), "v0@v1"));
}

#[test]
fn an_interface_is_not_moved_to_where_it_is() {
    if !host_with_a_pair() {
        return;
    }
    let devices = [("v0".to_string(), "net1".to_string())];
    // The thread stands for the container, because the main thread is in another network namespace.
    let error = move_network_devices(&devices, nix::unistd::gettid().as_raw()).expect_err("the same namespace");
    assert_eq!(error.origin().map(ToString::to_string).as_deref(), Some("/linux/netDevices"));
    assert!(has(&ip("-o link"), "v0@v1"));
}
