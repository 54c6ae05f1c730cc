//! Requests of a kubelet to containerd 2 that 1.6 did not get.

use super::cri::{CPU, MEMORY, WAIT, limits, plain, pod, sleeper};
use super::today::{LOOK, LOOKED, describe_device};
use crate::case::chapter;
use crate::cri::stream::{INPUT, SIZE, Stream};
use crate::engine::containerd_version;
use crate::image;
use crate::session::{Session, until};
use integration::kit::stop::{Context, skip};
use integration::kit::{Need, Verdict};
use integration::{ensure, ensure_eq};
use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    AttachRequest, CdiDevice, ContainerConfig, ContainerStatsRequest, IdMapping, ImageSpec, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption,
    ReopenContainerLogRequest, SecurityProfile, SupplementalGroupsPolicy, UpdateContainerResourcesRequest,
    UserNamespace,
};
use nix::mount::{MsFlags, mount};
use std::fs;

chapter! { [Cri] "pods_today":
    a_volume_of_a_pod_with_a_user_namespace_keeps_its_owners [CPU],
    mounts_below_a_mount_are_read_only_when_told [CPU],
    mounts_below_a_mount_stay_writable_when_not_told [CPU],
    a_volume_is_an_image [CPU],
    groups_of_the_image_are_left_out_when_told [CPU],
    a_container_is_resized_in_place [MEMORY, CPU],
    a_container_has_the_swap_that_it_was_given [MEMORY],
    pressure_is_measured [Need::Controller("memory"), CPU],
    a_seccomp_profile_of_the_node_is_applied [CPU],
    attach_resizes_the_terminal_of_the_first_process [CPU],
    a_log_is_rotated_and_opened_again [CPU],
    a_device_of_cdi_is_in_the_container [CPU],
}

/// Skips below this version of containerd.
pub(super) fn since(s: &Session, major: u32, minor: u32) -> Verdict {
    match containerd_version(s)? >= (major, minor) {
        true => Ok(()),
        false => skip(format!("containerd has it since {major}.{minor}")),
    }
}

fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn a_volume_of_a_pod_with_a_user_namespace_keeps_its_owners(s: &Session) -> Verdict {
    since(s, 2, 0)?;
    if integration::kit::machine::kernel() < (6, 3) {
        return skip("tmpfs is mounted with other ids since Linux 6.3");
    }
    let mapping = IdMapping { host_id: 300_000, container_id: 0, length: 65_536 };
    let users = UserNamespace { mode: NamespaceMode::Pod.into(), uids: vec![mapping], gids: vec![mapping] };
    let options = NamespaceOption { userns_options: Some(users), ..Default::default() };
    let of_pod = LinuxSandboxSecurityContext { namespace_options: Some(options.clone()), ..Default::default() };
    let (client, pod) = pod(s, |config| config.linux.get_or_insert_default().security_context = Some(of_pod))?;
    let volume = s.scratch()?;
    let volume_path = volume.display().to_string();
    let id = client.container(&pod, "main", WAIT, |config| {
        security(config).namespace_options = Some(options);
        config.mounts.push(Mount {
            container_path: "/volume".into(),
            host_path: volume_path,
            uid_mappings: vec![mapping],
            gid_mappings: vec![mapping],
            ..Default::default()
        });
    })?;
    ensure_eq!(
        client.sh(&id, "touch /volume/x; stat -c %u:%g /volume /volume/x /data/seed")?,
        "0:0\n0:0\n0:0",
        "owners inside"
    );
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(volume.join("x"))?);
    ensure_eq!(owner, 0, "the owner on the host");
    Ok(())
}

/// Makes a directory with another mount in it, and returns a mount of it, which `change` edits.
fn nested(s: &Session, change: impl FnOnce(&mut Mount)) -> Verdict<Mount> {
    let dir = s.scratch()?;
    fs::create_dir(dir.join("inner"))?;
    mount(Some("tmpfs"), &dir.join("inner"), Some("tmpfs"), MsFlags::empty(), None::<&str>).context("a tmpfs")?;
    let mut volume = Mount {
        container_path: "/volume".into(),
        host_path: dir.display().to_string(),
        readonly: true,
        ..Default::default()
    };
    change(&mut volume);
    Ok(volume)
}

