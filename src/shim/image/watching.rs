//! Watching again what the previous program watched: execve(2) has closed its epoll(7) and inotify(7)
//! instances.
//!
//! epoll is level-triggered, so nothing is lost with the old instance. The events of inotify are lost, so everything
//! that inotify watches is looked at once (`Supervisor::rescan_watches`).

use crate::calls::Calls;
use crate::client::Client;
use crate::containers::ManagedContainer;
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

/// The first failure of several attempts, all of which are made when this iterates over them: of what a shim watches, as
/// much as possible is watched.
pub(crate) fn all(attempts: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    attempts.into_iter().fold(Ok(()), Result::and)
}

/// The descriptors of a process.
pub(super) fn process(managed: &mut ManagedProcess, poll: &Poll) -> Result<()> {
    let serial = managed.serial;
    let own = managed.pidfd.iter().map(|pidfd| {
        let hangup = matches!(managed.process.life, Life::Alive { parent: Parent::OtherUntil(_), .. });
        let interest = if hangup { Interest::Nothing } else { Interest::Read };
        poll.watch(pidfd, key(Kind::Process, serial, 0), interest)
    });
    let recorder = managed.recorder.iter();
    let recorder = recorder.map(|recorder| poll.watch(&recorder.pidfd, key(Kind::Record, serial, 0), Interest::Read));
    let console = managed.console.iter().flat_map(|console| {
        let interest = if console.again.is_some() { Interest::Nothing } else { Interest::Read };
        let listener = [poll.watch(&console.listener, key(Kind::Console, serial, 0), interest)];
        let peer = console.peer.iter().map(|peer| poll.watch(peer, key(Kind::Console, serial, 0), Interest::Read));
        listener.into_iter().chain(peer)
    });
    let streams = managed.streams.iter_mut().map(|streams| stdio(streams, poll));
    all(own.chain(recorder).chain(console).chain(streams))
}

/// The calls of the runtime.
pub(super) fn calls(calls: &Calls, poll: &Poll) -> Result<()> {
    all(calls.running.entries().iter().flat_map(|(serial, call)| {
        let child = (Some(&call.child.pidfd), Kind::Call);
        let pipes = [(call.output.as_ref(), Kind::CallOutput), (call.errors.as_ref(), Kind::CallErrors)];
        let descriptors = std::iter::once(child).chain(pipes);
        descriptors.filter_map(|(fd, kind)| Some(poll.watch(fd?, key(kind, *serial, 0), Interest::Read)))
    }))
}

fn stdio(streams: &mut Streams, poll: &Poll) -> Result<()> {
    let serial = streams.serial;
    let outlets = streams.outlets.iter_mut().map(|outlet| output(outlet, poll));
    let input = streams.input.iter_mut().map(|input| input.watch(serial, poll));
    all(outlets.chain(input).chain(streams.clients.iter().map(|client| attached(client, poll))))
}

fn output(outlet: &mut Outlet, poll: &Poll) -> Result<()> {
    let source = outlet.source.iter().filter(|source| source.reading == Reading::Watched);
    let source = all(source.map(|source| poll.watch(&source.fd, outlet.source_key, Interest::Read)));
    let sink = outlet.sink.pipe().filter(|_| outlet.sink_watched);
    let sink = all(sink.map(|sink| poll.watch(sink, outlet.sink_key, Interest::Write)));
    if let Some(fifo) = outlet.sink.fifo() {
        fifo.watch_again(poll);
    }
    all([source, sink].into_iter().chain(outlet.spool.as_mut().map(|spool| spool.watch_again(poll))))
}

fn attached(client: &Client, poll: &Poll) -> Result<()> {
    poll.watch(client.fd(), client.key, client.watched)
}
