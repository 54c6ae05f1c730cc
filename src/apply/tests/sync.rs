//! Both ends of the conversation between the runtime and init, over a real pair of sockets: messages, bytes that are
//! none, and the death of either side at each step.

use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use windlass_apply::sync::{InitSync, Message, Question, RuntimeSync, SourceSet, decode};
use windlass_base::error::{Diagnostic, Error, Kind, Origin};
use windlass_plan::SourceId;
use windlass_sys::socket::pair;

/// A question of init.
type Ask = fn(&InitSync) -> windlass_base::error::Result<()>;

const ASKS: &[(&str, Ask)] = &[
    ("Place", InitSync::place),
    ("Ask(MapIds)", InitSync::map_ids),
    ("Ask(Sources(SourceSet { first: 3, more: 5 }))", |sync| {
        sync.sources(SourceSet::new(SourceId::new(3), [5, 2, 67].map(SourceId::new))).map(drop)
    }),
    ("Ask(RootDirectory)", |sync| match sync.root_directory() {
        // An answer without a descriptor is an answer, too.
        Err(error) if error.kind() == Kind::Protocol => Ok(()),
        other => other.map(drop),
    }),
    ("Ask(Scope)", InitSync::scope),
    ("Ask(NetDevices)", InitSync::net_devices),
    ("Ask(RuntimeHooks)", InitSync::runtime_hooks),
    ("Ask(Listener(0))", |sync| sync.listener(std::io::stdin().as_fd())),
    ("Ready", InitSync::ready),
];

fn ends() -> (InitSync, RuntimeSync) {
    let (init, runtime) = pair().expect("a pair");
    (InitSync::new(init), RuntimeSync::new(runtime))
}

/// The runtime's end, and the bare socket of an init that sends arbitrary bytes.
fn bare() -> (OwnedFd, RuntimeSync) {
    let (init, runtime) = pair().expect("a pair");
    (init, RuntimeSync::new(runtime))
}

fn say(socket: &OwnedFd, bytes: &[u8]) {
    send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).expect("the other end is open");
}

/// Only one child is forked at a time: it holds copies of all descriptors of the process, and two children would keep
/// each other's conversation open.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// An init in a process of its own, and the runtime's end.
struct Forked {
    pid: Pid,
    _turn: MutexGuard<'static, ()>,
}

impl Forked {
    /// Plays `story` with init's end; its result is the exit status.
    fn play(story: impl FnOnce(InitSync) -> i32) -> (Forked, RuntimeSync) {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (init, runtime) = pair().expect("a pair");
        // SAFETY: the child uses its sockets and memory only, and ends with _exit.
        #[allow(unsafe_code)]
        match unsafe { nix::unistd::fork() }.expect("a process") {
            ForkResult::Child => {
                drop(runtime);
                let code = story(InitSync::new(init));
                // SAFETY: _exit has no preconditions.
                #[allow(unsafe_code)]
                unsafe {
                    libc::_exit(code)
                }
            }
            ForkResult::Parent { child } => (Forked { pid: child, _turn: turn }, RuntimeSync::new(runtime)),
        }
    }

    /// Its exit status.
    fn wait(self) -> i32 {
        match waitpid(self.pid, None).expect("ours to wait for") {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_question_is_heard_and_waits_for_its_answer() {
    for (name, ask) in ASKS {
        let (init, mut runtime) = ends();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&init));
            let heard = runtime.receive().expect("a message");
            assert_eq!(format!("{heard:?}"), *name);
            assert!(!asking.is_finished(), "{name}: init goes on before it may");
            runtime.go_on().expect("init lives");
            asking.join().expect("no panic").expect("an answer");
        });
    }
}

#[test]
fn messages_come_one_by_one_and_in_order() {
    let (init, mut runtime) = ends();
    init.log("one");
    init.log("two");
    init.failed(&Error::new(Kind::Kernel, "three"));
    drop(init);
    let heard: Vec<String> = (0..4).map(|_| format!("{:?}", runtime.receive().expect("a message"))).collect();
    assert_eq!(heard[0], "Log(\"one\")");
    assert_eq!(heard[1], "Log(\"two\")");
    assert!(heard[2].starts_with("Failed(") && heard[2].contains("three"), "{}", heard[2]);
    assert_eq!(heard[3], "End");
}

#[test]
fn an_error_comes_whole() {
    let (init, mut runtime) = ends();
    let error = Error::faults(vec![
        Diagnostic { pointer: "/mounts/7".into(), msg: "one".into() },
        Diagnostic { pointer: "/mounts/8".into(), msg: "two".into() },
    ])
    .with_step("init 7/61: bind")
    .with_hint("mend it")
    .with_origin(Origin::config("/mounts"));
    init.failed(&error);
    match runtime.receive().expect("a message") {
        Message::Failed(heard) => assert_eq!(heard, error),
        other => panic!("{other:?}"),
    }
}

