use std::time::UNIX_EPOCH;

use super::*;
use crate::image::format::read_back;

const PID: i32 = 7;

fn init() -> Process {
    Process::new(ProcessId::init("c"))
}

fn exec() -> Process {
    Process::new(ProcessId::of("c", "e"))
}

fn reaping(now: Instant) -> Reaping {
    let drain = Duration::from_secs(3);
    Reaping { now, at: UNIX_EPOCH, oom_killed: false, drain, clients: CLIENT_READ_TIME }
}

fn status(exit: Option<Exit>) -> ExitStatus {
    ExitStatus { exit, oom_killed: false, at: UNIX_EPOCH }
}

const SEVEN: Option<Exit> = Some(Exit::Code(7));

const DRAINED: DrainProgress = DrainProgress { read: true, held_back: false, taken: true };

/// A process in this state. The next functions make other states.
fn launching(mut process: Process) -> Process {
    assert_eq!(process.start(false, false), Ok(Command::Launch { stdin_closed: false }));
    process
}

fn alive(process: Process) -> Process {
    let mut process = launching(process);
    let runs = !process.id.is_init();
    process.made(PID, Parent::Shim, runs, false);
    process
}

fn draining(process: Process, now: Instant) -> Process {
    let mut process = alive(process);
    process.reaped(Reaped::Ended(SEVEN), &reaping(now));
    process
}

fn recording(process: Process, now: Instant) -> Process {
    let mut process = draining(process, now);
    assert_eq!(process.drained(DRAINED, now), [Effect::Record]);
    process
}

fn recorded(process: Process, now: Instant) -> Process {
    let mut process = recording(process, now);
    assert_eq!(process.recorded(true, now), [Effect::ReportInOrder]);
    process
}

fn reported(process: Process, now: Instant) -> Process {
    let mut process = recorded(process, now);
    process.report();
    process
}

fn never_ran() -> Process {
    let mut process = launching(exec());
    process.not_made(&Refusal::new(Code::Runtime, "it failed"));
    process
}

/// Every state that a process can be in.
fn all(now: Instant) -> Vec<Process> {
    let mut all = vec![never_ran()];
    for new in [init, exec] {
        let mut retrying = recording(new(), now);
        retrying.recorded(false, now);
        let mut leaving = reported(new(), now);
        leaving.leave(true, now + RECORD_PAUSE, now);
        let mut unreaped = launching(new());
        unreaped.adopted(PID, Parent::Other, Phase::Paused);
        unreaped.reaped(Reaped::ByItsParent, &reaping(now));
        all.extend([new(), launching(new()), alive(new()), unreaped, draining(new(), now), recording(new(), now)]);
        all.extend([retrying, recorded(new(), now), reported(new(), now), leaving]);
    }
    all
}

fn phase(process: &Process) -> Phase {
    process.state(false, 0, 0).phase
}

fn wrong<T: std::fmt::Debug>(result: Result<T>) -> Code {
    result.expect_err("it is refused").code
}

#[test]
fn init_is_created_started_and_ends() {
    let now = Instant::now();
    let mut process = launching(init());
    assert_eq!((phase(&process), process.pid(), process.is_pending()), (Phase::Added, 0, false));
    let id = process.id.clone();
    let created = Effect::Notify(Event::Created { process: id.clone(), pid: PID });
    assert_eq!(process.made(PID, Parent::Shim, false, false), [created]);
    assert_eq!((phase(&process), process.pid(), process.is_pending()), (Phase::Created, PID, true));
    assert_eq!(process.start(false, false), Ok(Command::Start));
    let started = Effect::Notify(Event::Started { process: id.clone(), pid: PID });
    assert_eq!(process.started(), [started]);
    process.set_phase(Phase::Paused);
    assert_eq!(phase(&process), Phase::Paused);
    assert_eq!(process.reaped(Reaped::NotYet, &reaping(now)), []);
    let ended = process.reaped(Reaped::Ended(SEVEN), &reaping(now));
    assert_eq!(ended, [Effect::Descriptors(DescriptorEffect::Drain), Effect::EndContainer]);
    // Until the end is reported, the phase is that in which the process ended, and the exit is hidden.
    assert_eq!((phase(&process), process.state(false, 0, 0).exit), (Phase::Paused, None));
    process.set_phase(Phase::Running);
    assert_eq!(phase(&process), Phase::Paused);
    assert_eq!(process.drained(DRAINED, now), [Effect::Record]);
    assert_eq!(process.recorded(true, now), [Effect::ReportInOrder]);
    let exited = Effect::Notify(Event::Exited { process: id, pid: PID, status: status(SEVEN) });
    assert_eq!(process.report(), [Effect::Descriptors(DescriptorEffect::Disconnect), exited]);
    assert_eq!((phase(&process), process.state(false, 0, 0).exit), (Phase::Stopped, Some(status(SEVEN))));
    assert_eq!(process.delete(false), Ok(Command::Delete { force: false }));
    assert_eq!(process.deleted(WaitToken(5)), [Effect::ForgetUnlessRead]);
    assert_eq!(process.leave(false, now, now), [Effect::Forget]);
    let reply = Reply::Deleted { pid: PID, status: Some(status(SEVEN)) };
    assert_eq!(process.forgotten(), [Effect::Answer(WaitToken(5), Ok(reply))]);
}

