#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(unreachable_pub)]

#[cfg(any(test, fuzzing))]
pub mod fuzz;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
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
    path: PathBuf,
    /// See [`Client::set_patience`].
    patience: Option<Duration>,
    seq: u64,
    /// Whether the shim sends a last frame at the end of the output.
    marked: bool,
}

/// How long to wait for a place in the shim's queue of connections. A shim that runs accepts at each turn of its loop.
const CONNECT: Duration = Duration::from_secs(5);

/// After a quarter of the patience without an answer, another connection asks whether the shim still runs. Answers take
/// milliseconds, unless the shim waits for the runtime.
const FIRST: u32 = 4;

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

    /// Connects to the socket at a path: that of a container, or the control socket of a shim of another protocol.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`], of the kind [`io::ErrorKind::WouldBlock`] if thousands of connections wait for a shim that is
    /// stopped or hangs.
    pub fn open(path: &Path) -> Result<Client, Error> {
        // This also works for a path that is too long for a socket address.
        let stream = socket::connect_within(path, CONNECT)
            .map_err(|failed| Error::Lost(io::Error::from_raw_os_error(failed.errno as i32)))?;
        Ok(Client::over(stream.into(), path))
    }

    fn over(stream: UnixStream, path: &Path) -> Client {
        Client { stream: BufReader::new(stream), path: path.into(), patience: None, seq: 0, marked: false }
    }

    /// Sets how long a call waits for an answer, at least a millisecond. Afterwards it fails with [`Error::Lost`] of the
    /// kind [`io::ErrorKind::WouldBlock`]. By default calls wait without a limit.
    pub fn set_timeout(&mut self, time: Duration) -> Result<(), Error> {
        self.patience = None;
        self.limit(Some(time))
    }

    /// Calls wait as long as the shim lives: if an answer takes long, another connection says `hello` now and then. If
    /// that has no answer within `time`, at least a few milliseconds, because the shim is stopped or hangs, the call fails
    /// as in [`Client::set_timeout`].
    pub fn set_patience(&mut self, time: Duration) -> Result<(), Error> {
        self.patience = Some(time);
        self.limit(Some(time))?;
        Ok(self.stream.get_ref().set_read_timeout(Some(time / FIRST))?)
    }

    /// Waits without a limit again.
    pub fn wait_for_ever(&mut self) -> Result<(), Error> {
        self.patience = None;
        self.limit(None)
    }

    fn limit(&self, time: Option<Duration>) -> Result<(), Error> {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(time).and_then(|()| stream.set_write_timeout(time)).map_err(Error::from)
    }

    /// Whether the shim answers another connection. One that is dead does not keep anybody waiting.
    fn answers_another(&self, time: Duration) -> bool {
        // From now on the whole patience passes between two questions: the shim was alive a moment ago.
        let _ = self.stream.get_ref().set_read_timeout(Some(time));
        let asked = Client::open(&self.path).and_then(|mut other| {
            other.set_timeout(time)?;
            other.call("hello", json!({}))
        });
        !matches!(asked, Err(Error::Lost(error)) if error.kind() == io::ErrorKind::WouldBlock)
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
        let mut line = Vec::new();
        loop {
            match (self.stream.read_until(b'\n', &mut line), self.patience) {
                // What has come of the line stays.
                (Err(error), Some(time)) if error.kind() == io::ErrorKind::WouldBlock && self.answers_another(time) => {
                }
                (Err(error), _) => return Err(error.into()),
                (Ok(_), _) if line.is_empty() => return Err(Error::Lost(io::ErrorKind::UnexpectedEof.into())),
                (Ok(_), _) => return serde_json::from_slice(&line).map_err(|error| Error::Lost(error.into())),
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    const SHORT: Duration = Duration::from_millis(100);

    /// A shim that takes its time for the first request: `hello` of `others` further connections is answered before it.
    fn shim(name: &str, others: usize) -> (PathBuf, thread::JoinHandle<()>) {
        let path = std::env::temp_dir().join(format!("windlass-client-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("listens");
        let answer = |stream: &mut UnixStream| writeln!(stream, "{}", json!({"seq": 1, "ok": {"n": 7}}));
        let serves = thread::spawn(move || {
            let (mut first, _) = listener.accept().expect("a client");
            // A part of the answer comes early.
            first.write_all(b"{\"event\":").expect("sent");
            for _ in 0..others {
                let (mut other, _) = listener.accept().expect("a client");
                let mut line = String::new();
                BufReader::new(&mut other).read_line(&mut line).expect("a request");
                assert!(line.contains("\"hello\""), "{line}");
                answer(&mut other).expect("sent");
            }
            if others == 0 {
                return thread::sleep(10 * SHORT);
            }
            first.write_all(b"1}\n").expect("sent");
            answer(&mut first).expect("sent");
        });
        (path, serves)
    }

    #[test]
    fn a_shim_that_lives_is_waited_for() {
        let (path, serves) = shim("lives", 2);
        let mut client = Client::open(&path).expect("connected");
        client.set_patience(SHORT).expect("set");
        assert_eq!(client.call("start", json!({})).expect("answered")["n"], 7);
        serves.join().expect("ended");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_shim_that_is_stopped_is_not() {
        let (path, serves) = shim("stopped", 0);
        let mut client = Client::open(&path).expect("connected");
        client.set_patience(SHORT).expect("set");
        let Err(Error::Lost(error)) = client.call("start", json!({})) else { panic!("answered") };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        serves.join().expect("ended");
        std::fs::remove_file(path).expect("removed");
    }
}
