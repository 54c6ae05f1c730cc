//! How long the verbs take, in comparison with other runtimes.
//!
//! All commands are interleaved round by round, in a new mount namespace in which only
//! cgroup2 is mounted and state and bundles are on a tmpfs, as `/run` is.

mod growth;
mod rounds;
pub mod spec;
mod table;

use crate::args::Args;
use crate::kit::{Stop, Verdict, rootfs, stop::Context, stop::fail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rounds::{Bench, BenchCase, BenchRuntime, DIR};
use std::fs;
use std::process::ExitCode;

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
    let done = run_cases(&mut bench, args);
    bench.runtimes.iter().for_each(BenchRuntime::clear);
    done?;
    let names: Vec<String> = bench.runtimes.iter().map(|runtime| runtime.name.clone()).collect();
    Ok(bench.table.shown(&names) + &bench.notes)
}

/// Unshares the mount namespace, and mounts cgroup2 in place of the host's cgroups and a tmpfs at [`DIR`].
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
    // Containers become children of this process, as they become a shim's.
    nix::sys::prctl::set_child_subreaper(true).context("PR_SET_CHILD_SUBREAPER")
}

/// Runs the cases that were asked for.
fn run_cases(bench: &mut Bench, args: &Args) -> Verdict {
    const VERBS: &[(&str, BenchCase)] =
        &[("run", Bench::run), ("lifecycle", Bench::lifecycle), ("verbs", Bench::verbs)];
    let cases = if args.growth { growth::ALL } else { VERBS };
    let wanted = |name: &str| args.filters.is_empty() || args.filters.iter().any(|part| name.contains(part));
    cases
        .iter()
        .filter(|(name, _)| wanted(name))
        .try_for_each(|(name, case)| case(bench).map_err(|stop| Stop::Fail(format!("{name}: {stop}"))))
}