const WRITE: &str = "for d in /volume /volume/inner; do touch $d/x 2>/dev/null && echo written || echo refused; done";

fn mounts_below_a_mount_are_read_only_when_told(s: &Session) -> Verdict {
    since(s, 2, 0)?;
    let (client, pod) = pod(s, plain)?;
    let volume = nested(s, |volume| volume.recursive_read_only = true)?;
    let id = client.container(&pod, "main", WAIT, |config| config.mounts.push(volume))?;
    ensure_eq!(client.sh(&id, WRITE)?, "refused\nrefused", "the mount, and the one below it");
    Ok(())
}

fn mounts_below_a_mount_stay_writable_when_not_told(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let volume = nested(s, |_| ())?;
    let id = client.container(&pod, "main", WAIT, |config| config.mounts.push(volume))?;
    ensure_eq!(client.sh(&id, WRITE)?, "refused\nwritten", "the mount, and the one below it");
    Ok(())
}

fn a_volume_is_an_image(s: &Session) -> Verdict {
    since(s, 2, 1)?;
    let (client, pod) = pod(s, plain)?;
    let id = client.container(&pod, "main", WAIT, |config| {
        config.mounts.push(Mount {
            container_path: "/volume".into(),
            readonly: true,
            image: Some(ImageSpec { image: image::NAME.into(), ..Default::default() }),
            ..Default::default()
        });
    })?;
    let seen = client.sh(&id, "cat /volume/data/seed; echo; touch /volume/x 2>/dev/null || echo refused")?;
    ensure_eq!(seen, format!("{}\nrefused", image::SEED.1), "a file of the image, and a write");
    Ok(())
}

fn groups_of_the_image_are_left_out_when_told(s: &Session) -> Verdict {
    since(s, 2, 0)?;
    let (client, pod) = pod(s, plain)?;
    let groups = |name: &str, policy: SupplementalGroupsPolicy| {
        let id = client.container(&pod, name, WAIT, |config| {
            let security = security(config);
            security.run_as_username = "member".into();
            security.supplemental_groups = vec![3000];
            security.supplemental_groups_policy = policy.into();
        })?;
        client.sh(&id, "id -G")
    };
    ensure_eq!(groups("merged", SupplementalGroupsPolicy::Merge)?, "1001 2500 3000", "those of /etc/group too");
    ensure_eq!(groups("strict", SupplementalGroupsPolicy::Strict)?, "1001 3000", "those that were asked for alone");
    Ok(())
}

fn a_container_is_resized_in_place(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = client.container(&pod, "main", WAIT, |config| {
        *limits(config) = LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            cpu_shares: 512,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            ..Default::default()
        };
    })?;
    // Larger and smaller limits, alone and together, as a kubelet sets them after a change of the pod.
    let steps = [
        (128_i64, 0_i64, 0_i64, "134217728\n50000 100000"),
        (0, 80_000, 1024, "134217728\n80000 100000"),
        (32, 20_000, 256, "33554432\n20000 100000"),
    ];
    for (mebibytes, cpu_quota, cpu_shares, expected) in steps {
        let cpu_period = if cpu_quota == 0 { 0 } else { 100_000 };
        let memory_limit_in_bytes = mebibytes << 20;
        let linux =
            LinuxContainerResources { memory_limit_in_bytes, cpu_quota, cpu_period, cpu_shares, ..Default::default() };
        let request =
            UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(linux), ..Default::default() };
        client.call(async |mut service| service.update_container_resources(request).await).context("Update")?;
        ensure_eq!(client.sh(&id, "cd /sys/fs/cgroup; cat memory.max cpu.max")?, expected, "the kernel's");
    }
    let resources = client.status(&id)?.resources.and_then(|resources| resources.linux).unwrap_or_default();
    ensure_eq!((resources.memory_limit_in_bytes, resources.cpu_quota), (32 << 20, 20_000), "what the status says");
    Ok(())
}

fn a_container_has_the_swap_that_it_was_given(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = client.container(&pod, "main", WAIT, |config| {
        limits(config).memory_limit_in_bytes = 32 << 20;
        limits(config).memory_swap_limit_in_bytes = 48 << 20;
    })?;
    let seen = client.sh(&id, "cat /sys/fs/cgroup/memory.swap.max 2>/dev/null || echo none")?;
    if seen == "none" {
        return skip("this kernel does not count swap");
    }
    ensure_eq!(seen, (16 << 20).to_string(), "memory.swap.max");
    Ok(())
}

