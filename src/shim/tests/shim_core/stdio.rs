//! Bytes: fifos, terminals, logs and attached clients.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use windlass_shim::{Framing, Interest, Output, Poll, ProcessId, Request, Stdin, Stdio};
use windlass_sys::process::Exit;
use windlass_sys::stream::{self, Moved};

use super::Test;
use super::rig::*;

pub const TESTS: &[Test] = tests![
    an_end_behind_a_full_fifo_is_seen_and_waited_for_without_turning,
    an_end_of_input_behind_a_full_pipe_is_waited_for_without_turning,
    a_reader_that_comes_after_the_end_gets_all_and_then_its_end,
    many_small_writes_fill_the_fifo,
    what_was_held_back_waits_for_room_in_the_fifo,
    a_reader_that_is_away_holds_the_process_back_and_loses_nothing,
    the_end_is_told_without_waiting_for_a_reader,
    the_end_of_a_process_that_was_held_back_is_told_and_all_it_wrote_is_there,
    a_reader_that_dies_before_it_has_read_leaves_the_rest_to_the_next,
    who_opens_the_fifo_late_and_blocking_gets_all_and_the_end,
    the_deletion_of_an_exec_waits_for_a_late_reader,
    a_client_that_reads_gets_every_byte_of_a_burst,
    a_client_that_does_not_read_does_not_stop_the_log,
    a_client_that_only_listens_from_now_on_gets_the_output,
    a_client_that_was_there_before_the_output_gets_it,
    a_fifo_named_as_a_log_does_not_stop_the_loop,
    a_line_that_was_cut_is_taken_back_where_it_is,
    a_file_in_the_place_of_a_fifo_is_appended_to,
    what_is_typed_before_there_is_a_terminal_is_not_lost,
    what_a_client_has_typed_before_it_left_is_not_lost,
    a_terminal_that_is_hung_up_and_full_does_not_keep_the_loop_turning,
    input_that_nobody_took_is_forgotten_with_its_process,
    input_that_was_closed_before_the_start_ends,
    an_end_of_input_is_not_lost_for_want_of_descriptors,
    an_end_of_input_is_not_lost_if_it_cannot_be_watched,
];

/// The unread bytes of a reader that is away fill the fifo before the process ends.
fn an_end_behind_a_full_fifo_is_seen_and_waited_for_without_turning() {
    let (mut rig, out) = rig_with_fifo();
    let stdio = Stdio { stdout: Output::Fifo(out.clone()), ..Stdio::default() };
    // Spliced one by one, each line takes a slot of the fifo, which has 16.
    rig.run("for i in 0 1 2 3 4 5 6 7 8 9 a b c d e f; do echo $i; sleep 0.03; done", stdio);
    assert_eq!(rig.exit(&init()), Some(Exit::Code(0)));
    let turns = rig.turns(Duration::from_millis(300));
    assert!(turns < 30, "{turns} turns");
    let (text, ended) = rig.read_to_end(&out);
    assert_eq!(text, b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\na\nb\nc\nd\ne\nf\n");
    assert!(ended, "the output has not ended; read: {}", String::from_utf8_lossy(&text));
}

fn an_end_of_input_behind_a_full_pipe_is_waited_for_without_turning() {
    let (mut rig, input) = rig_with_fifo();
    rig.run("exec sleep 1000", Stdio { stdin: Stdin::Fifo(input.clone()), ..Stdio::default() });
    let mut writer = fs::OpenOptions::new().write(true).open(&input).expect("a writer");
    for _ in 0..16 {
        std::io::Write::write_all(&mut writer, b"x").expect("written");
        rig.turns(Duration::from_millis(20));
    }
    drop(writer);
    rig.done(Request::CloseStdin(init())).expect("closed");
    let turns = rig.turns(Duration::from_millis(300));
    assert!(turns < 30, "{turns} turns");
}

fn a_reader_that_comes_after_the_end_gets_all_and_then_its_end() {
    let (mut rig, out) = rig_with_fifo();
    rig.run("head -c 100000 /dev/zero", Stdio { stdout: Output::Fifo(out.clone()), ..Stdio::default() });
    assert_eq!(rig.exit(&init()), Some(Exit::Code(0)));
    let (text, ended) = rig.read_to_end(&out);
    assert_eq!((text.len(), ended), (100_000, true));
}

fn to_fifo(path: &Path) -> Stdio {
    Stdio { stdout: Output::Fifo(path.into()), ..Stdio::default() }
}

fn reader(path: &Path) -> OwnedFd {
    windlass_sys::fd::open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).expect("a reader")
}

