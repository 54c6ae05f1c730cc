//! Containers that are frozen by others or permanently, and processes that cannot be killed.

use crate::kit::Need::{Slow, Windlass};
use crate::kit::machine::text;
use crate::kit::stop::{Context, skip};
use crate::kit::wait::eventually;
use crate::kit::{Container, T, Verdict, cgroup, runtime};
use crate::{chapter, ensure, ensure_eq};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

chapter! { "freezer":
    below_a_frozen_cgroup_no_container_is_made [Windlass],
    below_a_frozen_cgroup_exec_is_refused [Windlass],
    resume_below_a_frozen_cgroup_names_it [Windlass],
    what_a_killed_pause_leaves_is_cleared_by_resume,
    what_a_killed_pause_leaves_is_cleared_by_delete,
    kill_all_ends_a_paused_container,
    a_process_that_cannot_be_killed_is_named [Windlass, Slow],
}

/// A frozen cgroup, thawed and removed when a case is done with it.
struct Above(PathBuf);

impl Above {
    fn new(name: &str) -> Verdict<Above> {
        let dir = Path::new("/sys/fs/cgroup").join(name);
        fs::create_dir(&dir).context(dir.display())?;
        Ok(Above(dir))
    }

    /// Waits until the cgroup is frozen: the kernel freezes asynchronously.
    fn freeze(&self, value: &str) -> Verdict {
        fs::write(self.0.join("cgroup.freeze"), value).context("cgroup.freeze")?;
        let events = self.0.join("cgroup.events");
        eventually("the freezer", || text(&events).contains(&format!("frozen {value}")).then_some(()))
    }
}

impl Drop for Above {
    fn drop(&mut self) {
        let _ = self.freeze("0");
        let _ = fs::remove_dir(&self.0);
    }
}

fn running_below<'t>(t: &'t T, above: &str) -> Verdict<Container<'t>> {
    let path = format!("/{above}/inner");
    t.start(&t.bundle()?.args(&["/bin/sleep", "1000"]).set("/linux/cgroupsPath", json!(path)))
}

fn below_a_frozen_cgroup_no_container_is_made(t: &T) -> Verdict {
    let above = Above::new("wl-above-create")?;
    above.freeze("1")?;
    let bundle = t.bundle()?.set("/linux/cgroupsPath", json!("/wl-above-create/inner"));
    let (ran, _container) = t.try_create(&bundle, &[])?;
    ran.code_is(1)?.stderr_has("frozen")?.stderr_has("ancestor")?;
    Ok(())
}

fn below_a_frozen_cgroup_exec_is_refused(t: &T) -> Verdict {
    let above = Above::new("wl-above-exec")?;
    let container = running_below(t, "wl-above-exec")?;
    above.freeze("1")?;
    container.try_exec(&[], &["/bin/true"])?.code_is(255)?.stderr_has("frozen")?;
    above.freeze("0")?;
    container.exec(&["/bin/true"])?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    Ok(())
}

fn resume_below_a_frozen_cgroup_names_it(t: &T) -> Verdict {
    let above = Above::new("wl-above-resume")?;
    let container = running_below(t, "wl-above-resume")?;
    above.freeze("1")?;
    container.verb("pause", &[], &[])?.ok()?;
    let start = std::time::Instant::now();
    container.verb("resume", &[], &[])?.code_is(1)?.stderr_has("/sys/fs/cgroup/wl-above-resume")?;
    ensure!(start.elapsed().as_secs() < 60, "resume waited for what cannot happen");
    container.verb("delete", &["--force"], &[])?.ok()?;
    Ok(())
}

/// The state after `pause` is killed before it has looked whether all processes have stopped.
fn half_paused(t: &T) -> Verdict<Container<'_>> {
    let container = t.running()?;
    fs::write(cgroup::of(&container)?.join("cgroup.freeze"), "1").context("cgroup.freeze")?;
    container.status_is("paused")?;
    Ok(container)
}

