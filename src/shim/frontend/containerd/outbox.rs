//! Events on their way to containerd: in order, one at a time, each sent until it is acknowledged.
//!
//! containerd may be away for any time, and events that it has not acknowledged are kept. An event keeps its time when
//! it is sent again, so a receiver can recognize a repetition. The queue is not on disk: if the shim is killed,
//! `delete` reports the end of a container from its exit record.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::connection::Connection;
use super::frames::Closed;
use super::message::event::{Envelope, Forward, TaskEvent, Topic};
use super::message::{Status, Timestamp};
use super::ttrpc::{FrameKind, Request, Response, code};
use crate::{Poll, Ready};
use windlass_base::protobuf::Message;
use windlass_sys::{clock, socket};

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// First and longest pause before the next attempt.
const SOON: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_secs(1);

/// How long an acknowledgement may take before the connection counts as dead.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// The delivery of the first event of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The event can be sent.
    Ready,
    /// The event was sent at this moment, and its acknowledgement is awaited.
    Sent(Instant),
    /// The event can be sent again at this moment.
    Paused(Instant),
}

/// The events that are not acknowledged, as a state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) events: VecDeque<(Timestamp, TaskEvent)>,
    pub(super) delivery: Delivery,
    /// The next pause.
    pub(super) pause: Duration,
}

impl Queue {
    fn new() -> Queue {
        Queue { events: VecDeque::new(), delivery: Delivery::Ready, pause: SOON }
    }

    /// Adds an event.
    fn push(&mut self, at: SystemTime, event: TaskEvent) {
        let sent = usize::from(matches!(self.delivery, Delivery::Sent(_)));
        // The kernel may kill processes of a container repeatedly while containerd is away.
        let repeated = event.topic == Topic::Oom && self.events.iter().skip(sent).any(|(_, of)| *of == event);
        if !repeated {
            self.events.push_back((at.into(), event));
        }
    }

    /// When time alone changes the delivery.
    fn deadline(&self) -> Option<Instant> {
        match self.delivery {
            Delivery::Ready => None,
            Delivery::Sent(at) => Some(at + ACK_TIMEOUT),
            Delivery::Paused(until) => Some(until),
        }
    }

    /// Whether the acknowledgement takes too long.
    fn is_dead(&self, now: Instant) -> bool {
        matches!(self.delivery, Delivery::Sent(at) if now >= at + ACK_TIMEOUT)
    }

    /// The event to be sent now.
    fn next(&self, now: Instant) -> Option<&(Timestamp, TaskEvent)> {
        match self.delivery {
            Delivery::Sent(_) => None,
            Delivery::Paused(until) if now < until => None,
            Delivery::Paused(_) | Delivery::Ready => self.events.front(),
        }
    }

    /// Notes that the first event was sent.
    fn sent(&mut self, now: Instant) {
        self.delivery = Delivery::Sent(now);
    }

    /// Notes that the connection is gone. If the first event was sent, it may or may not have arrived.
    fn lost(&mut self, now: Instant) {
        self.delivery = Delivery::Ready;
        if !self.events.is_empty() {
            self.delivery = Delivery::Paused(now + self.pause);
            self.pause = (self.pause * 2).min(LATE);
        }
    }

    /// Handles containerd's answer. Returns a text for the log, if it is needed.
    fn answered(&mut self, status: Status, now: Instant) -> Option<String> {
        let complaint = match status.code {
            0 => None,
            // It would be refused the next time too, and the other events wait behind it.
            code::INVALID_ARGUMENT | code::UNIMPLEMENTED => {
                let topic = self.events.front().map_or("", |(_, event)| event.topic.name());
                Some(format!("containerd does not take the event {topic}: {}", status.message))
            }
            _ => {
                self.lost(now);
                return None;
            }
        };
        self.events.pop_front();
        self.delivery = Delivery::Ready;
        self.pause = SOON;
        complaint
    }
}

/// The events that are not acknowledged, and the connection for them.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) address: PathBuf,
    pub(super) namespace: String,
    pub(super) key: u64,
    pub(super) queue: Queue,
    pub(super) link: Option<Connection>,
    /// The number of the next stream of the connection.
    pub(super) stream: u32,
}

