//! Sysctls, network devices, sockets of service managers, annotations.

use crate::kit::stop::skip;
use crate::kit::{T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

chapter! { "misc":
    pidfd_socket_receives_the_init,
    sysctls_are_written,
    a_sysctl_with_slashes_or_dots_is_the_same,
    a_sysctl_of_a_namespace_not_made_is_refused,
    a_sysctl_outside_every_namespace_is_refused,
    a_sysctl_cannot_leave_proc_sys,
    an_unknown_sysctl_is_an_error,
    a_notify_socket_that_nobody_listens_at_does_not_stop_a_run,
    notify_socket_passes_readiness_on,
    listen_fds_are_passed,
    a_network_device_is_moved_in,
    a_network_device_is_renamed,
    a_missing_network_device_is_an_error,
    net_devices_without_a_network_namespace_are_refused,
    intel_rdt_without_resctrl_is_an_error,
}

fn sysctls_are_written(t: &T) -> Verdict {
    let bundle = t
        .bundle()?
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "1234", "kernel.domainname": "dom"}));
    let ran =
        t.run(&bundle.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni /proc/sys/kernel/domainname"))?;
    ran.ok()?.stdout_is("1\n1234\ndom\n")?;
    Ok(())
}

fn a_sysctl_with_slashes_or_dots_is_the_same(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/linux/sysctl", json!({"net/ipv4/ip_forward": "1"}));
    t.run(&bundle.sh("cat /proc/sys/net/ipv4/ip_forward"))?.ok()?.stdout_is("1\n")?;
    Ok(())
}

fn a_sysctl_of_a_namespace_not_made_is_refused(t: &T) -> Verdict {
    let before = crate::kit::machine::text("/proc/sys/net/ipv4/ip_forward");
    let bundle = t.bundle()?.namespace("network", None).set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    t.run(&bundle)?.code_is(1)?.stderr_has("net.ipv4.ip_forward")?;
    let bundle = t.bundle()?.namespace("ipc", None).set("/linux/sysctl", json!({"kernel.shmmni": "99"}));
    t.run(&bundle)?.code_is(1)?.stderr_has("kernel.shmmni")?;
    ensure_eq!(crate::kit::machine::text("/proc/sys/net/ipv4/ip_forward"), before, "the host's value");
    Ok(())
}

fn a_sysctl_outside_every_namespace_is_refused(t: &T) -> Verdict {
    for name in ["vm.swappiness", "kernel.core_pattern", "fs.file-max"] {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let before = crate::kit::machine::text(&file);
        t.run(&t.bundle()?.set("/linux/sysctl", json!({name: before})))?.code_is(1)?.stderr_has(name)?;
    }
    Ok(())
}

fn a_sysctl_cannot_leave_proc_sys(t: &T) -> Verdict {
    for name in ["net/../../sysrq-trigger", "net/../kernel/core_pattern", "kernel.shm/../core_pattern"] {
        t.run(&t.bundle()?.set("/linux/sysctl", json!({name: "x"})))?.code_is(1)?;
    }
    Ok(())
}

fn an_unknown_sysctl_is_an_error(t: &T) -> Verdict {
    t.run(&t.bundle()?.set("/linux/sysctl", json!({"net.no.such.thing": "1"})))?
        .code_is(1)?
        .stderr_has("no such file or directory")?;
    Ok(())
}

fn notify_socket_passes_readiness_on(t: &T) -> Verdict {
    let path = t.path("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(120)))?;
    // The payload finds the variable, and a datagram from it must arrive at the socket of the case.
    let script = "[ -S \"$NOTIFY_SOCKET\" ] && echo socket; sleep 1000";
    let bundle = t.bundle()?.sh(script);
    bundle.write()?;
    let id = t.id();
    let mut command = t.command();
    command.env("NOTIFY_SOCKET", &path).args(["create", "--bundle"]).arg(&bundle.dir).arg(&id);
    let (ran, container) = t.created(id, &bundle, command)?;
    ran.ok()?;
    // `start` waits for READY=1 of the payload, so it runs in the background.
    let mut command = t.command();
    command.env("NOTIFY_SOCKET", &path).args(["start", &container.id]);
    let mut start = command.spawn()?;
    container.wait_for_output("socket")?;
    let root = format!("/proc/{}/root", container.pid()?);
    let inside = crate::kit::machine::text(format!("/proc/{}/environ", container.pid()?));
    let name = inside.split('\0').find_map(|entry| entry.strip_prefix("NOTIFY_SOCKET=")).unwrap_or_default();
    // The payload may be of any user.
    let mode = std::fs::metadata(format!("{root}{name}"))?.permissions().mode();
    ensure_eq!(mode & 0o222, 0o222, "who may write to the socket: {mode:o}");
    UnixDatagram::unbound()?.send_to(b"READY=1", format!("{root}{name}"))?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer)?;
    let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
    ensure!(message.contains("READY=1") || message.contains("MAINPID="), "the datagram was {message:?}");
    let _ = start.kill();
    start.wait()?;
    Ok(())
}

