//! The life of a shim that serves its own protocol.

use super::super::stage::{Payload, Stage};
use super::super::stdio::Stdio;
use super::super::tracer::{self, Session};
use super::client::Client;
use super::{Fact, ended, log};
use crate::kit::machine::text;
use crate::kit::runtime;
use crate::kit::stop::Verdict;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

pub(super) fn directory(stage: &Stage, id: &str) -> PathBuf {
    stage.root().join("shims").join(id)
}

/// The arguments of `run`.
pub fn prepare(stage: &Stage, id: &str) -> Verdict<Command> {
    let mut command = prepare_with(stage, id, Payload::Life);
    command.arg("--stdin");
    Ok(command)
}

/// Prepares a shim for another payload, with its output in a log.
pub(super) fn prepare_with(stage: &Stage, id: &str, payload: Payload) -> Command {
    let mut command = tracer::stopped(&stage.shim);
    let _ = std::fs::remove_file(stage.dir.join("life.log"));
    command.args(["run", "--id", id, "--bundle"]).arg(stage.bundle(payload));
    command.arg("--runtime").arg(&stage.runtime).arg("--root").arg(stage.root());
    command.arg("--state-dir").arg(stage.root().join("shims"));
    command.arg("--log").arg(format!("k8s:{}", stage.dir.join("life.log").display()));
    command.current_dir(&stage.dir);
    command
}

/// The part of an answer that is the same in all runs.
fn plain(mut value: Value) -> String {
    forget(&mut value);
    format!("ok {value}")
}

fn forget(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !VARYING.contains(&name.as_str()));
            members.values_mut().for_each(forget);
        }
        Value::Array(list) => list.iter_mut().for_each(forget),
        _ => {}
    }
}

/// Members of answers that differ between runs.
const VARYING: &[&str] = &["at", "id", "pid", "shim_pid", "last_event", "acknowledged", "socket", "version"];

pub(super) fn fact(name: &str, answer: Result<Value, String>) -> Fact {
    (name.to_owned(), answer.map_or_else(|trouble| trouble, plain))
}

/// Runs an exec, sends input, waits for the ends, and deletes.
pub fn live(stage: &Stage, id: &str, session: &Session, stdio: &Stdio) -> Vec<Fact> {
    let run = ended(session, stdio);
    let is_running = run.starts_with("ok");
    let line = |text: &str| text.strip_prefix("ok ").and_then(|line| serde_json::from_str(line).ok());
    let mut facts = vec![match line(&run) {
        Some(value) => fact("run", Ok(value)),
        None => ("run".to_owned(), run),
    }];
    if !is_running {
        return facts;
    }
    let socket = directory(stage, id).join("shim.sock");
    let call = |op: &str, members: Value| Client::connect(&socket).and_then(|mut client| client.call(op, &members));
    let mut events = Client::connect(&socket);
    if let Ok(client) = &mut events {
        facts.push(fact("subscribe", client.call("subscribe", &json!({"from": 1})).map(|_| json!({}))));
    }
    let process = json!({"args": ["/bin/sh", "-c", "echo in exec; exit 3"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "env": ["PATH=/bin"]});
    facts.push(fact("exec", call("exec", json!({"exec": "e1", "process": process}))));
    facts.push(fact("exec wait", call("wait", json!({"exec": "e1"}))));
    let (attached, told) = attach(&socket);
    let is_fed = attached.starts_with("ok") && told.is_ok();
    facts.push(("attach".to_owned(), attached));
    facts.push(("frames".to_owned(), told.map_or_else(|trouble| trouble, |told| format!("ok {told}"))));
    if !is_fed {
        // The payload still waits for input.
        facts.push(("killed".to_owned(), "yes".to_owned()));
        if call("kill", json!({"signal": "KILL"})).is_err() {
            let _ = stage.run(&["kill", id, "KILL"]);
        }
    }
    facts.push(fact("wait", call("wait", json!({}))));
    facts.push(fact("status", call("status", json!({}))));
    facts.push(("record".to_owned(), recorded(&text(directory(stage, id).join("exit.json")))));
    facts.push(("log".to_owned(), log(stage)));
    facts.push(("shim's errors".to_owned(), text(directory(stage, id).join("shim.err"))));
    let deleted = call("delete", json!({}));
    // Only the end of the shim ends the events.
    let is_over = deleted.is_ok() || call("delete", json!({"force": true})).is_ok();
    facts.push(fact("delete", deleted));
    facts.push(("events".to_owned(), if is_over { told_events(events) } else { "unknown".to_owned() }));
    facts
}

pub(super) fn recorded(text: &str) -> String {
    serde_json::from_str::<Value>(text)
        .map_or_else(|_| String::new(), |record| plain(json!({"code": record["code"], "signal": record["signal"]})))
}

/// Attaches and sends the line that the program waits for. Returns the answer and the output.
fn attach(socket: &std::path::Path) -> (String, Result<String, String>) {
    let mut client = match Client::connect(socket) {
        Ok(client) => client,
        Err(trouble) => return (trouble.clone(), Err(trouble)),
    };
    match client.call("attach", &json!({})) {
        Ok(_) => ("ok".to_owned(), client.give("go\n").and_then(|()| client.frames())),
        Err(trouble) => (trouble.clone(), Err(trouble)),
    }
}

/// The types of all events in their order, each with its container or exec.
pub(super) fn told_events(client: Result<Client, String>) -> String {
    let mut client = match client {
        Ok(client) => client,
        Err(trouble) => return trouble,
    };
    let mut kinds = Vec::new();
    loop {
        match client.line() {
            Ok(event) => {
                let word = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
                kinds.push(format!("{} {} {}", word("type"), word("exec"), event["status"]));
            }
            Err(trouble) if trouble == "hangs" => return trouble,
            // A client that was disconnected subscribes again, from the next number on.
            Err(_) if !kinds.iter().any(|kind| kind.starts_with("deleted")) => {
                return format!("closed\n{}", kinds.join("\n"));
            }
            Err(_) => return kinds.join("\n"),
        }
    }
}

/// Deletes by the shim's `delete --force`, then by the runtime's, as an engine does whose shim is lost.
pub fn delete(stage: &Stage, id: &str) -> Option<String> {
    let mut command = Command::new(&stage.shim);
    command.args(["delete", "--force", "--state-dir"]).arg(stage.root().join("shims")).arg(id);
    command.stdin(std::process::Stdio::null()).current_dir(&stage.dir);
    let done = runtime::run_within(super::super::stage::LIMIT, command, &stage.dir);
    let is_there = directory(stage, id).exists();
    match done {
        Ok((ran, capture)) => {
            let _ = (std::fs::remove_file(capture.stdout), std::fs::remove_file(capture.stderr));
            if is_there { Some(ran.to_string()) } else { None }
        }
        Err(stop) => Some(stop.to_string()),
    }
}
