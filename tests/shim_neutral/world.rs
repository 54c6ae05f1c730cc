//! The directories of a case: a state directory of the shim, a runtime's root and a bundle.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use windlass_client::Client;

use super::{RUNTIME, alive, kill, until};

/// A state directory, a runtime's root and a bundle. On drop, the processes in them are killed.
pub struct World {
    pub dir: PathBuf,
}

impl World {
    pub fn new(name: &str, script: &str) -> World {
        let dir = std::env::temp_dir().join(format!("windlass-neutral-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for sub in ["root/hang", "root/fail", "bundle"] {
            fs::create_dir_all(dir.join(sub)).expect("made");
        }
        let world = World { dir };
        let path = world.script("init", script);
        fs::write(world.path("bundle/config.json"), json!({"script": path}).to_string()).expect("written");
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub fn script(&self, name: &str, text: &str) -> String {
        let path = self.path(&format!("{name}.sh"));
        fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    }

    pub fn shim(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windlass-shim"));
        command.args(words).arg("--state-dir").arg(self.state()).stdin(Stdio::null());
        command
    }

    pub fn output(&self, words: &[&str]) -> Output {
        self.shim(words).output().expect("the shim runs")
    }

    /// The line that a verb has printed.
    pub fn line(&self, words: &[&str]) -> Value {
        let output = self.output(words);
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{words:?}: {output:?}"))
    }

    pub fn run(&self, more: &[&str]) -> Value {
        self.run_with(RUNTIME, more)
    }

    pub fn run_with(&self, runtime: &str, more: &[&str]) -> Value {
        let (bundle, root) = (self.path("bundle"), self.path("root"));
        let words = ["run", "--id", "c", "--runtime", runtime];
        let paths = ["--bundle", bundle.to_str().expect("text"), "--root", root.to_str().expect("text")];
        self.line(&[&words[..], &paths[..], more].concat())
    }

    /// Ends the container by the signal that it traps, as soon as it traps it.
    pub fn terminate(&self) {
        let pid = self.line(&["status", "c"])["pid"].as_i64().expect("a number");
        let traps = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).expect("a mask");
            u64::from_str_radix(caught, 16).expect("hexadecimal") >> (libc::SIGTERM - 1) & 1 == 1
        };
        until(traps);
        assert!(self.output(&["kill", "c", "TERM"]).status.success());
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.state(), "c").expect("connected")
    }

    pub fn shim_pid(&self) -> i32 {
        self.line(&["status", "c"])["shim_pid"].as_i64().expect("a number") as i32
    }

    pub fn kill_shim(&self) {
        let pid = self.shim_pid();
        kill(pid, libc::SIGKILL);
        until(|| !alive(pid));
    }

    pub fn exec(&self, name: &str, text: &str) -> Value {
        json!({"exec": name, "process": {"script": self.script(name, text)}})
    }

    /// A raw connection, for messages that our client never sends.
    pub fn socket(&self) -> UnixStream {
        UnixStream::connect(self.state().join("c/shim.sock")).expect("connected")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for sub in ["hang", "fail"] {
            let _ = fs::remove_dir_all(self.path("root").join(sub));
        }
        if self.state().join("c").exists() {
            let _ = self.output(&["delete", "--force", "c"]);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
