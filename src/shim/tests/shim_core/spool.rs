//! Output while nobody reads it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use windlass_shim::{Event, Output, ProcessId, Request, Spooling, Stdio, WhenFull};
use windlass_sys::process::Exit;
use windlass_sys::stream::{self, Moved};

use super::Test;
use super::rig::*;

pub const TESTS: &[Test] = tests![
    readers_that_come_and_go_get_every_byte_in_order,
    a_spool_takes_what_it_says_and_then_holds_the_process_back,
    a_reader_that_is_there_and_does_not_read_is_waited_for,
    what_cannot_be_kept_in_a_file_is_kept_in_memory_and_that_is_said_once,
    the_end_of_a_process_is_told_whatever_waits_and_all_of_it_is_delivered,
    the_deletion_of_a_process_drops_what_waits_and_leaves_nothing,
    the_oldest_is_dropped_where_that_is_wished_and_a_line_says_how_much,
    nothing_is_kept_where_that_is_wished,
    a_terminal_has_a_spool_too,
    a_reader_that_is_there_has_everything_when_the_end_is_told,
    a_reader_that_stops_when_the_file_is_read_is_waited_for_without_turning,
];

const MIB: usize = 1 << 20;

/// A generator with a seed (Knuth's linear congruential generator).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }
}

fn keeps(rig: &Rig, out: &Path, max: usize) -> Stdio {
    let directory = rig.dir.join("work");
    fs::create_dir_all(&directory).expect("a directory");
    let spooling = Spooling { max: max as u64, full: WhenFull::Block, directory };
    Stdio { stdout: Output::Fifo(out.into()), spooling, ..Stdio::default() }
}

fn dropping(rig: &Rig, out: &Path, max: usize) -> Stdio {
    let stdio = keeps(rig, out, max);
    Stdio { spooling: Spooling { full: WhenFull::DropOldest, ..stdio.spooling }, ..stdio }
}

/// Bytes without a pattern, in a file that a process can write out.
fn source(rig: &Rig, size: usize) -> Vec<u8> {
    let mut random = Random(size as u64);
    let mut bytes = vec![0; size];
    // Only the upper bits have no pattern.
    bytes.chunks_mut(4).for_each(|some| some.copy_from_slice(&random.next().to_be_bytes()[..some.len()]));
    fs::write(rig.dir.join("source"), &bytes).expect("written");
    bytes
}

fn reader(path: &Path) -> OwnedFd {
    windlass_sys::fd::open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).expect("a reader")
}

fn unsent(rig: &Rig) -> u64 {
    rig.core.state(&init()).expect("known").unsent
}

/// Reads until `most` bytes or the end have come.
fn read(rig: &mut Rig, file: &OwnedFd, most: usize, into: &mut Vec<u8>) {
    let until = into.len() + most;
    let mut buffer = vec![0; 65_536];
    let deadline = Instant::now() + TIMEOUT;
    while into.len() < until {
        assert!(Instant::now() < deadline, "only {} bytes came", into.len());
        let length = (until - into.len()).min(buffer.len());
        match stream::read(file.as_fd(), &mut buffer[..length]).expect("read") {
            Moved::Bytes(n) => into.extend_from_slice(&buffer[..n]),
            Moved::Later => drop(rig.turns(Duration::from_millis(1))),
            Moved::End => return,
        }
    }
}

fn readers_that_come_and_go_get_every_byte_in_order() {
    for seed in (1..6).step_by(sample()) {
        let (mut rig, out) = rig_with_fifo();
        let bytes = source(&rig, 12 * MIB);
        let mut random = Random(seed);
        // The output is longer than the file, which is therefore reused from its beginning.
        let stdio = keeps(&rig, &out, MIB + random.below(3 * MIB));
        rig.run("cat source; exit 5", stdio);
        let mut got = Vec::new();
        while got.len() < bytes.len() {
            let away = random.below(60) as u64;
            rig.turns(Duration::from_millis(away));
            let file = reader(&out);
            let most = random.below(3 * MIB).min(bytes.len() - got.len());
            read(&mut rig, &file, most, &mut got);
            if random.below(3) == 0 {
                rig.turns(Duration::from_millis(random.below(30) as u64));
            }
        }
        assert!(got == bytes, "seed {seed}: the bytes or their order differ");
        assert_eq!(rig.exit(&init()), Some(Exit::Code(5)));
        let (rest, ended) = rig.read_to_end(&out);
        assert_eq!((rest.len(), ended), (0, true));
        assert_eq!(rig.core.state(&init()).expect("known").dropped, 0);
    }
}

