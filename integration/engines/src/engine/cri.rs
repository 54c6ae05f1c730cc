//! containerd with its CRI plugin, as a kubelet uses it.

use super::containerd;
use super::prepare::{below, link, prepare_networks};
use crate::cri::Client;
use crate::image;
use crate::session::Session;
use integration::kit::Verdict;
use integration::kit::stop::Context;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
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
    fs::write(session.path("containerd.toml"), configuration(session, &tables(session)?)?)
        .context("containerd.toml")?;
    containerd::start_daemon(session)?;
    Ok(containerd::client())
}

/// Starts the daemon anew with other tables of runtimes.
pub fn restart(session: &Session, tables: &str) -> Verdict {
    session.end_daemon(Signal::SIGTERM)?;
    fs::write(session.path("containerd.toml"), configuration(session, tables)?).context("containerd.toml")?;
    containerd::start_daemon(session)
}

/// [`tables`] with a program in place of the runtime that removes the limits of the CPU and the `oomScoreAdj`, which
/// every pod has, and calls the runtime.
pub fn tables_without_limits(session: &Session) -> Verdict<String> {
    let runtime = session.below.runtime.display().to_string();
    let program = session.path("bin").join("without-limits");
    let edit = r#"s/"cpu":{[^}]*}/"cpu":{}/; s/"oomScoreAdj":-[0-9]*/"oomScoreAdj":0/"#;
    let script = format!(
        "#!/bin/sh\nbundle=. before=\nfor word; do [ \"$before\" != --bundle ] || bundle=$word; before=$word; done\n\
         [ ! -f \"$bundle/config.json\" ] || sed -i '{edit}' \"$bundle/config.json\"\nexec {runtime} \"$@\"\n"
    );
    fs::write(&program, script).context(program.display())?;
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(tables(session)?.replace(&runtime, &program.display().to_string()))
}

/// The tables of the recommended configuration file, with the runtime under test.
pub fn tables(session: &Session) -> Verdict<String> {
    let current = containerd::version(session)? >= (2, 0);
    Ok(match (&session.below.shim, current) {
        (None, true) => below(include_str!("../../../../contrib/containerd/config-v3.toml"), session),
        (None, false) => below(include_str!("../../../../contrib/containerd/config-v2.toml"), session),
        (Some(_), true) => shim_tables(session).1,
        (Some(_), false) => below(include_str!("../../../../contrib/containerd/shim-config-v2.toml"), session),
    })
}

/// A configuration with these tables of runtimes, and the other settings that the suite needs.
fn configuration(session: &Session, tables: &str) -> Verdict<String> {
    let networks = session.path("cni").display().to_string();
    let pause = image::NAME;
    let version = containerd::version(session)?;
    if version >= (2, 0) {
        // Each warns about the other's.
        let programs = if version >= (2, 1) { "bin_dirs = [\"/usr/lib/cni\"]" } else { "bin_dir = \"/usr/lib/cni\"" };
        return Ok(format!(
            r#"{tables}
[plugins."io.containerd.cri.v1.runtime"]
  disable_hugetlb_controller = true
[plugins."io.containerd.cri.v1.runtime".cni]
  {programs}
  conf_dir = "{networks}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
"#
        ));
    }
    Ok(format!(
        r#"{tables}
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

/// The two tables of the recommended file that put the shim below containerd 2: the one without options, and the one
/// with options, which is in comments.
pub fn shim_tables(session: &Session) -> (String, String) {
    let file = include_str!("../../../../contrib/containerd/shim-config-v3.toml");
    let (head, _) = file.split_once("# No options table").unwrap_or((file, ""));
    let (bare, tail) = file.split_once("#\n# [plugins").unwrap_or((file, ""));
    let table: String =
        format!("# [plugins{tail}").lines().map(|line| line.trim_start_matches('#').to_owned() + "\n").collect();
    let shim = session.path("bin/containerd-shim-windlass-v2").display().to_string();
    let table = table.replace("/usr/local/bin/containerd-shim-windlass-v2", &shim);
    let options = below(&format!("{head}{table}"), session).replace("SystemdCgroup = true", "SystemdCgroup = false");
    (bare.to_owned(), options)
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
