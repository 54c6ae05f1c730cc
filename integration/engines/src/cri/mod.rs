//! A client of the Container Runtime Interface, as small as the cases need: one call at a time.

pub mod stream;

use crate::engine::CONTAINERD_SOCKET;
use crate::image;
use integration::kit::Verdict;
use integration::kit::stop::Context;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, ExecSyncRequest, ExecSyncResponse, ImageSpec, LinuxContainerConfig, LinuxPodSandboxConfig,
    ListPodSandboxRequest, PodSandboxConfig, PodSandboxMetadata, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StatusRequest, StopPodSandboxRequest,
};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The connection.
pub struct Client {
    runtime: Runtime,
    service: RuntimeServiceClient<Channel>,
}

/// A running pod.
pub struct Pod {
    pub id: String,
    /// The configuration that it was created with.
    pub config: PodSandboxConfig,
}

impl Client {
    /// Connects to containerd.
    pub fn connect() -> Verdict<Client> {
        let runtime = Builder::new_current_thread().enable_all().build().context("tokio")?;
        let endpoint = Endpoint::from_shared(format!("unix://{CONTAINERD_SOCKET}")).context("endpoint")?.timeout(LIMIT);
        let channel = runtime.block_on(endpoint.connect()).context("connect")?;
        // An answer of ExecSync has up to 16 MiB of each stream.
        let service = RuntimeServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let client = Client { runtime, service };
        // The plugin answers some time after the daemon does.
        crate::session::until("the CRI plugin", || {
            let asked = client.call(async |mut service| service.status(StatusRequest::default()).await);
            Ok(asked.is_ok().then_some(()))
        })?;
        Ok(client)
    }

    /// Makes one call.
    pub fn call<T>(
        &self,
        call: impl AsyncFnOnce(RuntimeServiceClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        self.runtime.block_on(call(self.service.clone())).map(Response::into_inner)
    }

    /// Starts a pod that `change` makes special.
    pub fn pod(&self, name: &str, logs: &Path, change: impl FnOnce(&mut PodSandboxConfig)) -> Verdict<Pod> {
        let metadata =
            PodSandboxMetadata { name: name.into(), uid: name.into(), namespace: "default".into(), attempt: 0 };
        let mut config = PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.into(),
            log_directory: logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: "/pods".into(), ..Default::default() }),
            ..Default::default()
        };
        change(&mut config);
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let made = self.call(async |mut service| service.run_pod_sandbox(request).await).context("RunPodSandbox")?;
        Ok(Pod { id: made.pod_sandbox_id, config })
    }

    /// Starts a shell script in a pod, in a container that `change` edits. Returns its id.
    pub fn container(
        &self,
        pod: &Pod,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Verdict<String> {
        let mut config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(ImageSpec { image: image::NAME.into(), ..Default::default() }),
            command: vec!["sh".into(), "-c".into(), script.into()],
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig::default()),
            ..Default::default()
        };
        change(&mut config);
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let made = self.call(async |mut service| service.create_container(request).await).context("CreateContainer")?;
        let request = StartContainerRequest { container_id: made.container_id.clone() };
        self.call(async |mut service| service.start_container(request).await).context("StartContainer")?;
        Ok(made.container_id)
    }

    /// Runs a shell script in a container to its end.
    pub fn exec(&self, id: &str, script: &str, timeout: i64) -> Result<ExecSyncResponse, Status> {
        let cmd = vec!["sh".into(), "-c".into(), script.into()];
        let request = ExecSyncRequest { container_id: id.into(), cmd, timeout };
        self.call(async |mut service| service.exec_sync(request).await)
    }

    /// Runs a shell script in a container, which must succeed. Returns its trimmed standard output.
    pub fn sh(&self, id: &str, script: &str) -> Verdict<String> {
        let done = self.exec(id, script, 60).context("ExecSync")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match done.exit_code {
            0 => Ok(text(&done.stdout)),
            code => integration::kit::stop::fail(format!("{script}: {code}: {}", text(&done.stderr))),
        }
    }

    /// The status of a container.
    pub fn status(&self, id: &str) -> Verdict<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        let answer =
            self.call(async |mut service| service.container_status(request).await).context("ContainerStatus")?;
        answer.status.ok_or_else(|| integration::kit::Stop::Fail("a status without a status".to_owned()))
    }

    /// The status of a container when it has ended.
    pub fn ended(&self, id: &str) -> Verdict<ContainerStatus> {
        crate::session::until("the end of a container", || {
            let status = self.status(id)?;
            Ok((status.state() == ContainerState::ContainerExited).then_some(status))
        })
    }

    /// Stops and removes all pods. One that stays does not keep the others; the first failure is told.
    pub fn remove_pods(&self) -> Verdict {
        let request = ListPodSandboxRequest::default();
        let listed =
            self.call(async |mut service| service.list_pod_sandbox(request).await).context("ListPodSandbox")?;
        let removed: Vec<Verdict> = listed.items.into_iter().map(|pod| self.remove_pod(pod.id)).collect();
        removed.into_iter().collect()
    }

    fn remove_pod(&self, id: String) -> Verdict {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
        self.call(async |mut service| service.stop_pod_sandbox(request).await).context("StopPodSandbox")?;
        let request = RemovePodSandboxRequest { pod_sandbox_id: id };
        self.call(async |mut service| service.remove_pod_sandbox(request).await).context("RemovePodSandbox").map(drop)
    }
}
