//! The statements of docs/kubernetes.md: its static pod, its table of options, its way back.

use super::cri::{CPU, plain, pod, sleeper};
use super::cri_today::since;
use crate::case::chapter;
use crate::cri::Client;
use crate::engine::{containerd_version, cri_tables, restart_cri, shim_tables};
use crate::image;
use crate::session::Session;
use integration::kit::page;
use integration::kit::runtime::RuntimeKind;
use integration::kit::stop::{Context, fail, skip};
use integration::kit::{Stop, Verdict};
use integration::{ensure, ensure_eq};
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, IdMapping, ImageSpec, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, RunPodSandboxRequest, StartContainerRequest, UserNamespace,
};
use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

chapter! { [Cri] "kubernetes":
    the_static_pod_of_the_page_does_what_it_says [CPU],
    options_of_the_shim_do_what_the_page_says [CPU],
    after_the_way_back_old_pods_stay_and_new_ones_use_runc [CPU],
}

const PAGE: &str = include_str!("../../../../docs/kubernetes.md");

/// Where the page has the manifests, and its image.
const MANIFESTS: &str = "/etc/kubernetes/manifests";
const IMAGE: &str = "docker.io/library/busybox:latest";

/// The beginning of the page's table of runc for containerd 1.x.
const RUNC: &str = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n";

/// The ids of a pod with a user namespace.
const IDS: IdMapping = IdMapping { host_id: 300_000, container_id: 0, length: 65_536 };

/// Plays a kubelet: exactly the pods of the manifests in a directory run.
struct Kubelet {
    client: Client,
    manifests: PathBuf,
    logs: PathBuf,
    started: Cell<bool>,
}

impl Kubelet {
    fn sync(&self) -> Verdict {
        let manifests = fs::read_dir(&self.manifests).context("the manifests")?.flatten();
        let texts: Vec<String> = manifests.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
        match (texts.is_empty(), self.started.replace(!texts.is_empty())) {
            (true, true) => self.client.remove_pods(),
            (false, false) => texts.iter().try_for_each(|text| self.start(text)),
            _ => Ok(()),
        }
    }

    /// Starts the pod of a manifest with one container.
    fn start(&self, manifest: &str) -> Verdict {
        let name = field(manifest, "name")?;
        ensure_eq!(field(manifest, "hostUsers")?, "false", "hostUsers");
        let options = user_namespace();
        let labels = [("io.kubernetes.pod.name", name.as_str()), ("io.kubernetes.container.name", &name)];
        let labels: HashMap<String, String> = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let security = LinuxSandboxSecurityContext { namespace_options: Some(options.clone()), ..Default::default() };
        let mut config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: name.clone(), uid: name.clone(), ..Default::default() }),
            // The kubelet names a static pod after its node.
            hostname: format!("{name}-node1"),
            log_directory: self.logs.display().to_string(),
            labels: labels.clone(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: "/kubepods".into(),
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        };
        config.labels.remove("io.kubernetes.container.name");
        let runtime_handler = field(manifest, "runtimeClassName")?;
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler };
        let made = self.client.call(async |mut service| service.run_pod_sandbox(request).await).context("the pod")?;
        let security = LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.clone(), attempt: 0 }),
            image: Some(ImageSpec { image: field(manifest, "image")?, ..Default::default() }),
            command: serde_json::from_str(&field(manifest, "command")?).context("command")?,
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
            labels,
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: made.pod_sandbox_id,
            config: Some(container),
            sandbox_config: Some(config),
        };
        let made = self.client.call(async |mut service| service.create_container(request).await);
        let request = StartContainerRequest { container_id: made.context("the container")?.container_id };
        self.client.call(async |mut service| service.start_container(request).await).context("its start").map(drop)
    }
}

/// The value of the first line with this key in a manifest.
fn field(manifest: &str, key: &str) -> Verdict<String> {
    let value = manifest.lines().find_map(|line| {
        let (name, value) = line.trim_start_matches([' ', '-']).split_once(": ")?;
        (name == key).then(|| value.to_owned())
    });
    value.ok_or_else(|| Stop::Fail(format!("the manifest of the page has no {key}:\n{manifest}")))
}

fn user_namespace() -> NamespaceOption {
    let users = UserNamespace { mode: NamespaceMode::Pod.into(), uids: vec![IDS], gids: vec![IDS] };
    NamespaceOption { userns_options: Some(users), ..Default::default() }
}

/// Skips on another runtime: the page is about windlass.
fn ours(s: &Session) -> Verdict {
    if s.below.kind == RuntimeKind::Windlass { Ok(()) } else { skip("another runtime's page") }
}