fn a_spool_takes_what_it_says_and_then_holds_the_process_back() {
    let (mut rig, out) = rig_with_fifo();
    let mark = rig.dir.join("written");
    let stdio = keeps(&rig, &out, 4 * MIB);
    // The pipe of the process may hold a MiB by itself.
    rig.run(&format!("head -c {} /dev/zero; : >written; head -c {} /dev/zero; : >all", 5 * MIB, 3 * MIB), stdio);
    rig.turns_until("what there is room for", |_| mark.exists());
    let turns = rig.turns(Duration::from_millis(300));
    assert!(turns < 30, "{turns} turns");
    assert!(!rig.dir.join("all").exists());
    let kept = unsent(&rig) as usize;
    assert!((5 * MIB..=5 * MIB + 128 * 1024).contains(&kept), "{kept}");
    let mut got = Vec::new();
    read(&mut rig, &reader(&out), 8 * MIB, &mut got);
    assert_eq!(got.len(), 8 * MIB);
    rig.turns_until("the last write", |rig| rig.dir.join("all").exists());
    assert_eq!(unsent(&rig), 0);
}

/// For example a reader that was stopped.
fn a_reader_that_is_there_and_does_not_read_is_waited_for() {
    let (mut rig, out) = rig_with_fifo();
    let file = reader(&out);
    let stdio = keeps(&rig, &out, 16 * MIB);
    rig.run(&format!("head -c {MIB} /dev/zero; : >all; exec sleep 1000"), stdio);
    let turns = rig.turns(Duration::from_millis(500));
    assert!(turns < 50, "{turns} turns");
    assert!(!rig.dir.join("all").exists() && unsent(&rig) <= 65_536, "{} bytes were taken", unsent(&rig));
    let mut got = Vec::new();
    read(&mut rig, &file, MIB, &mut got);
    rig.turns_until("the last write", |rig| rig.dir.join("all").exists());
}

fn warnings(rig: &mut Rig) -> Vec<String> {
    rig.turns(Duration::from_millis(50));
    let warning = |event: &Event| if let Event::Warning(text) = event { Some(text.clone()) } else { None };
    rig.reported.iter().filter_map(warning).collect()
}

fn what_cannot_be_kept_in_a_file_is_kept_in_memory_and_that_is_said_once() {
    let (mut rig, out) = rig_with_fifo();
    let bytes = source(&rig, 5 * MIB);
    let stdio = keeps(&rig, &out, 16 * MIB);
    fs::remove_dir(&stdio.spooling.directory).expect("removed");
    rig.run("cat source; : >all; exec sleep 1000", stdio);
    rig.turns_until("a full memory", |rig| unsent(rig) as usize >= MIB);
    rig.turns(Duration::from_millis(200));
    assert!(!rig.dir.join("all").exists(), "the process is held back");
    let said = warnings(&mut rig);
    assert!(said.len() == 1 && said[0].contains("work\": No such file"), "{said:?}");
    let mut got = Vec::new();
    read(&mut rig, &reader(&out), bytes.len(), &mut got);
    assert!(got == bytes, "the bytes or their order differ");
    rig.turns_until("the last write", |rig| rig.dir.join("all").exists());
}

