//! The image of the suite: one static program and links to it, made here and loaded without a
//! registry.

use integration::kit::Verdict;
use integration::kit::stop::{Context, fail};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of the image in every engine.
pub const NAME: &str = "localhost/bb:latest";

/// A file of the image in a place where cases put volumes, and its content.
pub const SEED: (&str, &str) = ("/data/seed", "from the image");

/// Builds a root file system of busybox at `root`.
pub fn busybox(root: &Path) -> Verdict {
    let source = "/bin/busybox";
    for dir in ["bin", "etc", "tmp", "root", "proc", "sys", "dev", "data", "www"] {
        fs::create_dir_all(root.join(dir)).context(dir)?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::copy(source, root.join("bin/busybox")).context(source)?;
    let listed = Command::new(source).arg("--list").output().context(source)?;
    for applet in String::from_utf8_lossy(&listed.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).context(applet)?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\nmember:x:1001:1001:member:/tmp:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\nextra:x:2000:\nmember:x:1001:\nstaff:x:2500:member\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    let pause = root.join("bin/pause");
    fs::write(&pause, "#!/bin/sh\ntrap 'exit 0' TERM INT\nwhile :; do sleep 0.1; done\n")?;
    fs::set_permissions(&pause, fs::Permissions::from_mode(0o755))?;
    fs::write(root.join("bin/not-executable"), "#!/bin/sh\n")?;
    fs::write(root.join(&SEED.0[1..]), SEED.1)?;
    fs::write(root.join("www/index.html"), "served\n")?;
    Ok(())
}

/// `tar`s the directory `root` to `to`, owned by root.
pub fn tar(root: &Path, to: &Path) -> Verdict {
    let mut command = Command::new("tar");
    command.arg("-C").arg(root).args(["--numeric-owner", "--owner=0", "--group=0", "-cf"]).arg(to).arg(".");
    let status = command.status().context("tar")?;
    if status.success() { Ok(()) } else { fail(format!("tar {}: {status}", root.display())) }
}

/// Packs `root` as an OCI image layout named `name` into the archive `to`.
pub fn oci_archive(root: &Path, name: &str, command: &[&str], to: &Path) -> Verdict {
    let layout = to.with_extension("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).context(blobs.display())?;
    let layer = layout.join("layer");
    tar(root, &layer)?;
    let layer = blob(&blobs, layer, "application/vnd.oci.image.layer.v1.tar")?;
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = document(&blobs, &config, "application/vnd.oci.image.config.v1+json")?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer]});
    let mut manifest = document(&blobs, &manifest, manifest_type)?;
    manifest["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
    fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar(&layout, to)?;
    fs::remove_dir_all(&layout).context(layout.display())
}

fn document(blobs: &Path, value: &Value, media_type: &str) -> Verdict<Value> {
    let path = blobs.join("document");
    fs::write(&path, value.to_string())?;
    blob(blobs, path, media_type)
}

/// Moves a file among the blobs; its descriptor.
fn blob(blobs: &Path, path: PathBuf, media_type: &str) -> Verdict<Value> {
    let sum = Command::new("sha256sum").arg(&path).output().context("sha256sum")?;
    let sum = String::from_utf8_lossy(&sum.stdout).split(' ').next().unwrap_or_default().to_owned();
    let size = fs::metadata(&path).context(path.display())?.len();
    fs::rename(&path, blobs.join(&sum)).context(&sum)?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{sum}"), "size": size}))
}