/// Each line would take a slot of the pipe of its own if it were spliced, and there are sixteen.
fn many_small_writes_fill_the_fifo() {
    let (mut rig, out) = rig_with_fifo();
    let file = reader(&out);
    rig.run("for i in $(seq 40); do echo $i; sleep 0.01; done; exec sleep 1000", to_fifo(&out));
    let wanted: String = (1..=40).map(|n| format!("{n}\n")).collect();
    rig.turns_until("forty lines", |_| stream::waiting(file.as_fd()) == wanted.len());
}

/// Both streams of an exec go to one fifo, which its output fills while the runtime is still at work. What is on
/// standard error may until then be the runtime's own.
fn what_was_held_back_waits_for_room_in_the_fifo() {
    let (mut rig, out) = rig_with_fifo();
    rig.run("exec sleep 1000", Stdio::default());
    let make = "\"$SHIM_CORE\" --detached \"$pid_file\" sh \"$program\" <&3 3<&-";
    rig.script("on-exec", &format!("{make}; until [ -e full ]; do sleep 0.05; done; exit 0"));
    let fifo = || Output::Fifo(out.clone());
    let script = "echo hello >&2; head -c 200000 /dev/zero; exec sleep 1000";
    let new = rig.new_process("e", script, Stdio { stdout: fifo(), stderr: fifo(), ..Stdio::default() });
    rig.done(Request::AddExec(new)).expect("added");
    let file = reader(&out);
    let started = rig.ask(Request::Start(ProcessId::of("c", "e")));
    rig.turns_until("a full fifo", |_| stream::waiting(file.as_fd()) == 65_536);
    rig.script("full", "");
    rig.answer(started).expect("started");
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    rig.turns_until("all of it", |_| {
        while let Ok(Moved::Bytes(n)) = stream::read(file.as_fd(), &mut buffer) {
            text.extend_from_slice(&buffer[..n]);
        }
        text.len() == 200_006
    });
    rig.done(Request::Kill { process: ProcessId::of("c", "e"), signal: 9, all: false }).expect("killed");
}

/// The room must be at least that of the pipe and the fifo together.
fn a_reader_that_is_away_holds_the_process_back_and_loses_nothing() {
    let (mut rig, out) = rig_with_fifo();
    let mark = rig.dir.join("written");
    let script = "head -c 131072 /dev/zero; : >written; head -c 500000 /dev/zero; : >all; exec sleep 1000";
    rig.run(script, to_fifo(&out));
    rig.turns_until("128 KiB", |_| mark.exists());
    let turns = rig.turns(Duration::from_millis(300));
    assert!(turns < 30, "{turns} turns");
    let mut left = 631_072;
    // Readers come and go.
    for most in [1, 5000, 70_000, usize::MAX] {
        assert!(!rig.dir.join("all").exists(), "{left} bytes are left");
        let file = reader(&out);
        let mut taken = 0;
        while taken < most.min(left) {
            let mut buffer = vec![0; (most.min(left) - taken).min(4096)];
            match stream::read(file.as_fd(), &mut buffer).expect("read") {
                Moved::Bytes(n) => taken += n,
                _ => drop(rig.turns(Duration::from_millis(5))),
            }
        }
        left -= taken;
        drop(file);
        let turns = rig.turns(Duration::from_millis(200));
        assert!(turns < 30, "{turns} turns");
    }
    assert_eq!(left, 0);
    rig.turns_until("the last write", |rig| rig.dir.join("all").exists());
    rig.done(Request::Kill { process: init(), signal: 9, all: false }).expect("killed");
    rig.exit(&init());
    let state = rig.core.state(&init()).expect("known");
    assert_eq!(state.dropped, 0);
}

