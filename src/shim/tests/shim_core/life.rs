//! Requests, the ends of processes, and the reports of them.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use windlass_shim::{
    Code, Event, ExitFile, Interest, NewProcess, Output, Phase, Poll, ProcessId, Reply, Request, Stdio, Timeouts,
};
use windlass_sys::process::Exit;

use super::Test;
use super::rig::*;

pub const TESTS: &[Test] = tests![
    a_life_is_told_in_order,
    a_signal_without_a_name_is_a_status_too,
    orphans_are_reaped_whatever_ended_them,
    an_orphan_behind_a_child_of_the_front_end_is_reaped_after_it,
    who_waits_for_what_never_ran_is_told_so,
    who_waits_for_a_container_that_is_not_created_is_told_so,
    every_delete_is_answered,
    a_pause_that_ends_late_does_not_bring_back_the_dead,
    a_runtime_that_writes_no_pid_file_has_failed,
    an_exec_whose_stdio_cannot_be_opened_has_failed,
    an_exec_that_is_being_started_is_not_deleted,
    an_exit_is_not_lost_where_sigchld_was_ignored,
    the_limit_of_descriptors_is_raised_for_the_shim_alone,
    a_hanging_exec_does_not_hold_back_the_end_of_init,
    an_exec_that_joins_after_the_end_of_init_is_killed,
    the_front_end_comes_first_and_holds_nothing_up,
    a_call_that_cannot_be_watched_leaves_no_child,
    the_error_of_a_call_is_not_taken_away_by_another,
    an_exec_is_not_made_known_after_the_end_of_init,
    a_thousand_execs_leave_nothing_behind,
    a_status_that_the_engine_has_taken_is_not_written_again,
    the_only_exit_file_is_not_forgotten_for_want_of_its_directory,
];

/// A process that ends when the test has made the file `end`, on a machine of any speed.
const WHEN_TOLD: &str = "until [ -e end ]; do sleep 0.05; done";

/// A call of the runtime that ends when the shim has reaped init.
const AFTER_THE_END: &str = "while kill -0 \"$(cat init.is)\" 2>/dev/null; do sleep 0.05; done";

/// podman removes the second directory when it has learnt of the end, and may have started the container again by the
/// time of another try: the status would be that of its new life.
fn a_status_that_the_engine_has_taken_is_not_written_again() {
    let mut rig = Rig::new();
    let (exits, persist) = (rig.dir.join("exits"), rig.dir.join("persist"));
    fs::create_dir(&exits).expect("a directory");
    // Not a directory: this one fails each time.
    fs::write(&persist, "").expect("a file");
    let files = [exits.join("c"), persist.join("exit"), rig.dir.join("gone/exit")].map(ExitFile::Decimal).to_vec();
    let new = NewProcess { exit_files: files, ..rig.new_process("", "exit 3", Stdio::default()) };
    rig.done(Request::Create(new)).expect("created");
    rig.done(Request::Start(init())).expect("started");
    rig.turns_until("the status", |_| exits.join("c").exists());
    fs::remove_file(exits.join("c")).expect("removed");
    rig.turns(Duration::from_millis(1200));
    fs::remove_file(&persist).expect("removed");
    assert_eq!(rig.exit(&init()), Some(Exit::Code(3)), "what nobody wants holds nothing up");
    assert!(!exits.join("c").exists(), "the status was written again");
}

/// CRI-O names one file, from which alone it learns the status.
fn the_only_exit_file_is_not_forgotten_for_want_of_its_directory() {
    let mut rig = Rig::new();
    let exits = rig.dir.join("exits");
    let files = vec![ExitFile::Decimal(exits.join("c"))];
    let new = NewProcess { exit_files: files, ..rig.new_process("", "exit 3", Stdio::default()) };
    rig.done(Request::Create(new)).expect("created");
    rig.done(Request::Start(init())).expect("started");
    let told = rig.until("complaint", |event| matches!(event, Event::Unrecorded { .. }));
    let Event::Unrecorded { message, .. } = told else { unreachable!("it was matched") };
    assert!(message.contains("exits/c"), "{message}");
    assert_eq!(rig.core.unwritten(&init()).len(), 1);
    fs::create_dir(&exits).expect("a directory");
    assert_eq!(rig.exit(&init()), Some(Exit::Code(3)));
    assert_eq!(fs::read_to_string(exits.join("c")).expect("it was tried again"), "3");
    assert!(rig.core.unwritten(&init()).is_empty());
}

