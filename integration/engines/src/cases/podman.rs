//! Features of podman that docker does not have.

use super::life::logged;
use super::today::{LOOK, LOOKED, describe_device};
use crate::case::chapter;
use crate::image::NAME;
use crate::session::Session;
use integration::kit::Verdict;
use integration::kit::runtime::RuntimeKind;
use integration::{ensure, ensure_eq};
use std::fs;

chapter! { [Podman] "pods":
    a_pod_shares_its_network_and_keeps_its_containers_together,
    a_pod_is_paused_stopped_and_started,
    kube_generate_and_play_make_the_same_pod,
    a_checkpoint_is_refused_with_a_reason,
    a_container_is_run_by_the_runtime_that_was_asked_for,
    a_detached_exec_session_is_seen_in_inspect,
    a_device_of_cdi_has_its_nodes_mounts_and_hooks,
}

fn a_pod_shares_its_network_and_keeps_its_containers_together(s: &Session) -> Verdict {
    let pod = s.name();
    s.ok(&format!("pod create --name {pod} --hostname pod1"))?;
    let server = s.up(&format!("--pod {pod}"), "echo ready; exec httpd -f -p 80 -h /www")?;
    logged(s, &server, "ready")?;
    let seen = s.inside(&format!("--pod {pod}"), "hostname; wget -q -O - http://127.0.0.1/")?;
    ensure_eq!(seen, "pod1\nserved", "host name and page");
    ensure!(s.ok_with("pod ps --format", "{{.Name}} {{.Status}}")?.contains(&format!("{pod} Running")), "pod ps");
    s.ok(&format!("pod rm -f -t 0 {pod}"))?;
    s.run(&format!("inspect {server}"))?.fails().map(drop)
}

fn a_pod_is_paused_stopped_and_started(s: &Session) -> Verdict {
    let (pod, name) = pod(s)?;
    for (verb, expected) in [("pause", "paused"), ("unpause", "running"), ("stop -t 1", "exited"), ("start", "running")]
    {
        s.ok(&format!("pod {verb} {pod}"))?;
        ensure_eq!(s.inspect(&name, "{{.State.Status}}")?, expected, "after pod {verb}");
    }
    Ok(())
}

/// A pod with a server in it; the names of both.
fn pod(s: &Session) -> Verdict<(String, String)> {
    let pod = s.name();
    s.ok(&format!("pod create --name {pod} --infra=false"))?;
    let name = s.up(&format!("--pod {pod}"), "echo ready; trap 'exit 0' TERM; while :; do sleep 0.05; done")?;
    logged(s, &name, "ready")?;
    Ok((pod, name))
}

fn kube_generate_and_play_make_the_same_pod(s: &Session) -> Verdict {
    let (pod, name) = pod(s)?;
    let yaml = s.path("pod.yaml");
    fs::write(&yaml, s.ok(&format!("kube generate {pod}"))?)?;
    s.ok(&format!("pod rm -f -t 0 {pod}"))?;
    s.ok(&format!("kube play {}", yaml.display()))?;
    logged(s, &format!("{pod}-{name}"), "ready")?;
    s.ok(&format!("kube play --down {}", yaml.display())).map(drop)
}

fn a_checkpoint_is_refused_with_a_reason(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    let ran = s.run(&format!("container checkpoint {name}"))?;
    if s.below.kind == RuntimeKind::Windlass {
        // A newer podman looks for criu before it asks the runtime.
        ran.fails()?.stderr_has_any(&["checkpoint", "criu"])?;
        ensure_eq!(s.inspect(&name, "{{.State.Status}}")?, "running", "the container afterwards");
    }
    Ok(())
}

fn a_container_is_run_by_the_runtime_that_was_asked_for(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    ensure_eq!(s.inspect(&name, "{{.OCIRuntime}}")?, "windlass", "runtime by its configured name");
    let (name, runtime) = (s.name(), s.below.runtime.display());
    s.ok(&format!("--runtime {runtime} run --name {name} {NAME} true"))?;
    ensure_eq!(s.inspect(&name, "{{.OCIRuntime}}")?, runtime.to_string(), "runtime by its path");
    Ok(())
}

fn a_detached_exec_session_is_seen_in_inspect(s: &Session) -> Verdict {
    let name = s.sleeper("")?;
    s.ok(&format!("exec -d {name} sleep 1000"))?;
    ensure!(s.inspect(&name, "{{.ExecIDs}}")?.len() > 10, "no exec session");
    Ok(())
}

fn a_device_of_cdi_has_its_nodes_mounts_and_hooks(s: &Session) -> Verdict {
    let seen = describe_device(s)?;
    ensure_eq!(s.inside("--device example.com/device=one", LOOK)?, LOOKED, "what the container sees");
    let state = fs::read_to_string(&seen)?;
    ensure!(state.contains("\"pid\""), "the state that the hook reads: {state}");
    Ok(())
}