/// No reader, a reader that does not read, and a reader that has left.
fn the_end_is_told_without_waiting_for_a_reader() {
    for (stays, leaves, size) in
        [(false, false, 120_000), (true, false, 120_000), (false, true, 120_000), (true, false, 5)]
    {
        // If the shim waited for the reader, it would report no end.
        let mut rig = Rig::with(|container| container.drain = NEVER);
        let out = rig.dir.join("fifo");
        fifo(&out);
        let held = (stays || leaves).then(|| reader(&out));
        let new = rig.new_process("", &format!("head -c {size} /dev/zero"), to_fifo(&out));
        rig.done(Request::Create(new)).expect("created");
        let held = held.filter(|_| stays);
        rig.done(Request::Start(init())).expect("started");
        assert_eq!(rig.exit(&init()), Some(Exit::Code(0)));
        let turns = rig.turns(Duration::from_millis(300));
        assert!(turns < 30, "{turns} turns");
        let (text, ended) = match held {
            Some(file) => rig.read_on(&file),
            None => rig.read_to_end(&out),
        };
        assert_eq!((text.len(), ended), (size, true));
    }
}

/// The process is killed when the shim takes no more and the pipe is full too.
fn the_end_of_a_process_that_was_held_back_is_told_and_all_it_wrote_is_there() {
    // Pieces of a thousand bytes leave a little of each page of the pipe empty.
    for (piece, least) in [(4096, 2 * 65_536), (65_536, 2 * 65_536), (1000, 120_000)] {
        // If the shim waited for anything, it would report no end.
        let mut rig = Rig::with(|container| container.drain = NEVER);
        let out = rig.dir.join("fifo");
        fifo(&out);
        let script = format!("exec dd if=/dev/zero bs={piece} count=1000000 2>/dev/null");
        rig.run(&script, to_fifo(&out));
        rig.turns_until("a process that waits", |rig| {
            let pid = rig.core.state(&init()).expect("known").pid;
            let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("it runs");
            let written =
                io.lines().find_map(|line| line.strip_prefix("wchar: ")).and_then(|n| n.parse::<usize>().ok());
            written.expect("a number") >= least
        });
        rig.done(Request::Kill { process: init(), signal: 9, all: false }).expect("killed");
        assert_eq!(rig.exit(&init()), Some(Exit::Signal(9)));
        let (text, ended) = rig.read_to_end(&out);
        assert!(text.len() >= least && ended, "{} bytes", text.len());
        assert_eq!(rig.core.state(&init()).expect("known").dropped, 0);
    }
}

fn a_reader_that_dies_before_it_has_read_leaves_the_rest_to_the_next() {
    let (mut rig, out) = rig_with_fifo();
    let file = reader(&out);
    rig.run("head -c 100000 /dev/zero", to_fifo(&out));
    assert_eq!(rig.exit(&init()), Some(Exit::Code(0)));
    rig.turns(Duration::from_millis(50));
    let mut some = [0; 1000];
    assert_eq!(stream::read(file.as_fd(), &mut some), Ok(Moved::Bytes(1000)));
    drop(file);
    rig.turns(Duration::from_millis(50));
    let (text, ended) = rig.read_to_end(&out);
    assert_eq!((text.len(), ended), (99_000, true));
}

/// Engines open fifos in a thread that may run after the process has ended.
fn who_opens_the_fifo_late_and_blocking_gets_all_and_the_end() {
    for script in ["echo hello", ":"] {
        let (mut rig, out) = rig_with_fifo();
        rig.run(script, to_fifo(&out));
        assert_eq!(rig.exit(&init()), Some(Exit::Code(0)));
        rig.turns(Duration::from_millis(50));
        let late = std::thread::spawn(move || fs::read(out).expect("read"));
        rig.turns_until("the reader's end", |_| late.is_finished());
        assert_eq!(late.join().expect("read"), if script == ":" { &b""[..] } else { b"hello\n" });
    }
}

