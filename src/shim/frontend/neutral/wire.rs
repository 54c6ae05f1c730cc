//! The JSON lines of the protocol: requests, answers and events.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::{Code, ExitStatus, Phase, Refusal};
use windlass_base::exit_record::ExitRecord;

/// The version of the protocol. A client of a later version must be able to use it.
pub(super) const PROTOCOL: u32 = 1;

/// A request. Members that an operation does not need are ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct WireRequest<'a> {
    /// Repeated in the answer.
    #[serde(default)]
    pub seq: u64,
    /// The operation.
    pub op: &'a str,
    /// The exec; without it, init.
    #[serde(default)]
    pub exec: Option<String>,
    /// The signal of `kill`.
    #[serde(default)]
    pub signal: Option<Signal>,
    /// `kill`: signal every process of the container.
    #[serde(default)]
    pub all: bool,
    /// `delete`: also a running container.
    #[serde(default)]
    pub force: bool,
    /// `resize`: lines of the terminal.
    #[serde(default)]
    pub rows: u16,
    /// `resize`: characters per line.
    #[serde(default)]
    pub columns: u16,
    /// `subscribe`: the first event.
    #[serde(default)]
    pub from: Option<u64>,
    /// `ack`: the last event that is acknowledged.
    #[serde(default)]
    pub event: Option<u64>,
    /// `exec`: the OCI process.
    #[serde(default, borrow)]
    pub process: Option<&'a RawValue>,
    /// `exec`: with a terminal.
    #[serde(default)]
    pub tty: bool,
    /// `exec`: with standard input.
    #[serde(default)]
    pub stdin: bool,
    /// `exec`: the connection then carries the stdio.
    #[serde(default)]
    pub attach: bool,
    /// `attach` and `exec`: a last frame reports the end of the output.
    #[serde(default)]
    pub end: bool,
    /// `checkpoint`: the directory of the images.
    #[serde(default)]
    pub image_path: String,
    /// `checkpoint`: the directory of the log; by default that of the images.
    #[serde(default)]
    pub work_path: String,
    /// `checkpoint`: the container goes on.
    #[serde(default)]
    pub leave_running: bool,
    /// `checkpoint`: more arguments of the runtime's verb.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// `exec`: the logs, as in `--log`.
    #[serde(default)]
    pub log: Vec<String>,
}

/// A signal, by number or by name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Signal {
    Number(i32),
    Name(String),
}

impl Signal {
    pub(super) fn number(&self) -> Result<i32, Refusal> {
        let number = match self {
            Signal::Number(number) => Ok(*number),
            Signal::Name(name) => windlass_args::values::signal(name),
        };
        let number = number.map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?;
        match number {
            1..=64 => Ok(number),
            _ => Err(Refusal::new(Code::Invalid, format!("{number} is not a signal"))),
        }
    }
}

/// The name of a code in the protocol.
pub(super) fn code_name(code: Code) -> &'static str {
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

/// The name of a phase in the protocol.
pub(super) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Added => "creating",
        Phase::Created => "created",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Stopped => "stopped",
    }
}

/// A refusal as a JSON object.
pub(super) fn error(refusal: &Refusal) -> serde_json::Value {
    serde_json::json!({"code": code_name(refusal.code), "message": refusal.message})
}

/// The end of a process as a JSON object.
pub(super) fn exit_members(status: &ExitStatus) -> Value {
    members(&status.record(), status.code())
}

/// The end of a container whose shim was lost: `killed` by delete, or unknown.
pub(super) fn lost_exit(killed: bool) -> Value {
    let signal = killed.then_some(libc::SIGKILL);
    members(&ExitRecord { signal, ..ExitRecord::default() }, if killed { 137 } else { 255 })
}

