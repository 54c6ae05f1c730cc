//! Inside a harness: one engine on one runtime and shim, and its cases in turn.

use crate::case::Case;
use crate::cases;
use crate::engine::{self, Engine};
use crate::session::{Below, Session};
use integration::event::{CaseOutcome, Event};
use integration::kit::runtime::RuntimeKind;
use integration::kit::{Need, Stop, Verdict};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// The directory of sessions: a tmpfs of the harness.
const WORK: &str = "/run/windlass-engines";

/// A request to the runner, as words of a command line.
#[derive(Clone, Debug)]
pub struct Request {
    /// The engine.
    pub engine: Engine,
    /// The runtime and shim below the engine.
    pub below: Below,
    /// Whether cases may take minutes.
    pub long: bool,
    /// The full names of the cases.
    pub cases: Vec<String>,
}

impl Request {
    /// The words.
    pub fn to_words(&self) -> Vec<String> {
        let shim = self.below.shim.as_ref().map(|path| path.display().to_string());
        let long = if self.long { "long" } else { "short" };
        let mut words = vec![self.engine.name().to_owned(), self.below.runtime.display().to_string()];
        words.extend([shim.unwrap_or_else(|| "-".to_owned()), long.to_owned()]);
        words.extend(self.cases.iter().cloned());
        words
    }

    fn from_words(words: &[String]) -> Option<Request> {
        let [engine, runtime, shim, long, cases @ ..] = words else {
            return None;
        };
        let runtime = PathBuf::from(runtime);
        let kind = RuntimeKind::of(&runtime);
        let shim = (shim != "-").then(|| PathBuf::from(shim));
        let below = Below { runtime, kind, shim };
        Some(Request { engine: Engine::named(engine)?, below, long: long == "long", cases: cases.to_vec() })
    }
}

/// Carries out the request in `words`. Prints an event for each case on stdout.
pub fn main(words: &[String]) -> ExitCode {
    let Some(request) = Request::from_words(words) else {
        println!("runner: not understood: {words:?}");
        return ExitCode::from(125);
    };
    let wanted = cases::of(request.engine).filter(|case| request.cases.contains(&case.full_name(request.engine)));
    let (served, deferred): (Vec<_>, Vec<_>) = wanted.map(|case| (case, missing(case))).partition(|(_, m)| m.is_none());
    for (case, reason) in deferred {
        say(&request, case, CaseOutcome::Defer, 0, reason.unwrap_or_default());
    }
    if served.is_empty() {
        return ExitCode::SUCCESS;
    }
    match engine::open(request.engine, request.below.clone(), Path::new(WORK)) {
        Ok(session) => {
            served.iter().for_each(|(case, _)| run(&request, &session, case));
            let _ = session.end_daemon(Signal::SIGTERM);
        }
        Err(stop) => {
            for (case, _) in served {
                // No runtime was called yet, so the fault is the engine's or the machine's.
                say(&request, case, CaseOutcome::Skip, 0, format!("the engine does not start: {stop}"));
            }
        }
    }
    ExitCode::SUCCESS
}

fn missing(case: &Case) -> Option<String> {
    case.needs.iter().find_map(|need| need.missing())
}

fn run(request: &Request, session: &Session, case: &Case) {
    if case.needs.contains(&Need::Slow) && !request.long {
        return say(request, case, CaseOutcome::Skip, 0, "takes minutes: give --long".to_owned());
    }
    let start = Instant::now();
    let mut verdict = (case.run)(session);
    let cleaned = engine::clean(session);
    if verdict.is_ok() {
        verdict = cleaned.map_err(|stop| Stop::Fail(format!("afterwards: {stop}")));
    }
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (outcome, text) = judge(verdict);
    say(request, case, outcome, ms, text);
}

fn judge(verdict: Verdict) -> (CaseOutcome, String) {
    match verdict {
        Ok(()) => (CaseOutcome::Pass, String::new()),
        Err(Stop::Fail(text)) => (CaseOutcome::Fail, text),
        Err(Stop::Skip(text)) => (CaseOutcome::Skip, text),
    }
}

fn say(request: &Request, case: &Case, outcome: CaseOutcome, ms: u64, text: String) {
    let peer = request.below.kind != RuntimeKind::Windlass;
    let event = Event { case: case.full_name(request.engine), runtime: request.below.label(), peer, outcome, ms, text };
    println!("{}", event.to_line());
}