fn the_deletion_of_an_exec_waits_for_a_late_reader() {
    let mut rig = Rig::with(|container| container.drain = NEVER);
    let out = rig.dir.join("fifo");
    fifo(&out);
    rig.run("exec sleep 1000", Stdio::default());
    rig.exec("e", "head -c 200000 /dev/zero", to_fifo(&out)).expect("started");
    let exec = ProcessId::of("c", "e");
    let late = {
        let out = out.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            fs::read(out).expect("read").len()
        })
    };
    assert_eq!(rig.exit(&exec), Some(Exit::Code(0)));
    rig.done(Request::Delete { process: exec.clone(), force: false }).expect("deleted");
    assert_eq!(late.join().expect("read"), 200_000);
    assert_eq!(rig.core.state(&exec), None);
}

fn a_client_that_reads_gets_every_byte_of_a_burst() {
    for logged in [true, false] {
        let mut rig = Rig::new();
        let log = rig.dir.join("log");
        let bytes = client_that_reads(&mut rig, "head -c 20000000 /dev/zero", logged.then_some(&log));
        assert_eq!(rig.exit(&init()), Some(Exit::Code(0)));
        assert_eq!(bytes.join().expect("read"), 20_000_000);
        rig.done(Request::Delete { process: init(), force: false }).expect("deleted");
    }
}

/// Starts a container, and a client of it in a thread, which counts the bytes of output.
fn client_that_reads(rig: &mut Rig, text: &str, log: Option<&PathBuf>) -> std::thread::JoinHandle<usize> {
    let logs = log.map(|path| raw_log(path)).into_iter().collect();
    let new = rig.new_process("", text, Stdio { stdout: Output::Attach, logs, ..Stdio::default() });
    rig.done(Request::Create(new)).expect("created");
    let (ours, theirs) = windlass_sys::socket::pair().expect("a pair");
    rig.core.attach(&init(), ours, Framing::Packet).expect("attached");
    let bytes = std::thread::spawn(move || {
        let mut buffer = [0; 8193];
        let mut n = 0;
        while let Ok((got @ 1.., _)) = windlass_sys::socket::receive(theirs.as_fd(), &mut buffer) {
            n += got - 1;
        }
        n
    });
    rig.done(Request::Start(init())).expect("started");
    bytes
}

fn a_client_that_does_not_read_does_not_stop_the_log() {
    let mut rig = Rig::new();
    let log = rig.dir.join("log");
    let stdio = Stdio { stdout: Output::Attach, logs: vec![raw_log(&log)], ..Stdio::default() };
    let new = rig.new_process("", "head -c 4000000 /dev/zero", stdio);
    rig.done(Request::Create(new)).expect("created");
    let (ours, _theirs) = windlass_sys::socket::pair().expect("a pair");
    rig.core.attach(&init(), ours, Framing::Packet).expect("attached");
    rig.done(Request::Start(init())).expect("started");
    assert_eq!(rig.exit(&init()), Some(Exit::Code(0)));
    assert_eq!(fs::metadata(&log).expect("a log").len(), 4_000_000);
}

/// `printf x | nc -N -U socket` closes its sending side, and reads on.
fn a_client_that_only_listens_from_now_on_gets_the_output() {
    let mut rig = Rig::new();
    let new = rig.new_process("", "sleep 0.2; echo hello", Stdio { stdout: Output::Attach, ..Stdio::default() });
    rig.done(Request::Create(new)).expect("created");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    theirs.shutdown(std::net::Shutdown::Write).expect("shut down");
    rig.core.attach(&init(), ours.into(), Framing::Stream).expect("attached");
    rig.done(Request::Start(init())).expect("started");
    let turns = rig.turns(Duration::from_millis(100));
    assert!(turns < 20, "{turns} turns");
    rig.exit(&init());
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut &theirs, &mut text).expect("read to the end");
    assert_eq!(text, b"\x01\0\0\0\x06hello\n");
}

