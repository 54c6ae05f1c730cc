//! Runs one sample on one runtime and collects the values for the comparison.

use super::generate::{ARGUMENTS, CALLER, CALLS};
use super::normal;
use super::world::World;
use crate::kit::runtime::{self, RuntimeKind};
use crate::kit::{Verdict, stop::Context};
use crate::sys;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The time limit of a run, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// The id of all containers: there is one at a time.
const ID: &str = "peer";

/// A runtime of the comparison.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub path: PathBuf,
    /// Which program it is.
    pub kind: RuntimeKind,
}

/// The observed fields, and the error of a runtime that failed.
pub struct Observation {
    /// `accepted`, `exit`, and the payload's report.
    pub fields: BTreeMap<String, String>,
    /// The line of its error.
    pub said: String,
}

impl Observation {
    /// Whether the runtime did not end.
    pub fn hangs(&self) -> bool {
        self.fields.get("accepted").is_some_and(|accepted| accepted == "hangs")
    }
}

/// Runs `sample` and returns the observation.
pub fn observe(world: &World, runtime: &Runtime, sample: &Value) -> Verdict<Observation> {
    let mut spec = sample.clone();
    let caller = spec.as_object_mut().and_then(|spec| spec.remove(CALLER)).unwrap_or_default();
    let root = spec.pointer("/linux/uidMappings/0/hostID").and_then(Value::as_u64).unwrap_or(0);
    world.fresh_bundle(u32::try_from(root).unwrap_or(0))?;
    complete(world, &mut spec);
    fs::write(world.bundle.join("config.json"), spec.to_string()).context("config.json")?;
    let state = world.dir.join(format!("state-{}", runtime.kind.name()));
    let (out, err) = (world.dir.join("out/stdout"), world.dir.join("out/stderr"));
    for file in [&out, &err] {
        let _ = fs::remove_file(file);
    }
    let mut command = command(world, runtime, &state, &caller)?;
    command.stdout(File::create(&out)?).stderr(File::create(&err)?);
    let mut child = command.spawn().context("sh")?;
    let code = runtime::wait(&mut child, LIMIT, "run").map(runtime::code);
    clear(runtime, &state);
    let mut said = fault(&String::from_utf8_lossy(&fs::read(&err)?));
    let report = fs::read_to_string(&out).unwrap_or_default();
    let mut fields = BTreeMap::new();
    let left = mounts_left(world);
    match serde_json::from_str::<Value>(&report) {
        Ok(Value::Object(report)) => {
            fields = normal::fields(&report, &normal::Names { id: ID, bundle: &world.bundle, sources: &world.sources });
            fields.insert("accepted".to_owned(), "yes".to_owned());
            fields.insert("exit".to_owned(), code.map_or_else(|hung| hung, |code| code.to_string()));
        }
        _ => {
            fields.insert("accepted".to_owned(), if code.is_ok() { "no" } else { "hangs" }.to_owned());
            said += &format!(" ({})", code.map_or_else(|hung| hung, |code| format!("exit {code}")));
        }
    }
    fields.insert("mounts-of-the-caller".to_owned(), left);
    Ok(Observation { fields, said })
}

/// The line with the error in the output of a runtime. runc prints warnings before it.
fn fault(said: &str) -> String {
    let line = said.lines().find(|line| line.contains("level=error") || line.starts_with("error: "));
    let line = line.or(said.lines().last()).unwrap_or_default();
    // runc's line begins with the time.
    line.strip_prefix("time=").and_then(|line| line.split_once(' ')).map_or(line, |(_, rest)| rest).to_owned()
}

/// Adds the needs of every payload: its program, its libraries and the request.
fn complete(world: &World, spec: &mut Value) {
    for library in world.libraries() {
        let mount = json!({"destination": library, "source": library, "type": "bind", "options": ["rbind", "ro"]});
        crate::kit::bundle::put(spec, "/mounts/-", mount);
    }
    let request = json!({
        "masked": spec["linux"]["maskedPaths"],
        "readonly": spec["linux"]["readonlyPaths"],
        "calls": calls(&spec["linux"]["seccomp"]),
    });
    spec["process"]["args"] = json!(["/helper", "@payload", "world", request.to_string()]);
}