fn a_life_is_told_in_order() {
    let mut rig = Rig::new();
    let new = rig.new_process("", "exec sleep 1000", Stdio::default());
    let wait = {
        let created = rig.ask(Request::Create(new));
        let wait = rig.ask(Request::Wait(init()));
        rig.answer(created).expect("created");
        wait
    };
    rig.done(Request::Start(init())).expect("started");
    rig.exec("e", "exit 7", Stdio::default()).expect("started");
    assert_eq!(rig.exit(&ProcessId::of("c", "e")), Some(Exit::Code(7)));
    rig.done(Request::Kill { process: init(), signal: 9, all: false }).expect("killed");
    let Ok(Reply::Exited(status)) = rig.answer(wait) else { panic!("no status") };
    assert_eq!(status.exit, Some(Exit::Signal(9)));
    let Ok(Reply::Deleted { status: Some(status), .. }) = rig.done(Request::Delete { process: init(), force: false })
    else {
        panic!("not deleted")
    };
    assert_eq!(status.code(), 137);
    let order: Vec<String> = rig
        .reported
        .iter()
        .filter_map(|event| match event {
            Event::Created { .. } => Some("created".into()),
            Event::Started { process, .. } => Some(format!("started {}", process.exec.as_deref().unwrap_or("init"))),
            Event::Exited { process, .. } => Some(format!("exited {}", process.exec.as_deref().unwrap_or("init"))),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["created", "started init", "started e", "exited e", "exited init"]);
    assert_eq!(rig.core.state(&init()), None);
}

/// nix has no name for real-time signals, but waitid(2) reports them like any other.
fn a_signal_without_a_name_is_a_status_too() {
    let mut rig = Rig::new();
    rig.run("kill -37 $$; exec sleep 1000", Stdio::default());
    assert_eq!(rig.exit(&init()), Some(Exit::Signal(37)));
}

fn orphans_are_reaped_whatever_ended_them() {
    let mut rig = Rig::new();
    rig.run("exec sleep 1000", Stdio::default());
    rig.exec("e", "(sh -c 'sleep 0.1; kill -37 $$' & sleep 0.2 &); exit 0", Stdio::default()).expect("started");
    rig.exit(&ProcessId::of("c", "e"));
    // Only the runtime's child is left.
    rig.turns_until("end of the orphans", |_| children() == 1);
}

fn an_orphan_behind_a_child_of_the_front_end_is_reaped_after_it() {
    let mut rig = Rig::new();
    let mut ours = Command::new("true").spawn().expect("started");
    rig.core.keep_child(ours.id() as i32);
    rig.turns_until("the end of ours", |_| zombies().len() == 1);
    rig.run("(sleep 0.1 & sleep 0.1 &); exec sleep 1000", Stdio::default());
    rig.turns_until("two orphans behind ours", |_| zombies().len() == 3);
    ours.wait().expect("reaped");
    rig.core.forget_child(ours.id() as i32);
    rig.turns_until("the reaping of all", |_| zombies().is_empty());
}

fn who_waits_for_what_never_ran_is_told_so() {
    let mut rig = Rig::new();
    rig.run("exec sleep 1000", Stdio::default());
    rig.script("on-exec", "echo no such program >&2; exit 1");
    let exec = ProcessId::of("c", "e");
    let new = rig.new_process("e", "", Stdio::default());
    rig.done(Request::AddExec(new)).expect("added");
    let wait = rig.ask(Request::Wait(exec.clone()));
    let refusal = rig.done(Request::Start(exec.clone())).expect_err("it fails");
    assert_eq!((refusal.code, &*refusal.message), (Code::Runtime, "no such program"));
    rig.answer(wait).expect_err("it never ran");
    rig.done(Request::Wait(exec.clone())).expect_err("it never ran");
    rig.done(Request::Delete { process: exec, force: false }).expect("deleted");

    let exec = ProcessId::of("c", "f");
    let new = rig.new_process("f", "", Stdio::default());
    rig.done(Request::AddExec(new)).expect("added");
    let wait = rig.ask(Request::Wait(exec.clone()));
    rig.done(Request::Delete { process: exec, force: false }).expect("deleted");
    rig.answer(wait).expect_err("it is gone");
}

fn who_waits_for_a_container_that_is_not_created_is_told_so() {
    let mut rig = Rig::new();
    rig.script("on-create", "sleep 0.2; exit 1");
    let new = rig.new_process("", "", Stdio::default());
    let created = rig.ask(Request::Create(new));
    let wait = rig.ask(Request::Wait(init()));
    rig.answer(created).expect_err("it fails");
    rig.answer(wait).expect_err("it never ran");
}

fn every_delete_is_answered() {
    let mut rig = Rig::new();
    // Its output stays open longer than the process lives, so the end is reported a second later.
    rig.run("sleep 3 & exec sleep 1000", attached());
    let one = rig.ask(Request::Delete { process: init(), force: true });
    let two = rig.ask(Request::Delete { process: init(), force: true });
    rig.answer(one).expect("deleted");
    let _ = rig.answer(two);
}

fn a_pause_that_ends_late_does_not_bring_back_the_dead() {
    let mut rig = Rig::new();
    rig.script("on-pause", AFTER_THE_END);
    rig.run(WHEN_TOLD, Stdio::default());
    let arguments = vec!["pause".into()];
    let pause = rig.ask(Request::Call { container: "c".into(), arguments, then: Some(Phase::Paused) });
    rig.script("end", "");
    rig.exit(&init());
    rig.answer(pause).expect("paused");
    assert_eq!(rig.core.state(&init()).expect("known").phase, Phase::Stopped);
}

fn a_runtime_that_writes_no_pid_file_has_failed() {
    let mut rig = Rig::new();
    rig.script("on-create", "exit 0");
    let new = rig.new_process("", "exec sleep 1000", Stdio::default());
    // That of another process, which has had the same directory.
    rig.script("init.pid", "1");
    rig.done(Request::Create(new)).expect_err("no process");
    assert_eq!(rig.core.state(&init()), None);
    fs::remove_file(rig.dir.join("on-create")).expect("removed");
    rig.run("exec sleep 1000", Stdio::default());
    rig.script("on-exec", "exit 0");
    rig.script("e.pid", "1");
    rig.exec("e", "", Stdio::default()).expect_err("no process");
    assert_eq!(rig.core.state(&ProcessId::of("c", "e")).expect("known").phase, Phase::Stopped);
}

fn an_exec_whose_stdio_cannot_be_opened_has_failed() {
    let mut rig = Rig::new();
    rig.run("exec sleep 1000", Stdio::default());
    let missing = Output::Fifo(rig.dir.join("missing"));
    rig.exec("e", "", Stdio { stdout: missing, ..Stdio::default() }).expect_err("no fifo");
    assert_eq!(rig.core.state(&ProcessId::of("c", "e")).expect("known").phase, Phase::Stopped);
}

fn an_exec_that_is_being_started_is_not_deleted() {
    let mut rig = Rig::new();
    rig.run("exec sleep 1000", Stdio::default());
    rig.script("on-exec", "sleep 0.3");
    let new = rig.new_process("e", "exit 3", Stdio::default());
    let exec = ProcessId::of("c", "e");
    rig.done(Request::AddExec(new)).expect("added");
    let started = rig.ask(Request::Start(exec.clone()));
    let refusal = rig.done(Request::Delete { process: exec.clone(), force: false }).expect_err("it is being started");
    assert_eq!(refusal.code, Code::WrongPhase);
    rig.answer(started).expect("started");
    assert_eq!(rig.exit(&exec), Some(Exit::Code(3)));
}

/// A daemon may ignore SIGCHLD, and its children inherit that; then the kernel reaps.
fn an_exit_is_not_lost_where_sigchld_was_ignored() {
    if again_in_a_shell("exec env --ignore-signal=CHLD \"$@\"") {
        return;
    }
    let mut rig = Rig::new();
    rig.run("exit 5", Stdio::default());
    assert_eq!(rig.exit(&init()), Some(Exit::Code(5)));
}

/// An engine with a low limit: three or more descriptors for each process would be too many.
fn the_limit_of_descriptors_is_raised_for_the_shim_alone() {
    if again_in_a_shell("ulimit -S -n 40") {
        return;
    }
    let (mut rig, out) = rig_with_fifo();
    rig.script("on-exec", "ulimit -S -n >limit");
    rig.run("exec sleep 1000", Stdio::default());
    for n in 0..20 {
        let stdio = Stdio { stdout: Output::Fifo(out.clone()), stderr: Output::Fifo(out.clone()), ..Stdio::default() };
        rig.exec(&format!("e{n}"), "exec sleep 1000", stdio).expect("started");
    }
    assert_eq!(fs::read_to_string(rig.dir.join("limit")).expect("a limit").trim(), "40");
    for n in 0..20 {
        rig.done(Request::Kill { process: ProcessId::of("c", &format!("e{n}")), signal: 9, all: false })
            .expect("killed");
    }
}

fn a_hanging_exec_does_not_hold_back_the_end_of_init() {
    // Only the short timeout ends it.
    let timeouts = Timeouts { long: NEVER, short: Duration::from_secs(1) };
    let mut rig = Rig::with(|container| container.timeouts = timeouts);
    rig.script("on-exec", "exec sleep 1000");
    rig.run(&format!("{WHEN_TOLD}; exit 4"), Stdio::default());
    let new = rig.new_process("e", "", Stdio::default());
    rig.done(Request::AddExec(new)).expect("added");
    let hanging = rig.ask(Request::Start(ProcessId::of("c", "e")));
    rig.script("end", "");
    assert_eq!(rig.exit(&init()), Some(Exit::Code(4)));
    assert_eq!(rig.answer(hanging).expect_err("killed").code, Code::TimedOut);
}

/// Without a PID namespace of the container's own, nobody else would kill the exec.
fn an_exec_that_joins_after_the_end_of_init_is_killed() {
    let mut rig = Rig::with(|container| container.kill_on_exit = true);
    rig.script("on-exec", AFTER_THE_END);
    rig.run(WHEN_TOLD, Stdio::default());
    let new = rig.new_process("e", "exec sleep 1000", Stdio::default());
    rig.done(Request::AddExec(new)).expect("added");
    let _ = rig.ask(Request::Start(ProcessId::of("c", "e")));
    rig.script("end", "");
    assert_eq!(rig.exit(&ProcessId::of("c", "e")), Some(Exit::Signal(9)));
    rig.exit(&init());
}

/// If both have ready descriptors, the front end is served first: the client comes before the output.
fn the_front_end_comes_first_and_holds_nothing_up() {
    let mut rig = Rig::new();
    let (door, mut caller) = std::io::pipe().expect("a pipe");
    rig.core.poll.watch(&door, 7, Interest::Read).expect("watched");
    std::io::Write::write_all(&mut caller, b"x").expect("written");
    for _ in 0..3 {
        let theirs =
            |rig: &mut Rig| -> Vec<u64> { rig.core.turn(None).expect("a turn").iter().map(|&(key, _)| key).collect() };
        assert_eq!(theirs(&mut rig), [7]);
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGUSR1).expect("a signal");
        assert_eq!(theirs(&mut rig), [7]);
        assert!(rig.core.next_event().is_none(), "the core went first");
        theirs(&mut rig);
        assert!(matches!(rig.core.next_event(), Some(Event::Signal(libc::SIGUSR1))), "the core was held up");
    }
}

