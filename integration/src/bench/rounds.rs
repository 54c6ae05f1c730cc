//! The runtimes under comparison, and the measurement of their verbs round by round.

use super::spec;
use super::table::{BenchTable, Sample};
use crate::args::Args;
use crate::kit::{Bundle, Need, Verdict, rootfs, runtime::RuntimeKind, stop::Context, stop::fail};
use crate::sys;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The directory of all files; a tmpfs is mounted there.
pub(super) const DIR: &str = "/run/windlass-integration";

/// A runtime and its files.
pub(super) struct BenchRuntime {
    pub(super) name: String,
    path: PathBuf,
    pub(super) dir: PathBuf,
    number: usize,
}

impl BenchRuntime {
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(self.dir.join("state")).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if Need::SysResource.missing().is_some() {
            // crun fails without it; all runtimes have the same filter, so the ratios hold.
            sys::pretend_memlock(&mut command);
        }
        command
    }

    /// The id of a container, which is different for each runtime. The path of the cgroup follows from the id, so two
    /// builds of windlass would share it.
    pub(super) fn id(&self, name: &str) -> String {
        format!("{name}-{}", self.number)
    }

    /// The bundle of this name. If it does not exist, it is made with `spec`.
    pub(super) fn bundle(&self, name: &str, spec: impl FnOnce() -> Value) -> Verdict<String> {
        let dir = self.dir.join(name);
        if !dir.exists() {
            let mut bundle = Bundle::new(dir.clone())?;
            bundle.spec = spec();
            if bundle.spec["linux"]["uidMappings"].is_array() {
                give(&bundle.rootfs(), spec::FIRST_ID)?;
            }
            bundle.write()?;
        }
        Ok(dir.display().to_string())
    }

    /// Removes the containers that a failed case has left.
    pub(super) fn clear(&self) {
        let listed = self.command(&["list", "--quiet"]).stdout(Stdio::piped()).output();
        for id in listed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default().lines() {
            let _ = self.command(&["delete", "--force", id]).status();
        }
    }

    /// Runs a command that must succeed and is not measured.
    pub(super) fn must(&self, words: &[&str]) -> Verdict {
        let status = self.command(words).status().context(&self.name)?;
        if status.success() { Ok(()) } else { fail(format!("{} {}: {status}", self.name, words.join(" "))) }
    }
}

/// Changes the owner of a directory and its content, but not of busybox, a hard link that bundles share.
fn give(path: &Path, id: u32) -> Verdict {
    if !path.ends_with("busybox") {
        lchown(path, Some(id), Some(id)).context(path.display())?;
    }
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path)?.flatten() {
            give(&entry.path(), id)?;
        }
    }
    Ok(())
}

/// `spec` with a program that runs until it is killed.
pub(super) fn sleeping(mut spec: Value) -> Value {
    spec["process"]["args"] = serde_json::json!(["/bin/sleep", "100000"]);
    spec
}

/// A group of measurements.
pub(super) type BenchCase = fn(&mut Bench) -> Verdict;

/// The runtimes, and the measurements.
pub(super) struct Bench {
    pub(super) runtimes: Vec<BenchRuntime>,
    pub(super) rounds: usize,
    pub(super) table: BenchTable,
    /// Measurements other than the times of commands.
    pub(super) notes: String,
}

impl Bench {
    pub(super) fn new(args: &Args) -> Verdict<Bench> {
        let mut runtimes: Vec<BenchRuntime> = Vec::new();
        for path in std::iter::once(&args.runtime).chain(&args.compare) {
            let (kind, number) = (RuntimeKind::of(path).name(), runtimes.len());
            let same = runtimes.iter().filter(|other| other.name.starts_with(kind)).count();
            let name = if same == 0 { kind.to_owned() } else { format!("{kind} {}", same + 1) };
            let dir = Path::new(DIR).join(format!("{kind}{number}"));
            runtimes.push(BenchRuntime { name, path: path.clone(), dir, number });
        }
        Ok(Bench { runtimes, rounds: args.rounds, table: BenchTable::default(), notes: String::new() })
    }

