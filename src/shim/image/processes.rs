//! The tables of containers, processes and calls.

use super::fault::Fault;
use super::format::{Content, Encoder, Fields, Value, choice, table};
use crate::call::{Call, Operation, Planned};
use crate::calls::Calls;
use crate::console::Console;
use crate::containers::ManagedContainer;
use crate::life::{End, Life, Parent, Process};
use crate::notifier::Watch;
use crate::oom::OomWatch;
use crate::processes::ManagedProcess;
use crate::{
    Code, Container, ExitFile, ExitStatus, Making, NewProcess, Phase, ProcessId, Refusal, Runtime, Timeouts, WaitToken,
};
use windlass_sys::process::{Child, Exit};

table! {
    ProcessId { 1 container, 2 exec }
    Refusal { 1 code, 2 message }
    Runtime { 1 binary, 2 global, 3 log }
    Timeouts { 1 long, 2 short }
    Container { 1 id, 2 bundle, 3 runtime, 4 timeouts, 5 drain, 6 kill_on_exit, 7 oom_files, 8 sync }
    OomWatch { 1 file, 2 reported, 3 watch }
    ManagedContainer { 1 container, 2 oom, 3 oom_killed, 4 cgroup }
    End { 1 pid, 2 phase, 3 status }
    ExitStatus { 1 exit, 2 oom_killed, 3 at }
    Process { 1 id, 2 life, 3 waiters, 4 deleters, 5 reported_exit }
    Child { 1 pid, 2 pidfd }
    Console { 1 listener, 2 peer, 3 directory, 4 name, 5 path, 6 private, 7 @hint again }
    ManagedProcess { 1 serial, 2 process, 3 new, 4 pidfd, 5 streams, 6 console, 7 recorder, 8 @hint is_told }
    Planned { 1 operation, 2 process, 3 arguments, 4 token }
    Call {
        1 operation, 2 process, 3 token, 4 child, 5 output, 6 errors, 7 stdout, 8 stderr, 9 deadline,
        10 timed_out, 11 log_length, 12 @hint unwatched,
    }
    Calls { 1 running, 2 waiting }
}

choice! {
    Code {
        1 NotFound {}, 2 AlreadyExists {}, 3 WrongPhase {}, 4 Invalid {}, 5 Runtime {}, 6 TimedOut {}, 7 Kernel {},
    }
    Phase { 1 Added {}, 2 Created {}, 3 Running {}, 4 Paused {}, 5 Stopped {} }
    Exit { 1 Code { 1 code: 0 }, 2 Signal { 1 signal: 0 } }
    Parent { 1 Shim {}, 2 Other {}, 3 OtherUntil { 1 until: 0 } }
    Life {
        1 Added { 1 stdin_closed: stdin_closed },
        2 Launching {},
        3 Alive { 1 pid: pid, 2 phase: phase, 3 parent: parent },
        4 Draining { 1 end: end, 2 output: output_until, 3 clients: clients_until },
        5 Recording { 1 end: end, 2 failures: failures },
        6 Retrying { 1 end: end, 2 failures: failures, 3 at: at },
        7 Recorded { 1 end: end },
        8 Reported { 1 end: end },
        9 Leaving { 1 end: end, 2 until: until },
        10 NeverRan {},
    }
    Operation { 1 Create {}, 2 Start {}, 3 Exec {}, 4 Kill {}, 5 Delete {}, 6 Other { 1 then: 0 }, 7 Checkpoint {} }
    ExitFile { 1 Record { 1 path: 0 }, 2 Decimal { 1 path: 0 }, 3 RuntimeState { 1 path: 0 } }
}

impl Value for WaitToken {
    const EMPTY: bool = true;

    fn write(&self, to: &mut Encoder) {
        self.0.write(to);
    }

    fn read(content: Content<'_>) -> WaitToken {
        WaitToken(u64::read(content))
    }
}

/// A watch of inotify(7) has no content: it is made again.
impl Value for Watch {
    fn write(&self, _: &mut Encoder) {}

    fn read(_: Content<'_>) -> Watch {
        Watch::ended()
    }
}

/// By hand, because how a process is made is written as the runtime's verb.
impl Value for NewProcess {
    fn write(&self, to: &mut Encoder) {
        to.put(1, true, &self.id);
        to.put(2, true, &self.stdio);
        to.put(3, true, &self.pid_file);
        to.put(4, true, &self.process_file);
        to.put(5, true, &String::from(self.making.verb()));
        to.put(6, true, &self.arguments);
        to.put(7, true, &self.preserve_fds);
        to.put(8, true, &self.exit_files);
    }

    fn read(content: Content<'_>) -> NewProcess {
        let mut fields = Fields::of(content, "NewProcess");
        let process = NewProcess {
            id: fields.get(1),
            stdio: fields.get(2),
            pid_file: fields.get(3),
            process_file: fields.get(4),
            making: match fields.get::<String>(5).as_str() {
                "restore" => Making::Restore,
                "exec" => Making::Exec,
                "create" => Making::Create,
                other => {
                    content.fault(Fault::Unexpected { content: format!("{other:?}"), expected: "a verb" });
                    Making::Create
                }
            },
            arguments: fields.get(6),
            preserve_fds: fields.get(7),
            exit_files: fields.get(8),
        };
        fields.end();
        process
    }
}