fn a_call_that_cannot_be_watched_leaves_no_child() {
    let mut rig = Rig::new();
    rig.run("exec sleep 1000", Stdio::default());
    rig.script("on-pause", "exec sleep 1000");
    let before = children();
    let null = fs::File::options().write(true).open("/dev/null").expect("opened");
    let watching = std::mem::replace(&mut rig.core.poll, Poll::over(null.into()));
    let pause = rig.core.request(Request::Call { container: "c".into(), arguments: vec!["pause".into()], then: None });
    rig.core.poll = watching;
    let Ok(Reply::Pending(token)) = pause else { panic!("{pause:?}") };
    rig.answer(token).expect_err("it cannot be watched");
    assert_eq!(children(), before);
}

fn the_error_of_a_call_is_not_taken_away_by_another() {
    let mut rig = Rig::with(|container| container.runtime.log = Some(container.bundle.join("runtime.log")));
    rig.run("exec sleep 1000", Stdio::default());
    let say = |text: &str| format!("echo '{{\"level\":\"error\",\"msg\":\"{text}\"}}' >>runtime.log");
    rig.script("on-exec", &format!("{}; : >said; read -r _ <go; exit 1", say("no exec")));
    let exec = ProcessId::of("c", "e");
    let new = rig.new_process("e", "", Stdio::default());
    rig.done(Request::AddExec(new)).expect("added");
    let started = rig.ask(Request::Start(exec));
    let said = rig.dir.join("said");
    rig.turns_until("an error", |_| said.exists());
    // Another call starts meanwhile, and succeeds.
    rig.script("on-pause", ":");
    rig.done(Request::Call { container: "c".into(), arguments: vec!["pause".into()], then: None }).expect("done");
    fs::write(rig.dir.join("go"), "now\n").expect("written");
    assert_eq!(rig.answer(started).expect_err("it fails").message, "no exec");
}

