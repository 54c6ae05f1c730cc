//! Pods and containers as a kubelet requests them. A container of the plugin always has limits, so that every case
//! needs the controllers.

use crate::case::chapter;
use crate::cri::stream::{INPUT, SIZE, Stream};
use crate::cri::{Client, Pod};
use crate::engine::start_containerd;
use crate::session::{Session, until};
use integration::kit::stop::{Context, skip};
use integration::kit::{Need, Verdict};
use integration::{ensure, ensure_eq};
use k8s_cri::v1::{
    AttachRequest, ContainerConfig, ContainerState, ContainerStatsRequest, ExecRequest, IdMapping,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PortForwardRequest, RemoveContainerRequest, StopContainerRequest,
    UpdateContainerResourcesRequest, UserNamespace,
};
use nix::sys::signal::Signal;
use std::fs;
use tonic::Code;

/// The need of every container of the plugin.
pub(super) const CPU: Need = Need::Controller("cpu");
/// The need of a container with a limit of memory.
pub(super) const MEMORY: Need = Need::Controller("memory");

chapter! { [Cri] "pods":
    a_container_lives_and_ends_in_its_pod [CPU],
    exec_sync_returns_output_and_code [CPU],
    exec_sync_ends_at_its_time [CPU],
    exec_sync_output_is_capped [CPU],
    logs_are_lines_with_time_stream_and_tag [CPU],
    containers_of_a_pod_share_its_namespaces [CPU],
    namespaces_of_the_host_are_used_when_told [CPU],
    a_pod_has_a_user_namespace_of_its_own [CPU],
    exec_streams_and_resizes_a_terminal [CPU],
    attach_reaches_the_first_process [CPU],
    port_forward_reaches_the_pod [CPU],
    stats_are_measured [MEMORY],
    update_changes_the_limits [MEMORY, CPU],
    a_kill_for_want_of_memory_is_told [MEMORY],
    pods_outlive_a_kill_of_the_daemon [CPU],
}

/// A connection and a pod.
pub(super) fn pod(s: &Session, change: impl FnOnce(&mut PodSandboxConfig)) -> Verdict<(Client, Pod)> {
    let client = Client::connect()?;
    let pod = client.pod(&s.name(), &s.scratch()?, change)?;
    Ok((client, pod))
}

/// A script that waits for SIGTERM.
pub(super) const WAIT: &str = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.2; done";

/// Changes nothing.
pub(super) fn plain(_: &mut PodSandboxConfig) {}

/// A container that waits; its id.
pub(super) fn sleeper(client: &Client, pod: &Pod, name: &str) -> Verdict<String> {
    client.container(pod, name, WAIT, |_| ())
}

/// The limits of a container.
pub(super) fn limits(config: &mut ContainerConfig) -> &mut LinuxContainerResources {
    config.linux.get_or_insert_default().resources.get_or_insert_default()
}

fn a_container_lives_and_ends_in_its_pod(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = client.container(&pod, "main", "trap 'exit 7' TERM; while :; do sleep 0.1; done", |_| ())?;
    ensure_eq!(client.status(&id)?.state(), ContainerState::ContainerRunning, "state");
    client.sh(&id, "true")?;
    let request = StopContainerRequest { container_id: id.clone(), timeout: 20 };
    client.call(async |mut service| service.stop_container(request).await).context("StopContainer")?;
    let status = client.ended(&id)?;
    ensure_eq!((status.exit_code, status.reason.as_str()), (7, "Error"), "code and reason");
    let request = RemoveContainerRequest { container_id: id };
    client.call(async |mut service| service.remove_container(request).await).context("RemoveContainer")?;
    let id = client.container(&pod, "second", "exit 0", |_| ())?;
    let status = client.ended(&id)?;
    ensure_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"), "code and reason");
    Ok(())
}

fn exec_sync_returns_output_and_code(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = sleeper(&client, &pod, "main")?;
    let done = client.exec(&id, "echo out; echo err >&2; exit 42", 60).context("ExecSync")?;
    ensure_eq!((done.stdout, done.stderr, done.exit_code), (b"out\n".to_vec(), b"err\n".to_vec(), 42), "answer");
    Ok(())
}

fn exec_sync_ends_at_its_time(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = sleeper(&client, &pod, "main")?;
    match client.exec(&id, "exec sleep 1000", 2) {
        Ok(done) => integration::kit::stop::fail(format!("it answered {}", done.exit_code)),
        Err(status) => {
            ensure!(status.message().contains("timeout") || status.message().contains("deadline"), "{status}");
            until("the end of the process", || {
                Ok(client.sh(&id, "pgrep -f 'sleep 100[0]' || true")?.is_empty().then_some(()))
            })
        }
    }
}