    pub(super) fn time(&mut self, case: &str, who: usize, mut command: Command) -> Verdict {
        let begun = Instant::now();
        let child = command.spawn().context(case)?;
        let (status, cpu) = sys::wait_with_times(child.id()).context(case)?;
        let wall = begun.elapsed().as_secs_f64();
        if status != 0 {
            return fail(format!("{case}: {command:?} ended with {status:#x}"));
        }
        self.table.add(case, who, Sample { wall, cpu: cpu.as_secs_f64() });
        Ok(())
    }

    pub(super) fn verb(&mut self, case: &str, who: usize, words: &[&str]) -> Verdict {
        let command = self.runtimes[who].command(words);
        self.time(case, who, command)
    }

    pub(super) fn run(&mut self) -> Verdict {
        for round in 0..self.rounds {
            for (letter, spec) in [("A", spec::a as fn() -> Value), ("B", spec::b), ("C", spec::c)] {
                for who in 0..self.runtimes.len() {
                    let bundle = self.runtimes[who].bundle(letter, spec)?;
                    let id = self.runtimes[who].id(&format!("r{round}"));
                    self.verb(&format!("run {letter}"), who, &["run", "--bundle", &bundle, &id])?;
                    reap();
                }
            }
        }
        Ok(())
    }

    pub(super) fn lifecycle(&mut self) -> Verdict {
        for round in 0..self.rounds {
            for (letter, spec) in [("A", spec::a as fn() -> Value), ("B", spec::b)] {
                for who in 0..self.runtimes.len() {
                    let runtime = &self.runtimes[who];
                    let (bundle, id) = (runtime.bundle(letter, spec)?, runtime.id(&format!("l{round}")));
                    self.verb(&format!("create {letter}"), who, &["create", "--bundle", &bundle, &id])?;
                    self.verb(&format!("start {letter}"), who, &["start", &id])?;
                    reap();
                    self.verb(&format!("delete {letter}"), who, &["delete", &id])?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn verbs(&mut self) -> Verdict {
        for runtime in &self.runtimes {
            for (letter, spec) in [("A", spec::a as fn() -> Value), ("B", spec::b)] {
                let bundle = runtime.bundle(&format!("{letter}-sleep"), || sleeping(spec()))?;
                runtime.must(&["create", "--bundle", &bundle, &runtime.id(letter)])?;
                runtime.must(&["start", &runtime.id(letter)])?;
            }
        }
        for _ in 0..self.rounds {
            // The start and the end of a program that does nothing.
            let mut nothing = Command::new(rootfs::MASTER);
            nothing.arg("true");
            self.time("a static program", usize::MAX, nothing)?;
            for who in 0..self.runtimes.len() {
                let [a, b] = ["A", "B"].map(|letter| self.runtimes[who].id(letter));
                self.verb("exec A", who, &["exec", &a, "/bin/true"])?;
                self.verb("exec B", who, &["exec", &b, "/bin/true"])?;
                for words in [&["state", &a][..], &["kill", &a, "CONT"], &["list"], &["--version"]] {
                    self.verb(words[0].trim_start_matches('-'), who, words)?;
                }
            }
        }
        for runtime in &self.runtimes {
            runtime.must(&["delete", "--force", &runtime.id("A")])?;
            runtime.must(&["delete", "--force", &runtime.id("B")])?;
        }
        reap();
        Ok(())
    }
}

/// Waits for at most three seconds until every container has ended, and reaps them.
pub(super) fn reap() {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(300)),
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_builds_of_one_runtime_have_names_and_containers_of_their_own() {
        let args = Args { runtime: "/bin/true".into(), compare: Some("/bin/true".into()), ..Args::default() };
        let bench = Bench::new(&args).expect("two runtimes");
        let [first, second] = &bench.runtimes[..] else { panic!("{} runtimes", bench.runtimes.len()) };
        assert_eq!([&first.name[..], &second.name[..]], ["other", "other 2"]);
        assert_ne!(first.dir, second.dir);
        assert_ne!(first.id("A"), second.id("A"));
    }
}
