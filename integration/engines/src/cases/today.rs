//! Features of docker and podman that came after Debian 12.

use super::network::{answers, server};
use crate::case::chapter;
use crate::engine::{docker_configuration, load, start_dockerd};
use crate::image::NAME;
use crate::session::Session;
use integration::kit::Verdict;
use integration::kit::stop::{Context, skip};
use integration::{ensure, ensure_eq};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

chapter! { [Docker] "today":
    containers_run_from_the_image_store_of_containerd,
    containers_of_that_store_outlive_their_daemon,
    compose_starts_services_that_know_each_other,
    buildx_builds_with_the_runtime_that_is_called_runc,
    a_device_of_cdi_has_its_nodes_mounts_and_hooks,
}

/// Skips unless the client has this command, which is a separate program.
fn plugin(s: &Session, name: &str) -> Verdict {
    match s.run(&format!("{name} version"))?.code {
        0 => Ok(()),
        _ => skip(format!("docker {name} is not installed")),
    }
}

/// Restarts the daemon with more configuration, does `work`, and starts the usual daemon again.
fn with_configuration(s: &Session, more: Value, options: &[&str], work: impl FnOnce() -> Verdict) -> Verdict {
    let mut file: Value = serde_json::from_str(&docker_configuration(s)).context("daemon.json")?;
    file.as_object_mut().into_iter().for_each(|file| file.extend(more.as_object().cloned().unwrap_or_default()));
    let path = s.path("other.json");
    fs::write(&path, file.to_string())?;
    s.end_daemon(Signal::SIGTERM)?;
    let path = path.display().to_string();
    let done = start_dockerd(s, &[&["--config-file", &path], options].concat()).and_then(|()| work());
    s.end_daemon(Signal::SIGTERM)?;
    start_dockerd(s, &[])?;
    done
}

fn with_store(s: &Session, work: impl FnOnce() -> Verdict) -> Verdict {
    let version = s.ok_with("version --format", "{{.Server.Version}}")?;
    let major = version.split('.').next().and_then(|text| text.parse::<u32>().ok());
    if major.is_none_or(|major| major < 24) {
        return skip("docker keeps images with containerd since 24");
    }
    with_configuration(
        s,
        json!({"features": {"containerd-snapshotter": true}}),
        &["--storage-driver", "overlayfs"],
        || {
            ensure!(s.ok("info")?.contains("io.containerd.snapshotter.v1"), "the images are kept elsewhere");
            load(s)?;
            work()
        },
    )
}

fn containers_run_from_the_image_store_of_containerd(s: &Session) -> Verdict {
    with_store(s, || {
        ensure_eq!(s.inside("", "cat /data/seed")?, "from the image", "a file of the image");
        let name = s.sleeper("")?;
        s.run_with(&format!("exec {name} sh -c"), "echo new > /new; exit 3")?.code_is(3)?;
        s.ok(&format!("commit {name} localhost/committed"))?;
        ensure_eq!(s.ok("run --rm localhost/committed cat /new")?, "new", "a file of the committed image");
        s.ok(&format!("restart -t 1 {name}"))?;
        ensure_eq!(s.ok(&format!("exec {name} cat /new"))?, "new", "after a restart");
        s.ok(&format!("rm -f {name}"))?;
        s.ok("image rm localhost/committed").map(drop)
    })
}

fn containers_of_that_store_outlive_their_daemon(s: &Session) -> Verdict {
    with_store(s, || {
        let name = server(s, "-p 18091:80")?;
        let pid = s.inspect(&name, "{{.State.Pid}}")?;
        s.end_daemon(Signal::SIGKILL)?;
        let path = s.path("other.json").display().to_string();
        start_dockerd(s, &["--config-file", &path, "--storage-driver", "overlayfs"])?;
        ensure_eq!(s.inspect(&name, "{{.State.Pid}}")?, pid, "its process");
        answers(s, "127.0.0.1:18091")?;
        s.run_with(&format!("exec {name} sh -c"), "exit 4")?.code_is(4)?;
        s.ok(&format!("rm -f {name}")).map(drop)
    })
}

