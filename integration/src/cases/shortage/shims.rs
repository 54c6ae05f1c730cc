//! The shim, when a resource is short at its start and during its life.

use super::disk::{Disk, LACKS};
use super::limit::{Limit, Missing};
use super::verbs::gone;
use super::{ENOUGH, IN_A_ROW};
use crate::kit::machine::text;
use crate::kit::shim::{self, Connection, Shimmed};
use crate::kit::stop::Context;
use crate::kit::wait::eventually;
use crate::kit::{Bundle, T, Verdict, runtime};
use crate::{ensure, ensure_eq};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const TIME: Duration = Duration::from_secs(60);

/// Runs a container that ends with 7 after it gets a line. Returns whether it was started and its end recorded.
fn begins(t: &T, bundle: &Bundle, limit: Limit) -> Verdict<bool> {
    let id = t.id();
    let mut command = shim::run_command(t, bundle, &id)?;
    command.arg("--stdin");
    let (ran, _) = runtime::run_within(TIME, limit.apply(&command), &t.dir)?;
    let said = format!("{}{}", ran.stdout, ran.stderr).to_lowercase();
    let tried = if ran.code == 0 {
        ends(t, &id, bundle).map(|()| true)
    } else {
        let names_it = limit.words().iter().any(|word| said.contains(&word.to_lowercase()));
        ensure!(ran.code == 1 && !said.contains("panicked"), "{ran}");
        ensure!(names_it, "no word of {:?}\n{ran}", limit.words());
        Ok(false)
    };
    let mut delete = shim::command(t, "delete");
    delete.args(["--force", &id]);
    let deleted = t.finish(delete)?;
    tried.context(&ran)?;
    ensure!(deleted.code == 0 || deleted.stderr.contains("does not exist"), "delete --force afterwards: {deleted}");
    gone(t, &id)?;
    Ok(ran.code == 0)
}

/// Ends the container. The shim must report the end that it has recorded.
fn ends(t: &T, id: &str, bundle: &Bundle) -> Verdict {
    let c = Shimmed::existing(t, id, bundle)?;
    let mut client = c.connect()?;
    client.call("attach", json!({}))?;
    client.give("\n")?;
    ensure_eq!(c.line("wait", &[])?["code"], json!(7), "what is told");
    let record: Value = serde_json::from_str(&text(c.file("exit.json"))).context("exit.json")?;
    ensure_eq!(record["code"], json!(7), "what is recorded");
    Ok(())
}

fn waiting(t: &T) -> Verdict<Bundle> {
    Ok(t.bundle()?.sh("read -r _; exit 7"))
}

pub fn descriptors(t: &T) -> Verdict {
    let bundle = waiting(t)?;
    let mut succeeded = 0;
    for much in 3..=ENOUGH {
        let done = begins(t, &bundle, Limit::Descriptors(much)).context(format!("{much} descriptors"))?;
        succeeded = if done { succeeded + 1 } else { 0 };
        if succeeded == IN_A_ROW {
            println!("{} descriptors: windlass-shim run", much + 1 - IN_A_ROW);
            return Ok(());
        }
    }
    crate::kit::stop::fail("windlass-shim run never succeeds")
}

/// The shim's directory is on a file system with a growing amount of room.
pub fn room(t: &T) -> Verdict {
    let bundle = waiting(t)?;
    for lack in LACKS {
        let mut enough = None;
        for much in 1..=48 {
            let disk = Disk::with(t, &shim::state_dir(t), lack, much)?;
            let done = begins(t, &bundle, Limit::World(Missing::Space)).context(format!("{much} {lack:?}"))?;
            ensure!(disk.entries().is_empty(), "left with {much} {lack:?}: {:?}", disk.entries());
            if done {
                enough = Some(much);
                break;
            }
        }
        ensure!(enough.is_some(), "windlass-shim run never succeeds");
        println!("{enough:?} {lack:?}: windlass-shim run");
    }
    Ok(())
}

