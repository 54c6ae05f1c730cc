#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(unreachable_pub)]

#[cfg(any(test, fuzzing))]
pub mod fuzz;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use windlass_sys::socket;

/// Why a call has no answer.
#[derive(Debug)]
pub enum Error {
    /// The shim has refused the request: code and message.
    Refused(String, String),
    /// There is no connection to the shim: it is dead, or never existed.
    Lost(io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Refused(_, message) => f.write_str(message),
            Error::Lost(error) => write!(f, "the shim does not answer: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Lost(error)
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    seq: u64,
    /// Whether the shim sends a last frame at the end of the output.
    marked: bool,
}

/// A piece of an attached process's output.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Standard output, or the terminal.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
}

impl Client {
    /// Connects to the shim of a container below a state directory.
    pub fn connect(state: &Path, id: &str) -> Result<Client, Error> {
        Client::open(&state.join(id).join("shim.sock"))
    }

    /// Connects to the socket at a path: a container's, or the control socket of a shim of another protocol.
    pub fn open(path: &Path) -> Result<Client, Error> {
        // This also works for a path that is too long for a socket address.
        let stream =
            socket::connect(path).map_err(|failed| Error::Lost(io::Error::from_raw_os_error(failed.errno as i32)))?;
        Ok(Client { stream: BufReader::new(stream.into()), seq: 0, marked: false })
    }

    /// Sets how long a call waits for an answer, at least a millisecond. Afterwards it fails with [`Error::Lost`] of the
    /// kind [`io::ErrorKind::WouldBlock`]. By default calls wait without a limit.
    pub fn set_timeout(&mut self, time: Duration) -> Result<(), Error> {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(time)).and_then(|()| stream.set_write_timeout(Some(time))).map_err(Error::from)
    }

    /// Fails with [`Error::Lost`] of the kind [`io::ErrorKind::WouldBlock`] if the shim does not answer within `time`,
    /// at least a millisecond, because it is stopped or hangs. Afterwards calls wait without a limit.
    pub fn check(&mut self, time: Duration) -> Result<(), Error> {
        self.set_timeout(time)?;
        // An answer of any kind shows that the shim is alive.
        if let Err(Error::Lost(error)) = self.call("hello", json!({})) {
            return Err(Error::Lost(error));
        }
        let stream = self.stream.get_ref();
        stream.set_read_timeout(None).and_then(|()| stream.set_write_timeout(None)).map_err(Error::from)
    }

    /// The process id of the shim, as of when it began to listen.
    pub fn shim(&self) -> Result<i32, Error> {
        socket::peer_pid(self.stream.get_ref().as_fd())
            .map_err(|failed| Error::Lost(io::Error::from_raw_os_error(failed.errno as i32)))
    }

    /// Sends a request and returns its answer. `members` is an object with the members besides `op` and `seq`. Events
    /// that arrive before the answer are lost, so use another connection to subscribe.
    pub fn call(&mut self, op: &str, members: Value) -> Result<Value, Error> {
        self.request(op, members, &[])
    }

    /// Has the shim replaced by this program, in its own process. The connection stays, and the answer is the new
    /// program's. The shim refuses a program that belongs neither to its user nor to root, that others may write, or
    /// that cannot go on with its state. Then the shim keeps running.
    pub fn upgrade(&mut self, program: BorrowedFd<'_>) -> Result<(), Error> {
        self.request("upgrade", json!({}), &[program]).map(drop)
    }

    fn request(&mut self, op: &str, members: Value, passed: &[BorrowedFd<'_>]) -> Result<Value, Error> {
        self.seq += 1;
        let mut request = json!({"seq": self.seq, "op": op});
        for (name, value) in members.as_object().into_iter().flatten() {
            request[name] = value.clone();
        }
        match passed {
            [] => writeln!(self.stream.get_mut(), "{request}")?,
            passed => socket::send(self.stream.get_ref().as_fd(), format!("{request}\n").as_bytes(), passed)
                .map_err(|failed| io::Error::from_raw_os_error(failed.errno as i32))?,
        }
        loop {
            let mut line = self.line()?;
            if line["seq"] != self.seq {
                continue;
            }
            if line["error"].is_null() {
                self.marked = line["ok"]["end"] == true;
                return Ok(line["ok"].take());
            }
            let text = |name: &str| line["error"][name].as_str().unwrap_or_default().to_owned();
            return Err(Error::Refused(text("code"), text("message")));
        }
    }

    fn line(&mut self) -> Result<Value, Error> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(Error::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_str(&line).map_err(|error| Error::Lost(error.into()))
    }

    /// Subscribes to the events from number `from` on, or from the first that is not acknowledged.
    pub fn subscribe(&mut self, from: Option<u64>) -> Result<(), Error> {
        self.call("subscribe", json!({"from": from})).map(drop)
    }

    /// Waits for the next event. Only after [`Client::subscribe`].
    pub fn event(&mut self) -> Result<Value, Error> {
        loop {
            let line = self.line()?;
            if !line["event"].is_null() {
                return Ok(line);
            }
        }
    }

    /// Attaches to the stdio of init or of an exec. Afterwards the connection is used for [`Client::frame`] and
    /// [`Client::input`] only. The operation `exec` with `"attach": true` and `"end": true` does the same.
    pub fn attach(&mut self, exec: Option<&str>) -> Result<(), Error> {
        self.call("attach", json!({"exec": exec, "end": true})).map(drop)
    }

    /// Waits for the next piece of output. `None`: the process has ended, and this was all. Only after
    /// [`Client::attach`].
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if output is missing: the shim has disconnected this client, because it did not
    /// read for seconds while others waited for it, or the shim is dead. Without `"end": true` that looks like the end.
    pub fn frame(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 5];
        match self.stream.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.marked => {
                let text = "the shim has closed the connection before the end of the output";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let [kind, length @ ..] = head;
        if kind == 3 {
            return Ok(None);
        }
        let mut data = vec![0; u32::from_be_bytes(length).min(1 << 20) as usize];
        self.stream.read_exact(&mut data)?;
        Ok(Some(if kind == 2 { Frame::Stderr(data) } else { Frame::Stdout(data) }))
    }

    /// A handle for the process's standard input, for use in another thread.
    pub fn input(&self) -> io::Result<Input> {
        self.stream.get_ref().try_clone().map(Input)
    }
}

/// The standard input of an attached process.
#[derive(Debug)]
pub struct Input(UnixStream);

impl Input {
    /// Writes to standard input. An empty slice closes it.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        /// Longest frame that the shim accepts, in bytes.
        const LONGEST: usize = 32 * 1024;
        let mut send = |piece: &[u8]| {
            let mut frame = vec![0];
            frame.extend_from_slice(&(piece.len() as u32).to_be_bytes());
            frame.extend_from_slice(piece);
            self.0.write_all(&frame)
        };
        if bytes.is_empty() {
            return send(&[]);
        }
        bytes.chunks(LONGEST).try_for_each(send)
    }

    /// Detaches. The process continues, and its standard input stays open.
    pub fn detach(&mut self) -> io::Result<()> {
        self.0.shutdown(std::net::Shutdown::Both)
    }
}
