//! What the previous program watched is watched again, and nothing else.

use std::os::fd::AsRawFd;

use super::Random;
use crate::image::supervisor;
use crate::key::{Kind, key};
use crate::life::{Life, Parent};
use crate::pump::Reading;
use crate::{Interest, Supervisor};

/// The keys under which descriptors are watched, and for what, as the kernel shows them (proc_pid_fdinfo(5)).
fn watched(core: &Supervisor) -> Vec<(u64, u32)> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", core.poll.fd().as_raw_fd())).expect("readable");
    let number = |line: &str, name: &str| {
        let word = line.split_once(name)?.1.split_whitespace().next()?;
        u64::from_str_radix(word, 16).ok()
    };
    // An error and a hang-up are always reported.
    const ASKED: u32 = (libc::EPOLLIN | libc::EPOLLOUT) as u32;
    let watched = |line: &str| Some((number(line, "data:")?, number(line, "events:")? as u32 & ASKED));
    let mut keys: Vec<_> = info.lines().filter_map(watched).collect();
    keys.sort_unstable();
    keys
}

/// What a supervisor in this state watches.
fn to_be_watched(core: &Supervisor) -> Vec<(u64, u32)> {
    let mut keys = Vec::new();
    let mut add = |is_watched: bool, key: u64, interest: Interest| {
        let flags = |interest| match interest {
            Interest::Nothing => 0,
            Interest::Read => libc::EPOLLIN,
            Interest::Write => libc::EPOLLOUT,
            Interest::Both => libc::EPOLLIN | libc::EPOLLOUT,
        };
        if is_watched {
            keys.push((key, flags(interest) as u32));
        }
    };
    for process in core.processes.iter() {
        let own = |kind| key(kind, process.serial, 0);
        let is_adopted = matches!(process.process.life, Life::Alive { parent: Parent::OtherUntil(_), .. });
        let interest = |is_off: bool| if is_off { Interest::Nothing } else { Interest::Read };
        add(process.pidfd.is_some(), own(Kind::Process), interest(is_adopted));
        add(process.recorder.is_some(), own(Kind::Record), Interest::Read);
        if let Some(console) = &process.console {
            add(true, own(Kind::Console), interest(console.again.is_some()));
            add(console.peer.is_some(), own(Kind::Console), Interest::Read);
        }
        let Some(streams) = &process.streams else { continue };
        for outlet in &streams.outlets {
            let watched = outlet.source.as_ref().is_some_and(|source| source.reading == Reading::Watched);
            add(watched, outlet.source_key, Interest::Read);
            add(outlet.sink.pipe().is_some() && outlet.sink_watched, outlet.sink_key, Interest::Write);
            let Some(spool) = &outlet.spool else { continue };
            add(spool.writer.is_some(), spool.key, Interest::Read);
            add(spool.feeder.as_ref().is_some_and(|feeder| feeder.is_watched), spool.key, Interest::Read);
        }
        if let Some(input) = &streams.input {
            add(input.blocked, key(Kind::InputSink, streams.serial, 0), Interest::Write);
            let is_read = input.fifo.is_some() && !input.blocked;
            add(is_read, key(Kind::InputFifo, streams.serial, 0), Interest::Read);
        }
        streams.clients.iter().for_each(|client| add(true, client.key, client.watched));
    }
    for (serial, call) in core.calls.running.entries() {
        add(true, key(Kind::Call, *serial, 0), Interest::Read);
        add(call.output.is_some(), key(Kind::CallOutput, *serial, 0), Interest::Read);
        add(call.errors.is_some(), key(Kind::CallErrors, *serial, 0), Interest::Read);
    }
    keys.sort_unstable();
    keys
}

#[test]
fn what_was_watched_is_watched_again() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut most, inotify) = (0, key(Kind::Inotify, 0, 0));
    for _ in 0..60 {
        let mut core = random.supervisor();
        let expected = to_be_watched(&core);
        let new = watched(&core);
        supervisor::watch(&mut core).expect("watched");
        let mut found = watched(&core);
        found.retain(|of| !new.contains(of) && of.0 != inotify);
        assert_eq!(found, expected);
        most = most.max(expected.len());
    }
    assert!(most > 10, "{most}");
}

/// For example if the kernel has no memory for one more.
#[test]
fn what_cannot_be_watched_does_not_keep_the_rest_from_it() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let many = |core: &Supervisor| to_be_watched(core).len() > 10;
    let mut core = std::iter::repeat_with(|| random.supervisor()).find(many).expect("one");
    let new = watched(&core);
    let mut expected = to_be_watched(&core);
    let first = core.processes.iter_mut().find(|process| process.pidfd.is_some()).expect("a process");
    // epoll(7) takes no null device.
    first.pidfd = Some(crate::pipe::null().expect("a descriptor"));
    let own = key(Kind::Process, first.serial, 0);
    expected.retain(|of| of.0 != own);
    supervisor::watch(&mut core).expect_err("one cannot be watched");
    let mut found = watched(&core);
    found.retain(|of| !new.contains(of) && of.0 != key(Kind::Inotify, 0, 0));
    assert_eq!(found, expected);
}

#[test]
fn the_counter_of_kills_is_watched_again_if_it_was() {
    let file = std::env::temp_dir().join(format!("windlass-kills-{}", std::process::id()));
    std::fs::write(&file, "oom_kill 0\n").expect("written");
    let mut random = Random(3);
    for was_watched in [false, true] {
        let mut core = random.supervisor();
        let mut container = std::iter::repeat_with(|| random.container()).find(|it| it.oom.is_some()).expect("one");
        let oom = container.oom.as_mut().expect("it was looked for");
        (oom.file, oom.watch) = (file.clone(), was_watched.then(crate::notifier::Watch::ended));
        core.containers = Default::default();
        core.processes = Default::default();
        core.containers.put(container);
        supervisor::watch(&mut core).expect("watched");
        assert_eq!(watched(&core).iter().any(|of| of.0 == key(Kind::Inotify, 0, 0)), was_watched);
    }
    std::fs::remove_file(&file).expect("removed");
}
