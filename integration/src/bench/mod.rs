//! How long the verbs take, beside other runtimes.
//!
//! All commands are interleaved round by round, in a mount namespace of our own in which only
//! cgroup2 is mounted and state and bundles are on a tmpfs, as `/run` is.

mod growth;
pub mod spec;
mod table;

use crate::args::Args;
use crate::kit::{Bundle, Stop, Verdict, rootfs, runtime::Kind, stop::Context, stop::fail};
use crate::sys;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use table::{Sample, Table};

/// Where everything is; a tmpfs of our own.
const DIR: &str = "/run/windlass-integration";

/// Measures, and prints the table.
pub fn main(args: &Args) -> ExitCode {
    match measure(args) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(Stop::Fail(why) | Stop::Skip(why)) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Verdict<String> {
    own_mounts()?;
    rootfs::prepare()?;
    let mut bench = Bench::new(args)?;
    let done = bench.all(args);
    bench.runtimes.iter().for_each(Runtime::clear);
    done?;
    let names: Vec<String> = bench.runtimes.iter().map(|runtime| runtime.name.clone()).collect();
    Ok(bench.table.shown(&names) + &bench.notes)
}

/// A mount namespace without the host's cgroups of version 1, and a place for our files.
fn own_mounts() -> Verdict {
    if !nix::unistd::geteuid().is_root() {
        return fail("needs root");
    }
    unshare(CloneFlags::CLONE_NEWNS).context("unshare(CLONE_NEWNS)")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("mount --make-rprivate /")?;
    umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH).context("umount /sys/fs/cgroup")?;
    mount(Some("none"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), none).context("mount cgroup2")?;
    fs::create_dir_all(DIR).context(DIR)?;
    mount(Some("tmpfs"), DIR, Some("tmpfs"), MsFlags::empty(), none).context("mount tmpfs")?;
    // Containers end up as our children, as below a shim.
    nix::sys::prctl::set_child_subreaper(true).context("PR_SET_CHILD_SUBREAPER")
}

/// A runtime and its files.
struct Runtime {
    name: String,
    path: PathBuf,
    dir: PathBuf,
}

impl Runtime {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(self.dir.join("state")).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The bundle of this name, made with a configuration if it is not there.
    fn bundle(&self, name: &str, spec: impl FnOnce() -> Value) -> Verdict<String> {
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

    /// Removes the containers that a case has left when it failed.
    fn clear(&self) {
        let listed = self.command(&["list", "--quiet"]).stdout(Stdio::piped()).output();
        for id in listed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default().lines() {
            let _ = self.command(&["delete", "--force", id]).status();
        }
    }

    /// Must succeed, and is not measured.
    fn must(&self, words: &[&str]) -> Verdict {
        let status = self.command(words).status().context(&self.name)?;
        if status.success() { Ok(()) } else { fail(format!("{} {}: {status}", self.name, words.join(" "))) }
    }
}

/// Gives a directory and what is in it to a user. The program itself is a link that bundles share.
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

/// With a program that runs until it is killed.
fn sleeping(mut spec: Value) -> Value {
    spec["process"]["args"] = serde_json::json!(["/bin/sleep", "100000"]);
    spec
}

/// What is measured together.
type Case = fn(&mut Bench) -> Verdict;

struct Bench {
    runtimes: Vec<Runtime>,
    rounds: usize,
    table: Table,
    /// What is no time of a command.
    notes: String,
}

impl Bench {
    fn new(args: &Args) -> Verdict<Bench> {
        let mut runtimes: Vec<Runtime> = Vec::new();
        for path in std::iter::once(&args.runtime).chain(&args.compare) {
            let name = Kind::of(path).name().to_owned();
            let dir = Path::new(DIR).join(format!("{name}{}", runtimes.len()));
            runtimes.push(Runtime { name, path: path.clone(), dir });
        }
        Ok(Bench { runtimes, rounds: args.rounds, table: Table::default(), notes: String::new() })
    }

    /// The cases that were asked for.
    fn all(&mut self, args: &Args) -> Verdict {
        const VERBS: &[(&str, Case)] = &[("run", Bench::run), ("lifecycle", Bench::lifecycle), ("verbs", Bench::verbs)];
        let cases = if args.growth { growth::ALL } else { VERBS };
        let wanted = |name: &str| args.filters.is_empty() || args.filters.iter().any(|part| name.contains(part));
        cases
            .iter()
            .filter(|(name, _)| wanted(name))
            .try_for_each(|(name, case)| case(self).map_err(|stop| Stop::Fail(format!("{name}: {stop}"))))
    }

    fn time(&mut self, case: &str, who: usize, mut command: Command) -> Verdict {
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

    fn verb(&mut self, case: &str, who: usize, words: &[&str]) -> Verdict {
        let command = self.runtimes[who].command(words);
        self.time(case, who, command)
    }

    fn run(&mut self) -> Verdict {
        for round in 0..self.rounds {
            for (letter, spec) in [("A", spec::a as fn() -> Value), ("B", spec::b), ("C", spec::c)] {
                for who in 0..self.runtimes.len() {
                    let bundle = self.runtimes[who].bundle(letter, spec)?;
                    self.verb(&format!("run {letter}"), who, &["run", "--bundle", &bundle, &format!("r{round}")])?;
                    reap();
                }
            }
        }
        Ok(())
    }

    fn lifecycle(&mut self) -> Verdict {
        for round in 0..self.rounds {
            for (letter, spec) in [("A", spec::a as fn() -> Value), ("B", spec::b)] {
                for who in 0..self.runtimes.len() {
                    let (bundle, id) = (self.runtimes[who].bundle(letter, spec)?, format!("l{round}"));
                    self.verb(&format!("create {letter}"), who, &["create", "--bundle", &bundle, &id])?;
                    self.verb(&format!("start {letter}"), who, &["start", &id])?;
                    reap();
                    self.verb(&format!("delete {letter}"), who, &["delete", &id])?;
                }
            }
        }
        Ok(())
    }

    fn verbs(&mut self) -> Verdict {
        for runtime in &self.runtimes {
            for (letter, spec) in [("A", spec::a as fn() -> Value), ("B", spec::b)] {
                let bundle = runtime.bundle(&format!("{letter}-sleep"), || sleeping(spec()))?;
                runtime.must(&["create", "--bundle", &bundle, letter])?;
                runtime.must(&["start", letter])?;
            }
        }
        for _ in 0..self.rounds {
            // The start and the end of a program that does nothing.
            let mut nothing = Command::new(rootfs::MASTER);
            nothing.arg("true");
            self.time("a static program", usize::MAX, nothing)?;
            for who in 0..self.runtimes.len() {
                self.verb("exec A", who, &["exec", "A", "/bin/true"])?;
                self.verb("exec B", who, &["exec", "B", "/bin/true"])?;
                for words in [&["state", "A"][..], &["kill", "A", "CONT"], &["list"], &["--version"]] {
                    self.verb(words[0].trim_start_matches('-'), who, words)?;
                }
            }
        }
        for runtime in &self.runtimes {
            runtime.must(&["delete", "--force", "A"])?;
            runtime.must(&["delete", "--force", "B"])?;
        }
        reap();
        Ok(())
    }
}

/// Reaps every container that has ended or is about to.
fn reap() {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(300)),
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