#[test]
fn a_restored_container_runs_at_once_and_an_exec_too() {
    let mut process = launching(init());
    let id = process.id.clone();
    let created = Effect::Notify(Event::Created { process: id.clone(), pid: PID });
    let started = Effect::Notify(Event::Started { process: id, pid: PID });
    assert_eq!(process.made(PID, Parent::Shim, true, false), [created, started]);
    assert_eq!(phase(&process), Phase::Running);
    let mut process = launching(exec());
    let started = Effect::Notify(Event::Started { process: process.id.clone(), pid: PID });
    assert_eq!(process.made(PID, Parent::Shim, true, false), [started]);
    assert_eq!(wrong(process.start(false, false)), Code::WrongPhase);
}

#[test]
fn an_exec_that_comes_after_its_container_has_ended_is_killed() {
    let mut late = launching(exec());
    let started = Effect::Notify(Event::Started { process: late.id.clone(), pid: PID });
    assert_eq!(late.made(PID, Parent::Shim, true, true), [Effect::Descriptors(DescriptorEffect::Kill), started]);
    // A process that is not launched yet is refused too, whether it is new or being launched.
    assert_eq!(wrong(exec().start(false, true)), Code::WrongPhase);
    assert_eq!(wrong(exec().start(true, false)), Code::WrongPhase);
}

#[test]
fn an_end_before_the_pid_is_known_is_found_when_it_is() {
    let now = Instant::now();
    let mut process = launching(exec());
    // There is no pidfd yet, so there is nothing to reap. The end is not reported before the start.
    assert_eq!(process.reaped(Reaped::Ended(SEVEN), &reaping(now)), []);
    assert_eq!(process.life, Life::Launching);
    process.made(PID, Parent::Shim, true, false);
    assert_eq!(process.reaped(Reaped::Ended(SEVEN), &reaping(now)), [Effect::Descriptors(DescriptorEffect::Drain)]);
    // A second look at the same end changes nothing.
    let before = process.clone();
    assert_eq!(process.reaped(Reaped::Ended(None), &reaping(now)), []);
    assert_eq!(process, before);
}

#[test]
fn a_start_that_is_answered_after_the_end_is_still_told_first() {
    let now = Instant::now();
    let mut process = recorded(init(), now);
    let turn = |process: &Process, starting| next_to_report([(1, process)].into_iter(), starting);
    assert_eq!(turn(&process, true), None);
    assert_eq!(process.started().len(), 1);
    assert_eq!(phase(&process), Phase::Running);
    assert_eq!(turn(&process, false), Some(1));
}

#[test]
fn output_is_waited_for_and_clients_are_but_not_for_ever() {
    let now = Instant::now();
    let (output, clients) = (now + Duration::from_secs(3), now + CLIENT_READ_TIME);
    let unread = DrainProgress { read: false, ..DRAINED };
    let untaken = DrainProgress { taken: false, ..DRAINED };
    let held_back = DrainProgress { read: false, held_back: true, taken: false };
    for (found, at, goes_on) in [
        (DRAINED, now, true),
        (unread, now, false),
        (unread, output, true),
        (untaken, output, false),
        (untaken, clients, true),
        (held_back, output, false),
        (held_back, clients, true),
    ] {
        let mut process = draining(exec(), now);
        let expected: &[Effect] = if goes_on { &[Effect::Record] } else { &[] };
        assert_eq!(process.drained(found, at), expected, "{found:?}");
        assert!(process.is_ending());
    }
    let process = draining(exec(), now);
    assert_eq!((process.deadline(now), process.deadline(output)), (Some(output), Some(clients)));
}