/// Before any reader has come, after one has left, and while one does not read; in memory and in a file.
fn the_end_of_a_process_is_told_whatever_waits_and_all_of_it_is_delivered() {
    for (size, leaves, comes) in
        [(500_000, false, false), (500_000, true, false), (7 * MIB, false, false), (7 * MIB, true, true)]
    {
        // If the shim waited for the reader, it would report no end.
        let mut rig = Rig::with(|container| container.drain = NEVER);
        let out = rig.dir.join("fifo");
        fifo(&out);
        let bytes = source(&rig, size);
        let held = leaves.then(|| reader(&out));
        let stdio = keeps(&rig, &out, 16 * MIB);
        let new = rig.new_process("", "cat source; exit 6", stdio);
        rig.done(Request::Create(new)).expect("created");
        drop(held);
        rig.done(Request::Start(init())).expect("started");
        let held = comes.then(|| reader(&out));
        if comes {
            // The reader has taken some bytes, so the shim knows it, and pauses.
            let mut some = Vec::new();
            read(&mut rig, held.as_ref().expect("held"), 1000, &mut some);
            assert!(some == bytes[..1000], "the first bytes");
            drop(held);
        }
        assert_eq!(rig.exit(&init()), Some(Exit::Code(6)));
        let turns = rig.turns(Duration::from_millis(300));
        assert!(turns < 30, "{turns} turns");
        let (text, ended) = rig.read_to_end(&out);
        assert!(text == bytes[if comes { 1000 } else { 0 }..] && ended, "{} of {size} bytes", text.len());
        assert_eq!(rig.core.state(&init()).expect("known").unsent, 0);
    }
}

fn the_deletion_of_a_process_drops_what_waits_and_leaves_nothing() {
    // Output in memory; in a file; while a reader is being served.
    for (size, comes) in [(500_000, false), (7 * MIB, false), (7 * MIB, true)] {
        let (mut rig, out) = rig_with_fifo();
        let before = descriptors();
        rig.run(&format!("head -c {size} /dev/zero"), keeps(&rig, &out, 16 * MIB));
        assert_eq!(rig.exit(&init()), Some(Exit::Code(0)));
        assert!(unsent(&rig) as usize >= size - 65_536);
        let fed = comes.then(|| reader(&out));
        if let Some(file) = &fed {
            read(&mut rig, file, 200_000, &mut Vec::new());
        }
        drop(fed);
        rig.turns(Duration::from_millis(50));
        rig.done(Request::Delete { process: init(), force: false }).expect("deleted");
        rig.turns_until("no child", |_| children() == 0);
        // The inotify instance stays.
        assert!(descriptors() <= before + 1, "{} descriptors, before {before}", descriptors());
        assert_eq!(fs::read_dir(rig.dir.join("work")).expect("read").count(), 0);
    }
}

fn the_oldest_is_dropped_where_that_is_wished_and_a_line_says_how_much() {
    // Output in a file, and in memory alone.
    for keeps_in_file in [true, false] {
        let (mut rig, out) = rig_with_fifo();
        let stdio = dropping(&rig, &out, 2 * MIB);
        if !keeps_in_file {
            fs::remove_dir(&stdio.spooling.directory).expect("removed");
        }
        rig.run("seq 1 2000000; : >all; exec sleep 1000", stdio);
        rig.turns_until("the last write", |rig| rig.dir.join("all").exists());
        let file = reader(&out);
        let mut got = Vec::new();
        rig.turns_until("all of it", |rig| {
            let mut buffer = vec![0; 65_536];
            while let Ok(Moved::Bytes(n)) = stream::read(file.as_fd(), &mut buffer) {
                got.extend_from_slice(&buffer[..n]);
            }
            rig.turns(Duration::from_millis(5));
            got.ends_with(b"\n2000000\n")
        });
        let text = String::from_utf8(got).expect("text");
        let all: String = (1..=2_000_000).map(|n| format!("{n}\n")).collect();
        let (first, rest) = text.split_once("\n[windlass-shim: ").expect("a mark");
        let (lost, last) = rest.split_once(" bytes of output were dropped here]\n").expect("its end");
        assert!(all.starts_with(first) && all.ends_with(last), "the rest is as it was written");
        assert_eq!(first.len() + lost.parse::<usize>().expect("a number") + last.len(), all.len());
        let least = if keeps_in_file { 2 * MIB } else { 900_000 };
        assert!(last.len() >= least, "{} and {}", first.len(), last.len());
        assert_eq!(rig.core.state(&init()).expect("known").dropped.to_string(), lost);
    }
}

