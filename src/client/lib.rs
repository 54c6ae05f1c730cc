#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(unreachable_pub)]

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod socket;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// Why a call has no answer.
#[derive(Debug)]
pub enum Error {
    /// The shim has refused the request.
    Refused {
        /// For programs.
        code: RefusalCode,
        /// For people.
        message: String,
    },
    /// There is no connection to the shim, or no answer on it. The shim is dead or never existed; if the kind is
    /// [`io::ErrorKind::WouldBlock`], it has not answered in time.
    Lost(io::Error),
}

/// The kind of a refusal, as docs/shim-protocol.md lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalCode {
    /// There is no such container or process.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The process is not in the state that the request needs.
    WrongPhase,
    /// The request makes no sense.
    Invalid,
    /// The runtime has failed, and the message is the runtime's.
    Runtime,
    /// A program that the request needs was killed because it took too long.
    TimedOut,
    /// A system call has failed.
    Kernel,
    /// A code that this version does not know.
    Other(String),
}

impl RefusalCode {
    fn parse(code: &str) -> RefusalCode {
        match code {
            "not-found" => RefusalCode::NotFound,
            "already-exists" => RefusalCode::AlreadyExists,
            "wrong-phase" => RefusalCode::WrongPhase,
            "invalid" => RefusalCode::Invalid,
            "runtime" => RefusalCode::Runtime,
            "timed-out" => RefusalCode::TimedOut,
            "kernel" => RefusalCode::Kernel,
            other => RefusalCode::Other(other.to_owned()),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Refused { message, .. } => f.write_str(message),
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

/// A connection to a shim. Calls block.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    /// See [`Client::set_liveness_timeout`].
    liveness_timeout: Option<Duration>,
    seq: u64,
    /// Whether the connection is attached to a process.
    is_attached: bool,
    /// Whether the shim sends a last frame at the end of the output.
    sends_end_frame: bool,
    /// The bytes of a line or frame that has not come as a whole.
    partial: Vec<u8>,
}

/// How long to wait for a place in the shim's queue of connections. A shim that runs accepts at each turn of its loop.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(5);

/// The liveness timeout is divided by this. After so long without an answer, another connection asks whether the shim
/// still runs. Answers take milliseconds, unless the operation calls the runtime.
const PROBES_IN_TIMEOUT: u32 = 4;

/// Bytes of the longest frame that is read. The frames of the shim are much shorter.
const LONGEST_FRAME: u32 = 1 << 20;

/// Bytes of the head of a frame: its kind, and the length in four bytes.
const FRAME_HEAD: usize = 5;

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
        Ok(Client::over(socket::connect(path, ACCEPT_TIMEOUT)?, path))
    }

    fn over(stream: UnixStream, path: &Path) -> Client {
        Client {
            stream: BufReader::new(stream),
            path: path.into(),
            liveness_timeout: None,
            seq: 0,
            is_attached: false,
            sends_end_frame: false,
            partial: Vec::new(),
        }
    }

    /// Limits how long a call waits for its answer, to at least a millisecond. After that the call fails with
    /// [`Error::Lost`] of the kind [`io::ErrorKind::WouldBlock`]. By default there is no limit.
    ///
    /// [`Client::event`] and [`Client::frame`] have the same limit. What has come of an event or frame is kept, so that
    /// the next call returns it as a whole. Attaching removes the limit, because a process may be quiet for any time; a
    /// limit that is set after that holds for output, and not for [`Input`].
    pub fn set_timeout(&mut self, time: Duration) -> Result<(), Error> {
        self.liveness_timeout = None;
        self.set_socket_timeouts(Some(time))
    }

    /// Has calls wait as long as the shim lives. While an answer is awaited, another connection asks `hello` from time
    /// to time. If that has no answer within `time`, at least a few milliseconds, the shim is stopped or hangs, and the
    /// call fails as after [`Client::set_timeout`]. Attaching removes this limit too.
    pub fn set_liveness_timeout(&mut self, time: Duration) -> Result<(), Error> {
        self.liveness_timeout = Some(time);
        self.set_socket_timeouts(Some(time))?;
        Ok(self.stream.get_ref().set_read_timeout(Some(time / PROBES_IN_TIMEOUT))?)
    }

    /// Removes the limits of [`Client::set_timeout`] and [`Client::set_liveness_timeout`].
    pub fn clear_timeouts(&mut self) -> Result<(), Error> {
        self.liveness_timeout = None;
        self.set_socket_timeouts(None)
    }

