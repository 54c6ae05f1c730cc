//! The shim in an image, for the next program.

use std::os::fd::AsFd;

use super::answer::{Answer, Outcome};
use super::connection::{Connection, interest};
use super::connections::{Caller, Connections};
use super::frames::{Frames, Waits};
use super::job::{Job, JobKind, Jobs};
use super::key::{FrontKind, Serials, key};
use super::lifetime::Lifetime;
use super::logger::{BinaryLogger, Loggers};
use super::message::event::{TaskEvent, TaskIo, Topic};
use super::message::{Any, Mount, Status, Timestamp};
use super::outbox::{Delivery, Outbox, Queue};
use super::pending::{Continuation, PendingCalls, RuntimeVerb};
use super::server::Server;
use super::tasks::{Task, TaskStage, Tasks};
use crate::image::fault::Fault;
use crate::image::format::{Content, Encoder, Field, Fields, Value, choice, table};
use crate::image::watching::all;
use crate::{Interest, Poll};
use windlass_base::protobuf::Message;

table! {
    Server {
        1 namespace, 2 tasks, 3 pending, 4 jobs, 5 loggers, 6 outbox, 7 connections, 8 lifetime, 9 serials,
    }
    Task { 1 id, 2 bundle, 3 io, 4 checkpoint, 5 owner, 6 runtime, 7 stage, 8 execs, 9 spooling }
    Caller { 1 connection, 2 stream }
    BinaryLogger { 1 process, 2 child, 3 end }
    Outbox { 1 address, 2 namespace, 3 key, 4 queue, 5 link, 6 stream }
    Queue { 1 events, 2 delivery, 3 pause }
    TaskEvent { 1 topic, 2 message }
    Connection { 1 key, 2 socket, 3 frames, 4 watched }
    Frames { 1 unread, 2 unsent }
}

choice! {
    TaskStage { 1 Preparing { 1 rootfs: rootfs }, 2 Created {} }
    Continuation {
        1 Create { 1 id: 0 }, 2 Start { 1 id: 0 }, 3 Wait {}, 4 Delete { 1 id: 0 },
        5 Verb { 1 verb: verb, 2 event: event, 3 file: file }, 6 Checkpoint { 1 event: event, 2 log: log },
    }
    RuntimeVerb { 1 Kill {}, 2 Pause {}, 3 Resume {}, 4 Update {} }
    JobKind {
        1 Prepare { 1 job: 0, 2 process: 1 }, 2 AwaitLogger { 1 job: 0, 2 process: 1 },
        3 Unmount { 1 job: 0, 2 outcome: 1, 3 event: 2 },
    }
    Delivery { 1 Ready {}, 2 Sent { 1 at: 0 }, 3 Paused { 1 until: 0 } }
    Topic {
        1 Create {}, 2 Start {}, 3 Exit {}, 4 Delete {}, 5 Oom {}, 6 Paused {}, 7 Resumed {}, 8 ExecAdded {},
        9 ExecStarted {}, 10 Checkpointed {},
    }
    Waits { 1 Idle {}, 2 Sending {}, 3 Full {} }
    Lifetime { 1 InUse {}, 2 Idle { 1 until: 0 }, 3 Leaving { 1 until: 0 }, 4 Over {} }
}

/// A table is written as the repeated field that it wraps.
macro_rules! tables {
    ($($name:ident),*) => {$(
        impl Field for $name {
            fn put(&self, number: u32, essential: bool, to: &mut Encoder) {
                self.0.put(number, essential, to);
            }

            fn get(number: u32, fields: &mut Fields<'_>) -> $name {
                $name(fields.get(number))
            }
        }
    )*};
}

tables!(Tasks, PendingCalls, Jobs, Loggers, Connections, Serials);

/// Messages of containerd's protocols are written as these protocols define.
macro_rules! messages {
    ($($name:ident),*) => {$(
        impl Value for $name {
            const EMPTY: bool = true;

            fn write(&self, to: &mut Encoder) {
                to.bytes(&self.encode());
            }

            fn read(content: Content<'_>) -> $name {
                $name::decode(content.bytes()).unwrap_or_else(|_| {
                    content.fault(Fault::Malformed(stringify!($name)));
                    $name::default()
                })
            }
        }
    )*};
}

messages!(Any, Mount, Status, Timestamp, TaskIo);

impl Value for Outcome {
    fn write(&self, to: &mut Encoder) {
        match self {
            Ok(Answer::Now(message)) => to.put(1, true, &Some(message.clone())),
            Ok(Answer::Later) => to.put(2, true, &Some(true)),
            Err(fault) => to.put(3, true, &Some(fault.clone())),
        }
    }

    fn read(content: Content<'_>) -> Outcome {
        let (kind, content) = content.choice("Outcome", &[1, 2, 3]);
        match kind {
            1 => Ok(Answer::Now(Vec::read(content))),
            2 => Ok(Answer::Later),
            _ => Err(Status::read(content)),
        }
    }
}

/// The type `T` of the output is not written.
impl<T> Value for Job<T> {
    fn write(&self, to: &mut Encoder) {
        to.put(1, true, &self.child);
        to.put(2, true, &self.report);
    }

    fn read(content: Content<'_>) -> Job<T> {
        let mut fields = Fields::of(content, "Job");
        let job = Job { child: fields.get(1), report: fields.get(2), output: std::marker::PhantomData };
        fields.end();
        job
    }
}

/// Watches again what the previous program watched.
pub(super) fn watch_again(server: &Server, poll: &Poll) -> windlass_sys::Result<()> {
    let jobs = server.jobs.0.entries().iter();
    let jobs = jobs.map(|(serial, job)| (&job.1.child().pidfd, key(FrontKind::Job, *serial)));
    let loggers = server.loggers.0.entries().iter();
    let loggers = loggers.map(|(serial, logger)| (&logger.child.pidfd, key(FrontKind::Logger, *serial)));
    let children = jobs.chain(loggers).map(|(pidfd, key)| poll.watch(pidfd, key, Interest::Read));
    let connections = server.connections.0.values().map(Box::as_ref).chain(&server.outbox.link);
    let connections = connections
        .map(|connection| poll.watch(connection.socket.as_fd(), connection.key, interest(connection.watched)));
    all(children.chain(connections))
}