/// Runs the commands of the page, and plays the kubelet after each of its blocks.
fn the_static_pod_of_the_page_does_what_it_says(s: &Session) -> Verdict {
    ours(s)?;
    since(s, 2, 0)?;
    let manifests = s.scratch()?;
    let (client, logs) = (Client::connect()?, s.scratch()?);
    let kubelet = Kubelet { client, manifests: manifests.clone(), logs, started: Cell::new(false) };
    let here = |text: &str| text.replace(MANIFESTS, &manifests.display().to_string()).replace(IMAGE, image::NAME);
    let manifest = PAGE.split("```text\n").find_map(|text| text.strip_prefix("# web.yaml\n")?.split_once("```"));
    let Some((manifest, _)) = manifest else { return fail("the page has no web.yaml") };
    let dir = s.scratch()?;
    let _ = symlink(&s.below.runtime, s.path("bin/windlass"));
    fs::write(dir.join("web.yaml"), here(manifest)).context("web.yaml")?;
    for block in page::blocks(PAGE) {
        let mut command = s.host("sh");
        command.args(["-c", &here(&block.script())]).current_dir(&dir);
        command.env("CONTAINERD_ADDRESS", crate::engine::CONTAINERD_SOCKET);
        block.judge(&s.finish(command)?.stdout)?;
        kubelet.sync()?;
    }
    ensure_eq!(fs::read_dir(&manifests).context("the manifests")?.count(), 0, "manifests that the page leaves");
    Ok(())
}

/// Starts containerd with these tables, does `work`, and starts containerd with the session's tables again.
fn with_tables(s: &Session, tables: &str, work: impl FnOnce(&Client) -> Verdict) -> Verdict {
    let done = restart_cri(s, tables).and_then(|()| work(&Client::connect()?));
    // While the daemon knows the runtimes of these pods, and whatever has failed.
    let cleaned = Client::connect().and_then(|client| client.remove_pods());
    restart_cri(s, &cri_tables(s)?)?;
    done.and(cleaned)
}

fn options_of_the_shim_do_what_the_page_says(s: &Session) -> Verdict {
    ours(s)?;
    if s.below.shim.is_none() {
        return skip("containerd's own shim takes options");
    }
    since(s, 2, 0)?;
    let (bare, own) = shim_tables(s);
    with_tables(s, &bare, |client| {
        let id = pod_of_its_own_users(s, client)?;
        ensure_eq!(client.sh(&id, "tr -s ' ' < /proc/self/uid_map")?.trim(), "0 300000 65536", "without a table");
        Ok(())
    })?;
    let Some(options) = own.find("[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.windlass.options]")
    else {
        return fail(format!("the file has no options table: {own}"));
    };
    with_tables(s, &format!("{bare}\n{}", &own[options..]), |client| {
        let plain = client.pod(&s.name(), &s.scratch()?, plain)?;
        ensure_eq!(client.sh(&sleeper(client, &plain, "main")?, "echo alive")?, "alive", "with one, an ordinary pod");
        match pod_of_its_own_users(s, client) {
            Err(Stop::Fail(text))
                if text.contains("can't unmarshal type") && text.contains("runtimeoptions.v1.Options") =>
            {
                Ok(())
            }
            Ok(_) => fail("with a table containerd has made a pod with a user namespace"),
            Err(other) => Err(other),
        }
    })
}

/// A waiting container in a pod with a user namespace.
fn pod_of_its_own_users(s: &Session, client: &Client) -> Verdict<String> {
    let security = LinuxSandboxSecurityContext { namespace_options: Some(user_namespace()), ..Default::default() };
    let pod = client.pod(&s.name(), &s.scratch()?, |config| {
        config.linux.get_or_insert_default().security_context = Some(security);
    })?;
    client.container(&pod, "main", super::cri::WAIT, |config| {
        let security =
            LinuxContainerSecurityContext { namespace_options: Some(user_namespace()), ..Default::default() };
        config.linux.get_or_insert_default().security_context = Some(security);
    })
}

fn after_the_way_back_old_pods_stay_and_new_ones_use_runc(s: &Session) -> Verdict {
    ours(s)?;
    let (client, old) = pod(s, plain)?;
    let id = sleeper(&client, &old, "main")?;
    drop(client);
    let uses = |id: &str| -> Verdict<bool> {
        let mut command = s.host(&s.below.runtime);
        command.args(["--root", "/run/containerd/runc/k8s.io", "list", "-q"]);
        Ok(s.finish(command)?.ok()?.stdout.lines().any(|line| line == id))
    };
    ensure!(uses(&id)?, "a pod by default does not use windlass");
    let ours = "default_runtime_name = \"windlass\"";
    let tables = cri_tables(s)?;
    ensure!(tables.contains(ours), "no default in {tables}");
    let mut back = tables.replace(ours, "default_runtime_name = \"runc\"");
    if containerd_version(s)? < (2, 0) {
        let Some(runc) = PAGE.split("```text\n").find_map(|text| text.strip_prefix(RUNC)?.split("```").next()) else {
            return fail("the page has no table of runc");
        };
        back = format!("{back}\n{RUNC}{runc}");
    }
    with_tables(s, &back, |client| {
        ensure_eq!(client.sh(&id, "echo alive")?, "alive", "exec in a pod from before");
        let (_, new) = pod(s, plain)?;
        let other = sleeper(client, &new, "main")?;
        ensure_eq!(client.sh(&other, "echo alive")?, "alive", "exec in a new pod");
        ensure!(!uses(&other)?, "a new pod uses windlass");
        // A kubelet restarts ended containers in a pod that is older than the configuration.
        let next = sleeper(client, &old, "next")?;
        ensure_eq!(client.sh(&next, "echo alive")?, "alive", "exec in a new container of an old pod");
        ensure!(uses(&next)? && uses(&id)?, "a container of the old pod does not use windlass");
        Ok(())
    })
}