/// The members of a record as this protocol names them. `at` is absent if no shim reaped the process. `status` is what
/// a shell would report: the exit code, or 128 plus the signal. 255 if it is lost.
fn members(record: &ExitRecord, status: i32) -> Value {
    let mut members = serde_json::json!({"oom_killed": record.oom_killed, "status": status});
    let at = Some(record.at.as_str()).filter(|at| !at.is_empty());
    for (key, value) in [("code", Value::from(record.code)), ("signal", record.signal.into()), ("at", at.into())] {
        if !value.is_null() {
            members[key] = value;
        }
    }
    members
}

/// An answer, with its newline.
pub(crate) fn answer(seq: u64, result: Result<serde_json::Value, Refusal>) -> Vec<u8> {
    let line = match result {
        Ok(value) => serde_json::json!({"seq": seq, "ok": value}),
        Err(refusal) => serde_json::json!({"seq": seq, "error": error(&refusal)}),
    };
    format!("{line}\n").into_bytes()
}

/// The JSON members of an event after its number.
pub(super) fn event_members(kind: &str, id: &str, exec: Option<&str>, members: &Value) -> String {
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
        let request: WireRequest<'_> = serde_json::from_slice(line).expect("a request");
        assert_eq!((request.seq, request.op), (7, "kill"));
        assert_eq!(request.signal.expect("given").number(), Ok(15));
        assert!(serde_json::from_slice::<WireRequest<'_>>(b"{\"seq\":1}").is_err());
        assert!(Signal::Number(65).number().is_err() && Signal::Name("NOSUCH".into()).number().is_err());
    }

    #[test]
    fn an_end_has_the_members_that_are_known() {
        use windlass_sys::process::Exit;
        let end =
            |exit, oom_killed| exit_members(&ExitStatus { exit, oom_killed, at: std::time::UNIX_EPOCH }).to_string();
        let at = "1970-01-01T00:00:00Z";
        let at = |rest: &str| format!(r#"{{"at":"{at}",{rest}}}"#);
        assert_eq!(end(Some(Exit::Code(3)), false), at(r#""code":3,"oom_killed":false,"status":3"#));
        assert_eq!(end(Some(Exit::Signal(9)), true), at(r#""oom_killed":true,"signal":9,"status":137"#));
        assert_eq!(end(None, false), at(r#""oom_killed":false,"status":255"#));
        assert_eq!(lost_exit(true).to_string(), r#"{"oom_killed":false,"signal":9,"status":137}"#);
        assert_eq!(lost_exit(false).to_string(), r#"{"oom_killed":false,"status":255}"#);
    }

    #[test]
    fn each_phase_and_each_code_has_the_name_that_the_protocol_gives_it() {
        let phases = [Phase::Added, Phase::Created, Phase::Running, Phase::Paused, Phase::Stopped];
        assert_eq!(phases.map(phase_name), ["creating", "created", "running", "paused", "stopped"]);
        let codes = [Code::NotFound, Code::AlreadyExists, Code::WrongPhase, Code::Invalid];
        assert_eq!(codes.map(code_name), ["not-found", "already-exists", "wrong-phase", "invalid"]);
        let codes = [Code::Runtime, Code::TimedOut, Code::Kernel];
        assert_eq!(codes.map(code_name), ["runtime", "timed-out", "kernel"]);
    }

    #[test]
    fn an_event_has_its_kind_its_process_and_its_own_members() {
        let members = serde_json::json!({"pid": 7, "a\"b": "c\nd"});
        let line = |exec| format!("{{{}}}", event_members("started", "web", exec, &members));
        let read = |text: &str| serde_json::from_str::<Value>(text).expect("an object");
        assert_eq!(read(&line(None)), read(r#"{"type":"started","id":"web","pid":7,"a\"b":"c\nd"}"#));
        let expected = read(r#"{"type":"started","id":"web","exec":"probe","pid":7,"a\"b":"c\nd"}"#);
        assert_eq!(read(&line(Some("probe"))), expected);
        assert_eq!(event_members("oom", "web", None, &Value::Null), r#""type":"oom","id":"web""#);
        assert!(!line(Some("two\nlines")).contains('\n'), "the event log has an event on a line");
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
