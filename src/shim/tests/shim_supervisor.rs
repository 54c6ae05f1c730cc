//! The supervisor with scripted requests: no socket, no front end, and a runtime that is a shell script. Only one
//! supervisor in a process can have its signals, so each test has its own process.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use windlass_shim::{
    Code, Container, Event, ExitFile, Making, NewProcess, Phase, ProcessId, Reply, Request, Runtime, Stdio, Supervisor,
    Timeouts, WaitToken,
};
use windlass_sys::process::Exit;

/// Runs a test in its own process: a supervisor blocks all signals of its thread, becomes a subreaper and forks, which
/// a program with threads must not.
fn alone(name: &str, test: fn(&World)) {
    if std::env::var_os("SUPERVISOR_TEST").is_some_and(|wanted| wanted == name) {
        let world = World::new(name);
        test(&world);
        world.end();
        std::process::exit(0);
    }
    let me = std::env::current_exe().expect("a path");
    let mut child = Command::new(me);
    // A harness of one thread: `--test-threads=1` runs the test in the main thread.
    child.args(["--exact", name, "--test-threads=1", "--nocapture"]).env("SUPERVISOR_TEST", name);
    let output = child.arg0("supervisor").output().expect("it runs");
    // Of a name that no test has, none is run, and that is a success.
    let none = String::from_utf8_lossy(&output.stdout).contains("running 0 tests");
    assert!(output.status.success() && !none, "{}", String::from_utf8_lossy(&output.stderr));
}

struct World {
    dir: PathBuf,
}

impl World {
    fn new(name: &str) -> World {
        let dir = std::env::temp_dir().join(format!("windlass-supervisor-{name}-{}", std::process::id()));
        for sub in ["root/hang", "root/fail", "bundle"] {
            fs::create_dir_all(dir.join(sub)).expect("made");
        }
        World { dir }
    }

    fn end(&self) {
        fs::remove_dir_all(&self.dir).expect("removed");
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, text).expect("written");
        path
    }

    /// Makes a container known whose program is this script. The container is not created yet.
    fn open(&self, core: &mut Supervisor, script: &str) -> NewProcess {
        let path = self.script("init.sh", script);
        let config = format!("{{\"script\": \"{}\"}}", path.display());
        fs::write(self.dir.join("bundle/config.json"), config).expect("written");
        core.open(Container {
            id: "c".into(),
            bundle: self.dir.join("bundle"),
            runtime: Runtime {
                binary: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/support/fake-runtime.sh"),
                global: vec!["--root".into(), self.dir.join("root").into()],
                log: None,
            },
            timeouts: Timeouts { long: Duration::from_secs(10), short: Duration::from_secs(60) },
            drain: Duration::from_millis(200),
            kill_on_exit: false,
            oom_files: Vec::new(),
            sync: true,
        })
        .expect("a free id");
        self.process(None, "exit.json")
    }

    fn process(&self, exec: Option<&str>, record: &str) -> NewProcess {
        let name = exec.unwrap_or("init");
        NewProcess {
            id: ProcessId::of("c", exec.unwrap_or_default()),
            stdio: Stdio::default(),
            pid_file: self.dir.join(format!("{name}.pid")),
            process_file: exec.map(|_| self.dir.join(format!("{name}.json"))),
            making: exec.map_or(Making::Create, |_| Making::Exec),
            arguments: Vec::new(),
            preserve_fds: Vec::new(),
            exit_files: vec![ExitFile::Record(self.dir.join(record))],
        }
    }

    fn exec(&self, name: &str, script: &str) -> NewProcess {
        let path = self.script(&format!("{name}.sh"), script);
        fs::write(self.dir.join(format!("{name}.json")), format!("{{\"script\": \"{}\"}}", path.display()))
            .expect("written");
        self.process(Some(name), &format!("{name}.exit.json"))
    }
}

/// Turns the loop until the wanted event. Returns all events.
fn until(core: &mut Supervisor, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    let end = Instant::now() + Duration::from_secs(120);
    let mut seen = Vec::new();
    while Instant::now() < end {
        while let Some(event) = core.next_event() {
            seen.push(event);
            if wanted(seen.last().expect("just pushed")) {
                return seen;
            }
        }
        core.turn(Some(Instant::now() + Duration::from_millis(100))).expect("the loop turns");
    }
    panic!("it did not come to pass: {seen:?}");
}

/// Sends a request, and turns the loop until its answer.
fn answer(core: &mut Supervisor, request: Request) -> Result<Reply, windlass_shim::Refusal> {
    let token = match core.request(request)? {
        Reply::Pending(token) => token,
        reply => return Ok(reply),
    };
    finished(core, token)
}

fn finished(core: &mut Supervisor, token: WaitToken) -> Result<Reply, windlass_shim::Refusal> {
    let events = until(core, |event| matches!(event, Event::Finished { token: of, .. } if *of == token));
    match events.into_iter().next_back() {
        Some(Event::Finished { result, .. }) => result,
        _ => unreachable!("the last is the wanted one"),
    }
}

fn init() -> ProcessId {
    ProcessId::init("c")
}

fn kinds(events: &[Event]) -> Vec<&'static str> {
    let kind = |event: &Event| match event {
        Event::Created { .. } => Some("created"),
        Event::Started { process, .. } => Some(if process.exec.is_some() { "exec started" } else { "started" }),
        Event::Exited { process, .. } => Some(if process.exec.is_some() { "exec exited" } else { "exited" }),
        _ => None,
    };
    events.iter().filter_map(kind).collect()
}