#[test]
fn a_record_that_fails_is_tried_again_and_at_last_given_up() {
    let now = Instant::now();
    let mut process = recording(exec(), now);
    for _ in 1..RECORD_TRIES {
        assert_eq!(process.recorded(false, now), []);
        assert_eq!((process.deadline(now), process.is_ending()), (Some(now + RECORD_PAUSE), false));
        assert_eq!(process.drained(DRAINED, now), [], "the pause is not over");
        assert_eq!(process.drained(DRAINED, now + RECORD_PAUSE), [Effect::Record]);
    }
    assert_eq!(process.recorded(false, now), [Effect::ReportInOrder]);
    assert!(matches!(process.life, Life::Recorded { .. }));
    // A second answer has no effect.
    assert_eq!(process.recorded(true, now), []);
    let mut process = recording(exec(), now);
    process.recorded(false, now);
    process.drained(DRAINED, now + RECORD_PAUSE);
    assert_eq!(process.recorded(true, now), [Effect::ReportInOrder]);
}

#[test]
fn a_failed_launch_ends_an_exec_and_forgets_init() {
    let refusal = Refusal::new(Code::Runtime, "it failed");
    let mut process = exec();
    assert_eq!(process.wait(WaitToken(1)), Ok(Reply::Pending(WaitToken(1))));
    let mut process = launching(process);
    let answer = Effect::Answer(WaitToken(1), Err(refusal.clone()));
    assert_eq!(process.not_made(&refusal), [Effect::Descriptors(DescriptorEffect::CloseStdio), answer]);
    assert_eq!((phase(&process), process.is_alive()), (Phase::Stopped, false));
    assert_eq!(wrong(process.start(false, false)), Code::WrongPhase);
    assert_eq!(wrong(process.wait(WaitToken(2))), Code::WrongPhase);
    assert_eq!(wrong(process.kill(9, false)), Code::NotFound);
    assert_eq!(process.delete(false), Ok(Command::Forget));
    assert_eq!(process.deletion(), Reply::Deleted { pid: 0, status: None });
    let mut process = launching(exec());
    assert_eq!(process.not_launched(&refusal), [Effect::Descriptors(DescriptorEffect::CloseStdio)]);
    assert_eq!(process.life, Life::NeverRan);

    let mut process = launching(init());
    assert_eq!(process.not_made(&refusal), [Effect::Remove]);
    // If the runtime itself could not be run, init can be tried again.
    let mut process = launching(init());
    assert_eq!(process.not_launched(&refusal), [Effect::Descriptors(DescriptorEffect::CloseStdio)]);
    assert_eq!(process.start(false, false), Ok(Command::Launch { stdin_closed: false }));
}

#[test]
fn a_signal_goes_through_the_runtime_to_init_and_through_the_pidfd_to_an_exec() {
    let now = Instant::now();
    let kill = |all| Ok(Command::Kill { signal: 15, all });
    for process in [init(), launching(init()), alive(init())] {
        assert_eq!(process.kill(15, false), kill(false));
        assert_eq!(process.kill(15, true), kill(true));
    }
    assert_eq!(alive(exec()).kill(15, false), Ok(Command::Signal(15)));
    assert_eq!(wrong(exec().kill(15, false)), Code::WrongPhase);
    assert_eq!(wrong(launching(exec()).kill(15, false)), Code::WrongPhase);
    for of in [draining, recording, recorded, reported] {
        let refused = of(exec(), now).kill(15, true).expect_err("it has ended");
        assert_eq!(refused.message, "process already finished");
        assert_eq!(wrong(of(init(), now).kill(15, false)), Code::NotFound);
        // Processes that outlive init can still be killed.
        assert_eq!(of(init(), now).kill(15, true), kill(true));
    }
}

