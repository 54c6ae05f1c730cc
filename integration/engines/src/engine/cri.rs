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
    fs::write(session.path("containerd.toml"), configuration(session)?).context("containerd.toml")?;
    containerd::start_daemon(session)?;
    Ok(containerd::client())
}

/// The recommended file, with the runtime under test, and what the suite needs besides.
fn configuration(session: &Session) -> Verdict<String> {
    let networks = session.path("cni").display().to_string();
    let pause = image::NAME;
    if containerd::version(session)? >= (2, 0) {
        let contrib = match &session.below.shim {
            Some(_) => shim_table(session),
            None => below(include_str!("../../../../contrib/containerd/config-v3.toml"), session),
        };
        return Ok(format!(
            r#"{contrib}
[plugins."io.containerd.cri.v1.runtime"]
  disable_hugetlb_controller = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{networks}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
"#
        ));
    }
    let contrib = match session.below.shim {
        Some(_) => include_str!("../../../../contrib/containerd/shim-config-v2.toml"),
        None => include_str!("../../../../contrib/containerd/config-v2.toml"),
    };
    let contrib = below(contrib, session);
    Ok(format!(
        r#"{contrib}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_hugetlb_controller = true
  stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{networks}"
"#
    ))
}

/// What the recommended file has as comments, for a shim that takes options: the shim as containerd's own.
fn shim_table(session: &Session) -> String {
    let file = include_str!("../../../../contrib/containerd/shim-config-v3.toml");
    let (head, _) = file.split_once("# No options table").unwrap_or((file, ""));
    let (_, tail) = file.split_once("#\n# [plugins").unwrap_or(("", ""));
    let table: String =
        format!("# [plugins{tail}").lines().map(|line| line.trim_start_matches('#').to_owned() + "\n").collect();
    let shim = session.path("bin/containerd-shim-windlass-v2").display().to_string();
    let table = table.replace("/usr/local/bin/containerd-shim-windlass-v2", &shim);
    below(&format!("{head}{table}"), session).replace("SystemdCgroup = true", "SystemdCgroup = false")
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