const FOREVER: &str = "trap 'exit 3' TERM\nwhile :; do sleep 0.02; done\n";

#[test]
fn the_end_is_told_after_the_start_and_when_it_is_on_disk() {
    alone("the_end_is_told_after_the_start_and_when_it_is_on_disk", |world| {
        let mut core = Supervisor::new().expect("a supervisor");
        let process = world.open(&mut core, "exit 7\n");
        assert!(matches!(core.request(Request::Create(process)), Ok(Reply::Pending(_))));
        let mut events = until(&mut core, |event| matches!(event, Event::Finished { .. }));
        assert_eq!(core.state(&init()).expect("known").phase, Phase::Created);
        assert!(matches!(core.request(Request::Start(init())), Ok(Reply::Pending(_))));
        events.extend(until(&mut core, |event| matches!(event, Event::Exited { .. })));
        assert!(world.dir.join("exit.json").exists(), "reported implies durable");
        assert_eq!(kinds(&events), ["created", "started", "exited"]);
        let Ok(Reply::Exited(status)) = core.request(Request::Wait(init())) else { panic!("it has ended") };
        assert_eq!(status.exit, Some(Exit::Code(7)));
        let deleted = answer(&mut core, Request::Delete { process: init(), force: false });
        assert!(matches!(deleted, Ok(Reply::Deleted { status: Some(of), .. }) if of == status));
        assert!(core.state(&init()).is_none() && !world.dir.join("root/c").exists());
    });
}

#[test]
fn execs_end_before_init_does() {
    alone("execs_end_before_init_does", |world| {
        let mut core = Supervisor::new().expect("a supervisor");
        let process = world.open(&mut core, FOREVER);
        answer(&mut core, Request::Create(process)).expect("created");
        answer(&mut core, Request::Start(init())).expect("started");
        // The exec's record comes late, because its pipe is held open for the whole drain time.
        let mut exec = world.exec("e", "sleep 5 &\nexit 4\n");
        exec.stdio.stdout = windlass_shim::Output::Attach;
        core.request(Request::AddExec(exec)).expect("added");
        answer(&mut core, Request::Start(ProcessId::of("c", "e"))).expect("started");
        core.request(Request::AddExec(world.exec("early", "exit 0\n"))).expect("init lives");
        answer(&mut core, Request::Kill { process: init(), signal: 15, all: false }).expect("killed");
        let events = until(&mut core, |event| matches!(event, Event::Exited { process, .. } if process.exec.is_none()));
        assert_eq!(kinds(&events), ["exec exited", "exited"]);
        let late = core.request(Request::AddExec(world.exec("late", "exit 0\n")));
        assert_eq!(late.expect_err("init has ended").code, Code::WrongPhase);
        let refused = answer(&mut core, Request::Start(ProcessId::of("c", "early"))).expect_err("init has ended");
        assert_eq!(refused.code, Code::WrongPhase);
        answer(&mut core, Request::Delete { process: init(), force: true }).expect("deleted");
    });
}

#[test]
fn state_and_wait_answer_while_a_runtime_hangs_and_it_is_killed_in_the_end() {
    alone("state_and_wait_answer_while_a_runtime_hangs_and_it_is_killed_in_the_end", |world| {
        let mut core = Supervisor::new().expect("a supervisor");
        let process = world.open(&mut core, FOREVER);
        answer(&mut core, Request::Create(process)).expect("created");
        answer(&mut core, Request::Start(init())).expect("started");
        fs::write(world.dir.join("root/hang/exec"), "").expect("written");
        core.request(Request::AddExec(world.exec("e", "exit 0\n"))).expect("added");
        let Ok(Reply::Pending(hanging)) = core.request(Request::Start(ProcessId::of("c", "e"))) else {
            panic!("it is started")
        };
        assert_eq!(core.state(&init()).expect("known").phase, Phase::Running);
        assert!(matches!(core.request(Request::Wait(init())), Ok(Reply::Pending(_))));
        let killed = core.request(Request::Kill { process: init(), signal: 18, all: false });
        let Ok(Reply::Pending(killed)) = killed else { panic!("{killed:?}") };
        let events = until(&mut core, |event| matches!(event, Event::Finished { token, .. } if *token == killed));
        let finished_before = |event: &Event| matches!(event, Event::Finished { token, .. } if *token == hanging);
        assert!(!events.iter().any(finished_before), "it was held up");
        let refused = finished(&mut core, hanging).expect_err("it took too long");
        assert_eq!(refused.code, Code::TimedOut);
        fs::remove_file(world.dir.join("root/hang/exec")).expect("removed");
        answer(&mut core, Request::Delete { process: init(), force: true }).expect("deleted");
    });
}

#[test]
fn a_failed_create_is_forgotten_with_the_runtime_s_words() {
    alone("a_failed_create_is_forgotten_with_the_runtime_s_words", |world| {
        let mut core = Supervisor::new().expect("a supervisor");
        let process = world.open(&mut core, "exit 0\n");
        // More than a pipe holds, so it must be read while the runtime writes.
        fs::write(world.dir.join("root/fail/create"), "x".repeat(200_000)).expect("written");
        let refused = answer(&mut core, Request::Create(process)).expect_err("it fails");
        assert_eq!(refused.code, Code::Runtime);
        assert!(refused.message.starts_with("xxx") && refused.message.len() <= 64 * 1024);
        assert!(core.state(&init()).is_none());
        let unknown = core.request(Request::Start(init())).expect_err("it is not there");
        assert_eq!(unknown.code, Code::NotFound);
    });
}
