//! Two commands on one container at a time: one may fail, the state may not.

use crate::kit::wait::eventually;
use crate::kit::{Container, Need, T, Verdict, cgroup};
use crate::{chapter, ensure, ensure_eq};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use std::io::Read;
use std::process::{Child, Command, Stdio};

chapter! { "concurrency":
    one_of_many_creates_of_an_id_wins,
    one_of_many_starts_wins,
    start_waits_for_a_create_that_is_at_work,
    many_deletes_leave_nothing,
    delete_force_during_create_leaves_nothing,
    delete_force_during_start_leaves_nothing,
    delete_force_names_what_does_not_die_while_another_command_waits_for_it [Need::Windlass],
    kill_during_start_is_seen,
    execs_in_parallel_all_succeed,
    exec_during_delete_leaves_nothing,
    exec_in_a_container_that_is_killed_says_that_it_stopped [Need::Windlass],
    pause_and_resume_in_parallel_end_in_a_known_state,
    pause_of_a_container_that_is_killed_ends_at_once,
    whoever_changes_a_container_waits_for_its_lock [Need::Windlass],
    state_and_list_during_delete_never_crash,
    containers_in_parallel_do_not_disturb_each_other,
}

fn spawn(t: &T, words: &[&str]) -> Verdict<Child> {
    let mut command: Command = t.command();
    command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.spawn()?)
}

/// Exit codes of commands that run at the same time.
fn together(t: &T, commands: &[&[&str]]) -> Verdict<Vec<i32>> {
    let children: Vec<Child> = commands.iter().map(|words| spawn(t, words)).collect::<Verdict<_>>()?;
    let mut codes = Vec::new();
    for (mut child, words) in children.into_iter().zip(commands) {
        let status = crate::kit::runtime::wait(&mut child, std::time::Duration::from_secs(120), &words.join(" "));
        codes.push(status.map(crate::kit::runtime::code).map_err(crate::kit::Stop::Fail)?);
    }
    Ok(codes)
}

fn gone(t: &T, id: &str) -> Verdict {
    t.runtime(&["state", id])?.fails()?.stderr_has("does not exist")?;
    ensure!(!t.root().join(id).exists(), "a state directory is left");
    let cgroup = format!("/sys/fs/cgroup/{id}");
    ensure!(!std::path::Path::new(&cgroup).exists(), "{cgroup} is left");
    Ok(())
}

fn one_of_many_creates_of_an_id_wins(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    for _ in 0..3 {
        let container = Container::new(t, t.id(), bundle.dir.clone());
        let create = ["create", "--bundle", &dir, &container.id];
        let codes = together(t, &[&create[..]; 4])?;
        ensure_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "winners among {codes:?}");
        container.status_is("created")?;
        container.delete()?;
        gone(t, &container.id)?;
    }
    Ok(())
}

fn one_of_many_starts_wins(t: &T) -> Verdict {
    let container = t.create(&t.bundle()?.sh("echo started; sleep 1000"))?;
    let start = ["start", &container.id];
    let codes = together(t, &[&start[..]; 4])?;
    ensure_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "winners among {codes:?}");
    container.wait_for_output("started")?;
    container.status_is("running")
}

fn start_waits_for_a_create_that_is_at_work(t: &T) -> Verdict {
    let hook = json!([{"path": "/bin/sleep", "args": ["sleep", "0.5"]}]);
    let bundle = t.bundle()?.set("/hooks/createRuntime", hook).args(&["/bin/sleep", "1000"]);
    bundle.write()?;
    let container = Container::new(t, t.id(), bundle.dir.clone());
    let mut create = spawn(t, &["create", "--bundle", &bundle.dir.display().to_string(), &container.id])?;
    eventually("creating", || t.runtime(&["state", &container.id]).ok().filter(|ran| ran.stdout.contains("creating")))?;
    container.start()?;
    ensure!(create.wait()?.success(), "create failed");
    container.status_is("running")
}

fn many_deletes_leave_nothing(t: &T) -> Verdict {
    for _ in 0..3 {
        let container = t.running()?;
        let delete = ["delete", "--force", &container.id];
        let codes = together(t, &[&delete[..]; 4])?;
        ensure!(codes.iter().all(|code| *code >= 0) && codes.contains(&0), "exit codes {codes:?}");
        gone(t, &container.id)?;
    }
    Ok(())
}