fn exec_sync_output_is_capped(s: &Session) -> Verdict {
    const MIB: usize = 1 << 20;
    let (client, pod) = pod(s, plain)?;
    let id = sleeper(&client, &pod, "main")?;
    let bytes = |count: usize| client.exec(&id, &format!("head -c {count} /dev/zero"), 90);
    ensure_eq!(bytes(MIB).context("ExecSync")?.stdout.len(), MIB, "what is below the cap");
    match bytes(20 * MIB) {
        Ok(done) => ensure_eq!((done.stdout.len(), done.exit_code), (16 * MIB, 0), "bytes and code"),
        // containerd 1.6 truncates the output at 16 MiB, and then may not send an answer of that size.
        Err(status) => ensure_eq!(status.code(), Code::ResourceExhausted, "{status}"),
    }
    ensure_eq!(client.sh(&id, "echo alive")?, "alive", "exec afterwards");
    Ok(())
}

fn logs_are_lines_with_time_stream_and_tag(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = client.container(&pod, "main", "echo one; sleep 0.3; echo two >&2; sleep 0.3; printf three", |_| ())?;
    client.ended(&id)?;
    let path = format!("{}/main.log", pod.config.log_directory);
    until("three lines", || Ok((fs::read_to_string(&path).unwrap_or_default().contains("three")).then_some(())))?;
    let log = fs::read_to_string(&path).context(&path)?;
    let fields: Vec<Vec<&str>> = log.lines().map(|line| line.splitn(4, ' ').collect()).collect();
    let said: Vec<&[&str]> = fields.iter().map(|fields| &fields[1..]).collect();
    ensure_eq!(said[..2], [["stdout", "F", "one"], ["stderr", "F", "two"]], "{log}");
    ensure_eq!((said[2][0], said[2][2]), ("stdout", "three"), "{log}");
    ensure!(fields.iter().all(|fields| fields[0].starts_with("20") && fields[0].contains('T')), "times: {log}");
    Ok(())
}

fn containers_of_a_pod_share_its_namespaces(s: &Session) -> Verdict {
    let options = NamespaceOption { pid: NamespaceMode::Pod.into(), ..Default::default() };
    let security = LinuxSandboxSecurityContext { namespace_options: Some(options.clone()), ..Default::default() };
    let (client, pod) = pod(s, |config| config.linux.get_or_insert_default().security_context = Some(security))?;
    let shared = |config: &mut ContainerConfig| {
        let security = LinuxContainerSecurityContext { namespace_options: Some(options.clone()), ..Default::default() };
        config.linux.get_or_insert_default().security_context = Some(security);
    };
    client.container(&pod, "web", "exec httpd -f -p 80 -h /www", shared)?;
    let id = client.container(&pod, "client", WAIT, shared)?;
    until("an answer over loopback", || {
        Ok((client.sh(&id, "wget -q -O - http://127.0.0.1/ || true")? == "served").then_some(()))
    })?;
    let processes = client.sh(&id, "ps")?;
    ensure!(processes.contains("httpd") && processes.contains("pause"), "processes: {processes}");
    ensure!(client.sh(&id, "hostname")? == pod.config.hostname, "host name");
    Ok(())
}

fn namespaces_of_the_host_are_used_when_told(s: &Session) -> Verdict {
    let node = NamespaceMode::Node.into();
    let options = NamespaceOption { network: node, pid: node, ipc: node, ..Default::default() };
    let security = LinuxSandboxSecurityContext { namespace_options: Some(options.clone()), ..Default::default() };
    let (client, pod) = pod(s, |config| {
        config.linux.get_or_insert_default().security_context = Some(security);
        // A kubelet clears the name, which would otherwise be the host's.
        config.hostname.clear();
    })?;
    let id = client.container(&pod, "main", WAIT, |config| {
        let security = LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
        config.linux.get_or_insert_default().security_context = Some(security);
    })?;
    for kind in ["net", "pid", "ipc"] {
        let host = fs::read_link(format!("/proc/self/ns/{kind}"))?;
        ensure_eq!(client.sh(&id, &format!("readlink /proc/self/ns/{kind}"))?, host.to_string_lossy(), "{kind}");
    }
    Ok(())
}

fn a_pod_has_a_user_namespace_of_its_own(s: &Session) -> Verdict {
    let mapping = IdMapping { host_id: 300_000, container_id: 0, length: 65_536 };
    let users = UserNamespace { mode: NamespaceMode::Pod.into(), uids: vec![mapping], gids: vec![mapping] };
    let options = NamespaceOption { userns_options: Some(users), ..Default::default() };
    let security = LinuxSandboxSecurityContext { namespace_options: Some(options.clone()), ..Default::default() };
    let (client, pod) = pod(s, |config| config.linux.get_or_insert_default().security_context = Some(security))?;
    let id = client.container(&pod, "main", WAIT, |config| {
        let security = LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
        config.linux.get_or_insert_default().security_context = Some(security);
    })?;
    let host = fs::read_link("/proc/self/ns/user")?;
    if client.sh(&id, "readlink /proc/self/ns/user")? == host.to_string_lossy() {
        return skip("containerd does nothing about user namespaces of pods before 1.7");
    }
    ensure_eq!(client.sh(&id, "tr -s ' ' < /proc/self/uid_map")?, "0 300000 65536", "map");
    Ok(())
}