fn compose_starts_services_that_know_each_other(s: &Session) -> Verdict {
    plugin(s, "compose")?;
    let dir = s.scratch()?;
    let file = dir.join("compose.yaml");
    let services = format!(
        r#"services:
  web:
    image: {NAME}
    pull_policy: never
    command: [httpd, -f, -p, "80", -h, /www]
    stop_signal: SIGKILL
    healthcheck: {{test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1/"], interval: 1s, retries: 60}}
  client:
    image: {NAME}
    pull_policy: never
    command: [sh, -c, "wget -q -O - http://web/; exit 7"]
    depends_on: {{web: {{condition: service_healthy}}}}
    volumes: [data:/data]
volumes:
  data: {{}}
"#
    );
    fs::write(&file, services)?;
    let compose = format!("compose --project-name {} --file {}", s.name(), file.display());
    s.ok(&format!("{compose} up --detach --wait web"))?;
    // The command ends with the exit code of the service.
    s.run(&format!("{compose} up --exit-code-from client client"))?.code_is(7)?.stdout_has("served")?;
    s.run_with(&format!("{compose} exec -T web sh -c"), "exit 5")?.code_is(5)?;
    s.ok(&format!("{compose} up --detach --scale web=2 web"))?;
    let running = s.ok(&format!("{compose} ps --quiet --status running web"))?;
    ensure_eq!(running.lines().count(), 2, "services after scaling");
    s.ok(&format!("{compose} down --volumes --timeout 1"))?;
    ensure_eq!(s.ok(&format!("{compose} ps --all --quiet"))?, "", "what is left");
    Ok(())
}

fn buildx_builds_with_the_runtime_that_is_called_runc(s: &Session) -> Verdict {
    plugin(s, "buildx")?;
    // BuildKit does not look at the default runtime: it calls `runc` from dockerd's PATH.
    let (called, wrapper) = (s.path("buildkit.calls"), s.path("bin/buildkit-runc"));
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\nexec {} \"$@\"\n", called.display(), s.below.runtime.display());
    fs::write(&wrapper, script)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    fs::copy(&wrapper, s.path("bin/runc"))?;
    with_configuration(s, json!({}), &[], || {
        let dir = s.scratch()?;
        let lines =
            "USER user\nRUN id -u > /tmp/uid\nUSER root\nRUN --mount=type=cache,target=/cache touch /cache/x /built";
        fs::write(dir.join("Dockerfile"), format!("FROM {NAME}\n{lines}\n"))?;
        let build = |dir: &std::path::Path| {
            let mut command =
                s.command(&format!("buildx build --progress plain --network none -t localhost/x {}", dir.display()));
            command.env("DOCKER_BUILDKIT", "1");
            s.finish(command)
        };
        build(&dir)?.ok()?;
        ensure_eq!(s.ok("run --rm localhost/x cat /tmp/uid")?, "1000", "the user of a step");
        let calls = fs::read_to_string(&called).unwrap_or_default();
        ensure!(calls.contains(" run "), "BuildKit runs steps by another program: {calls}");
        fs::write(dir.join("Dockerfile"), format!("FROM {NAME}\nRUN exit 42\n"))?;
        build(&dir)?.fails()?.stderr_has("42")?;
        s.ok("image rm localhost/x").map(drop)
    })?;
    fs::remove_file(s.path("bin/runc")).context("runc")
}

/// The directory in which engines look for descriptions of devices. In the harness it is a tmpfs.
const CDI: &str = "/run/cdi";

/// Describes the device `example.com/device=one`. Returns the file that its hook makes on the host.
pub fn describe_device(s: &Session) -> Verdict<std::path::PathBuf> {
    let (shared, seen) = (s.scratch()?, s.path(&s.name()));
    fs::write(shared.join("driver"), "of the host\n")?;
    let hook = ["sh", "-c", &format!("cat > {}", seen.display())];
    let description = json!({"cdiVersion": "0.5.0", "kind": "example.com/device", "devices": [{"name": "one",
    "containerEdits": {
        "env": ["DEVICE=one"],
        "deviceNodes": [{"path": "/dev/device-one", "hostPath": "/dev/zero", "permissions": "r"}],
        "mounts": [{"hostPath": shared.display().to_string(), "containerPath": "/opt/driver",
            "options": ["ro", "nosuid", "nodev", "bind"]}],
        "hooks": [{"hookName": "createRuntime", "path": "/bin/sh", "args": hook}],
    }}]});
    fs::create_dir_all(CDI)?;
    fs::write(format!("{CDI}/example.json"), description.to_string())?;
    Ok(seen)
}

/// A command that prints what a container with the device has of it.
pub const LOOK: &str = "echo $DEVICE; cat /opt/driver/driver; head -c 4 /dev/device-one | od -An -tx1 | tr -d ' '; \
    touch /opt/driver/x 2>/dev/null || echo read-only";

/// The output of [`LOOK`].
pub const LOOKED: &str = "one\nof the host\n00000000\nread-only";

fn a_device_of_cdi_has_its_nodes_mounts_and_hooks(s: &Session) -> Verdict {
    let seen = describe_device(s)?;
    let check = || {
        let ran = s.try_inside("--device example.com/device=one", LOOK)?;
        if ran.stderr.contains("could not select device driver") || ran.stderr.contains("error gathering device") {
            return skip("this docker does not know CDI");
        }
        ensure_eq!(ran.ok()?.stdout.trim(), LOOKED, "what the container sees");
        let state = fs::read_to_string(&seen).context("what the hook writes")?;
        ensure!(state.contains("\"pid\""), "the state that the hook reads: {state}");
        Ok(())
    };
    with_configuration(s, json!({"features": {"cdi": true}}), &[], check)
}