    fn set_socket_timeouts(&self, time: Option<Duration>) -> Result<(), Error> {
        let stream = self.stream.get_ref();
        // The handles for input have the same socket. A frame of which only a part is sent would never be completed.
        let write = time.filter(|_| !self.is_attached);
        stream.set_read_timeout(time).and_then(|()| stream.set_write_timeout(write)).map_err(Error::from)
    }

    /// Whether the shim still runs: it answers another connection within `time`, or refuses it because it is dead.
    /// Either way the answer that is awaited, or the end of its connection, comes by itself.
    fn answers_probe(&self, time: Duration) -> bool {
        // From now on, wait the whole time between two questions: it was alive a moment ago.
        let _ = self.stream.get_ref().set_read_timeout(Some(time));
        let asked = Client::open(&self.path).and_then(|mut other| {
            other.set_timeout(time)?;
            other.call("hello", json!({}))
        });
        !matches!(asked, Err(Error::Lost(error)) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The process id of the shim, as it was when the shim began to listen.
    pub fn shim_pid(&self) -> Result<i32, Error> {
        Ok(socket::peer_pid(self.stream.get_ref())?)
    }

    /// Sends the request `op` and returns its answer. `members` is an object with the members of the request besides
    /// `op` and `seq`. Events that arrive before the answer are lost, so subscribe on a connection of its own.
    pub fn call(&mut self, op: &str, members: Value) -> Result<Value, Error> {
        self.request(op, members, None)
    }

    /// Has this program continue the shim, in the shim's process. The connection stays, and the new program answers.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the program belongs neither to the shim's user nor to root, if others may write it, or if
    /// it cannot read the shim's state. The shim continues as before.
    pub fn upgrade(&mut self, program: BorrowedFd<'_>) -> Result<(), Error> {
        self.request("upgrade", json!({}), Some(program)).map(drop)
    }

    fn request(&mut self, op: &str, members: Value, passed: Option<BorrowedFd<'_>>) -> Result<Value, Error> {
        self.seq += 1;
        let mut request = json!({"seq": self.seq, "op": op});
        for (name, value) in members.as_object().into_iter().flatten() {
            request[name] = value.clone();
        }
        let line = format!("{request}\n");
        let stream = self.stream.get_mut();
        let sent = match passed {
            None => stream.write_all(line.as_bytes()),
            Some(passed) => socket::send(stream, line.as_bytes(), passed),
        };
        if let Err(error) = sent {
            // A part of the request may be sent, and the shim would take the next request for the rest of it.
            let _ = self.stream.get_ref().shutdown(Shutdown::Both);
            return Err(error.into());
        }
        loop {
            let mut line = self.line()?;
            if line["seq"] != self.seq {
                continue;
            }
            if line["error"].is_null() {
                self.sends_end_frame = line["ok"]["end"] == true;
                if op == "attach" || (op == "exec" && members["attach"] == true) {
                    self.is_attached = true;
                    self.clear_timeouts()?;
                }
                return Ok(line["ok"].take());
            }
            let text = |name: &str| line["error"][name].as_str().unwrap_or_default().to_owned();
            return Err(Error::Refused { code: RefusalCode::parse(&text("code")), message: text("message") });
        }
    }

    fn line(&mut self) -> Result<Value, Error> {
        self.wait(|stream, line| stream.read_until(b'\n', line))?;
        match std::mem::take(&mut self.partial) {
            line if line.is_empty() => Err(Error::Lost(io::ErrorKind::UnexpectedEof.into())),
            line => serde_json::from_slice(&line).map_err(|error| Error::Lost(error.into())),
        }
    }

    /// Reads until `read` has succeeded, which appends to what has come so far.
    fn wait(
        &mut self,
        mut read: impl FnMut(&mut BufReader<UnixStream>, &mut Vec<u8>) -> io::Result<usize>,
    ) -> io::Result<()> {
        loop {
            match (read(&mut self.stream, &mut self.partial), self.liveness_timeout) {
                (Err(error), Some(time)) if error.kind() == io::ErrorKind::WouldBlock && self.answers_probe(time) => {}
                (other, _) => return other.map(drop),
            }
        }
    }

    /// Reads until so many bytes of a frame have come. Returns false if the connection ends before.
    fn has_come(&mut self, length: usize) -> io::Result<bool> {
        self.wait(|stream, frame| stream.take(length.saturating_sub(frame.len()) as u64).read_to_end(frame))?;
        Ok(self.partial.len() >= length)
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

    /// Attaches to the stdio of init or of an exec. After that the connection serves only [`Client::frame`] and
    /// [`Client::input`], without a limit of time. A call of `exec` with `"attach": true` and `"end": true` attaches as
    /// well.
    pub fn attach(&mut self, exec: Option<&str>) -> Result<(), Error> {
        self.call("attach", json!({"exec": exec, "end": true})).map(drop)
    }

    /// Waits for the next piece of output. Returns `None` after the last one, when the process has ended. Only after
    /// [`Client::attach`].
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if output is missing: the shim is dead, or it has disconnected this client,
    /// which took less than 8 KiB, as its socket counts them, in two seconds while others waited for it. A client that attached without
    /// `"end": true` cannot tell this from the end of the output. [`io::ErrorKind::InvalidData`] if the other end is no shim.
    pub fn frame(&mut self) -> io::Result<Option<Frame>> {
        let cut = || {
            let text = "the shim has closed the connection before the end of the output";
            io::Error::new(io::ErrorKind::UnexpectedEof, text)
        };
        if !self.has_come(FRAME_HEAD)? {
            return if self.sends_end_frame || !self.partial.is_empty() { Err(cut()) } else { Ok(None) };
        }
        let (kind, length) = match self.partial[..] {
            [kind, a, b, c, d, ..] => (kind, u32::from_be_bytes([a, b, c, d])),
            _ => return Err(cut()),
        };
        if kind == 3 {
            self.partial.clear();
            return Ok(None);
        }
        if !matches!(kind, 1 | 2) || length > LONGEST_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame {kind} of {length} bytes")));
        }
        if !self.has_come(FRAME_HEAD + length as usize)? {
            return Err(cut());
        }
        let data = self.partial.split_off(FRAME_HEAD);
        self.partial.clear();
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
        self.0.shutdown(Shutdown::Both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    const SHORT: Duration = Duration::from_millis(100);

    /// A shim that answers `hello` on `others` further connections before it answers the first request. With none, it
    /// answers nothing.
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
    fn what_is_no_frame_of_a_shim_is_an_error() {
        for (head, is_frame) in
            [([1, 0, 0, 0, 1], true), ([2, 0, 0, 0, 1], true), ([9, 0, 0, 0, 1], false), ([1, 0, 0x10, 0, 1], false)]
        {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            theirs.write_all(&[&head[..], b"x"].concat()).expect("sent");
            let frame = Client::over(ours, Path::new("")).frame();
            match is_frame {
                true => assert!(matches!(frame, Ok(Some(_))), "{frame:?}"),
                false => assert_eq!(frame.expect_err("no frame").kind(), io::ErrorKind::InvalidData),
            }
        }
    }

    /// A shim that answers the request `attach`, and then sends these pieces with pauses that are longer than
    /// [`SHORT`].
    fn shim_that_pauses(name: &str, pieces: &'static [&'static [u8]]) -> (PathBuf, thread::JoinHandle<()>) {
        let path = std::env::temp_dir().join(format!("windlass-client-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("listens");
        let serves = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut requests = BufReader::new(stream);
            requests.read_line(&mut String::new()).expect("a request");
            writeln!(requests.get_mut(), "{}", json!({"seq": 1, "ok": {"end": true}})).expect("sent");
            for piece in pieces {
                thread::sleep(3 * SHORT);
                requests.get_mut().write_all(piece).expect("sent");
            }
        });
        (path, serves)
    }

    /// Calls until it is not for want of time that there is no result.
    fn in_time<T>(mut call: impl FnMut() -> io::Result<T>) -> (T, usize) {
        let mut late = 0;
        loop {
            match call() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => late += 1,
                other => return (other.expect("a result"), late),
            }
        }
    }

    #[test]
    fn a_frame_that_comes_in_pieces_is_whole_after_each_timeout() {
        let pieces: &[&[u8]] = &[&[1, 0], &[0, 0, 3, b'a'], b"bc", &[2, 0, 0, 0, 1, b'd', 3, 0, 0, 0, 0]];
        let (path, serves) = shim_that_pauses("pieces", pieces);
        let mut client = Client::open(&path).expect("connected");
        client.attach(None).expect("attached");
        client.set_timeout(SHORT).expect("set");
        assert_eq!(client.stream.get_ref().write_timeout().expect("asked"), None, "input may wait");
        let (frame, late) = in_time(|| client.frame());
        assert_eq!(frame, Some(Frame::Stdout(b"abc".to_vec())));
        assert!(late >= 3, "{late} timeouts");
        assert_eq!(in_time(|| client.frame()).0, Some(Frame::Stderr(b"d".to_vec())));
        assert_eq!(in_time(|| client.frame()).0, None);
        serves.join().expect("ended");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_whole_after_each_timeout() {
        let pieces: &[&[u8]] = &[b"{\"event\":", b"7,\"type\":\"oom\"}\n{\"event\":8}\n"];
        let (path, serves) = shim_that_pauses("lines", pieces);
        let mut client = Client::open(&path).expect("connected");
        client.set_timeout(SHORT).expect("set");
        client.subscribe(None).expect("subscribed");
        let mut event = || {
            in_time(|| {
                client.event().map_err(|error| match error {
                    Error::Lost(error) => error,
                    refused => panic!("{refused}"),
                })
            })
        };
        let (first, late) = event();
        assert_eq!(first["event"], 7);
        assert!(late >= 1, "{late} timeouts");
        assert_eq!(event().0["event"], 8);
        serves.join().expect("ended");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_request_that_was_cut_is_not_completed_by_the_next() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut client = Client::over(ours, Path::new(""));
        client.set_timeout(SHORT).expect("set");
        let long = "x".repeat(4 << 20);
        let Err(Error::Lost(error)) = client.call("exec", json!({"process": long})) else { panic!("answered") };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(matches!(client.call("status", json!({})), Err(Error::Lost(_))));
        let mut sent = String::new();
        theirs.read_to_string(&mut sent).expect("it ends");
        assert!(!sent.is_empty() && !sent.contains("status"), "{} bytes", sent.len());
    }

    #[test]
    fn a_process_that_is_quiet_is_waited_for_whatever_the_limit_of_a_call() {
        for by_exec in [false, true] {
            let pieces: &[&[u8]] = &[&[1, 0, 0, 0, 1, b'a', 3, 0, 0, 0, 0]];
            let (path, serves) = shim_that_pauses(if by_exec { "exec" } else { "quiet" }, pieces);
            let mut client = Client::open(&path).expect("connected");
            client.set_liveness_timeout(SHORT).expect("set");
            match by_exec {
                true => client.call("exec", json!({"attach": true, "end": true})).map(drop).expect("attached"),
                false => client.attach(None).expect("attached"),
            }
            assert_eq!(client.frame().expect("it is quiet"), Some(Frame::Stdout(b"a".to_vec())));
            assert_eq!(client.frame().expect("it ends"), None);
            serves.join().expect("ended");
            std::fs::remove_file(path).expect("removed");
        }
    }

    #[test]
    fn a_shim_that_lives_is_waited_for() {
        let (path, serves) = shim("lives", 2);
        let mut client = Client::open(&path).expect("connected");
        client.set_liveness_timeout(SHORT).expect("set");
        assert_eq!(client.call("start", json!({})).expect("answered")["n"], 7);
        serves.join().expect("ended");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_shim_that_is_stopped_is_not_waited_for() {
        let (path, serves) = shim("stopped", 0);
        let mut client = Client::open(&path).expect("connected");
        client.set_liveness_timeout(SHORT).expect("set");
        let Err(Error::Lost(error)) = client.call("start", json!({})) else { panic!("answered") };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        serves.join().expect("ended");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn the_answer_to_an_earlier_request_is_not_that_to_a_later_one() {
        let path = std::env::temp_dir().join(format!("windlass-client-late-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("listens");
        let serves = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut requests = BufReader::new(stream);
            for _ in 0..2 {
                requests.read_line(&mut String::new()).expect("a request");
            }
            for seq in [1, 2] {
                writeln!(requests.get_mut(), "{}", json!({"seq": seq, "ok": {"n": seq}})).expect("sent");
            }
        });
        let mut client = Client::open(&path).expect("connected");
        client.set_timeout(SHORT).expect("set");
        assert!(matches!(client.call("wait", json!({})), Err(Error::Lost(_))), "it takes longer");
        client.clear_timeouts().expect("set");
        assert_eq!(client.call("status", json!({})).expect("answered")["n"], 2);
        serves.join().expect("ended");
        std::fs::remove_file(path).expect("removed");
    }
}
