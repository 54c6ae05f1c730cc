//! A checkpoint as a kubelet asks for it (CheckpointContainer). The container goes on.
//!
//! Where the controllers for a container's usual limits are, in User-Mode Linux, there are no checkpoints. So the
//! limits are left out.

use super::checkpoint::with_criu;
use super::cri::{plain, pod};
use super::cri_today::since;
use crate::case::chapter;
use crate::cri::Client;
use crate::engine::{cri_tables, restart_cri, tables_without_limits};
use crate::session::{Session, until};
use integration::ensure;
use integration::kit::Verdict;
use integration::kit::criu::COUNTING;
use integration::kit::stop::Context;
use k8s_cri::v1::CheckpointContainerRequest;

chapter! { [Cri] "pod_checkpoint":
    a_container_is_dumped_and_goes_on,
}

fn a_container_is_dumped_and_goes_on(s: &Session) -> Verdict {
    since(s, 2, 0)?;
    with_criu(s, || {
        restart_cri(s, &tables_without_limits(s)?)?;
        let done = dumped(s);
        restart_cri(s, &cri_tables(s)?)?;
        done
    })
}

fn dumped(s: &Session) -> Verdict {
    let (client, pod) = pod(s, plain)?;
    let id = client.container(&pod, "main", COUNTING, |_| ())?;
    counts_beyond(&client, &id, 1)?;
    let archive = s.scratch()?.join("checkpoint.tar");
    let location = archive.display().to_string();
    let request = CheckpointContainerRequest { container_id: id.clone(), location, timeout: 0 };
    client.call(async |mut service| service.checkpoint_container(request).await).context("CheckpointContainer")?;
    let listed = s.host_sh(&format!("tar -tf {}", archive.display()))?.ok()?.stdout;
    for name in ["checkpoint/inventory.img", "config.dump", "spec.dump"] {
        ensure!(listed.contains(name), "the archive has no {name}: {listed}");
    }
    counts_beyond(&client, &id, counted(&client, &id)?)
}

fn counted(client: &Client, id: &str) -> Verdict<u32> {
    Ok(client.sh(id, "cat /count 2>/dev/null || echo 0")?.parse().unwrap_or(0))
}

fn counts_beyond(client: &Client, id: &str, past: u32) -> Verdict {
    until("a container that counts on", || Ok((counted(client, id)? > past).then_some(())))
}
