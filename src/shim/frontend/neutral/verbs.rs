//! The commands that ask a shim, or read the records of a dead one.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::container_dir::ContainerDir;
use super::logs::{self, LogFilter, Reader};
use super::stalled::{self, ANSWER_TIME};
use super::{attach, dead};
use crate::refusal::{Refusal, Result};
use windlass_args::Matches;
use windlass_client::{Client, Error};
use windlass_sys::clock;
use windlass_sys::fd;

/// Why a command fails: the printed message.
pub(super) struct Failure(pub String);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure(refusal.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure(error.to_string())
    }
}

impl From<windlass_base::error::Error> for Failure {
    fn from(error: windlass_base::error::Error) -> Failure {
        Failure(error.to_string())
    }
}

/// How often `logs --follow` looks for new entries.
const LOOK: Duration = Duration::from_millis(100);

/// A command and its arguments.
pub(super) struct Invocation<'a> {
    /// The state directory.
    pub state: &'a Path,
    /// The command line.
    pub matches: &'a Matches,
}

impl Invocation<'_> {
    fn operand(&self, at: usize) -> Result<&str, Failure> {
        let word = self.matches.operands.get(at).and_then(|word| word.to_str());
        word.ok_or_else(|| Failure("an operand is not UTF-8".into()))
    }

    fn id(&self) -> Result<&str, Failure> {
        self.operand(0)
    }

    fn dir(&self) -> Result<ContainerDir, Failure> {
        Ok(ContainerDir::of(self.state, self.id()?)?)
    }

    fn exec(&self) -> Result<Option<String>, Failure> {
        Ok(self.matches.text("exec")?)
    }

    /// A connection to the shim. Calls wait as long as it lives.
    fn client(&self) -> Result<Client, Failure> {
        self.dir()?.config()?;
        self.reach().map_err(|error| Failure(stalled::explain(None, &error)))
    }

    fn reach(&self) -> Result<Client, Error> {
        let id = self.id().map_err(|Failure(message)| Error::Lost(io::Error::other(message)))?;
        let mut client = Client::connect(self.state, id)?;
        client.set_liveness_timeout(ANSWER_TIME)?;
        Ok(client)
    }

    /// A connection to the shim, `None` if it is dead.
    fn living(&self) -> Result<Option<Client>, Failure> {
        match self.reach() {
            Ok(client) => Ok(Some(client)),
            Err(error) if stalled::is_stalled(&error) => Err(Failure(stalled::describe(None))),
            Err(_) => Ok(None),
        }
    }

    /// The answer of a living shim, or of `dead` if there is none.
    fn ask(
        &self,
        op: &str,
        members: Value,
        dead: impl FnOnce(&ContainerDir) -> Result<Value, Refusal>,
    ) -> Result<Value, Failure> {
        let dir = self.dir()?;
        dir.check()?;
        let Some(mut client) = self.living()? else { return Ok(dead(&dir)?) };
        // `wait` takes as long as the process lives.
        if op == "wait" {
            client.clear_timeouts()?;
        }
        match client.call(op, members) {
            Ok(value) => return Ok(value),
            Err(error) if stalled::is_stalled(&error) => self.end_stalled(op, &client, &dir)?,
            // The shim has ended meanwhile, so read the records.
            Err(Error::Lost(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(dead(&dir)?)
    }

    /// Handles a shim that does not answer. This is an error, unless `delete --force` of its container ends the shim.
    fn end_stalled(&self, op: &str, client: &Client, dir: &ContainerDir) -> Result<(), Failure> {
        let message = stalled::describe(Some(client));
        if op == "delete" && self.exec()?.is_none() {
            if self.matches.switch("force") {
                return Ok(stalled::kill(client, &dir.path("shim.sock"))?);
            }
            return Err(Failure(format!("{message}; `delete --force` ends it")));
        }
        Err(Failure(message))
    }

    /// The answer of a shim that lives.
    fn call(&self, client: &mut Client, op: &str, members: Value) -> Result<Value, Failure> {
        client.call(op, members).map_err(|error| Failure(stalled::explain(Some(client), &error)))
    }

    fn ask_living(&self, op: &str, members: Value) -> Result<i32, Failure> {
        let value = self.call(&mut self.client()?, op, members)?;
        if value.as_object().is_some_and(|members| !members.is_empty()) {
            writeln!(io::stdout(), "{value}")?;
        }
        Ok(0)
    }

    /// Runs the command. Returns the exit status.
    pub(super) fn run(&self, name: &str) -> Result<i32, Failure> {
        let matches = self.matches;
        let exec = self.exec_of(name)?;
        match name {
            "start" | "pause" | "resume" | "shutdown" => self.ask_living(name, json!({})),
            "close-stdin" | "reopen-logs" => self.ask_living(name, json!({"exec": exec})),
            "resize" => {
                let number = |at| self.operand(at)?.parse::<u16>().map_err(|_| Failure("a size is a number".into()));
                self.ask_living(name, json!({"exec": exec, "rows": number(1)?, "columns": number(2)?}))
            }
            "kill" => {
                let signal = if matches.operands.len() > 1 { self.operand(1)? } else { "TERM" };
                let number = windlass_args::values::signal(signal).map_err(|error| Failure(error.to_string()))?;
                self.ask_living(name, json!({"exec": exec, "signal": number, "all": matches.switch("all")}))
            }
            "status" => self.print(self.ask(name, json!({}), dead::status)?),
            "wait" => {
                let of_exec = exec.clone();
                self.print(self.ask(name, json!({"exec": exec}), |dir| match of_exec {
                    None => dead::exit(dir),
                    Some(exec) => dead::exit_of_exec(dir, &exec),
                })?)
            }
            "delete" => {
                let force = matches.switch("force");
                self.print(self.ask(name, json!({"exec": exec, "force": force}), |dir| match &exec {
                    None => dead::delete(dir, force),
                    Some(exec) => dead::exit_of_exec(dir, exec),
                })?)
            }
            "events" => self.events(),
            "logs" => self.logs(),
            "checkpoint" => self.checkpoint(),
            "attach" => self.attach(),
            "exec" => self.start_exec(),
            _ => Err(Failure(format!("{name} is not carried out here"))),
        }
    }

    fn exec_of(&self, name: &str) -> Result<Option<String>, Failure> {
        const WITH: [&str; 6] = ["close-stdin", "reopen-logs", "resize", "kill", "wait", "delete"];
        if WITH.contains(&name) { self.exec() } else { Ok(None) }
    }

    fn print(&self, value: Value) -> Result<i32, Failure> {
        writeln!(io::stdout(), "{value}")?;
        Ok(0)
    }

    fn checkpoint(&self) -> Result<i32, Failure> {
        let path = |name| -> Result<Option<std::path::PathBuf>, Failure> {
            Ok(self.matches.path(name).map(std::path::absolute).transpose()?)
        };
        let images = path("image-path")?.ok_or_else(|| Failure("checkpoint needs --image-path".into()))?;
        let members = json!({
            "image_path": images,
            "work_path": path("work-path")?.unwrap_or_default(),
            "leave_running": self.matches.switch("leave-running"),
            "arguments": self.matches.texts("arg")?,
        });
        self.ask_living("checkpoint", members)
    }

    fn events(&self) -> Result<i32, Failure> {
        let from = self.matches.number::<u64>("from")?;
        let (follow, ack) = (self.matches.switch("follow"), self.matches.switch("ack"));
        let dir = self.dir()?;
        dir.config()?;
        let Some(mut client) = self.living()? else {
            let event_log = dead::event_log(&dir)?;
            let mut cursor = event_log.cursor(from);
            loop {
                let events = event_log.read(&mut cursor).map_err(|failed| Failure(failed.to_string()))?;
                if events.is_empty() {
                    break;
                }
                io::stdout().write_all(&events)?;
            }
            if ack {
                dead::acknowledge(&dir, event_log.last())?;
            }
            return Ok(0);
        };
        let mut acknowledging = self.client()?;
        let last = self.call(&mut client, "subscribe", json!({"from": from}))?["last"].as_u64().unwrap_or(0);
        client.clear_timeouts()?;
        let status = self.call(&mut acknowledging, "status", json!({}))?;
        let first = from.unwrap_or(status["acknowledged"].as_u64().unwrap_or(0) + 1);
        let mut wanted = first <= last;
        while follow || wanted {
            let event = match client.event() {
                Ok(event) => event,
                Err(Error::Lost(_)) if follow => break,
                Err(error) => return Err(error.into()),
            };
            writeln!(io::stdout(), "{event}")?;
            wanted = event["event"].as_u64().unwrap_or(0) < last;
            if ack {
                acknowledging.call("ack", json!({"event": event["event"]}))?;
            }
        }
        Ok(0)
    }

    fn logs(&self) -> Result<i32, Failure> {
        let dir = self.dir()?;
        let logs = dir.config()?.logs()?;
        let since = self.matches.text("since")?;
        let since = since.map(|text| logs::since(&text, clock::wall())).transpose()?;
        let mut reader = Reader::new(&logs, LogFilter { since, timestamps: self.matches.switch("timestamps") })?;
        let (mut stdout, mut stderr) = (io::BufWriter::new(io::stdout()), io::BufWriter::new(io::stderr()));
        loop {
            // Checked before the log is read, so that everything that was written before the end is printed.
            let over = !self.matches.switch("follow") || self.has_ended(&dir);
            reader.read(&mut stdout, &mut stderr)?;
            if over {
                return Ok(0);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn has_ended(&self, dir: &ContainerDir) -> bool {
        dir.exit().is_some() || dir.config().is_err()
    }

    fn attach(&self) -> Result<i32, Failure> {
        let exec = self.exec()?;
        let status = self.call(&mut self.client()?, "status", json!({}))?;
        let tty = exec.is_some() || status["tty"] == true;
        let mut client = self.client()?;
        client.attach(exec.as_deref()).map_err(|error| Failure(stalled::explain(Some(&client), &error)))?;
        let stdin = !self.matches.switch("no-stdin");
        self.relay(client, exec.as_deref(), tty, stdin)
    }

    /// Relays the stdio of an attached process. Returns its exit status.
    fn relay(&self, mut client: Client, exec: Option<&str>, tty: bool, stdin: bool) -> Result<i32, Failure> {
        let all = attach::relay(self.state, self.id()?, exec, &mut client, tty, stdin);
        if matches!(all, Ok(false)) {
            return Ok(0);
        }
        // A process that could not be executed has no end, and the answer is the reason.
        let mut waiting = self.client()?;
        waiting.clear_timeouts()?;
        let exit = waiting.call("wait", json!({"exec": exec}))?;
        all?;
        Ok(exit["status"].as_i64().unwrap_or(255) as i32)
    }

    fn start_exec(&self) -> Result<i32, Failure> {
        let matches = self.matches;
        let dir = self.dir()?;
        let (tty, stdin, detach) = (matches.switch("tty"), matches.switch("stdin"), matches.switch("detach"));
        let process = self.process(&dir, tty)?;
        let mut client = self.client()?;
        let members = json!({
            "exec": matches.text("exec-id")?,
            "process": process,
            "tty": tty,
            "stdin": stdin,
            "attach": !detach,
            "end": true,
            "log": matches.texts("log")?,
        });
        let answer = self.call(&mut client, "exec", members)?;
        if detach {
            return self.print(answer);
        }
        let exec = answer["exec"].as_str().unwrap_or_default().to_owned();
        let status = self.relay(client, Some(&exec), tty, stdin);
        // No other client knows the exec. After a detach it still runs, and this delete fails.
        let _ = self.client()?.call("delete", json!({"exec": exec}));
        status
    }

    fn process(&self, dir: &ContainerDir, tty: bool) -> Result<Value, Failure> {
        let matches = self.matches;
        let read = |path: &Path| -> Result<Value, Failure> {
            let text = fd::document(path).map_err(|error| Failure(format!("{path:?}: {error}")))?;
            serde_json::from_slice(&text).map_err(|error| Failure(format!("{path:?}: {error}")))
        };
        let mut process = match matches.path("process") {
            Some(path) => read(&path)?,
            None => read(&dir.config()?.bundle.join("config.json"))?["process"].take(),
        };
        let words: Vec<String> = (1..matches.operands.len())
            .map(|at| self.operand(at).map(str::to_owned))
            .collect::<Result<_, Failure>>()?;
        if !words.is_empty() {
            process["args"] = json!(words);
        } else if matches.path("process").is_none() {
            return Err(Failure("exec needs a command, or --process".into()));
        }
        process["terminal"] = tty.into();
        if let Some(cwd) = matches.text("cwd")? {
            process["cwd"] = cwd.into();
        }
        if let Some(user) = matches.text("user")? {
            let (uid, gid) = user.split_once(':').unwrap_or((&user, "0"));
            let number = |text: &str| text.parse::<u32>().map_err(|_| Failure(format!("{user:?} is not UID[:GID]")));
            process["user"] = json!({"uid": number(uid)?, "gid": number(gid)?});
        }
        let more = matches.texts("env")?;
        if !more.is_empty() {
            let mut environment: Vec<Value> = process["env"].as_array().cloned().unwrap_or_default();
            environment.extend(more.into_iter().map(Value::from));
            process["env"] = environment.into();
        }
        Ok(process)
    }
}
