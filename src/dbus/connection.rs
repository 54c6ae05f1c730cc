//! One connection: who we are, calls with their answers, and the signals between them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use windlass_base::variant::Value;
use windlass_sys::{Failed, Result, socket};

use super::message::{self, Call, Message};

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A message bus, which must be greeted and names its clients.
    Bus,
    /// The service itself.
    Service,
}

/// What a call comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// What it returns.
    Return(Vec<Value>),
    /// Name and text of the error.
    Error(String, String),
}

/// A connection that has been let in.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    peer: Peer,
    serial: u32,
    /// Whether the server has let us in.
    greeted: bool,
    received: Vec<u8>,
    /// Messages that arrived while another was waited for.
    waiting: VecDeque<Message>,
    deadline: Instant,
}

/// What one write takes for sure; a call of ours is a few hundred bytes.
const CHUNK: usize = 4096;

/// The name of the bus itself.
const BUS: &str = "org.freedesktop.DBus";

impl Connection {
    /// Connects to the socket `path`. All that is ever waited for must have come `within` this time.
    ///
    /// The server knows who we are by the socket (`SO_PEERCRED`), so we leave it to tell our id
    /// (SASL EXTERNAL without an identity): ours may be another one in its user namespace.
    pub fn open(path: &Path, peer: Peer, within: Duration) -> Result<Connection> {
        let mut connection = Connection::begin(path, peer, within)?;
        connection.greet()?;
        Ok(connection)
    }

    /// The same, but leaves it to the first call to wait until the server lets us in.
    pub fn begin(path: &Path, peer: Peer, within: Duration) -> Result<Connection> {
        let socket = socket::connect(path)?;
        socket::give_up_after(socket.as_fd(), i64::try_from(within.as_millis()).unwrap_or(i64::MAX))?;
        let deadline = Instant::now() + within;
        let (received, waiting) = (Vec::new(), VecDeque::new());
        let mut connection = Connection { socket, peer, serial: 0, greeted: false, received, waiting, deadline };
        // Nothing may follow yet: sd-bus, as a server, leaves a message be that comes together with this.
        connection.send(b"\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n", &[])?;
        Ok(connection)
    }

    fn greet(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.greeted, true) {
            return Ok(());
        }
        for wanted in ["DATA", "OK", "AGREE_UNIX_FD"] {
            let line = self.line()?;
            if line.split(' ').next() != Some(wanted) {
                return Err(Failed { call: format!("SASL: {line:?}").into(), errno: Errno::EACCES });
            }
        }
        if self.peer == Peer::Bus {
            self.ask(&call_of_bus("Hello", &[]), &[])?;
        }
        Ok(())
    }

    /// Whether there is a bus in between.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Has the bus pass on what matches `rule`. Without a bus, everything comes anyway.
    pub fn listen(&mut self, rule: &str) -> Result<()> {
        if self.peer == Peer::Bus {
            self.ask(&call_of_bus("AddMatch", &[Value::text(rule)]), &[])?;
        }
        Ok(())
    }

    /// Sends a call; its number is what the answer carries.
    pub fn ask(&mut self, call: &Call<'_>, fds: &[BorrowedFd<'_>]) -> Result<u32> {
        self.greet()?;
        self.serial += 1;
        let bytes = message::encode(call, self.serial);
        self.send(&bytes, fds)?;
        Ok(self.serial)
    }

    /// Waits for the answer to a call.
    pub fn answer(&mut self, serial: u32) -> Result<Answer> {
        let message = self.find(|message| matches!(message.kind, 2 | 3) && message.answers == serial)?;
        Ok(match message.kind {
            2 => Answer::Return(message.arguments),
            _ => {
                let text = match message.arguments.into_iter().next() {
                    Some(Value::Text(text)) => text,
                    _ => String::new(),
                };
                Answer::Error(message.error, text)
            }
        })
    }

    /// Sends a call and waits for its answer.
    pub fn call(&mut self, call: &Call<'_>, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        let serial = self.ask(call, fds)?;
        self.answer(serial)
    }

    /// Waits for a signal for which `wanted` holds; its arguments.
    pub fn signal(&mut self, wanted: impl Fn(&Message) -> bool) -> Result<Vec<Value>> {
        self.find(|message| message.kind == 4 && wanted(message)).map(|message| message.arguments)
    }

    fn find(&mut self, wanted: impl Fn(&Message) -> bool) -> Result<Message> {
        if let Some(at) = self.waiting.iter().position(&wanted) {
            return Ok(self.waiting.remove(at).expect("just found"));
        }
        loop {
            let message = self.receive()?;
            if wanted(&message) {
                return Ok(message);
            }
            // A signal may be for a call whose answer is not read yet; what nobody asks for goes.
            self.waiting.push_back(message);
            if self.waiting.len() > MOST_WAITING {
                self.waiting.pop_front();
            }
        }
    }

    fn receive(&mut self) -> Result<Message> {
        let malformed = || Failed { call: "read(a message of D-Bus)".into(), errno: Errno::EBADMSG };
        while self.received.len() < 16 {
            self.more()?;
        }
        let start: [u8; 16] = self.received[..16].try_into().expect("16 bytes");
        let length = message::length(&start).ok_or_else(malformed)?;
        while self.received.len() < length {
            self.more()?;
        }
        let rest = self.received.split_off(length);
        let bytes = std::mem::replace(&mut self.received, rest);
        message::decode(&bytes).ok_or_else(malformed)
    }

    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\r\n") {
                let rest = self.received.split_off(end + 2);
                let line = std::mem::replace(&mut self.received, rest);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.received.len() > CHUNK {
                return Err(Failed { call: "read(an answer of SASL)".into(), errno: Errno::EBADMSG });
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<()> {
        let failed = |errno| Err(Failed { call: "read(the connection)".into(), errno });
        // Others' signals alone must not keep us waiting either.
        if Instant::now() > self.deadline {
            return failed(Errno::ETIMEDOUT);
        }
        let mut buffer = [0; CHUNK];
        match nix::unistd::read(&self.socket, &mut buffer) {
            Ok(0) => failed(Errno::ECONNRESET),
            Ok(length) => {
                self.received.extend(&buffer[..length]);
                Ok(())
            }
            Err(Errno::EINTR) => Ok(()),
            Err(Errno::EAGAIN) => failed(Errno::ETIMEDOUT),
            Err(errno) => failed(errno),
        }
    }

    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let (first, rest) = bytes.split_at(bytes.len().min(CHUNK));
        socket::send(self.socket.as_fd(), first, fds)?;
        rest.chunks(CHUNK).try_for_each(|chunk| socket::send(self.socket.as_fd(), chunk, &[]))
    }
}

/// Signals of others are many on a busy host, and none of our business.
const MOST_WAITING: usize = 256;

fn call_of_bus<'a>(member: &'a str, arguments: &'a [Value]) -> Call<'a> {
    Call { destination: BUS, path: "/org/freedesktop/DBus", interface: BUS, member, arguments, fds: 0, answered: false }
}