/// The client comes first, even if the front end was busy in the turn before.
fn a_client_that_was_there_before_the_output_gets_it() {
    const BUSY: u64 = 1;
    const DOOR: u64 = 2;
    let mut rig = Rig::new();
    fifo(&rig.dir.join("word"));
    rig.run("read -r _ <word; echo hello; exec sleep 1000", attached());
    let (busy, other) = std::os::unix::net::UnixStream::pair().expect("a pair");
    std::io::Write::write_all(&mut &other, b"x").expect("written");
    let door = std::os::unix::net::UnixListener::bind(rig.dir.join("door")).expect("a door");
    rig.core.poll.watch(&busy, BUSY, Interest::Read).expect("watched");
    rig.core.poll.watch(&door, DOOR, Interest::Read).expect("watched");
    let deadline = Some(Instant::now() + TIMEOUT);
    while rig.core.turn(deadline).expect("a turn").is_empty() {}

    let mut client = std::os::unix::net::UnixStream::connect(rig.dir.join("door")).expect("connected");
    fs::write(rig.dir.join("word"), "go\n").expect("written");
    std::thread::sleep(Duration::from_millis(200));
    let here = |turned: Vec<(u64, _)>| turned.iter().any(|&(key, _)| key == DOOR);
    while !here(rig.core.turn(deadline).expect("a turn")) {}
    let (ours, _) = door.accept().expect("accepted");
    rig.core.attach(&init(), ours.into(), Framing::Stream).expect("attached");
    rig.core.poll.forget(&busy);
    client.set_nonblocking(true).expect("set");
    let (mut text, mut n) = ([0; 64], 0);
    rig.turns_until("output", |_| {
        n = std::io::Read::read(&mut client, &mut text).unwrap_or(0);
        n > 0
    });
    assert_eq!(&text[..n], b"\x01\0\0\0\x06hello\n");
}

fn a_fifo_named_as_a_log_does_not_stop_the_loop() {
    let (mut rig, path) = rig_with_fifo();
    let new = rig.new_process("", "", Stdio { logs: vec![raw_log(&path)], ..Stdio::default() });
    rig.core.request(Request::Create(new)).expect_err("nobody reads it");
    let new = rig.new_process("", "", Stdio { stdout: Output::File(path.clone()), ..Stdio::default() });
    rig.core.request(Request::Create(new)).expect_err("nobody reads it");
}

/// A disk that becomes full in the middle of a line, on a log that another program has truncated.
fn a_line_that_was_cut_is_taken_back_where_it_is() {
    if again_in_a_shell("ulimit -f 8") {
        return;
    }
    let mut rig = Rig::new();
    let log = rig.dir.join("log");
    let logs = vec![raw_log(&log)];
    fifo(&rig.dir.join("word"));
    let text = "echo 123456; read -r _ <word; for i in $(seq 700); do echo 123456; done; sleep 0.2";
    rig.run(text, Stdio { stdout: Output::Attach, logs, ..Stdio::default() });
    let length = || fs::metadata(&log).expect("a log").len();
    rig.turns_until("a line", |_| length() == 7);
    fs::OpenOptions::new().write(true).open(&log).expect("a log").set_len(0).expect("emptied");
    fs::write(rig.dir.join("word"), "go\n").expect("written");
    rig.exit(&init());
    let text = fs::read_to_string(&log).expect("a log");
    assert!(text.len() >= 4000, "{}", text.len());
    assert!(text.lines().all(|line| line == "123456"), "{:?}", &text[..16]);
    assert!(text.ends_with('\n'), "{text:?}");
}

fn a_file_in_the_place_of_a_fifo_is_appended_to() {
    let mut rig = Rig::new();
    let path = rig.dir.join("file");
    fs::write(&path, "before\n").expect("a file");
    let stdio = Stdio { stdout: Output::Fifo(path.clone()), stderr: Output::Fifo(path.clone()), ..Stdio::default() };
    rig.run("echo out; sleep 0.1; echo err >&2", stdio);
    rig.exit(&init());
    assert_eq!(fs::read_to_string(&path).expect("a file"), "before\nout\nerr\n");
}