/// As with a `create` whose init waits in state D for a file system that does not answer. Here the case itself holds
/// the lock, and makes a process after all were killed.
fn delete_force_names_what_does_not_die_while_another_command_waits_for_it(t: &T) -> Verdict {
    let container = t.running()?;
    let procs = cgroup::of(&container)?.join("cgroup.procs");
    let state = std::fs::File::open(t.root().join(&container.id))?;
    let lock = Flock::lock(state, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let mut delete = t.command();
    delete.args(["delete", "--force", &container.id]).stderr(Stdio::piped());
    let mut delete = delete.spawn()?;
    eventually("all killed", || std::fs::read_to_string(&procs).ok().filter(String::is_empty))?;
    let mut stays = Command::new("sleep").arg("1000").spawn()?;
    std::fs::write(&procs, stays.id().to_string())?;
    let ended = crate::kit::runtime::wait(&mut delete, std::time::Duration::from_secs(60), "delete");
    stays.kill()?;
    stays.wait()?;
    drop(lock);
    let status = ended.map_err(crate::kit::Stop::Fail)?;
    let mut said = String::new();
    if let Some(mut stderr) = delete.stderr.take() {
        stderr.read_to_string(&mut said)?;
    }
    ensure_eq!(status.code(), Some(1), "exit code: {said}");
    let named = format!("still running after SIGKILL: process {} (sleep)", stays.id());
    ensure!(said.contains(&named), "not named: {said}");
    container.delete()?;
    gone(t, &container.id)
}

fn delete_force_during_create_leaves_nothing(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    for delay in [0, 1, 2, 4, 8, 16] {
        let container = Container::new(t, t.id(), bundle.dir.clone());
        let mut create = spawn(t, &["create", "--bundle", &dir, &container.id])?;
        std::thread::sleep(std::time::Duration::from_millis(delay));
        t.runtime(&["delete", "--force", &container.id])?;
        crate::kit::runtime::wait(&mut create, std::time::Duration::from_secs(120), "create")
            .map_err(crate::kit::Stop::Fail)?;
        t.runtime(&["delete", "--force", &container.id])?.ok()?;
        gone(t, &container.id)?;
    }
    Ok(())
}

fn delete_force_during_start_leaves_nothing(t: &T) -> Verdict {
    for _ in 0..4 {
        let container = t.create(&t.bundle()?.args(&["/bin/sleep", "1000"]))?;
        let codes = together(t, &[&["start", &container.id], &["delete", "--force", &container.id]])?;
        ensure_eq!(codes[1], 0, "delete --force");
        t.runtime(&["delete", "--force", &container.id])?.ok()?;
        gone(t, &container.id)?;
    }
    Ok(())
}

fn kill_during_start_is_seen(t: &T) -> Verdict {
    for _ in 0..4 {
        let container = t.create(&t.bundle()?.args(&["/bin/sleep", "1000"]))?;
        let codes = together(t, &[&["start", &container.id], &["kill", &container.id, "KILL"]])?;
        ensure_eq!(codes[1], 0, "kill");
        container.wait_for("stopped")?;
    }
    Ok(())
}

fn execs_in_parallel_all_succeed(t: &T) -> Verdict {
    let container = t.running()?;
    let exec = ["exec", &container.id, "/bin/true"];
    let codes = together(t, &[&exec[..]; 8])?;
    ensure!(codes.iter().all(|code| *code == 0), "exit codes {codes:?}");
    container.status_is("running")
}

fn exec_during_delete_leaves_nothing(t: &T) -> Verdict {
    for _ in 0..4 {
        let container = t.running()?;
        let exec = ["exec", &container.id, "/bin/sleep", "5"];
        let codes = together(t, &[&exec, &exec, &["delete", "--force", &container.id]])?;
        ensure_eq!(codes[2], 0, "delete --force");
        gone(t, &container.id)?;
    }
    Ok(())
}

fn exec_in_a_container_that_is_killed_says_that_it_stopped(t: &T) -> Verdict {
    for delay in (0..24).map(|n| n % 8) {
        let container = t.running()?;
        let mut kill = spawn(t, &["kill", &container.id, "KILL"])?;
        std::thread::sleep(std::time::Duration::from_micros(250 * delay));
        let ran = t.runtime(&["exec", &container.id, "/bin/true"])?;
        kill.wait()?;
        // The exec may have come in time, or have been killed with the others.
        if ran.code == 255 {
            ran.stderr_has("cannot exec in a stopped container")?;
        }
        container.wait_for("stopped")?;
        container.delete()?;
    }
    Ok(())
}

fn pause_and_resume_in_parallel_end_in_a_known_state(t: &T) -> Verdict {
    let container = t.running()?;
    let (pause, resume) = (["pause", &container.id], ["resume", &container.id]);
    for _ in 0..3 {
        together(t, &[&pause, &resume, &pause, &resume])?;
        let status = container.status()?;
        ensure!(status == "paused" || status == "running", "status {status}");
    }
    container.verb("resume", &[], &[])?;
    eventually("running", || (container.status().ok()? == "running").then_some(()))
}

fn pause_of_a_container_that_is_killed_ends_at_once(t: &T) -> Verdict {
    for _ in 0..12 {
        let container = t.running()?;
        let begun = std::time::Instant::now();
        let codes = together(t, &[&["pause", &container.id], &["kill", &container.id, "KILL"]])?;
        ensure!(begun.elapsed() < std::time::Duration::from_secs(5), "{codes:?} after {:?}", begun.elapsed());
        ensure_eq!(codes[1], 0, "kill");
        container.wait_for("stopped")?;
        container.delete()?;
        gone(t, &container.id)?;
    }
    Ok(())
}

/// The case holds the lock as another command would.
fn whoever_changes_a_container_waits_for_its_lock(t: &T) -> Verdict {
    let container = t.create(&t.bundle()?.args(&["/bin/sleep", "1000"]))?;
    let nothing = t.path("nothing");
    std::fs::write(&nothing, "{}")?;
    let update = ["update", "--resources", &nothing.display().to_string()];
    for verb in [&["start"][..], &["pause"], &["resume"], &update, &["delete", "--force"]] {
        waits(t, verb, &container)?;
    }
    waits(t, &["delete"], &t.create(&t.bundle()?)?)
}

/// Runs a verb while the container is locked. It must end only when the lock is free.
fn waits(t: &T, verb: &[&str], container: &Container) -> Verdict {
    let state = std::fs::File::open(t.root().join(&container.id))?;
    let lock = Flock::lock(state, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let mut child = spawn(t, &[verb, &[&container.id]].concat())?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    let early = child.try_wait()?;
    drop(lock);
    let status = crate::kit::runtime::wait(&mut child, std::time::Duration::from_secs(60), &verb.join(" "));
    let status = status.map_err(crate::kit::Stop::Fail)?;
    ensure!(early.is_none(), "{} has not waited: {early:?}", verb.join(" "));
    ensure!(status.success(), "{} has failed: {status:?}", verb.join(" "));
    Ok(())
}

fn state_and_list_during_delete_never_crash(t: &T) -> Verdict {
    for _ in 0..4 {
        let container = t.running()?;
        let state = ["state", &container.id];
        let list = ["list", "--format", "json"];
        let codes = together(t, &[&["delete", "--force", &container.id], &state, &list, &state, &list])?;
        ensure_eq!(codes[0], 0, "delete --force");
        ensure!(codes.iter().all(|code| *code == 0 || *code == 1), "exit codes {codes:?}");
        ensure!(codes[2] == 0 && codes[4] == 0, "list failed while another container went away: {codes:?}");
    }
    Ok(())
}

fn containers_in_parallel_do_not_disturb_each_other(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh("exit 7");
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    let ids: Vec<String> = (0..6).map(|_| t.id()).collect();
    let commands: Vec<Vec<&str>> = ids.iter().map(|id| vec!["run", "--bundle", &dir, id.as_str()]).collect();
    let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
    let codes = together(t, &commands)?;
    ensure!(codes.iter().all(|code| *code == 7), "exit codes {codes:?}");
    Ok(())
}
