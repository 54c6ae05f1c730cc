//! The shim below newer engines than Debian has: their messages, encoded by another library.

use crate::chapter;
use crate::kit::stop::skip;
use crate::kit::{Need, T, Verdict};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

chapter! { "shim_foreign":
    containerd_2_4_has_its_whole_life_of_tasks [Need::Slow],
    cri_o_1_37_has_its_whole_life_of_a_container [Need::Slow],
}

/// Debian's Python, which has Debian's library.
const PYTHON: &str = "/usr/bin/python3";

fn containerd_2_4_has_its_whole_life_of_tasks(t: &T) -> Verdict {
    let library = Command::new(PYTHON).args(["-c", "import google.protobuf"]).output();
    if !library.is_ok_and(|output| output.status.success()) {
        return skip("python3-protobuf is not installed: integration/setup.sh");
    }
    let annotated = |script: &str| {
        let pod = json!({"io.kubernetes.cri.sandbox-id": "pod"});
        Ok::<_, crate::kit::Stop>(t.bundle()?.set("/annotations", pod).sh(script))
    };
    let first = annotated("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")?;
    let second = annotated("exec sleep 1000")?;
    first.write()?;
    second.write()?;
    let dir = t.path("foreign");
    fs::create_dir(&dir)?;
    // A runtime whose create lasts as long as a file exists.
    let runtime = dir.join("runtime");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *\" create \"*) while [ -e {dir}/hang ]; do : > {dir}/hang-seen; sleep 0.05; done;; esac\n\
         exec {} \"$@\"\n",
        t.runtime.display(),
        dir = dir.display(),
    );
    fs::write(&runtime, script)?;
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(PYTHON);
    command.args(["-c", include_str!("shim_foreign.py")]).args([&t.shim, &runtime, &dir.join("root")]);
    command.args([&first.dir, &second.dir, &dir]);
    t.finish(command)?.ok().map(drop)
}

fn cri_o_1_37_has_its_whole_life_of_a_container(t: &T) -> Verdict {
    let script = "trap 'exit 7' TERM; i=0; while :; do i=$((i + 1)); echo $i; sleep 0.02; done";
    let bundle = t.bundle()?.sh(script);
    bundle.write()?;
    let dir = t.path("crio");
    fs::create_dir(&dir)?;
    let mut command = Command::new(PYTHON);
    command.args(["-c", include_str!("shim_crio.py")]).args([&t.shim, &t.runtime]).arg(t.root());
    command.args([&bundle.dir, &dir]);
    t.finish(command)?.ok().map(drop)
}