/// `podman exec -it` attaches before the runtime has sent the terminal.
fn what_is_typed_before_there_is_a_terminal_is_not_lost() {
    let mut rig = Rig::new();
    rig.run("exec sleep 1000", Stdio::default());
    rig.script("on-exec", "sleep 0.3");
    let stdio = attached_terminal();
    let new = rig.new_process("e", "read -r word; echo \"got $word\"", stdio);
    let exec = ProcessId::of("c", "e");
    rig.done(Request::AddExec(new)).expect("added");
    let started = rig.ask(Request::Start(exec.clone()));
    let (ours, theirs) = windlass_sys::socket::pair().expect("a pair");
    rig.core.attach(&exec, ours, Framing::Packet).expect("attached");
    windlass_sys::socket::send(theirs.as_fd(), b"hello\n", &[]).expect("sent");
    rig.answer(started).expect("started");
    assert_eq!(rig.exit(&exec), Some(Exit::Code(0)));
    let mut text = Vec::new();
    let mut buffer = [0; 8193];
    while let Ok((n @ 1.., _)) = windlass_sys::socket::receive(theirs.as_fd(), &mut buffer) {
        text.extend_from_slice(&buffer[1..n]);
    }
    assert!(String::from_utf8_lossy(&text).contains("got hello"), "{text:?}");
}

/// A client that detaches may have typed before. The shim finds that it has left when it sends the output that came
/// first. The kernel also says so of a client that leaves output unread.
fn what_a_client_has_typed_before_it_left_is_not_lost() {
    for (framing, reads) in [(Framing::Packet, true), (Framing::Packet, false), (Framing::Stream, false)] {
        let (mut rig, word) = rig_with_fifo();
        let stdin = Stdin::Attach { leave_open: true };
        let script = "exec 3<fifo; read -r _ <&3; echo one; read -r _ <&3; echo two; : >written
            read -r line; echo \"$line\" >got";
        rig.run(script, Stdio { stdin, stdout: Output::Attach, ..Stdio::default() });
        let (ours, theirs) = match framing {
            Framing::Packet => windlass_sys::socket::pair().expect("a pair"),
            _ => std::os::unix::net::UnixStream::pair().map(|(a, b)| (a.into(), b.into())).expect("a pair"),
        };
        rig.core.attach(&init(), ours, framing).expect("attached");
        // Both sides keep the FIFO open: a second opening could meet the end of the first.
        let mut word = fs::File::options().write(true).open(&word).expect("opened");
        std::io::Write::write_all(&mut word, b"go\n").expect("written");
        rig.turns_until("output", |_| stream::waiting(theirs.as_fd()) > 0);
        if reads {
            let _ = windlass_sys::socket::receive_now(theirs.as_fd(), &mut [0; 64]);
        }
        std::io::Write::write_all(&mut word, b"go\n").expect("written");
        let written = rig.dir.join("written");
        let deadline = Instant::now() + TIMEOUT;
        // The loop stands still, so that it finds output and input at once.
        while !written.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let typed: &[u8] = if framing == Framing::Packet { b"bye\n" } else { b"\0\0\0\0\x04bye\n" };
        windlass_sys::socket::send(theirs.as_fd(), typed, &[]).expect("sent");
        drop(theirs);
        assert_eq!(rig.exit(&init()), Some(Exit::Code(0)));
        assert_eq!(fs::read_to_string(rig.dir.join("got")).expect("a line"), "bye\n");
        assert_eq!(rig.core.attached("c"), 0);
    }
}

/// A terminal whose input and output are those of clients.
fn attached_terminal() -> Stdio {
    Stdio { terminal: true, stdin: Stdin::Attach { leave_open: false }, stdout: Output::Attach, ..Stdio::default() }
}

/// Input for a terminal that no process has open any more.
fn a_terminal_that_is_hung_up_and_full_does_not_keep_the_loop_turning() {
    let mut rig = Rig::new();
    rig.run("exec sleep 1000", Stdio::default());
    let stdio = attached_terminal();
    let closed = rig.dir.join("closed");
    let script = format!("exec <&- >&- 2>&-; : >{}; exec sleep 1000", closed.display());
    rig.exec("e", &script, stdio).expect("started");
    // Until then the terminal takes and echoes what is typed.
    rig.turns_until("a terminal that is hung up", |_| closed.exists());
    let exec = ProcessId::of("c", "e");
    let (ours, theirs) = windlass_sys::socket::pair().expect("a pair");
    rig.core.attach(&exec, ours, Framing::Packet).expect("attached");
    for _ in 0..8 {
        let _ = windlass_sys::socket::send_now(theirs.as_fd(), &[b'x'; 32 * 1024]);
        rig.turns(Duration::from_millis(20));
    }
    let turns = rig.turns(Duration::from_millis(500));
    assert!(turns < 50, "{turns} turns");
    rig.done(Request::Kill { process: exec, signal: 9, all: false }).expect("killed");
}

