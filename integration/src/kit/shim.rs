//! A container below `windlass-shim`, and the shim's protocol as any engine would speak it.

use super::machine::text;
use super::ran::Ran;
use super::runtime;
use super::stop::{Context, Stop, Verdict, fail};
use super::t::T;
use super::wait::eventually;
use super::{Bundle, Container};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A container of the shim, deleted on drop.
pub struct Shimmed<'t> {
    t: &'t T,
    pub id: String,
    /// The line that `run` has printed.
    pub made: Value,
    /// Deletes the container, which the shim may have left to the runtime.
    _container: Container<'t>,
}

/// The state directory of a case's shims.
pub fn state_dir(t: &T) -> PathBuf {
    t.path("shims")
}

/// The shim with a verb; its words follow.
pub fn command(t: &T, verb: &str) -> Command {
    let mut command = Command::new(&t.shim);
    command.arg(verb).arg("--state-dir").arg(state_dir(t)).stdin(std::process::Stdio::null());
    command
}

/// The words of `run` for a bundle, without options.
pub fn run_command(t: &T, bundle: &Bundle, id: &str) -> Verdict<Command> {
    bundle.write()?;
    let mut command = command(t, "run");
    command.args(["--id", id, "--bundle"]).arg(&bundle.dir).arg("--runtime").arg(&t.runtime);
    command.arg("--root").arg(t.root()).current_dir(&t.dir);
    Ok(command)
}

/// `run` with options, which must succeed.
pub fn run<'t>(t: &'t T, bundle: &Bundle, options: &[&str]) -> Verdict<Shimmed<'t>> {
    let id = t.id();
    let mut command = run_command(t, bundle, &id)?;
    command.args(options);
    let container = Container::new(t, id.clone(), bundle.dir.clone());
    let made = t.finish(command)?.ok()?.json()?;
    Ok(Shimmed { t, id, made, _container: container })
}

impl<'t> Shimmed<'t> {
    /// A shim that another command has started.
    pub fn existing(t: &'t T, id: &str, bundle: &Bundle) -> Verdict<Shimmed<'t>> {
        let container = Container::new(t, id.to_owned(), bundle.dir.clone());
        let mut found = Shimmed { t, id: id.to_owned(), made: Value::Null, _container: container };
        found.made = found.line("status", &[])?;
        Ok(found)
    }

    /// A file of its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        state_dir(self.t).join(&self.id).join(name)
    }

    /// A verb about it, with more words.
    pub fn verb(&self, verb: &str, words: &[&str]) -> Verdict<Ran> {
        let mut command = command(self.t, verb);
        command.arg(&self.id).args(words);
        self.t.finish(command)
    }

    /// A verb that must succeed, and its line.
    pub fn line(&self, verb: &str, words: &[&str]) -> Verdict<Value> {
        self.verb(verb, words)?.ok()?.json()
    }

    /// A connection.
    pub fn connect(&self) -> Verdict<Connection> {
        let stream = UnixStream::connect(self.file("shim.sock")).context("shim.sock")?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Connection { stream: BufReader::new(stream), seq: 0 })
    }

    /// The shim's process.
    pub fn pid(&self) -> i32 {
        self.made["shim_pid"].as_i64().unwrap_or(0) as i32
    }

    /// SIGKILL to the shim.
    pub fn kill_shim(&self) -> Verdict {
        kill(self.pid())
    }

    /// Starts an exec and does not wait for it.
    pub fn exec_in(&self, connection: &mut Connection, script: &str) -> Verdict<String> {
        let process = json!({"args": ["/bin/sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/bin"]});
        let made = connection.call("exec", json!({"process": process}))?;
        Ok(made["exec"].as_str().unwrap_or_default().to_owned())
    }
}

impl Drop for Shimmed<'_> {
    fn drop(&mut self) {
        let mut command = command(self.t, "delete");
        command.args(["--force", &self.id]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        if let Ok(mut child) = command.spawn() {
            let _ = runtime::wait(&mut child, Duration::from_secs(120), "windlass-shim delete --force");
        }
    }
}

