//! A client of the shim's own protocol. All of its waits have a time limit.

use super::super::stage::LIMIT;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection.
pub struct Client(BufReader<UnixStream>);

/// How an operation ended, in the form of a fact.
pub type Answer = Result<Value, String>;

/// The fact for a failed read or write.
pub(super) fn trouble(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "hangs".to_owned(),
        _ => format!("closed: {error}"),
    }
}

/// A connection whose reads and writes have a time limit.
pub(super) fn connect(socket: &Path) -> Result<UnixStream, String> {
    let stream = UnixStream::connect(socket).map_err(|error| trouble(&error))?;
    let limits = stream.set_read_timeout(Some(LIMIT)).and_then(|()| stream.set_write_timeout(Some(LIMIT)));
    limits.map_err(|error| error.to_string()).map(|()| stream)
}

impl Client {
    /// Connects to a shim.
    pub fn connect(socket: &Path) -> Result<Client, String> {
        connect(socket).map(|stream| Client(BufReader::new(stream)))
    }

    /// Sends a request.
    pub fn ask(&mut self, op: &str, members: &Value) -> Result<(), String> {
        let mut request = json!({"seq": 1, "op": op});
        for (name, value) in members.as_object().into_iter().flatten() {
            request[name] = value.clone();
        }
        writeln!(self.0.get_mut(), "{request}").map_err(|error| trouble(&error))
    }

    /// Receives a line.
    pub fn line(&mut self) -> Answer {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => Err("closed".to_owned()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("error {error} in {line}")),
            Err(error) => Err(trouble(&error)),
        }
    }

    /// Receives the answer to a request.
    pub fn answer(&mut self) -> Answer {
        loop {
            let mut line = self.line()?;
            if line["seq"].is_null() {
                continue;
            }
            if line["error"].is_null() {
                return Ok(line["ok"].take());
            }
            return Err(format!("error {}", line["error"]["message"].as_str().unwrap_or_default()));
        }
    }

    /// Sends a request and receives the answer.
    pub fn call(&mut self, op: &str, members: &Value) -> Answer {
        self.ask(op, members)?;
        self.answer()
    }

    /// Sends input, after `attach`.
    pub fn give(&mut self, text: &str) -> Result<(), String> {
        let length = u32::try_from(text.len()).unwrap_or(0);
        let frame = [&[0], &length.to_be_bytes()[..], text.as_bytes()].concat();
        self.0.get_mut().write_all(&frame).map_err(|error| trouble(&error))
    }

    /// Receives the output up to its end, after `attach`.
    pub fn frames(&mut self) -> Result<String, String> {
        let mut out = Vec::new();
        let mut head = [0; 5];
        loop {
            match self.0.read_exact(&mut head) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(trouble(&error)),
                Ok(()) => {}
            }
            let mut data = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize];
            self.0.read_exact(&mut data).map_err(|error| trouble(&error))?;
            out.extend(data);
        }
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}
