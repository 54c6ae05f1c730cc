//! Watching again what the previous program watched: execve(2) has closed its epoll(7) and inotify(7)
//! instances.
//!
//! epoll is level-triggered, so nothing is lost with the old instance. The events of inotify are lost, so everything
//! that inotify watches is looked at once (`Supervisor::rescan_watches`).

use crate::calls::Calls;
use crate::client::Client;
use crate::containers::ManagedContainer;
use crate::input::Input;
use crate::key::{Kind, key};
use crate::life::{Life, Parent};
use crate::outlet::Outlet;
use crate::poll::{Interest, Poll};
use crate::processes::ManagedProcess;
use crate::pump::Reading;
use crate::streams::Streams;
use windlass_sys::Result;

/// The counter of a container's OOM kills.
pub(super) fn container(container: &mut ManagedContainer, poll: &Poll) {
    if let Some(oom) = &mut container.oom
        && oom.watch.is_some()
    {
        oom.notify(poll);
    }
}

/// The descriptors of a process.
pub(super) fn process(managed: &mut ManagedProcess, poll: &Poll) -> Result<()> {
    let serial = managed.serial;
    if let Some(pidfd) = &managed.pidfd {
        let hangup = matches!(managed.process.life, Life::Alive { parent: Parent::OtherUntil(_), .. });
        let interest = if hangup { Interest::Nothing } else { Interest::Read };
        poll.watch(pidfd, key(Kind::Process, serial, 0), interest)?;
    }
    if let Some(recorder) = &managed.recorder {
        poll.watch(&recorder.pidfd, key(Kind::Record, serial, 0), Interest::Read)?;
    }
    if let Some(console) = &managed.console {
        let interest = if console.again.is_some() { Interest::Nothing } else { Interest::Read };
        poll.watch(&console.listener, key(Kind::Console, serial, 0), interest)?;
        if let Some(peer) = &console.peer {
            poll.watch(peer, key(Kind::Console, serial, 0), Interest::Read)?;
        }
    }
    managed.streams.as_mut().map_or(Ok(()), |streams| stdio(streams, poll))
}

/// The calls of the runtime.
pub(super) fn calls(calls: &Calls, poll: &Poll) -> Result<()> {
    for (serial, call) in calls.running.entries() {
        poll.watch(&call.child.pidfd, key(Kind::Call, *serial, 0), Interest::Read)?;
        for (pipe, kind) in [(&call.output, Kind::CallOutput), (&call.errors, Kind::CallErrors)] {
            if let Some(pipe) = pipe {
                poll.watch(pipe, key(kind, *serial, 0), Interest::Read)?;
            }
        }
    }
    Ok(())
}

fn stdio(streams: &mut Streams, poll: &Poll) -> Result<()> {
    streams.outlets.iter_mut().try_for_each(|outlet| output(outlet, poll))?;
    if let Some(of) = &streams.input {
        input(of, streams.serial, poll)?;
    }
    streams.clients.iter().try_for_each(|client| attached(client, poll))
}

fn output(outlet: &mut Outlet, poll: &Poll) -> Result<()> {
    if let Some(source) = outlet.source.as_ref().filter(|source| source.reading == Reading::Watched) {
        poll.watch(&source.fd, outlet.source_key, Interest::Read)?;
    }
    if let (Some(sink), true) = (outlet.sink.pipe(), outlet.sink_watched) {
        poll.watch(sink, outlet.sink_key, Interest::Write)?;
    }
    if let Some(fifo) = outlet.sink.fifo() {
        fifo.watch_again(poll);
    }
    outlet.spool.as_mut().map_or(Ok(()), |spool| spool.watch_again(poll))
}

fn input(input: &Input, serial: u32, poll: &Poll) -> Result<()> {
    match &input.fifo {
        _ if input.blocked => poll.watch(&input.sink, key(Kind::InputSink, serial, 0), Interest::Write),
        Some(fifo) => poll.watch(fifo, key(Kind::InputFifo, serial, 0), Interest::Read),
        None => Ok(()),
    }
}

fn attached(client: &Client, poll: &Poll) -> Result<()> {
    poll.watch(client.fd(), client.key, client.watched)
}
