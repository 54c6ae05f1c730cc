//! A container that a case has created. It is deleted on drop.

use super::ran::Ran;
use super::runtime::Capture;
use super::stop::{Context, Verdict, fail};
use super::wait::eventually;
use super::workspace::Workspace;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;

pub struct Container<'t> {
    workspace: &'t Workspace,
    pub id: String,
    pub bundle: PathBuf,
    output: Option<Capture>,
}

impl<'t> Container<'t> {
    /// A handle on a container that exists, or may.
    pub fn new(workspace: &'t Workspace, id: String, bundle: PathBuf) -> Container<'t> {
        Container { workspace, id, bundle, output: None }
    }

    /// The files that `create` gave the container as stdout and stderr.
    pub fn with_output(mut self, capture: Capture) -> Container<'t> {
        self.output = Some(capture);
        self
    }

    /// A runtime command about this container: `VERB [options] ID [rest]`.
    pub fn verb(&self, verb: &str, options: &[&str], rest: &[&str]) -> Verdict<Ran> {
        let mut words = vec![verb];
        words.extend(options);
        words.push(&self.id);
        words.extend(rest);
        self.workspace.runtime(&words)
    }

    /// `start`, which must succeed.
    pub fn start(&self) -> Verdict<Ran> {
        self.verb("start", &[], &[])?.ok()
    }

    /// `exec`, which must succeed.
    pub fn exec(&self, words: &[&str]) -> Verdict<Ran> {
        self.try_exec(&[], words)?.ok()
    }

    /// `exec` of a shell script, which must succeed.
    pub fn exec_sh(&self, script: &str) -> Verdict<Ran> {
        self.exec(&["/bin/sh", "-c", script])
    }

    /// `exec` with options.
    pub fn try_exec(&self, options: &[&str], words: &[&str]) -> Verdict<Ran> {
        self.verb("exec", options, words)
    }

    /// `exec --process`, the file holding `process`.
    pub fn exec_process(&self, process: &Value, options: &[&str]) -> Verdict<Ran> {
        let file = self.workspace.path(&format!("process-{}.json", self.workspace.id()));
        std::fs::write(&file, process.to_string()).context(file.display())?;
        let file = file.display().to_string();
        let mut words = vec!["--process", &file];
        words.extend(options);
        self.try_exec(&words, &[])
    }

    /// `state`, parsed.
    pub fn state(&self) -> Verdict<Value> {
        self.verb("state", &[], &[])?.ok()?.json()
    }

    /// The `status` of `state`.
    pub fn status(&self) -> Verdict<String> {
        Ok(self.state()?["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Fails unless the status is this.
    pub fn status_is(&self, expected: &str) -> Verdict {
        let status = self.status()?;
        if status == expected { Ok(()) } else { fail(format!("status {status}, expected {expected}")) }
    }

    /// Waits for a status.
    pub fn wait_for(&self, expected: &str) -> Verdict {
        let seen = eventually(&format!("status {expected}"), || match self.status() {
            Ok(status) if status == expected => Some(Ok(())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })?;
        let output = self.output();
        seen.map_err(|stop| match stop {
            super::Stop::Fail(text) => super::Stop::Fail(format!("{text}\noutput: {output:?}")),
            other => other,
        })
    }

    /// The pid that `state` gives.
    pub fn pid(&self) -> Verdict<i32> {
        let state = self.state()?;
        let pid = state["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.filter(|pid| *pid > 0).ok_or_else(|| super::Stop::Fail(format!("no pid in {state}")))
    }

    /// The files in which the runtime keeps its state: one file, or those of a directory.
    pub fn state_files(&self) -> Verdict<Vec<PathBuf>> {
        let path = self.workspace.root().join(&self.id);
        if path.is_file() {
            return Ok(vec![path]);
        }
        Ok(std::fs::read_dir(&path)?.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect())
    }

    /// `kill` with a signal, which must succeed.
    pub fn kill(&self, signal: &str) -> Verdict<Ran> {
        self.verb("kill", &[], &[signal])?.ok()
    }

    /// Kills and waits until stopped.
    pub fn stop(&self) -> Verdict {
        self.kill("KILL")?;
        self.wait_for("stopped")
    }

    /// `delete`, which must succeed.
    pub fn delete(&self) -> Verdict<Ran> {
        self.verb("delete", &[], &[])?.ok()
    }

    /// The output so far, stdout then stderr.
    pub fn output(&self) -> String {
        self.output
            .as_ref()
            .map(|capture| {
                let (out, err) = capture.read();
                out + &err
            })
            .unwrap_or_default()
    }

    /// Waits until the container has written `text`.
    pub fn wait_for_output(&self, text: &str) -> Verdict<String> {
        let seen = eventually(text, || Some(self.output()).filter(|output| output.contains(text)));
        seen.context(format!("output so far {:?}", self.output()))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let mut command = self.workspace.command();
        command.args(["delete", "--force", &self.id]).stdout(Stdio::null()).stderr(Stdio::null());
        if let Ok(mut child) = command.spawn() {
            let _ = super::runtime::wait(&mut child, std::time::Duration::from_secs(60), "delete --force");
        }
    }
}