fn exec_streams_and_resizes_a_terminal(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = sleeper(&client, &pod, "main")?;
    let open = |cmd: &[&str], tty: bool| {
        let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
        let request = ExecRequest { container_id: id.clone(), cmd, tty, stdin: true, stdout: true, stderr: !tty };
        let answer = client.call(async |mut service| service.exec(request).await).context("Exec")?;
        Stream::open(&answer.url)
    };
    let mut stream = open(&["sh"], false)?;
    stream.send(INPUT, b"echo out; echo err >&2; exit 42\n")?;
    stream.end()?;
    ensure_eq!((&stream.came[1][..], &stream.came[2][..]), (&b"out\n"[..], &b"err\n"[..]), "streams");
    ensure!(String::from_utf8_lossy(&stream.came[3]).contains("42"), "status: {}", stream.text());
    let mut stream = open(&["sh"], true)?;
    stream.send(SIZE, br#"{"Width": 77, "Height": 33}"#)?;
    stream.send(INPUT, b"until [ \"$(stty size)\" = '33 77' ]; do sleep 0.1; done; echo resi''zed; exit\n")?;
    stream.until("resized")
}

fn attach_reaches_the_first_process(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let script = "while read line; do echo got $line; done";
    let id = client.container(&pod, "main", script, |config| config.stdin = true)?;
    let request = AttachRequest { container_id: id, stdin: true, stdout: true, stderr: true, tty: false };
    let answer = client.call(async |mut service| service.attach(request).await).context("Attach")?;
    let mut stream = Stream::open(&answer.url)?;
    stream.send(INPUT, b"hello\n")?;
    stream.until("got hello")
}

fn port_forward_reaches_the_pod(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = client.container(&pod, "web", "httpd -f -p 80 -h /www", |_| ())?;
    until("the server", || Ok((client.sh(&id, "wget -q -O - http://127.0.0.1/ || true")? == "served").then_some(())))?;
    let request = PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![80] };
    let answer = client.call(async |mut service| service.port_forward(request).await).context("PortForward")?;
    let mut stream = Stream::open(&format!("{}?port=80", answer.url))?;
    stream.send(INPUT, b"GET / HTTP/1.0\r\n\r\n")?;
    stream.until("served")
}

fn stats_are_measured(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = sleeper(&client, &pod, "main")?;
    until("a measurement", || {
        let request = ContainerStatsRequest { container_id: id.clone() };
        let answer =
            client.call(async |mut service| service.container_stats(request).await).context("ContainerStats")?;
        let stats = answer.stats.unwrap_or_default();
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |value| value.value);
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |value| value.value);
        Ok((cpu > 0 && memory > 0).then_some(()))
    })
}

fn update_changes_the_limits(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = client.container(&pod, "main", WAIT, |config| {
        *limits(config) = LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            ..Default::default()
        };
    })?;
    let kernel = || client.sh(&id, "cd /sys/fs/cgroup; cat memory.max cpu.max");
    ensure_eq!(kernel()?, "67108864\n50000 100000", "before");
    let linux = LinuxContainerResources {
        memory_limit_in_bytes: 96 << 20,
        cpu_quota: 25_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    let request =
        UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(linux), ..Default::default() };
    client.call(async |mut service| service.update_container_resources(request).await).context("Update")?;
    ensure_eq!(kernel()?, "100663296\n25000 100000", "after");
    Ok(())
}

fn a_kill_for_want_of_memory_is_told(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = client.container(&pod, "main", "exec tail /dev/zero", |config| {
        limits(config).memory_limit_in_bytes = 24 << 20;
    })?;
    let status = client.ended(&id)?;
    ensure_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "code and reason");
    Ok(())
}

fn pods_outlive_a_kill_of_the_daemon(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = sleeper(&client, &pod, "main")?;
    let ends = client.container(&pod, "ends", "sleep 2; exit 42", |_| ())?;
    drop(client);
    s.end_daemon(Signal::SIGKILL)?;
    std::thread::sleep(std::time::Duration::from_secs(4));
    start_containerd(s)?;
    let client = Client::connect()?;
    ensure_eq!(client.sh(&id, "echo alive")?, "alive", "exec afterwards");
    ensure_eq!(client.ended(&ends)?.exit_code, 42, "the code of what ended meanwhile");
    Ok(())
}