/// The terminal's other descriptor is still open then, and reading the input makes room in it.
fn input_that_nobody_took_is_forgotten_with_its_process() {
    let mut rig = Rig::new();
    rig.run("exec sleep 1000", Stdio::default());
    let stdio = attached_terminal();
    let exec = ProcessId::of("c", "e");
    rig.exec("e", "stty raw -echo; { sleep 1; cat; } <&1 >/dev/null 2>&1 & exec sleep 0.6", stdio).expect("started");
    rig.turns(Duration::from_millis(200));
    let (ours, theirs) = windlass_sys::socket::pair().expect("a pair");
    rig.core.attach(&exec, ours, Framing::Packet).expect("attached");
    for _ in 0..4 {
        let _ = windlass_sys::socket::send_now(theirs.as_fd(), &[b'x'; 32 * 1024]);
        rig.turns(Duration::from_millis(10));
    }
    rig.exit(&exec);
    let turns = rig.turns(Duration::from_millis(1000));
    assert!(turns < 50, "{turns} turns");
}

/// An exec that copies its input to the file `got`, and the writer of its input.
fn exec_that_reads(rig: &mut Rig, input: &Path) -> (ProcessId, OwnedFd) {
    rig.run("exec sleep 1000", Stdio::default());
    let stdio = Stdio { stdin: Stdin::Fifo(input.to_owned()), ..Stdio::default() };
    rig.exec("e", "cat >got; exit 6", stdio).expect("started");
    (ProcessId::of("c", "e"), windlass_sys::fd::open(input, OFlag::O_WRONLY).expect("a writer"))
}

fn an_end_of_input_is_not_lost_for_want_of_descriptors() {
    let (mut rig, input) = rig_with_fifo();
    let (exec, writer) = exec_that_reads(&mut rig, &input);
    stream::write(writer.as_fd(), b"last").expect("written");
    drop(writer);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).expect("no descriptor is free");
    rig.done(Request::CloseStdin(exec.clone())).expect("closed");
    let turns = rig.turns(Duration::from_millis(500));
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("descriptors are there again");
    assert_eq!(rig.exit(&exec), Some(Exit::Code(6)));
    assert_eq!(fs::read_to_string(rig.dir.join("got")).expect("read"), "last");
    assert!(turns < 50, "{turns} turns");
}

fn an_end_of_input_is_not_lost_if_it_cannot_be_watched() {
    let (mut rig, input) = rig_with_fifo();
    let (exec, writer) = exec_that_reads(&mut rig, &input);
    let null = fs::File::options().write(true).open("/dev/null").expect("opened");
    let watching = std::mem::replace(&mut rig.core.poll, Poll::over(null.into()));
    let closed = rig.core.request(Request::CloseStdin(exec.clone()));
    rig.core.poll = watching;
    closed.expect("closed");
    stream::write(writer.as_fd(), b"last").expect("written");
    drop(writer);
    assert_eq!(rig.exit(&exec), Some(Exit::Code(6)));
    assert_eq!(fs::read_to_string(rig.dir.join("got")).expect("read"), "last");
}

fn input_that_was_closed_before_the_start_ends() {
    let (mut rig, input) = rig_with_fifo();
    rig.run("exec sleep 1000", Stdio::default());
    let new = rig.new_process("e", "cat; exit 6", Stdio { stdin: Stdin::Fifo(input), ..Stdio::default() });
    let exec = ProcessId::of("c", "e");
    rig.done(Request::AddExec(new)).expect("added");
    rig.done(Request::CloseStdin(exec.clone())).expect("closed");
    rig.done(Request::Start(exec.clone())).expect("started");
    assert_eq!(rig.exit(&exec), Some(Exit::Code(6)));
}
