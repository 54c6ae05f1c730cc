//! The lines of the protocol: what a client may ask, and how answers and events are written.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::Code;
use crate::ExitStatus;
use crate::Phase;
use crate::Refusal;
use windlass_sys::process::Exit;

/// The version of the protocol. A client that knows a later one speaks this one to us.
pub const PROTOCOL: u32 = 1;

/// A request. Members that an operation does not need are ignored.
#[derive(Debug, Deserialize)]
pub struct Request<'a> {
    /// Repeated in the answer.
    #[serde(default)]
    pub seq: u64,
    /// ClientRequest is asked.
    pub op: &'a str,
    /// The exec that is meant; without it, init.
    #[serde(default)]
    pub exec: Option<String>,
    /// Number or name.
    #[serde(default)]
    pub signal: Option<Signal>,
    /// Every process of the container.
    #[serde(default)]
    pub all: bool,
    /// Also one that runs.
    #[serde(default)]
    pub force: bool,
    /// Lines of the terminal.
    #[serde(default)]
    pub rows: u16,
    /// Characters per line.
    #[serde(default)]
    pub columns: u16,
    /// The first event that is wanted.
    #[serde(default)]
    pub from: Option<u64>,
    /// The last event that need not be repeated.
    #[serde(default)]
    pub event: Option<u64>,
    /// The OCI process of an exec.
    #[serde(default, borrow)]
    pub process: Option<&'a RawValue>,
    /// Whether an exec has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Whether an exec has an input.
    #[serde(default)]
    pub stdin: bool,
    /// Whether the connection becomes that of the exec's stdio.
    #[serde(default)]
    pub attach: bool,
    /// Logs of an exec, as for the container.
    #[serde(default)]
    pub log: Vec<String>,
}

/// A signal, either way.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Signal {
    /// By number.
    Number(i32),
    /// By name.
    Name(String),
}

impl Signal {
    /// Its number.
    pub fn number(&self) -> Result<i32, Refusal> {
        let number = match self {
            Signal::Number(number) => Ok(*number),
            Signal::Name(name) => windlass_args::values::signal(name),
        };
        let number = number.map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?;
        match number {
            1..=64 => Ok(number),
            _ => Err(Refusal::new(Code::Invalid, format!("{number} is no signal"))),
        }
    }
}

/// A code, as it is written.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::NotFound => "not-found",
        Code::AlreadyExists => "already-exists",
        Code::WrongPhase => "wrong-phase",
        Code::Invalid => "invalid",
        Code::Runtime => "runtime",
        Code::TimedOut => "timed-out",
        Code::Kernel => "kernel",
    }
}

/// A phase, as it is written.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Added => "creating",
        Phase::Created => "created",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Stopped => "stopped",
    }
}

/// A refusal as an object.
pub fn error(refusal: &Refusal) -> serde_json::Value {
    serde_json::json!({"code": code_name(refusal.code), "message": refusal.message})
}

/// How a process ended, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal, if one ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed in its cgroup for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When it was reaped, RFC 3339. Absent where nobody saw its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// ClientRequest a shell would say: the code, or 128 and the signal; 255 where it was lost.
    pub status: i32,
}

impl Ended {
    /// From what the core knows.
    pub fn of(status: &ExitStatus) -> Ended {
        let (code, signal) = match status.exit {
            Some(Exit::Code(code)) => (Some(code), None),
            Some(Exit::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        let at = Some(windlass_base::rfc3339::nanoseconds(status.at));
        Ended { code, signal, oom_killed: status.oom_killed, at, status: status.code() }
    }

    /// Killed with its shim, or gone with it unseen.
    pub fn lost(killed: bool) -> Ended {
        let signal = killed.then_some(libc::SIGKILL);
        Ended { code: None, signal, oom_killed: false, at: None, status: if killed { 137 } else { 255 } }
    }
}

/// An answer, with its end of line.
pub fn answer(seq: u64, result: Result<serde_json::Value, Refusal>) -> Vec<u8> {
    let line = match result {
        Ok(value) => serde_json::json!({"seq": seq, "ok": value}),
        Err(refusal) => serde_json::json!({"seq": seq, "error": error(&refusal)}),
    };
    format!("{line}\n").into_bytes()
}

/// The members of an event that follow its number.
pub fn event_members(kind: &str, id: &str, exec: Option<&str>, members: &Value) -> String {
    let mut line = format!("\"type\":{},\"id\":{}", Value::from(kind), Value::from(id));
    if let Some(exec) = exec {
        line += &format!(",\"exec\":{}", Value::from(exec));
    }
    for (key, value) in members.as_object().into_iter().flatten() {
        line += &format!(",{}:{value}", Value::from(key.as_str()));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_unknown_members_are_ignored() {
        let line = br#"{"seq":7,"op":"kill","signal":"TERM","later":{"x":1}}"#;
        let request: Request<'_> = serde_json::from_slice(line).expect("a request");
        assert_eq!((request.seq, request.op), (7, "kill"));
        assert_eq!(request.signal.expect("given").number(), Ok(15));
        assert!(serde_json::from_slice::<Request<'_>>(b"{\"seq\":1}").is_err());
        assert!(Signal::Number(65).number().is_err() && Signal::Name("NOSUCH".into()).number().is_err());
    }

    #[test]
    fn an_answer_is_one_line() {
        let refusal = Refusal::new(Code::NotFound, "two\nlines");
        assert_eq!(
            answer(3, Err(refusal)),
            b"{\"error\":{\"code\":\"not-found\",\"message\":\"two\\nlines\"},\"seq\":3}\n"
        );
    }
}
