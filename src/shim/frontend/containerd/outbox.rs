//! Events on their way to containerd: in order, one at a time, each sent until it is
//! acknowledged.
//!
//! containerd may be away for any time; what it has not acknowledged stays here. What has
//! become durable by then (the end of a container, in its exit record) is told by `delete` should
//! we be killed meanwhile, so the queue itself is not written down. An event keeps its time when
//! it is sent again, which is what a receiver tells a repeat by.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::connection::{Closed, Connection};
use super::message::event::{Envelope, Forward, Told};
use super::message::{Status, Timestamp};
use super::ttrpc::{Kind, Request, Response, code};
use super::wire::Message;
use crate::Poll;
use crate::Ready;
use windlass_sys::socket;

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// First and longest pause before another try.
const SOON: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_secs(1);

/// How long an acknowledgement may take until the connection counts as dead.
const PATIENCE: Duration = Duration::from_secs(10);

/// The events that are not acknowledged.
#[derive(Debug)]
pub struct Outbox {
    address: PathBuf,
    namespace: String,
    key: u64,
    queue: VecDeque<(Timestamp, Told)>,
    link: Option<Connection>,
    stream: u32,
    /// The first of the queue was sent then, and its answer is waited for.
    sent: Option<Instant>,
    pause: Duration,
    again: Option<Instant>,
}

impl Outbox {
    /// For the socket at `address`, watched under `key`.
    pub fn new(address: &str, namespace: &str, key: u64) -> Outbox {
        Outbox {
            address: address.strip_prefix("unix://").unwrap_or(address).into(),
            namespace: namespace.into(),
            key,
            queue: VecDeque::new(),
            link: None,
            stream: 1,
            sent: None,
            pause: SOON,
            again: None,
        }
    }

    /// Takes an event and sends it when its turn comes.
    pub fn push(&mut self, told: Told, poll: &Poll) {
        // A container may be killed for want of memory again and again while nobody listens.
        let repeated = told.topic == "/tasks/oom"
            && self.queue.iter().skip(usize::from(self.sent.is_some())).any(|(_, waiting)| *waiting == told);
        if repeated {
            return;
        }
        self.queue.push_back((SystemTime::now().into(), told));
        self.next(Instant::now(), poll);
    }

    /// Whether everything is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When [`Outbox::next`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.again.or(self.sent.map(|sent| sent + PATIENCE))
    }

    /// Sends the first event, if it is time.
    pub fn next(&mut self, now: Instant, poll: &Poll) {
        if self.sent.is_some_and(|sent| now >= sent + PATIENCE) {
            return self.lost(now);
        }
        let early = self.again.is_some_and(|again| now < again);
        let Some((timestamp, told)) = self.queue.front().filter(|_| self.sent.is_none() && !early) else { return };
        self.again = None;
        let envelope = Envelope {
            timestamp: Some(timestamp.clone()),
            namespace: self.namespace.clone(),
            topic: told.topic.into(),
            event: Some(told.event.clone()),
        };
        let request = Request {
            service: SERVICE.into(),
            method: "Forward".into(),
            payload: Forward { envelope: Some(envelope) }.encode(),
            timeout: PATIENCE.as_nanos() as i64,
        };
        if self.link.is_none() {
            let socket = socket::connect_now(&self.address);
            self.link = socket.and_then(|socket| Connection::new(socket, self.key, poll)).ok();
            // Odd numbers are the client's, and begin anew with each connection.
            self.stream = 1;
        }
        let stream = self.stream;
        let sent = self.link.as_mut().map_or(Err(Closed), |link| link.send(stream, Kind::Request, &request, poll));
        match sent {
            Ok(()) => self.sent = Some(now),
            Err(Closed) => self.lost(now),
        }
    }

    /// The connection is gone; the first event, if it was sent, may or may not have arrived.
    fn lost(&mut self, now: Instant) {
        self.link = None;
        self.sent = None;
        self.later(now);
    }

    fn later(&mut self, now: Instant) {
        if !self.queue.is_empty() {
            self.again = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LATE);
        }
    }

    /// The socket is ready. Gives a complaint that is worth a line in the log.
    pub fn ready(&mut self, ready: Ready, poll: &Poll) -> Option<String> {
        let now = Instant::now();
        let Some(link) = &mut self.link else { return None };
        let open = if ready.write { link.flush(poll) } else { Ok(()) }.and_then(|()| link.read());
        let mut complaint = None;
        loop {
            match self.link.as_mut().map_or(Ok(None), Connection::take::<Response>) {
                Ok(Some((stream, Kind::Response, response))) if self.sent.is_some() && stream == self.stream => {
                    complaint = complaint.or(self.answered(response, now));
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

    fn answered(&mut self, response: Response, now: Instant) -> Option<String> {
        self.sent = None;
        self.stream = self.stream.wrapping_add(2);
        let Status { code, message } = response.status.unwrap_or_default();
        let complaint = match code {
            0 => None,
            // It would be so the next time too, and the others wait behind it.
            code::INVALID_ARGUMENT | code::UNIMPLEMENTED => {
                let topic = self.queue.front().map_or("", |(_, told)| told.topic);
                Some(format!("containerd does not take the event {topic}: {message}"))
            }
            _ => {
                self.later(now);
                return None;
            }
        };
        self.queue.pop_front();
        self.pause = SOON;
        complaint
    }
}