impl Outbox {
    /// An outbox for the socket at `address`, watched under `key`.
    pub(super) fn new(address: &str, namespace: &str, key: u64) -> Outbox {
        Outbox {
            address: address.strip_prefix("unix://").unwrap_or(address).into(),
            namespace: namespace.into(),
            key,
            queue: Queue::new(),
            link: None,
            stream: 1,
        }
    }

    /// Adds an event, and sends it in its turn.
    pub(super) fn push(&mut self, event: TaskEvent, poll: &Poll) {
        self.queue.push(clock::wall(), event);
        self.next(clock::now(), poll);
    }

    /// Whether every event is acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.events.is_empty()
    }

    /// When [`Outbox::next`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.queue.deadline()
    }

    /// Sends the first event, if it is time for that.
    pub(super) fn next(&mut self, now: Instant, poll: &Poll) {
        if self.queue.is_dead(now) {
            return self.lost(now);
        }
        let Some((timestamp, event)) = self.queue.next(now) else { return };
        let envelope = Envelope {
            timestamp: Some(timestamp.clone()),
            namespace: self.namespace.clone(),
            topic: event.topic.name().into(),
            event: Some(event.message.clone()),
        };
        let request = Request {
            service: SERVICE.into(),
            method: "Forward".into(),
            payload: Forward { envelope: Some(envelope) }.encode(),
            timeout: ACK_TIMEOUT.as_nanos() as i64,
        };
        if self.link.is_none() {
            let socket = socket::connect_now(&self.address);
            self.link = socket.and_then(|socket| Connection::new(socket, self.key, poll)).ok();
            // Odd numbers are the client's, and start again with each connection.
            self.stream = 1;
        }
        let stream = self.stream;
        let sent = self.link.as_mut().map_or(Err(Closed), |link| link.send(stream, FrameKind::Request, &request, poll));
        match sent {
            Ok(()) => self.queue.sent(now),
            Err(Closed) => self.lost(now),
        }
    }

    fn lost(&mut self, now: Instant) {
        self.link = None;
        self.queue.lost(now);
    }

    /// Handles the socket when it is ready. Returns a text for the log, if it is needed.
    pub(super) fn ready(&mut self, ready: Ready, poll: &Poll) -> Option<String> {
        let now = clock::now();
        let link = self.link.as_mut()?;
        let open = if ready.write { link.flush(poll) } else { Ok(()) }.and_then(|()| link.read());
        let mut complaint = None;
        loop {
            let awaited = matches!(self.queue.delivery, Delivery::Sent(_));
            match self.link.as_mut().map_or(Ok(None), Connection::take::<Response>) {
                Ok(Some((stream, FrameKind::Response, response))) if awaited && stream == self.stream => {
                    self.stream = self.stream.wrapping_add(2);
                    complaint = complaint.or(self.queue.answered(response.status.unwrap_or_default(), now));
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(Closed) => {
                    self.lost(now);
                    return complaint;
                }
            }
        }
        if open.is_err() {
            self.lost(now);
        }
        self.next(now, poll);
        complaint
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Any;
    use super::*;
    use crate::image::format::read_back;

    fn event(topic: Topic) -> TaskEvent {
        TaskEvent { topic, message: Any::default() }
    }

    fn queue(topics: &[Topic]) -> Queue {
        let mut queue = Queue::new();
        topics.iter().for_each(|&topic| queue.push(SystemTime::UNIX_EPOCH, event(topic)));
        queue
    }

    fn next(queue: &Queue, now: Instant) -> Option<Topic> {
        queue.next(now).map(|(_, event)| event.topic)
    }

    fn refused(code: i32) -> Status {
        Status { code, message: "no".into() }
    }

    #[test]
    fn events_are_sent_one_at_a_time_and_in_order() {
        let now = Instant::now();
        let mut queue = queue(&[Topic::Create, Topic::Start]);
        assert_eq!((next(&queue, now), queue.deadline()), (Some(Topic::Create), None));
        queue.sent(now);
        assert_eq!((next(&queue, now), queue.deadline()), (None, Some(now + ACK_TIMEOUT)));
        assert!(!queue.is_dead(now) && queue.is_dead(now + ACK_TIMEOUT));
        assert_eq!(queue.answered(Status::default(), now), None);
        assert_eq!(next(&queue, now), Some(Topic::Start));
        queue.sent(now);
        queue.answered(Status::default(), now);
        assert_eq!((next(&queue, now), queue.deadline()), (None, None));
        queue.lost(now);
        assert_eq!(queue.deadline(), None, "nothing is to be sent");
    }

    #[test]
    fn an_event_is_sent_again_after_longer_and_longer_pauses() {
        let mut now = Instant::now();
        let mut queue = queue(&[Topic::Exit]);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            queue.sent(now);
            queue.lost(now);
            let until = queue.deadline().expect("a pause");
            assert_eq!((next(&queue, now), next(&queue, until)), (None, Some(Topic::Exit)));
            pauses.push((until - now).as_millis());
            now = until;
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
        // After an acknowledgement, the pauses are short again.
        queue.sent(now);
        queue.push(SystemTime::UNIX_EPOCH, event(Topic::Delete));
        queue.answered(Status::default(), now);
        queue.lost(now);
        assert_eq!(queue.deadline(), Some(now + SOON));
    }

    #[test]
    fn what_containerd_does_not_take_is_given_up_and_what_it_cannot_take_now_is_not() {
        let now = Instant::now();
        let mut queue = queue(&[Topic::Oom, Topic::Exit]);
        queue.sent(now);
        assert_eq!(queue.answered(refused(code::INTERNAL), now), None);
        assert_eq!(next(&queue, now + SOON), Some(Topic::Oom));
        queue.sent(now);
        let complaint = queue.answered(refused(code::INVALID_ARGUMENT), now).expect("a complaint");
        assert_eq!(complaint, "containerd does not take the event /tasks/oom: no");
        assert_eq!(next(&queue, now), Some(Topic::Exit));
    }

    #[test]
    fn a_lack_of_memory_that_nobody_has_heard_of_is_told_once() {
        let now = Instant::now();
        let mut queue = queue(&[Topic::Oom, Topic::Oom]);
        assert_eq!(queue.events.len(), 1);
        // The sent event may have arrived, so an equal one after it is news.
        queue.sent(now);
        queue.push(SystemTime::UNIX_EPOCH, event(Topic::Oom));
        queue.push(SystemTime::UNIX_EPOCH, event(Topic::Oom));
        assert_eq!(queue.events.len(), 2);
    }

    #[test]
    fn what_is_not_acknowledged_can_be_written_down_and_read_back() {
        let now = Instant::now();
        let mut queue = queue(&[Topic::Create, Topic::Exit]);
        for change in [Queue::sent, Queue::lost] {
            change(&mut queue, now);
            assert_eq!(read_back(&queue), queue);
        }
    }

    /// ttrpc: the streams of a client have odd numbers, each higher than the one before.
    #[test]
    fn each_event_is_a_stream_of_its_own_with_an_odd_number() {
        let path = std::env::temp_dir().join(format!("windlass-outbox-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("listens");
        let poll = Poll::new().expect("epoll");
        let mut outbox = Outbox::new(path.to_str().expect("text"), "k8s.io", 7);
        for topic in [Topic::Create, Topic::Start, Topic::Exit] {
            outbox.push(event(topic), &poll);
        }
        let (socket, _) = listener.accept().expect("it has connected");
        socket.set_nonblocking(true).expect("set");
        let mut containerd = Connection::new(socket.into(), 8, &poll).expect("watched");
        for number in [1, 3, 5] {
            containerd.read().expect("sent");
            let (stream, kind, request) = containerd.take::<Request>().expect("whole").expect("an event");
            assert_eq!((stream, kind, request.method.as_str()), (number, FrameKind::Request, "Forward"));
            // An answer to another stream is none.
            for stream in [number + 2, number] {
                assert!(!outbox.is_empty());
                containerd.send(stream, FrameKind::Response, &Response::default(), &poll).expect("taken");
                outbox.ready(Ready { read: true, write: false, hangup: false }, &poll);
            }
        }
        assert!(outbox.is_empty());
        std::fs::remove_file(&path).expect("removed");
    }
}
