//! Lives in which a container is dumped and restored, by the shim's own protocol and a played CRIU.

use super::super::stage::{Payload, Stage};
use super::super::stdio::Stdio;
use super::super::tracer::Session;
use super::super::verbs;
use super::client::Client;
use super::neutral::{directory, fact, prepare_with, recorded, told_events};
use super::{Fact, ended, until};
use crate::kit::machine::text;
use crate::kit::stop::{Context, Verdict};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

fn images(stage: &Stage, id: &str) -> PathBuf {
    stage.dir.join("images").join(id)
}

fn prepared(stage: &Stage, id: &str, script: &str) -> Verdict<Command> {
    let criu = verbs::criu(stage, script);
    fs::create_dir_all(images(stage, id)).context("images")?;
    let mut command = prepare_with(stage, id, Payload::Sleep);
    command.args(["--runtime-arg", "--criu", "--runtime-arg"]).arg(criu);
    Ok(command)
}

/// The words of `run` for a container that will be dumped.
pub fn prepare(stage: &Stage, id: &str) -> Verdict<Command> {
    prepared(stage, id, verbs::DUMPS)
}

/// The words of `run` for a container that is made from images.
pub fn prepare_restore(stage: &Stage, id: &str) -> Verdict<Command> {
    let mut command = prepared(stage, id, verbs::RESTORES)?;
    command.arg("--restore").arg(images(stage, id)).args(["--create-arg", "--trust-images"]);
    Ok(command)
}

/// Has the container dumped while it runs, and then once more, which ends it.
pub fn live(stage: &Stage, id: &str, session: &Session, stdio: &Stdio) -> Vec<Fact> {
    let dump = |member: Value| {
        let socket = directory(stage, id).join("shim.sock");
        let mut members = member;
        members["image_path"] = json!(images(stage, id));
        Client::connect(&socket).and_then(|mut client| client.call("checkpoint", &members))
    };
    to_its_end(stage, id, (session, stdio), &|facts| {
        facts.push(fact("dump", dump(json!({"leave_running": true}))));
        let last = fact("last dump", dump(json!({})));
        let is_done = last.1.starts_with("ok");
        facts.push(last);
        is_done
    })
}

/// Looks at it, and has it killed.
pub fn live_restore(stage: &Stage, id: &str, session: &Session, stdio: &Stdio) -> Vec<Fact> {
    to_its_end(stage, id, (session, stdio), &|_| false)
}

/// The life of a container around `does`, which returns whether it has ended the container.
fn to_its_end(
    stage: &Stage,
    id: &str,
    (session, stdio): (&Session, &Stdio),
    does: &dyn Fn(&mut Vec<Fact>) -> bool,
) -> Vec<Fact> {
    let run = ended(session, stdio);
    let line = run.strip_prefix("ok ").and_then(|line| serde_json::from_str(line).ok());
    let mut facts = vec![match line {
        Some(value) => fact("run", Ok(value)),
        None => ("run".to_owned(), run.clone()),
    }];
    if !run.starts_with("ok") {
        return facts;
    }
    let socket = directory(stage, id).join("shim.sock");
    let call = |op: &str, members: Value| Client::connect(&socket).and_then(|mut client| client.call(op, &members));
    let mut events = Client::connect(&socket);
    if let Ok(client) = &mut events {
        facts.push(fact("subscribe", client.call("subscribe", &json!({"from": 1})).map(|_| json!({}))));
    }
    if !does(&mut facts) {
        facts.push(("killed".to_owned(), "yes".to_owned()));
        if call("kill", json!({"signal": "KILL"})).is_err() {
            let _ = stage.run(&["kill", id, "KILL"]);
        }
    }
    facts.push(fact("wait", call("wait", json!({}))));
    facts.push(fact("status", call("status", json!({}))));
    // An engine whose connection has failed does not know when the record is written.
    let record = until(Duration::from_secs(5), || {
        Some(recorded(&text(directory(stage, id).join("exit.json")))).filter(|record| !record.is_empty())
    });
    facts.push(("record".to_owned(), record.unwrap_or_default()));
    facts.push(("shim's errors".to_owned(), text(directory(stage, id).join("shim.err"))));
    let deleted = call("delete", json!({}));
    // Only the end of the shim ends the events.
    let is_over = deleted.is_ok() || call("delete", json!({"force": true})).is_ok();
    facts.push(fact("delete", deleted));
    facts.push(("events".to_owned(), if is_over { told_events(events) } else { "unknown".to_owned() }));
    facts
}