#[test]
fn who_deletes_what_runs_waits_for_its_end() {
    let now = Instant::now();
    for of in [draining, recording, recorded] {
        assert_eq!(wrong(of(exec(), now).delete(true)), Code::WrongPhase);
        let mut process = of(init(), now);
        // Init has not been started, so it may be deleted without force, but the runtime needs the flag.
        assert_eq!(process.delete(false), Ok(Command::Delete { force: true }));
        process.started();
        assert_eq!(wrong(process.delete(false)), Code::WrongPhase);
        assert_eq!(process.delete(true), Ok(Command::Delete { force: true }));
    }
    assert_eq!(wrong(launching(exec()).delete(true)), Code::WrongPhase);
    assert_eq!(wrong(alive(exec()).delete(true)), Code::WrongPhase);
    assert_eq!(exec().delete(false), Ok(Command::Forget));
    assert_eq!(init().delete(false), Ok(Command::Delete { force: false }));
    // The runtime has killed and deleted the process: the answer comes when its end is reported.
    let mut process = alive(init());
    assert_eq!(process.deleted(WaitToken(3)), []);
    process.wait(WaitToken(4)).expect("it waits");
    process.reaped(Reaped::Ended(Some(Exit::Signal(9))), &reaping(now));
    assert_eq!(process.deleted(WaitToken(5)), [], "deleted while it is drained");
    process.drained(DRAINED, now);
    process.recorded(true, now);
    let effects = process.report();
    let ended = status(Some(Exit::Signal(9)));
    assert_eq!(effects[2..], [Effect::Answer(WaitToken(4), Ok(Reply::Exited(ended))), Effect::ForgetUnlessRead]);
    assert_eq!(process.leave(false, now, now), [Effect::Forget]);
    let reply = Ok(Reply::Deleted { pid: PID, status: Some(ended) });
    let answers = [3, 5].map(|token| Effect::Answer(WaitToken(token), reply.clone()));
    assert_eq!(process.forgotten(), answers);
}

#[test]
fn a_reader_that_is_about_to_take_the_output_delays_the_deletion() {
    let now = Instant::now();
    let until = now + RECORD_PAUSE;
    let mut process = reported(exec(), now);
    process.answer_when_forgotten(WaitToken(1));
    assert_eq!(process.leave(true, until, now), []);
    assert_eq!((process.deadline(now), phase(&process)), (Some(until), Phase::Stopped));
    assert_eq!(process.wait(WaitToken(2)), Ok(Reply::Exited(status(SEVEN))));
    // A second deletion does not extend the time.
    assert_eq!(process.leave(true, until + RECORD_PAUSE, now), []);
    assert_eq!(process.deadline(now), Some(until));
    assert_eq!(process.clone().leave(false, until, now), [Effect::Forget], "the reader has it");
    assert_eq!(process.leave(true, until + RECORD_PAUSE, until), [Effect::Forget], "it took too long");
}

#[test]
fn an_adopted_process_is_reaped_by_its_parent_or_after_a_while_by_nobody() {
    let now = Instant::now();
    let adopted = || {
        let mut process = init();
        process.adopted(PID, Parent::Other, Phase::Running);
        process
    };
    let mut process = adopted();
    assert_eq!((phase(&process), process.pid()), (Phase::Running, PID));
    assert_eq!(
        process.reaped(Reaped::ByItsParent, &reaping(now)),
        [Effect::Descriptors(DescriptorEffect::AwaitParent)]
    );
    assert_eq!(process.deadline(now), Some(now + PARENT_REAP_TIME));
    assert_eq!(process.reaped(Reaped::ByItsParent, &reaping(now)), [], "it is waited for");
    process.reaped(Reaped::Ended(SEVEN), &reaping(now));
    assert_eq!(process.status(), Some(status(SEVEN)));

    let mut process = adopted();
    process.reaped(Reaped::ByItsParent, &reaping(now));
    let effects = process.reaped(Reaped::ByItsParent, &reaping(now + PARENT_REAP_TIME));
    assert_eq!(effects, [Effect::Descriptors(DescriptorEffect::Drain), Effect::EndContainer]);
    assert_eq!(process.status().map(|status| status.code()), Some(255));
    // A shim that finds a dead process whose exit the kernel does not report any more.
    let mut process = adopted();
    process.reaped(Reaped::Ended(None), &reaping(now));
    assert_eq!(process.status(), Some(status(None)));
}

