//! Inside a harness: runs each case in its own process and checks what is left on the machine afterwards.

use crate::args::Args;
use crate::cases;
use crate::census::{CaseFiles, HostCensus, cgroups};
use crate::event::{CaseOutcome, Event};
use crate::harness::host::remove_tree;
use crate::kit::machine;
use crate::kit::runtime::{self, RuntimeKind};
use crate::kit::{Case, Need, Stop, T, Verdict, rootfs};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The directory of cases: a tmpfs of the harness.
const WORK: &str = "/run/windlass-integration";

/// Exit code of a case process that was skipped.
const SKIPPED: u8 = 77;

/// Runs the requested cases. Prints one event for each case and runtime on stdout.
pub fn main(words: &[String]) -> ExitCode {
    let args = match Args::parse(words) {
        Ok(args) => args,
        Err(error) => return complain(&error),
    };
    if let Err(stop) = rootfs::prepare() {
        return complain(&stop.to_string());
    }
    let dir = PathBuf::from(WORK).join("case");
    let states = ["state", "shims"].map(|name| dir.join(name));
    let ours = (args.runtime.clone(), RuntimeKind::of(&args.runtime), false);
    let peer = args.compare.clone().map(|path| (path.clone(), RuntimeKind::of(&path), true));
    let places =
        |kind| CaseFiles { work: Path::new(WORK), states: &states, directories: kind == RuntimeKind::Windlass };
    for case in cases::all().filter(|case| args.wants(case.name)) {
        for (path, kind, is_peer) in std::iter::once(&ours).chain(&peer) {
            let event = match unmet(case, *kind) {
                Some((outcome, text)) => (outcome, 0, text),
                None => run_case(case, (path, &args.shim), args.long, &places(*kind)),
            };
            let (outcome, ms, text) = event;
            let event = Event {
                case: case.name.to_owned(),
                runtime: kind.name().to_owned(),
                peer: *is_peer,
                outcome,
                ms,
                text,
            };
            println!("{}", event.to_line());
        }
    }
    ExitCode::SUCCESS
}

fn complain(text: &str) -> ExitCode {
    println!("runner: {text}");
    ExitCode::from(125)
}

/// Why a case cannot run here, if so.
fn unmet(case: &Case, kind: RuntimeKind) -> Option<(CaseOutcome, String)> {
    if case.needs.contains(&Need::Windlass) && kind != RuntimeKind::Windlass {
        return Some((CaseOutcome::Skip, "only windlass has this".to_owned()));
    }
    case.needs.iter().find_map(|need| need.missing()).map(|reason| (CaseOutcome::Defer, reason))
}

/// Runs one case in its own process, then cleans the machine.
fn run_case(case: &Case, programs: (&Path, &Path), long: bool, places: &CaseFiles<'_>) -> (CaseOutcome, u64, String) {
    let dir = PathBuf::from(WORK).join("case");
    let output = PathBuf::from(WORK).join("verdict");
    let before = HostCensus::take(places);
    let start = Instant::now();
    let (mut outcome, mut text) = match spawn_case(case, programs, long, &dir, &output) {
        Ok(code) => judge(code, &fs::read_to_string(&output).unwrap_or_default()),
        Err(error) => (CaseOutcome::Fail, error),
    };
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let left = before.difference(places);
    if outcome == CaseOutcome::Pass && !left.is_empty() {
        outcome = CaseOutcome::Fail;
        text = format!("not as before the case: {}", left.join(", "));
    }
    clean(&dir);
    (outcome, ms, text)
}

fn judge(code: i32, said: &str) -> (CaseOutcome, String) {
    match code {
        0 => (CaseOutcome::Pass, said.trim_end().to_owned()),
        1 => (CaseOutcome::Fail, said.trim_end().to_owned()),
        code if code == i32::from(SKIPPED) => (CaseOutcome::Skip, said.trim_end().to_owned()),
        other => (CaseOutcome::Fail, format!("the case's own process ended with {other}: {said}")),
    }
}

fn spawn_case(
    case: &Case,
    (runtime, shim): (&Path, &Path),
    long: bool,
    dir: &Path,
    output: &Path,
) -> Result<i32, String> {
    let file = fs::File::create(output).map_err(|e| e.to_string())?;
    let errors = file.try_clone().map_err(|e| e.to_string())?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["@case", case.name]).arg(runtime).arg(shim).arg(dir).arg(if long { "long" } else { "short" });
    command.stdin(Stdio::null()).stdout(file).stderr(errors);
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let limit = match (case.needs.contains(&Need::Slow), long) {
        // Even on a busy machine, a case that takes this long hangs.
        (true, true) => Duration::from_secs(3600),
        (true, false) => Duration::from_secs(1200),
        _ => Duration::from_secs(600),
    };
    runtime::wait(&mut child, limit, case.name).map(runtime::code)
}

/// The process of one case: `NAME RUNTIME SHIM DIR short|long`.
pub fn case_main(words: &[String]) -> ExitCode {
    let [name, runtime, shim, dir, length] = words else {
        return ExitCode::from(125);
    };
    let Some(case) = cases::all().find(|case| case.name == name) else {
        return ExitCode::from(125);
    };
    match in_context(case, (Path::new(runtime), Path::new(shim)), Path::new(dir), length == "long") {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Fail(text)) => {
            println!("{text}");
            ExitCode::FAILURE
        }
        Err(Stop::Skip(reason)) => {
            println!("{reason}");
            ExitCode::from(SKIPPED)
        }
    }
}

fn in_context(case: &Case, (runtime, shim): (&Path, &Path), dir: &Path, long: bool) -> Verdict {
    let t = T::new((runtime.to_owned(), shim.to_owned()), dir.to_owned(), long)?;
    (case.run)(&t)
}

/// Detaches every mount below a directory.
pub(crate) fn unmount_below(dir: &Path) {
    for line in machine::text("/proc/self/mountinfo").lines() {
        if let Some(point) = line.split(' ').nth(4).filter(|point| Path::new(point).starts_with(dir)) {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}

/// Kills everything but PID 1 and this process, and removes the remains of a case.
fn clean(dir: &Path) {
    unmount_below(Path::new(WORK));
    for name in cgroups() {
        let _ = fs::write(Path::new(&name).join("cgroup.freeze"), "0");
    }
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    for _ in 0..200 {
        let left: Vec<String> = cgroups().into_iter().filter(|name| name != "/sys/fs/cgroup/init").collect();
        if left.is_empty() {
            break;
        }
        left.iter().for_each(|name| remove_tree(Path::new(name)));
        sleep(Duration::from_millis(2));
    }
    if let Err(error) = fs::remove_dir_all(dir)
        && dir.exists()
    {
        println!("cannot remove {}: {error}", dir.display());
    }
}