/// The calls of a profile, with arguments around those that it compares, and one call that it does not have.
fn calls(profile: &Value) -> Value {
    let rules: Vec<&Value> = profile["syscalls"].as_array().into_iter().flatten().collect();
    let mut calls = vec![json!([libc::SYS_getppid])];
    for (name, number) in CALLS {
        let about =
            rules.iter().filter(|rule| rule["names"].as_array().is_some_and(|names| names.iter().any(|n| n == name)));
        let compared: Vec<&Value> = about.clone().filter_map(|rule| rule["args"].as_array()).flatten().collect();
        if about.count() == 0 {
            continue;
        }
        if compared.is_empty() {
            calls.push(json!([number, u32::MAX, 0, 0]));
            continue;
        }
        for value in ARGUMENTS {
            calls.push(json!([number, value, compared[0]["value"], 0]));
            calls.push(json!([number, compared[0]["value"], value, 0]));
        }
    }
    calls.into()
}

/// The runtime's `run`, executed by a shell that first does the actions of the sample's caller. The shell has its own
/// mount namespace, so that leftover mounts are noticed and disappear.
fn command(world: &World, runtime: &Runtime, state: &Path, caller: &Value) -> Verdict<Command> {
    let script = format!(
        "mount --make-rshared / || exit; {LIST} >out/before; ({}); code=$?; {LIST} >out/after; exit $code",
        call(caller)
    );
    let input = world.dir.join("out/stdin");
    // crun changes the owner of these files to the container's user.
    let _ = fs::remove_file(&input);
    fs::write(&input, "")?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "/bin/sh", "-c", &script, "sh"]);
    command.arg(&runtime.path).arg("--root").arg(state).arg("run");
    command.args(caller["flags"].as_array().into_iter().flatten().filter_map(Value::as_str));
    command.arg("--bundle").arg(&world.bundle).arg(ID).current_dir(&world.dir).stdin(File::open(&input)?);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("OF_THE_CALLER", "1");
    if !crate::kit::machine::bounding_capabilities().iter().any(|name| name == "CAP_SYS_RESOURCE") {
        // All runtimes run under this filter, so that the number of filters is comparable.
        sys::pretend_memlock(&mut command);
    }
    Ok(command)
}

/// Mount points with their options.
const LIST: &str = "cut -d' ' -f4-6 /proc/self/mountinfo | sort";

/// The part of the script that calls the runtime.
fn call(caller: &Value) -> String {
    let mut script = String::from("umask ");
    script += caller["umask"].as_str().unwrap_or("022");
    for signal in caller["ignored"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        script += &format!("; trap '' {signal}");
    }
    for number in 3..3 + caller["descriptors"].as_u64().unwrap_or(0) {
        script += &format!("; exec {number}<sources/file");
    }
    script += "; exec ";
    if let Some(nice) = caller["nice"].as_u64() {
        script += &format!("nice -n {nice} ");
    }
    if let Some(cpus) = caller["cpus"].as_str() {
        script += &format!("taskset -c {cpus} ");
    }
    script + "\"$@\""
}

/// Mounts that exist only after the run, or only before it.
fn mounts_left(world: &World) -> String {
    let read = |name: &str| fs::read_to_string(world.dir.join("out").join(name)).unwrap_or_default();
    let (before, after) = (read("before"), read("after"));
    let only = |these: &str, those: &str| {
        let lines = these.lines().filter(|line| !those.lines().any(|other| other == *line));
        lines.map(str::to_owned).collect::<Vec<_>>().join("; ")
    };
    format!("more: {} fewer: {}", only(&after, &before), only(&before, &after))
}

/// Removes the remains of a failed run.
fn clear(runtime: &Runtime, state: &Path) {
    let quiet = || File::options().write(true).open("/dev/null");
    if state.join(ID).exists() || state.join(format!("{ID}@notify")).exists() {
        let mut command = Command::new(&runtime.path);
        command.arg("--root").arg(state).args(["delete", "--force", ID]).stdin(std::process::Stdio::piped());
        if let (Ok(out), Ok(err)) = (quiet(), quiet()) {
            let _ = command.stdout(out).stderr(err).status();
        }
    }
    let _ = fs::remove_dir_all(state);
    // Kills all but PID 1 of the harness and this process: a runtime that hung leaves processes.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL);
    for entry in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        if entry.file_name() != "init" && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            crate::harness::host::remove_tree(&entry.path());
        }
    }
}