fn nothing_is_kept_where_that_is_wished() {
    let (mut rig, out) = rig_with_fifo();
    rig.run("head -c 131072 /dev/zero; : >written; head -c 500000 /dev/zero; : >all", keeps(&rig, &out, 0));
    rig.turns_until("128 KiB", |rig| rig.dir.join("written").exists());
    rig.turns(Duration::from_millis(200));
    assert!(!rig.dir.join("all").exists() && unsent(&rig) <= 65_536);
}

fn a_reader_that_stops_when_the_file_is_read_is_waited_for_without_turning() {
    let (mut rig, out) = rig_with_fifo();
    let bytes = source(&rig, 7 * MIB + MIB / 2);
    rig.run("cat source", keeps(&rig, &out, 16 * MIB));
    assert_eq!(rig.exit(&init()), Some(Exit::Code(0)));
    let (file, mut got) = (reader(&out), Vec::new());
    while got.len() < bytes.len() {
        let some = (bytes.len() - got.len()).min(200_000);
        read(&mut rig, &file, some, &mut got);
        let turns = rig.turns(Duration::from_millis(20));
        assert!(turns < 300, "{turns} turns, {} bytes are left", unsent(&rig));
    }
    assert!(got == bytes, "the bytes or their order differ");
}

/// The shim reports the end without a reader that takes nothing for two seconds, or not all in ten. A busy machine can
/// make a reader as slow.
const PATIENCE: Duration = Duration::from_secs(2);
const READ_TIME: Duration = Duration::from_secs(10);

/// The clients of containerd close the fifos when the end is reported.
fn a_reader_that_is_there_has_everything_when_the_end_is_told() {
    // In a fifo of usual size and in a wide one; after output that was kept in memory, and in a file.
    for (size, late) in [(50_000, false), (5 * MIB, false), (MIB, true), (7 * MIB, true)] {
        let (mut rig, out) = rig_with_fifo();
        let bytes = source(&rig, size);
        let file = (!late).then(|| reader(&out));
        rig.run(
            "head -c -20000 source; until [ -e more ]; do sleep 0.01; done; tail -c 20000 source; exit 6",
            keeps(&rig, &out, 16 * MIB),
        );
        if late {
            rig.turns_until("what is kept", |rig| unsent(rig) as usize >= size - 20_000 - 65_536);
        }
        let file = file.unwrap_or_else(|| reader(&out));
        let (mut got, mut ends) = (Vec::new(), None);
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        while !rig.reported.iter().any(|event| matches!(event, Event::Exited { .. })) {
            let mut buffer = vec![0; 30_000];
            if let Moved::Bytes(n) = stream::read(file.as_fd(), &mut buffer).expect("read") {
                got.extend_from_slice(&buffer[..n]);
            }
            longest = longest.max(std::mem::replace(&mut last, Instant::now()).elapsed());
            // A part is left that neither the fifo nor the pipe holds.
            if ends.is_none() && got.len() > size.saturating_sub(MIB + MIB / 2) {
                fs::write(rig.dir.join("more"), "").expect("written");
                ends = Some(Instant::now());
            }
            rig.turns(Duration::from_millis(1));
        }
        longest = longest.max(last.elapsed());
        let is_slow = longest >= PATIENCE || ends.is_none_or(|ends| ends.elapsed() >= READ_TIME);
        assert!(is_slow || got == bytes, "{} of {size} bytes when the end is told", got.len());
    }
}

fn a_terminal_has_a_spool_too() {
    let (mut rig, out) = rig_with_fifo();
    rig.run("exec sleep 1000", Stdio::default());
    let exec = ProcessId::of("c", "e");
    let stdio = Stdio { terminal: true, ..keeps(&rig, &out, 4 * MIB) };
    rig.exec("e", "stty -opost; seq 1 400000; exit 3", stdio).expect("started");
    assert_eq!(rig.exit(&exec), Some(Exit::Code(3)));
    assert!(rig.core.state(&exec).expect("known").unsent as usize > 2 * MIB);
    let (text, ended) = rig.read_to_end(&PathBuf::from(&out));
    let all: String = (1..=400_000).map(|n| format!("{n}\n")).collect();
    assert!(text == all.as_bytes() && ended, "{} of {} bytes", text.len(), all.len());
}
