#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use windlass_sys::socket;

/// Why a call has no answer.
#[derive(Debug)]
pub enum Error {
    /// The shim has refused: code and message.
    Refused(String, String),
    /// The shim cannot be spoken to: it is dead, or was never there.
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
}

/// ClientRequest an attached process has written.
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
        // A path that is too long for an address is no obstacle here.
        let stream = socket::connect(&state.join(id).join("shim.sock"))
            .map_err(|failed| Error::Lost(io::Error::from_raw_os_error(failed.errno as i32)))?;
        Ok(Client { stream: BufReader::new(stream.into()), seq: 0 })
    }

    /// From now on a shim that does not answer for so long (at least a millisecond) is lost: [`Error::Lost`] with
    /// [`io::ErrorKind::WouldBlock`].
    pub fn set_timeout(&mut self, time: Duration) -> Result<(), Error> {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(time)).and_then(|()| stream.set_write_timeout(Some(time))).map_err(Error::from)
    }

    /// One request and its answer. Events that come in between are lost: subscribe on a
    /// connection of its own.
    pub fn call(&mut self, op: &str, members: Value) -> Result<Value, Error> {
        self.seq += 1;
        let mut request = json!({"seq": self.seq, "op": op});
        for (name, value) in members.as_object().into_iter().flatten() {
            request[name] = value.clone();
        }
        writeln!(self.stream.get_mut(), "{request}")?;
        loop {
            let mut line = self.line()?;
            if line["seq"] != self.seq {
                continue;
            }
            if line["error"].is_null() {
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

    /// Events from number `from` on, or from the first that was not acknowledged.
    pub fn subscribe(&mut self, from: Option<u64>) -> Result<(), Error> {
        self.call("subscribe", json!({"from": from})).map(drop)
    }

    /// The next event; waits for it.
    pub fn event(&mut self) -> Result<Value, Error> {
        loop {
            let line = self.line()?;
            if !line["event"].is_null() {
                return Ok(line);
            }
        }
    }

    /// The connection becomes that of a process's stdio; `exec` with `"attach": true` does the same.
    pub fn attach(&mut self, exec: Option<&str>) -> Result<(), Error> {
        self.call("attach", json!({"exec": exec})).map(drop)
    }

    /// The next piece of output; `None` when the process has ended. Only after an attach.
    pub fn frame(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 5];
        match self.stream.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let [kind, length @ ..] = head;
        let mut data = vec![0; u32::from_be_bytes(length).min(1 << 20) as usize];
        self.stream.read_exact(&mut data)?;
        Ok(Some(if kind == 2 { Frame::Stderr(data) } else { Frame::Stdout(data) }))
    }

    /// Another handle of the same connection, to give input from another thread.
    pub fn input(&self) -> io::Result<Input> {
        self.stream.get_ref().try_clone().map(Input)
    }
}

/// The input of an attached process.
#[derive(Debug)]
pub struct Input(UnixStream);

impl Input {
    /// Gives bytes; none at all closes the process's input.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        /// The longest frame that the shim takes.
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

    /// Leaves: the process goes on, with its input open.
    pub fn detach(&mut self) -> io::Result<()> {
        self.0.shutdown(std::net::Shutdown::Both)
    }
}