/// Takes all descriptors of a shim: its limit is lowered to the open ones, and clients take the free ones below it.
/// Dropping the result closes the waiting clients.
fn take_descriptors(t: &T, c: &Shimmed<'_>) -> Verdict<Vec<Connection>> {
    let open = || {
        let entries = fs::read_dir(format!("/proc/{}/fd", c.pid())).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok()).collect::<Vec<_>>()
    };
    let limit = open().into_iter().max().unwrap_or(0) + 1;
    t.host("prlimit", &["--pid", &c.pid().to_string(), &format!("--nofile={limit}:")])?;
    let mut clients = Vec::new();
    eventually("all descriptors are taken", || {
        clients.extend(c.connect().ok());
        std::thread::sleep(Duration::from_millis(20));
        (open().len() as u64 == limit).then_some(())
    })?;
    Ok(clients)
}

/// Raises the limit again, so that the shim can be reached.
struct GivenBack<'t>(&'t T, i32);

impl Drop for GivenBack<'_> {
    fn drop(&mut self) {
        let _ = self.0.host("prlimit", &["--pid", &self.1.to_string(), "--nofile=1024:"]);
    }
}

/// All descriptors of a shim are taken while its container and an exec run.
pub fn none_left(t: &T) -> Verdict {
    let c = shim::run(t, &waiting(t)?, &["--stdin"])?;
    let mut client = c.connect()?;
    let exec = c.exec_in(&mut client, "read -r _ </fifo; exit 5")?;
    let mut input = c.connect()?;
    input.call("attach", json!({}))?;
    let mut events = c.connect()?;
    events.call("subscribe", json!({"from": 1}))?;
    let mut waits = c.connect()?;
    waits.ask("wait", json!({}))?;
    let _given_back = GivenBack(t, c.pid());
    let _clients = take_descriptors(t, &c)?;
    let refused = c.exec_in(&mut client, "true");
    ensure!(refused.is_err(), "an exec without a descriptor begins");
    ensure_eq!(client.call("status", json!({}))?["state"], json!("running"), "status meanwhile");
    input.give("\n")?;
    ensure_eq!(waits.line()?["ok"]["code"], json!(7), "what is told");
    let record: Value = serde_json::from_str(&text(c.file("exit.json"))).context("exit.json")?;
    ensure_eq!(record["code"], json!(7), "what is recorded");
    let mut ended = Vec::new();
    while ended.len() < 2 {
        let event = events.event()?;
        if event["type"] == "exited" {
            ended.push(event["exec"].as_str().unwrap_or_default().to_owned());
        }
    }
    ensure_eq!(ended, [exec.as_str(), ""], "the ends in their order");
    let begun = processor_time(c.pid());
    std::thread::sleep(Duration::from_millis(1000));
    let spent = processor_time(c.pid()) - begun;
    ensure!(spent < 20, "the shim is busy without descriptors: {spent} ticks in a second");
    Ok(())
}

/// Clock ticks of a process, `proc_pid_stat(5)`.
fn processor_time(pid: i32) -> u64 {
    let stat = text(format!("/proc/{pid}/stat"));
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// inotify(7) has no instance, or no watch, for the shim.
pub fn watches(t: &T) -> Verdict {
    for file in ["max_inotify_instances", "max_inotify_watches"] {
        let id = t.id();
        let bundle = waiting(t)?;
        let command = shim::run_command(t, &bundle, &id)?;
        let script =
            format!("exec unshare --user --map-root-user sh -c 'echo 0 >/proc/sys/user/{file}; exec \"$@\"' sh \"$@\"");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args()).arg("--stdin");
        shell.current_dir(&t.dir);
        let ran = t.finish(shell)?;
        let tried = if ran.code == 0 { ends(t, &id, &bundle) } else { ran.clone().stdout_has("inotify").map(drop) };
        let mut delete = shim::command(t, "delete");
        delete.args(["--force", &id]);
        t.finish(delete)?;
        tried.context(file).context(&ran)?;
        ensure!(!Path::new(&shim::state_dir(t)).join(&id).exists(), "the directory is left");
    }
    Ok(())
}