#[test]
fn an_end_is_reported_as_the_front_end_says() {
    let now = Instant::now();
    let mut process = alive(exec());
    process.report_as(Exit::Code(124));
    process.reaped(Reaped::Ended(Some(Exit::Signal(9))), &reaping(now));
    assert_eq!(process.status(), Some(status(Some(Exit::Code(124)))));
}

#[test]
fn input_that_is_closed_before_there_is_any_stays_closed() {
    let mut process = exec();
    assert!(process.close_stdin());
    assert_eq!(process.start(false, false), Ok(Command::Launch { stdin_closed: true }));
    assert!(!process.close_stdin(), "the stdio is open by now");
}

#[test]
fn the_end_of_init_is_told_after_those_of_its_execs() {
    let now = Instant::now();
    let turn = |processes: &[Process]| next_to_report((0..).zip(processes), false);
    let init = recorded(init(), now);
    for busy in [launching(exec()), alive(exec()), draining(exec(), now), recording(exec(), now)] {
        assert_eq!(turn(&[init.clone(), busy]), None);
    }
    for over in [exec(), never_ran(), reported(exec(), now)] {
        assert_eq!(turn(&[init.clone(), over]), Some(0));
    }
    assert_eq!(turn(&[init.clone(), recorded(exec(), now)]), Some(1));
    assert_eq!(turn(&[init, recorded(exec(), now), alive(exec())]), Some(1));
    assert_eq!(turn(&[]), None);
}

#[test]
fn requests_that_wait_for_a_process_that_is_removed_are_answered() {
    let now = Instant::now();
    for mut process in all(now) {
        let waits = matches!(process.wait(WaitToken(1)), Ok(Reply::Pending(_)));
        process.answer_when_forgotten(WaitToken(2));
        let answered = |effect: &Effect| match effect {
            Effect::Answer(token, Err(refusal)) => (token.0, refusal.code),
            other => panic!("{other:?}"),
        };
        let expected: &[_] = if waits { &[(1, Code::NotFound), (2, Code::NotFound)] } else { &[(2, Code::NotFound)] };
        assert_eq!(process.closed().iter().map(answered).collect::<Vec<_>>(), expected);
        assert_eq!(process.closed(), [], "once");
    }
}

#[test]
fn every_state_can_be_written_down_and_read_back() {
    let now = Instant::now();
    for mut process in all(now) {
        let _ = process.wait(WaitToken(8));
        process.answer_when_forgotten(WaitToken(9));
        process.report_as(Exit::Signal(15));
        assert_eq!(read_back(&process), process);
    }
}

/// Every input in every state: the end is reported once, and the known facts do not change.
#[test]
fn whatever_happens_in_whatever_state_a_process_that_was_told_stays_told() {
    let now = Instant::now();
    let inputs: [fn(&mut Process, Instant) -> Vec<Effect>; 6] = [
        |process, now| process.reaped(Reaped::Ended(SEVEN), &reaping(now)),
        |process, now| process.reaped(Reaped::ByItsParent, &reaping(now)),
        |process, now| process.drained(DRAINED, now + CLIENT_READ_TIME),
        |process, now| process.recorded(true, now),
        |process, now| process.recorded(false, now),
        |process, _| process.report(),
    ];
    for process in all(now) {
        for input in inputs {
            let mut after = process.clone();
            let effects = input(&mut after, now);
            let exits = effects.iter().filter(|effect| matches!(effect, Effect::Notify(Event::Exited { .. }))).count();
            let becomes_told = phase(&after) == Phase::Stopped && phase(&process) != Phase::Stopped;
            assert_eq!(exits, usize::from(becomes_told), "{process:?} {effects:?}");
            if phase(&process) == Phase::Stopped {
                assert_eq!(after, process, "{effects:?}");
            }
            // The pid and the status of a process do not change once they are known.
            if process.pid() != 0 {
                assert_eq!(after.pid(), process.pid());
            }
            if process.status().is_some() {
                assert_eq!(after.status(), process.status());
            }
        }
    }
}