/// However long an error is, its origin, step and beginning are kept.
fn assert_cut(sent: &Error) {
    let (init, mut runtime) = ends();
    init.failed(sent);
    match runtime.receive().expect("a message that fits") {
        Message::Failed(heard) => {
            assert_eq!(heard.kind(), sent.kind());
            assert!(!heard.message().is_empty());
            let same = heard.message().chars().zip(sent.message().chars()).take_while(|(a, b)| a == b).count();
            assert!(same >= 100, "the beginning is kept: {:?}", heard.message());
            assert_eq!(heard.origin(), sent.origin());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_error_too_long_is_cut_and_not_lost() {
    let texts =
        ["x".repeat(9000), "\u{1}".repeat(9000), "日本語".repeat(9000), "\"\\".repeat(9000), "a".repeat(1 << 20)];
    for text in &texts {
        assert_cut(&Error::new(Kind::Hook, text.as_str()));
        assert_cut(
            &Error::config("/hooks/prestart/0", text.as_str()).with_step(text.as_str()).with_hint(text.as_str()),
        );
    }
    let fault =
        |index: usize| Diagnostic { pointer: format!("/mounts/{index}"), msg: "a mount needs a destination".repeat(5) };
    assert_cut(&Error::faults((0..1000).map(fault).collect()));
}

#[test]
fn errors_of_every_length_around_the_limit_arrive() {
    for length in (7800..8300).chain(4000..4200) {
        assert_cut(&Error::new(Kind::Kernel, "y".repeat(length)));
    }
}

#[test]
fn a_line_for_the_log_is_cut_where_a_message_ends() {
    let (init, mut runtime) = ends();
    for text in ["z".repeat(100_000), "é".repeat(8191), "é".repeat(4095)] {
        init.log(&text);
        match runtime.receive().expect("a message that fits") {
            Message::Log(heard) => assert!(heard.len() >= 8000 && text.starts_with(heard.trim_end_matches('\u{fffd}'))),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn init_made_by_another_process_comes_with_its_handle() {
    let (init, runtime) = ends();
    let (between, _lives) = pair().expect("a pair");
    let mut runtime = runtime.with_intermediate(Some(between));
    let mut file = tempfile();
    file.write_all(b"the same file").expect("room");
    init.spawned(4711, file.as_fd()).expect("the runtime lives");
    match runtime.receive().expect("a message") {
        Message::Spawned(4711, handle) => {
            let mut received = std::fs::File::from(handle);
            received.rewind().expect("a file");
            let mut text = String::new();
            received.read_to_string(&mut text).expect("readable");
            assert_eq!(text, "the same file");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_process_that_has_nothing_to_make_names_no_other() {
    let (init, mut runtime) = ends();
    init.spawned(4711, tempfile().as_fd()).expect("the runtime lives");
    assert!(runtime.receive().is_err());
}

#[test]
fn a_process_faster_than_the_one_that_names_it_is_answered_after_it() {
    let (child, runtime) = bare();
    // Like a pidfd, an end of a pair can be read from when the other end is gone.
    let (between, _lives) = pair().expect("a pair");
    let mut runtime = runtime.with_intermediate(Some(between));
    let named = InitSync::new(child.try_clone().expect("a copy of the socket"));
    say(&child, b"R");
    named.spawned(42, tempfile().as_fd()).expect("spoken");
    assert!(matches!(runtime.receive().expect("a message"), Message::Spawned(42, _)));
    assert!(matches!(runtime.receive().expect("a message"), Message::Ready));
}

#[test]
fn a_process_in_between_that_dies_before_it_names_anything_is_not_waited_for() {
    let (child, runtime) = bare();
    let (between, dies) = pair().expect("a pair");
    let mut runtime = runtime.with_intermediate(Some(between));
    // The process that the intermediate one has made holds the socket open, and waits for an answer.
    say(&child, b"R");
    drop(dies);
    assert!(matches!(runtime.receive().expect("no failure"), Message::End));
}

#[test]
fn what_a_process_in_between_has_said_is_heard_after_its_death() {
    let (child, runtime) = bare();
    let (between, dies) = pair().expect("a pair");
    let mut runtime = runtime.with_intermediate(Some(between));
    let named = InitSync::new(child.try_clone().expect("a copy of the socket"));
    named.spawned(42, tempfile().as_fd()).expect("spoken");
    drop(dies);
    assert!(matches!(runtime.receive().expect("a message"), Message::Spawned(42, _)));
}

#[test]
fn a_handle_that_nobody_asked_for_is_closed() {
    let (init, mut runtime) = bare();
    let (ours, theirs) = pair().expect("a pair");
    windlass_sys::socket::send(init.as_fd(), b"M", &[theirs.as_fd()]).expect("the runtime lives");
    drop(theirs);
    assert!(matches!(runtime.receive(), Ok(Message::Ask(Question::MapIds))));
    // If the runtime had kept the descriptor, the other end would not be closed.
    let (n, _) = windlass_sys::socket::receive(ours.as_fd(), &mut [0; 1]).expect("closed, not failed");
    assert_eq!(n, 0);
}

fn tempfile() -> std::fs::File {
    let path = std::env::temp_dir().join(format!("windlass-sync-{}", std::process::id()));
    let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("a file");
    std::fs::remove_file(&path).expect("ours");
    file
}

#[test]
fn what_is_no_message_is_an_error_of_the_protocol() {
    let wrong: &[&[u8]] = &[
        b"?",
        b"m",
        b"\0",
        b"P",
        b"P\x01\0",
        b"P\x01\0\0\0",
        b"S",
        b"S\x01\0\0",
        b"F",
        b"F{",
        b"F{}",
        b"Fnull",
        b"F\xff\xff",
    ];
    for bytes in wrong {
        let (init, mut runtime) = bare();
        say(&init, bytes);
        match runtime.receive() {
            Err(error) => assert_eq!(error.kind(), Kind::Protocol, "{bytes:?}"),
            Ok(message) => panic!("{bytes:?} was taken for {message:?}"),
        }
    }
}

#[test]
fn no_bytes_make_the_reader_panic() {
    // A linear congruential sequence: the same bytes in every run.
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for length in 0..2000usize {
        let mut bytes: Vec<u8> = (0..length % 64).map(|_| next()).collect();
        if let Some(first) = bytes.first_mut() {
            *first = b"APMNHSRFL"[length % 9];
        }
        let _ = decode(&bytes, None);
    }
}

#[test]
fn a_message_longer_than_any_is_refused() {
    let (init, mut runtime) = bare();
    say(&init, &vec![b'L'; 20_000]);
    assert!(runtime.receive().is_err());
    say(&init, b"R");
    assert!(matches!(runtime.receive(), Ok(Message::Ready)), "the next one is heard");
}

#[test]
fn the_runtime_hears_the_end_when_init_dies_at_any_step() {
    for questions in 0..=ASKS.len() {
        let (init, mut runtime) = Forked::play(|sync| {
            let unanswered = ASKS[..questions].iter().find(|(_, ask)| ask(&sync).is_err());
            if unanswered.is_some() { 9 } else { 0 }
        });
        for (name, _) in &ASKS[..questions] {
            assert_eq!(format!("{:?}", runtime.receive().expect("a message")), *name);
            runtime.go_on().expect("init lives");
        }
        assert!(matches!(runtime.receive(), Ok(Message::End)), "after {questions} questions");
        assert!(matches!(runtime.receive(), Ok(Message::End)), "and it stays at that");
        assert_eq!(init.wait(), 0);
    }
}

#[test]
fn the_runtime_hears_the_end_when_init_is_killed_before_its_answer() {
    for (name, ask) in ASKS {
        let (init, mut runtime) = Forked::play(|sync| i32::from(ask(&sync).is_err()));
        assert_eq!(format!("{:?}", runtime.receive().expect("a message")), *name);
        kill(init.pid, Signal::SIGKILL).expect("ours to kill");
        assert_eq!(waitpid(init.pid, None), Ok(WaitStatus::Signaled(init.pid, Signal::SIGKILL, false)));
        runtime.go_on().expect("the next message tells");
        assert!(matches!(runtime.receive(), Ok(Message::End)), "{name}");
    }
}

#[test]
fn init_ends_when_the_runtime_dies_before_its_answer() {
    for (name, ask) in ASKS {
        // Init must not go on: the container would run unrecorded.
        let (init, mut runtime) = Forked::play(|sync| if ask(&sync).is_ok() { 77 } else { 78 });
        assert_eq!(format!("{:?}", runtime.receive().expect("a message")), *name);
        drop(runtime);
        assert_eq!(init.wait(), 1, "{name}");
    }
}

#[test]
fn init_fails_when_the_runtime_died_before_its_question() {
    for (name, ask) in ASKS {
        let (init, runtime) = ends();
        drop(runtime);
        let error = ask(&init).expect_err("nobody is there to answer");
        assert_eq!(error.errno(), Some(nix::errno::Errno::EPIPE), "{name}");
    }
}

#[test]
fn a_failure_told_to_nobody_is_no_failure() {
    let (init, runtime) = ends();
    drop(runtime);
    init.failed(&Error::new(Kind::Kernel, "x"));
    init.log("x");
}