fn pressure_is_measured(s: &Session) -> Verdict {
    since(s, 2, 1)?;
    if !std::path::Path::new("/proc/pressure/cpu").exists() {
        return skip("this kernel does not measure pressure");
    }
    let (client, pod) = pod(s, plain)?;
    let id = sleeper(&client, &pod, "main")?;
    let metrics = s.ok(&format!("--namespace k8s.io tasks metrics --format json {id}"))?;
    ensure!(metrics.contains("\"psi\"") || metrics.contains("\"PSI\""), "{metrics}");
    let request = ContainerStatsRequest { container_id: id };
    client.call(async |mut service| service.container_stats(request).await).context("ContainerStats").map(drop)
}

fn a_seccomp_profile_of_the_node_is_applied(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let profile = s.path("node-seccomp.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    fs::write(&profile, text)?;
    let id = client.container(&pod, "main", WAIT, |config| {
        security(config).seccomp = Some(SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: profile.display().to_string(),
        });
    })?;
    let seen = client.sh(&id, "mkdir /tmp/x 2>&1; grep -w Seccomp /proc/self/status | tr -d '\\t '")?;
    ensure!(seen.contains("Permission denied") && seen.ends_with("Seccomp:2"), "{seen}");
    Ok(())
}

fn attach_resizes_the_terminal_of_the_first_process(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let script = "while read line; do echo \"$line is $(stty size); end$line\"; done";
    let id = client.container(&pod, "main", script, |config| (config.stdin, config.tty) = (true, true))?;
    let request = AttachRequest { container_id: id, stdin: true, stdout: true, stderr: false, tty: true };
    let answer = client.call(async |mut service| service.attach(request).await).context("Attach")?;
    let mut stream = Stream::open(&answer.url)?;
    let mut asked = 0;
    for (size, expected) in
        [(&br#"{"Width": 77, "Height": 33}"#[..], "33 77"), (br#"{"Width": 90, "Height": 20}"#, "20 90")]
    {
        stream.send(SIZE, size)?;
        until("the size", || {
            asked += 1;
            stream.send(INPUT, format!("line{asked}\n").as_bytes())?;
            stream.until(&format!("endline{asked}"))?;
            Ok(stream.text().contains(&format!("line{asked} is {expected};")).then_some(()))
        })?;
    }
    Ok(())
}

fn a_log_is_rotated_and_opened_again(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = client.container(&pod, "main", "i=0; while :; do i=$((i + 1)); echo $i; sleep 0.05; done", |_| ())?;
    let log = std::path::PathBuf::from(&pod.config.log_directory).join("main.log");
    let read = |path: &std::path::Path| fs::read_to_string(path).unwrap_or_default();
    until("lines", || Ok((read(&log).lines().count() > 5).then_some(())))?;
    let rotated = log.with_extension("log.1");
    // As a kubelet does: away first, then a call.
    fs::rename(&log, &rotated)?;
    let request = ReopenContainerLogRequest { container_id: id };
    client.call(async |mut service| service.reopen_container_log(request).await).context("ReopenContainerLog")?;
    until("lines in the new file", || Ok((read(&log).lines().count() > 5).then_some(())))?;
    let both = format!("{}{}", read(&rotated), read(&log));
    let numbers = both.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
    ensure!(numbers.enumerate().all(|(n, number)| number == n + 1), "a line is lost or doubled: {both}");
    Ok(())
}

fn a_device_of_cdi_is_in_the_container(s: &Session) -> Verdict {
    since(s, 2, 0)?;
    let seen = describe_device(s)?;
    let (client, pod) = pod(s, plain)?;
    let id = client.container(&pod, "main", WAIT, |config| {
        config.cdi_devices.push(CdiDevice { name: "example.com/device=one".into() });
    })?;
    ensure_eq!(client.sh(&id, LOOK)?, LOOKED, "what the container sees");
    ensure!(
        fs::read_to_string(&seen).context("what the hook writes")?.contains("\"pid\""),
        "the state that the hook reads"
    );
    Ok(())
}