fn listen_fds_are_passed(t: &T) -> Verdict {
    let bundle = t.bundle()?.helper()?.args(&[
        "/bin/sh",
        "-c",
        "/helper @payload fds; echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES",
    ]);
    bundle.write()?;
    let mut command = std::process::Command::new("/bin/sh");
    command.args([
        "-c",
        "export LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=a:b; exec \"$@\" 3</dev/null 4</dev/null",
        "sh",
    ]);
    command.arg(&t.runtime).arg("--root").arg(t.root()).args(["run", "--bundle"]).arg(&bundle.dir).arg(t.id());
    let ran = t.finish(command)?.ok()?;
    let numbers: Vec<&str> = ran.lines().iter().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    ensure_eq!(numbers[..numbers.len() - 1], ["0", "1", "2", "3", "4"], "descriptors {}", ran.stdout);
    let last = ran.lines().last().copied().unwrap_or_default().to_owned();
    ensure!(last.starts_with("2 1"), "LISTEN_FDS and LISTEN_PID inside: {last:?}");
    Ok(())
}

/// Makes a pair of virtual devices in the harness.
fn veth(t: &T, name: &str) -> Verdict {
    match t.host("ip", &["link", "add", name, "type", "veth", "peer", "name", &format!("{name}p")]) {
        Ok(_) => Ok(()),
        Err(stop) => skip(format!("no veth devices: {stop}")),
    }
}

fn a_network_device_is_moved_in(t: &T) -> Verdict {
    veth(t, "wl0")?;
    t.host("ip", &["addr", "add", "192.0.2.7/24", "dev", "wl0"])?;
    let bundle = t.bundle()?.set("/linux/netDevices", json!({"wl0": {}})).args(&["/bin/ip", "addr", "show", "wl0"]);
    let ran = t.run(&bundle)?;
    let _ = t.host("ip", &["link", "del", "wl0p"]);
    ran.ok()?.stdout_has("192.0.2.7")?;
    Ok(())
}

fn a_network_device_is_renamed(t: &T) -> Verdict {
    veth(t, "wl1")?;
    let bundle = t
        .bundle()?
        .set("/linux/netDevices", json!({"wl1": {"name": "eth7"}}))
        .args(&["/bin/ip", "link", "show", "eth7"]);
    let ran = t.run(&bundle)?;
    let _ = t.host("ip", &["link", "del", "wl1p"]);
    ran.ok()?.stdout_has("eth7")?;
    Ok(())
}

fn a_missing_network_device_is_an_error(t: &T) -> Verdict {
    t.run(&t.bundle()?.set("/linux/netDevices", json!({"nosuchdev": {}})))?.code_is(1)?.stderr_has("nosuchdev")?;
    Ok(())
}

fn net_devices_without_a_network_namespace_are_refused(t: &T) -> Verdict {
    t.run(&t.bundle()?.namespace("network", None).set("/linux/netDevices", json!({"lo": {}})))?.code_is(1)?;
    Ok(())
}

fn intel_rdt_without_resctrl_is_an_error(t: &T) -> Verdict {
    if std::path::Path::new("/sys/fs/resctrl/schemata").exists() {
        return skip("this host has resctrl");
    }
    t.run(&t.bundle()?.set("/linux/intelRdt", json!({"closID": "x", "l3CacheSchema": "L3:0=f"})))?.code_is(1)?;
    Ok(())
}

fn pidfd_socket_receives_the_init(t: &T) -> Verdict {
    let socket = crate::kit::console::FdSocket::new(t.path("pidfd"))?;
    let container = t.create_with(&t.bundle()?, &["--pidfd-socket", socket.arg()])?;
    let (_, fds) = socket.receive()?;
    ensure_eq!(fds.len(), 1, "descriptors");
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&fds[0])))?;
    let pid = crate::kit::machine::field(&info, "Pid");
    ensure_eq!(pid, container.pid()?.to_string(), "the pidfd's process");
    Ok(())
}

fn a_notify_socket_that_nobody_listens_at_does_not_stop_a_run(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("echo ran");
    bundle.write()?;
    let mut command = t.command();
    command.env("NOTIFY_SOCKET", t.path("nobody")).args(["run", "--bundle"]).arg(&bundle.dir).arg(t.id());
    t.finish(command)?.ok()?.stdout_is("ran\n")?;
    Ok(())
}
