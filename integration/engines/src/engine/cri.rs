//! containerd with its CRI plugin, as a kubelet uses it.

use super::containerd;
use super::prepare::{below, link, prepare_networks};
use crate::cri::Client;
use crate::image;
use crate::session::Session;
use integration::kit::Verdict;
use integration::kit::stop::Context;
use nix::mount::{MsFlags, mount};
use std::fs;

/// Starts the daemon with the plugin and a network of bridges.
pub fn start(session: &Session) -> Verdict<Vec<String>> {
    prepare_networks(session)?;
    if let Some(shim) = &session.below.shim {
        link(session, shim, "containerd-shim-windlass-v2")?;
    }
    // The plugins for networks keep their books below it.
    mount(Some("tmpfs"), "/var/lib", Some("tmpfs"), MsFlags::empty(), None::<&str>).context("/var/lib")?;
    let networks = session.path("cni");
    fs::create_dir_all(&networks).context(networks.display())?;
    let bridge = r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0",
        "isGateway": true, "ipMasq": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}]}}]}"#;
    fs::write(networks.join("10-pods.conflist"), bridge).context("the network")?;
    fs::write(session.path("containerd.toml"), configuration(session)).context("containerd.toml")?;
    containerd::start_daemon(session)?;
    Ok(containerd::client())
}

/// The recommended file, with the runtime under test, and what the suite needs besides.
fn configuration(session: &Session) -> String {
    let contrib = match session.below.shim {
        Some(_) => include_str!("../../../../contrib/containerd/shim-config-v2.toml"),
        None => include_str!("../../../../contrib/containerd/config-v2.toml"),
    };
    format!(
        r#"{contrib}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_hugetlb_controller = true
  stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{networks}"
"#,
        contrib = below(contrib, session),
        pause = image::NAME,
        networks = session.path("cni").display(),
    )
}

/// Imports the image where the plugin looks for it.
pub fn load(session: &Session) -> Verdict {
    let archive = session.path("bb-oci.tar");
    image::oci_archive(&session.path("bb"), image::NAME, &["/bin/pause"], &archive)?;
    session.ok(&format!("--namespace k8s.io images import {}", archive.display())).map(drop)
}

/// Removes all pods.
pub fn clean(_session: &Session) -> Verdict {
    Client::connect()?.remove_pods()
}