fn what_a_killed_pause_leaves_is_cleared_by_resume(t: &T) -> Verdict {
    let container = half_paused(t)?;
    container.verb("resume", &[], &[])?.ok()?;
    container.status_is("running")?;
    container.exec(&["/bin/true"])?;
    Ok(())
}

fn what_a_killed_pause_leaves_is_cleared_by_delete(t: &T) -> Verdict {
    let container = half_paused(t)?;
    let dir = cgroup::of(&container)?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    ensure!(!dir.exists(), "the cgroup is still there");
    Ok(())
}

fn kill_all_ends_a_paused_container(t: &T) -> Verdict {
    let container = t.start(&t.bundle()?.sh("sleep 1000 & sleep 1000"))?;
    let dir = cgroup::of(&container)?;
    eventually("two processes", || (text(dir.join("cgroup.procs")).lines().count() > 1).then_some(()))?;
    container.verb("pause", &[], &[])?.ok()?;
    container.verb("kill", &["--all"], &["KILL"])?.ok()?;
    container.wait_for("stopped")?;
    container.delete()?;
    Ok(())
}

/// A file system that can be frozen, so that a writer waits without end.
struct FreezableDisk<'t> {
    t: &'t T,
    at: PathBuf,
}

impl FreezableDisk<'_> {
    fn new(t: &T) -> Verdict<FreezableDisk<'_>> {
        let (image, at) = (t.path("image").display().to_string(), t.path("disk"));
        fs::File::create(&image)?.set_len(8 << 20)?;
        fs::create_dir(&at)?;
        let made = t.host("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", &image]);
        let mounted = made.and_then(|_| t.host("mount", &["-o", "loop", &image, &at.display().to_string()]));
        match mounted {
            Ok(_) => Ok(FreezableDisk { t, at }),
            Err(stop) => skip(format!("no file system to freeze: {stop}")),
        }
    }

    fn freeze(&self, how: &str) -> Verdict {
        self.t.host("fsfreeze", &[how, &self.at.display().to_string()]).map(drop)
    }
}

impl Drop for FreezableDisk<'_> {
    fn drop(&mut self) {
        let _ = self.freeze("-u");
        let _ = self.t.host("umount", &["-l", &self.at.display().to_string()]);
    }
}

/// The error of `delete --force` for a container that does not end. The command waits for 10 s, which is too long for
/// any other.
fn patient_delete(t: &T, container: &Container) -> Verdict<String> {
    let (mut command, capture) = (t.command(), t.capture());
    command.args(["delete", "--force", &container.id]);
    capture.attach(&mut command)?;
    let status = runtime::wait(&mut command.spawn()?, Duration::from_secs(120), "delete --force");
    let said = capture.read().1;
    ensure_eq!(status.map(runtime::code), Ok(1), "exit code of delete --force; it said {said:?}");
    Ok(said)
}

fn a_process_that_cannot_be_killed_is_named(t: &T) -> Verdict {
    let disk = FreezableDisk::new(t)?;
    let bundle = t.bundle()?.bind(&disk.at, "/disk", &["rbind", "rw"]);
    let script = "(while ! [ -e /disk/go ]; do sleep 0.02; done; sleep 0.2; echo x > /disk/file) & sleep 1000";
    let container = t.start(&bundle.sh(script))?;
    fs::write(disk.at.join("go"), "")?;
    disk.freeze("-f")?;
    let dir = cgroup::of(&container)?;
    let stuck = |pid: &str| text(format!("/proc/{pid}/stat")).contains(") D ");
    let pid = eventually("a process in state D", || {
        text(dir.join("cgroup.procs")).lines().find(|pid| stuck(pid)).map(str::to_owned)
    })?;
    let said = patient_delete(t, &container)?;
    let expected = format!("process {pid} (sh) in state D, waiting in ");
    ensure!(said.contains(&expected), "expected {expected:?} in {said:?}");
    disk.freeze("-u")?;
    container.verb("delete", &["--force"], &[])?.ok()?;
    ensure_eq!(dir.exists(), false, "the cgroup is still there");
    Ok(())
}
