//! One connection: authentication, calls with their replies, and signals.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use windlass_base::variant::Value;
use windlass_sys::{Result, SyscallError, socket};

use super::message::{self, Call, Message, MessageType};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A message bus, which requires a Hello first (D-Bus specification, "Message Bus Messages").
    Bus,
    /// The service itself, without a bus.
    Service,
}

/// The reply to a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The returned values.
    Return(Vec<Value>),
    /// The error's name and text.
    Error(String, String),
}

/// A connection to a bus or a service.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    peer: Peer,
    serial: u32,
    /// Whether the replies to the authentication were read.
    authenticated: bool,
    received: Vec<u8>,
    /// Messages that arrived while another was awaited.
    queued: VecDeque<Message>,
    deadline: Instant,
}

/// The size of one read or write, in bytes. Most messages are a few hundred.
const CHUNK: usize = 4096;

/// The name of the bus itself.
const BUS: &str = "org.freedesktop.DBus";

impl Connection {
    /// Connects to the socket `path`, and waits for the authentication. All replies must arrive `within` this time.
    ///
    /// The server takes the user id from the socket (`SO_PEERCRED`). The client does not send its own id (SASL EXTERNAL
    /// without an identity), since it may differ in the server's user namespace.
    pub fn open(path: &Path, peer: Peer, within: Duration) -> Result<Connection> {
        let mut connection = Connection::begin(path, peer, within)?;
        connection.authenticate()?;
        Ok(connection)
    }

    /// Like [`Connection::open`], but the first call waits for the authentication.
    pub fn begin(path: &Path, peer: Peer, within: Duration) -> Result<Connection> {
        let socket = socket::connect(path)?;
        socket::set_receive_timeout(socket.as_fd(), i64::try_from(within.as_millis()).unwrap_or(i64::MAX))?;
        let deadline = Instant::now() + within;
        let (received, queued) = (Vec::new(), VecDeque::new());
        let mut connection = Connection { socket, peer, serial: 0, authenticated: false, received, queued, deadline };
        // No message may follow yet: sd-bus, as a server, ignores a message that arrives together with these lines.
        connection.write(b"\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n", &[])?;
        Ok(connection)
    }

    fn authenticate(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.authenticated, true) {
            return Ok(());
        }
        for wanted in ["DATA", "OK", "AGREE_UNIX_FD"] {
            let line = self.line()?;
            if line.split(' ').next() != Some(wanted) {
                return Err(SyscallError { call: format!("SASL: {line:?}").into(), errno: Errno::EACCES });
            }
        }
        if self.peer == Peer::Bus {
            self.send(&to_bus("Hello", &[]), &[])?;
        }
        Ok(())
    }

    /// The other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Subscribes to the signals that match `rule`. A service without a bus sends all signals anyway.
    pub fn add_match(&mut self, rule: &str) -> Result<()> {
        if self.peer == Peer::Bus {
            self.send(&to_bus("AddMatch", &[Value::text(rule)]), &[])?;
        }
        Ok(())
    }

    /// Sends a call, and returns its serial, which the reply will have.
    pub fn send(&mut self, call: &Call<'_>, fds: &[BorrowedFd<'_>]) -> Result<u32> {
        self.authenticate()?;
        self.serial += 1;
        let bytes = message::encode(call, self.serial);
        self.write(&bytes, fds)?;
        Ok(self.serial)
    }

    /// Waits for the reply to the call with this serial.
    pub fn reply(&mut self, serial: u32) -> Result<Reply> {
        let is_reply = |message: &Message| matches!(message.kind, MessageType::MethodReturn | MessageType::Error);
        let message = self.find(|message| is_reply(message) && message.reply_serial == serial)?;
        Ok(match message.kind {
            MessageType::MethodReturn => Reply::Return(message.arguments),
            _ => {
                let text = match message.arguments.into_iter().next() {
                    Some(Value::Text(text)) => text,
                    _ => String::new(),
                };
                Reply::Error(message.error, text)
            }
        })
    }

    /// Sends a call and waits for its reply.
    pub fn call(&mut self, call: &Call<'_>, fds: &[BorrowedFd<'_>]) -> Result<Reply> {
        let serial = self.send(call, fds)?;
        self.reply(serial)
    }

    /// Waits for a signal for which `wanted` is true, and returns its arguments.
    pub fn signal(&mut self, wanted: impl Fn(&Message) -> bool) -> Result<Vec<Value>> {
        self.find(|message| message.kind == MessageType::Signal && wanted(message)).map(|message| message.arguments)
    }

    fn find(&mut self, wanted: impl Fn(&Message) -> bool) -> Result<Message> {
        if let Some(at) = self.queued.iter().position(&wanted) {
            return Ok(self.queued.remove(at).expect("just found"));
        }
        loop {
            let message = self.receive()?;
            if wanted(&message) {
                return Ok(message);
            }
            // A signal may belong to a call whose reply was not read yet. The oldest message is dropped.
            self.queued.push_back(message);
            if self.queued.len() > MAX_QUEUED {
                self.queued.pop_front();
            }
        }
    }

    fn receive(&mut self) -> Result<Message> {
        let malformed = || SyscallError { call: "read(a message of D-Bus)".into(), errno: Errno::EBADMSG };
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
                return Err(SyscallError { call: "read(an answer of SASL)".into(), errno: Errno::EBADMSG });
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<()> {
        let failed = |errno| Err(SyscallError { call: "read(the connection)".into(), errno });
        // Signals of other units keep a read from timing out.
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

    fn write(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let (first, rest) = bytes.split_at(bytes.len().min(CHUNK));
        socket::send(self.socket.as_fd(), first, fds)?;
        rest.chunks(CHUNK).try_for_each(|chunk| socket::send(self.socket.as_fd(), chunk, &[]))
    }
}

/// How many messages are kept. On a busy host, many signals of other units arrive.
const MAX_QUEUED: usize = 256;

/// A call of a method of the bus.
fn to_bus<'a>(member: &'a str, arguments: &'a [Value]) -> Call<'a> {
    Call {
        destination: BUS,
        path: "/org/freedesktop/DBus",
        interface: BUS,
        member,
        arguments,
        fds: 0,
        reply_expected: false,
    }
}