/// A container below a shim in the role of conmon, whose exit files are in `exits`. Returns the shim's process.
pub fn conmon(t: &T, id: &str, bundle: &Bundle) -> Verdict<i32> {
    bundle.write()?;
    let (program, exits) = (t.path("conmon"), t.path("exits"));
    if !exits.exists() {
        std::os::unix::fs::symlink(&t.shim, &program)?;
        std::fs::create_dir(&exits)?;
    }
    let file = |name: &str| t.path(&format!("{id}.{name}"));
    let mut command = Command::new(program);
    command.args(["--cid", id, "--cuuid", id, "--runtime"]).arg(&t.runtime).arg("--bundle").arg(&bundle.dir);
    command.arg("--exit-dir").arg(exits).arg("--runtime-arg").arg(format!("--root={}", t.root().display()));
    command.arg("--log-path").arg(format!("k8s-file:{}", file("log").display()));
    command.arg("--conmon-pidfile").arg(file("conmon")).arg("--container-pidfile").arg(file("pid"));
    command.arg("--socket-dir-path").arg(&t.dir).current_dir(&t.dir);
    t.finish(command)?.ok()?;
    eventually("the container is made", || std::fs::read(file("pid")).ok().filter(|pid| !pid.is_empty()))?;
    text(file("conmon")).parse().context("conmon's pid file")
}

/// SIGKILL, and the process's end.
pub fn kill(pid: i32) -> Verdict {
    use nix::sys::signal::{Signal, kill};
    kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).context(format!("kill {pid}"))?;
    eventually("the killed process is gone", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    })
}

/// A connection to a shim.
pub struct Connection {
    /// The socket.
    pub stream: BufReader<UnixStream>,
    seq: u64,
}

impl Connection {
    /// A request, not its answer; gives its number.
    pub fn ask(&mut self, op: &str, members: Value) -> Verdict<u64> {
        self.seq += 1;
        let mut request = json!({"seq": self.seq, "op": op});
        for (name, value) in members.as_object().into_iter().flatten() {
            request[name] = value.clone();
        }
        writeln!(self.stream.get_mut(), "{request}")?;
        Ok(self.seq)
    }

    /// The next line.
    pub fn line(&mut self) -> Verdict<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return fail("the shim has closed the connection");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Sends a request. The answer must not be a refusal.
    pub fn call(&mut self, op: &str, members: Value) -> Verdict<Value> {
        let seq = self.ask(op, members)?;
        loop {
            let mut line = self.line()?;
            if line["seq"] != seq {
                continue;
            }
            if line["error"].is_null() {
                return Ok(line["ok"].take());
            }
            return fail(format!("{op}: {}", line["error"]));
        }
    }

    /// The next event.
    pub fn event(&mut self) -> Verdict<Value> {
        loop {
            let line = self.line()?;
            if !line["event"].is_null() {
                return Ok(line);
            }
        }
    }

    /// Reads the output up to its end after `attach`, standard output and standard error apart.
    pub fn frames(&mut self) -> Verdict<(String, String)> {
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let mut head = [0; 5];
        while self.stream.read_exact(&mut head).is_ok() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let mut data = vec![0; length as usize];
            self.stream.read_exact(&mut data)?;
            if head[0] == 1 { out.extend(data) } else { errors.extend(data) }
        }
        let text = |bytes| String::from_utf8(bytes).map_err(|error| Stop::Fail(error.to_string()));
        Ok((text(out)?, text(errors)?))
    }

    /// After an attach: gives input.
    pub fn give(&mut self, text: &str) -> Verdict {
        let mut frame = vec![0];
        frame.extend((text.len() as u32).to_be_bytes());
        frame.extend(text.as_bytes());
        Ok(self.stream.get_mut().write_all(&frame)?)
    }
}