fn an_exec_is_not_made_known_after_the_end_of_init() {
    let mut rig = Rig::new();
    rig.run("exit 3", Stdio::default());
    rig.exit(&init());
    let new = rig.new_process("e", "", Stdio::default());
    assert_eq!(rig.done(Request::AddExec(new)).expect_err("init has ended").code, Code::WrongPhase);
}

/// After a thousand execs the shim is no larger than after a few, and has no more open descriptors.
fn a_thousand_execs_leave_nothing_behind() {
    let (mut rig, out) = rig_with_fifo();
    rig.run("exec sleep 1000", Stdio::default());
    rig.script("on-exec", "exec \"$SHIM_CORE\" --detached \"$pid_file\" true");
    let mut ran = 0;
    let mut run = |rig: &mut Rig, count: usize| {
        for _ in 0..count {
            ran += 1;
            let exec = ProcessId::of("c", &format!("e{ran}"));
            let stdio =
                Stdio { stdout: Output::Fifo(out.clone()), stderr: Output::Fifo(out.clone()), ..Stdio::default() };
            let new = NewProcess { pid_file: rig.dir.join("pid"), ..rig.new_process("e", "", stdio) };
            rig.done(Request::AddExec(NewProcess { id: exec.clone(), ..new })).expect("added");
            rig.done(Request::Start(exec.clone())).expect("started");
            rig.exit(&exec);
            rig.done(Request::Delete { process: exec, force: false }).expect("deleted");
            rig.reported = Vec::new();
        }
        rig.turns(Duration::from_millis(1500));
    };
    run(&mut rig, 50);
    let before = (dirty(), descriptors());
    run(&mut rig, 1000 / sample());
    // On a busy machine it takes longer until the shim is idle.
    let end = Instant::now() + TIMEOUT;
    while dirty() > before.0 + 64 && Instant::now() < end {
        rig.turns(Duration::from_millis(1500));
    }
    let after = (dirty(), descriptors());
    assert_eq!(before.1, after.1);
    assert!(after.0 <= before.0 + 64, "{} kB, then {} kB", before.0, after.0);
    println!("{} kB, then {} kB", before.0, after.0);
}
