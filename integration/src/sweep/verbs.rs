//! The verbs that are swept: their preparations, their command lines, and the observation of their effects.

use super::stage::{Payload, Stage};
use super::stdio::{Drain, Kind};
use crate::kit::console::FdSocket;
use crate::kit::machine::text;
use crate::kit::stop::{Context, Verdict};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// The name of a fact, and its value.
pub type Fact = (String, String);

/// The status of the container before the verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Before {
    /// The container does not exist.
    Nothing,
    /// Created.
    Created,
    /// Running.
    Running,
    /// Running and frozen.
    Paused,
    /// Ended.
    Stopped,
}

/// A verb in a sweep.
pub struct Verb {
    /// The name in reports.
    pub name: &'static str,
    /// The status that the container must have.
    pub before: Before,
    /// The program of the container.
    pub payload: Payload,
    /// The files at descriptors 0, 1 and 2.
    pub stdio: fn(&Stage) -> Kind,
    /// The command line.
    words: fn(&Scene) -> Vec<String>,
    /// Whether the verb reports errors on its output.
    pub speaks: bool,
    /// Whether the container's init takes part.
    pub partner: bool,
    /// Whether the container of a successful run ends by itself.
    pub ends: bool,
    /// The statuses that the container may have after a failure.
    pub failed: &'static [&'static str],
    /// The form in which its output is compared.
    output: fn(&str) -> String,
    /// The effect, after a success.
    effect: fn(&Scene) -> Verdict<Vec<Fact>>,
    /// The kinds of bundles for this verb; an empty list means all.
    kinds: &'static [&'static str],
}

impl Verb {
    /// Whether the verb is swept on this kind of bundle.
    pub fn is_for(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// The command line for a container.
    pub fn words(&self, scene: &Scene) -> Vec<String> {
        (self.words)(scene)
    }

    /// The output and the effect.
    pub fn facts(&self, scene: &Scene, output: &str) -> Verdict<Vec<Fact>> {
        let mut facts = vec![("output".to_owned(), (self.output)(&output.replace(&scene.id, "ID")))];
        facts.extend((self.effect)(scene)?);
        Ok(facts)
    }
}

/// A container of a run.
pub struct Scene<'s> {
    /// The stage that it is on.
    pub stage: &'s Stage,
    pub id: String,
    payload: Payload,
    console: Option<FdSocket>,
    out: PathBuf,
    drain: Option<Drain>,
}

impl<'s> Scene<'s> {
    /// Brings the container to the status that the verb needs.
    pub fn set(stage: &'s Stage, verb: &Verb) -> Verdict<Scene<'s>> {
        let id = stage.id();
        let is_terminal = stage.kind == "terminal" && verb.name != "run";
        let socket = stage.dir.join("console");
        let _ = fs::remove_file(&socket);
        let console = if is_terminal { Some(FdSocket::new(socket)?) } else { None };
        let out = stage.dir.join("payload.out");
        let _ = fs::remove_file(&stage.around.hooks);
        let mut scene = Scene { stage, id, payload: verb.payload, console, out, drain: None };
        if verb.before >= Before::Created {
            let words = scene.create();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            scene.run_into_file(&words)?;
            scene.take_terminal()?;
        }
        if verb.before >= Before::Running {
            stage.run(&["start", &scene.id])?.ok()?;
        }
        if verb.before == Before::Paused {
            stage.run(&["pause", &scene.id])?.ok()?;
        }
        if verb.before == Before::Stopped {
            stage.run(&["kill", &scene.id, "KILL"])?.ok()?;
            crate::kit::wait::eventually("the end of init", || (stage.status(&scene.id) == "stopped").then_some(()))?;
        }
        Ok(scene)
    }

    /// The command line of `create`.
    fn create(&self) -> Vec<String> {
        let bundle = self.stage.bundle(self.payload).display().to_string();
        let mut words = vec!["create".to_owned(), "--bundle".to_owned(), bundle];
        if let Some(console) = &self.console {
            words.extend(["--console-socket".to_owned(), console.arg().to_owned()]);
        }
        words.push(self.id.clone());
        words
    }

    /// Runs `create`, with its output to the file for the payload's output.
    fn run_into_file(&self, words: &[&str]) -> Verdict {
        let mut command = self.stage.command(words);
        let errors = self.stage.dir.join("create.err");
        command.stdout(fs::File::create(&self.out)?).stderr(fs::File::create(&errors)?);
        let mut child = command.spawn().context("create")?;
        let status = crate::kit::runtime::wait(&mut child, super::stage::LIMIT, "create");
        match status {
            Ok(status) if status.success() => Ok(()),
            other => crate::kit::stop::fail(format!("create: {other:?}: {}", text(errors))),
        }
    }

    /// The master of the container's terminal, after `create`.
    pub fn take_terminal(&mut self) -> Verdict {
        if let (Some(console), None) = (&self.console, &self.drain) {
            let (_, mut fds) = console.receive()?;
            self.drain = fds.pop().map(Drain::new);
        }
        Ok(())
    }

    /// The container's init.
    pub fn init(&self) -> Verdict<Pid> {
        self.stage.pid(&self.id).map(Pid::from_raw)
    }

    /// The payload's report, once it is complete.
    fn told(&self, from: Option<PathBuf>) -> String {
        let limit = Duration::from_secs(30);
        if let Some(drain) = &self.drain {
            return probe(&drain.until("END", limit));
        }
        let file = from.unwrap_or_else(|| self.out.clone());
        let begun = std::time::Instant::now();
        loop {
            let told = text(&file);
            if told.contains("\nEND") || begun.elapsed() > limit {
                return probe(&told.replace(&self.id, "ID"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the end of init, up to a time limit.
    pub fn await_end(&self) {
        let begun = std::time::Instant::now();
        while self.stage.status(&self.id) == "running" && begun.elapsed() < super::stage::LIMIT {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The hooks that have run.
    fn hooks(&self) -> Fact {
        ("hooks".to_owned(), text(&self.stage.around.hooks))
    }
}

/// The report of the probe, without the numbers that differ between two mount tables.
fn probe(text: &str) -> String {
    let mut in_mounts = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with("== ") {
            in_mounts = line == "== mountinfo";
        }
        if in_mounts && !line.starts_with("== ") {
            let peers = |word: &&str| !word.starts_with("shared:") && !word.starts_with("master:");
            lines.push(line.split(' ').skip(3).filter(peers).collect::<Vec<_>>().join(" "));
        } else {
            lines.push(line.to_owned());
        }
    }
    lines.join("\n")
}

/// A text without its numbers (times, process ids, sizes), and with single spaces.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if c.is_ascii_digit() { '#' } else { c };
        let again = (c == '#' || c == ' ') && out.ends_with(c);
        if !again {
            out.push(c);
        }
    }
    out
}

fn as_it_is(text: &str) -> String {
    text.to_owned()
}

fn nothing(_: &Scene) -> Verdict<Vec<Fact>> {
    Ok(Vec::new())
}

fn hooks(scene: &Scene) -> Verdict<Vec<Fact>> {
    Ok(vec![scene.hooks()])
}

/// After `create`: the container can be started and has the elements of its configuration.
fn starts(scene: &Scene) -> Verdict<Vec<Fact>> {
    let started = scene.stage.run(&["start", &scene.id])?;
    let told = scene.told(Some(scene.stage.dir.join("command.out")));
    Ok(vec![
        ("start".to_owned(), format!("{} {}", started.code, started.stderr)),
        ("told".to_owned(), told),
        scene.hooks(),
    ])
}

fn has_started(scene: &Scene) -> Verdict<Vec<Fact>> {
    Ok(vec![("told".to_owned(), scene.told(None)), scene.hooks()])
}

/// After `kill`: init ends.
fn ends(scene: &Scene) -> Verdict<Vec<Fact>> {
    scene.await_end();
    Ok(vec![("then".to_owned(), scene.stage.status(&scene.id))])
}

fn limited(scene: &Scene) -> Verdict<Vec<Fact>> {
    let file = format!("/sys/fs/cgroup/{}/cgroup.max.descendants", scene.id);
    Ok(vec![("limit".to_owned(), text(file))])
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn run(scene: &Scene) -> Vec<String> {
    words(&["run", "--bundle", &scene.stage.bundle(scene.payload).display().to_string(), &scene.id])
}

fn exec(scene: &Scene, options: &[&str]) -> Vec<String> {
    let mut all = vec!["exec"];
    all.extend(options);
    all.push(&scene.id);
    let probe = super::bundles::probe();
    all.extend(probe);
    words(&all)
}

fn update(scene: &Scene) -> Vec<String> {
    let file = scene.stage.dir.join("resources.json");
    let devices = r#"{"devices":[{"allow":false,"access":"rwm"}],"unified":{"cgroup.max.descendants":"77"}}"#;
    let _ = fs::write(&file, devices);
    words(&["update", "--resources", &file.display().to_string(), &scene.id])
}

/// For a verb that reads a bundle and makes no container.
fn of_bundle(verb: &str, scene: &Scene) -> Vec<String> {
    words(&[verb, "--bundle", &scene.stage.bundle(scene.payload).display().to_string()])
}

/// A new directory for each run, because an existing config.json is not replaced.
fn spec_directory(scene: &Scene) -> PathBuf {
    scene.stage.dir.join("specs").join(&scene.id)
}

fn spec(scene: &Scene) -> Vec<String> {
    let dir = spec_directory(scene);
    let _ = fs::create_dir_all(&dir);
    words(&["spec", "--bundle", &dir.display().to_string()])
}

/// The actions of CRIU at a dump. The harness's own program plays CRIU.
pub const DUMPS: &str = "pre-dump network-lock post-dump done";
/// The actions of CRIU at a restore.
pub const RESTORES: &str =
    "pre-restore birth post-setup-namespaces post-restore network-unlock pre-resume post-resume done";

fn with_criu(scene: &Scene, script: &str, rest: &[&str]) -> Vec<String> {
    let (criu, images) = (criu(scene.stage, script), scene.stage.dir.join("images").join(&scene.id));
    let _ = fs::create_dir_all(&images);
    let mut all = words(&["--criu", &criu.display().to_string()]);
    all.extend(words(rest));
    all.extend(words(&["--image-path", &images.display().to_string(), &scene.id]));
    all
}

/// A program that plays CRIU by a script.
pub fn criu(stage: &Stage, script: &str) -> PathBuf {
    let path = stage.dir.join("criu");
    let own = std::env::current_exe().unwrap_or_default();
    let text = format!("#!/bin/sh\nexec '{}' @criu '{script}' \"$@\"\n", own.display());
    if fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return path;
    }
    // A program that is executed is not written to.
    let _ = fs::remove_file(&path);
    let _ = fs::write(&path, text).and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
    path
}

fn restore(scene: &Scene, more: &str) -> Vec<String> {
    let bundle = scene.stage.bundle(scene.payload).display().to_string();
    with_criu(scene, RESTORES, &["restore", more, "--trust-images", "--bundle", &bundle])
}

/// The file that a dump has written beside CRIU's images.
fn dumped(scene: &Scene) -> Verdict<Vec<Fact>> {
    let file = scene.stage.dir.join("images").join(&scene.id).join("windlass.json");
    let is_json = serde_json::from_str::<serde_json::Value>(&text(file)).is_ok();
    Ok(vec![("dump".to_owned(), is_json.to_string())])
}

/// After `restore --hold`: it starts.
fn held(scene: &Scene) -> Verdict<Vec<Fact>> {
    let started = scene.stage.run(&["start", &scene.id])?;
    Ok(vec![
        ("start".to_owned(), format!("{} {}", started.code, started.stderr)),
        ("then".to_owned(), scene.stage.status(&scene.id)),
    ])
}

fn written(scene: &Scene) -> Verdict<Vec<Fact>> {
    Ok(vec![("config.json".to_owned(), text(spec_directory(scene).join("config.json")))])
}

fn files(_: &Stage) -> Kind {
    Kind::Files
}

fn of_the_bundle(stage: &Stage) -> Kind {
    if stage.kind == "terminal" { Kind::Terminal } else { Kind::Files }
}

const BASE: Verb = Verb {
    name: "",
    before: Before::Running,
    payload: Payload::Sleep,
    stdio: files,
    words: |_| Vec::new(),
    speaks: false,
    partner: false,
    ends: false,
    failed: &["running"],
    output: without_numbers,
    effect: nothing,
    kinds: &["plain"],
};

/// A verb that needs no container.
const ALONE: Verb = Verb { before: Before::Nothing, payload: Payload::Probe, failed: &["absent"], ..BASE };

/// All verbs.
pub const VERBS: &[Verb] = &[
    Verb {
        name: "run",
        before: Before::Nothing,
        payload: Payload::Probe,
        stdio: of_the_bundle,
        words: run,
        failed: &["absent"],
        output: probe,
        effect: hooks,
        kinds: &[],
        ..BASE
    },
    Verb {
        name: "create",
        before: Before::Nothing,
        payload: Payload::Probe,
        words: |scene| scene.create(),
        failed: &["absent"],
        output: |_| String::new(),
        effect: starts,
        kinds: &[],
        ..BASE
    },
    Verb {
        name: "start",
        before: Before::Created,
        payload: Payload::Probe,
        words: |scene| words(&["start", &scene.id]),
        partner: true,
        ends: true,
        failed: &["created", "stopped"],
        output: as_it_is,
        effect: has_started,
        kinds: &[],
        ..BASE
    },
    Verb { name: "exec", words: |scene| exec(scene, &[]), output: probe, kinds: &[], ..BASE },
    Verb {
        name: "exec-t",
        stdio: |_| Kind::Terminal,
        words: |scene| exec(scene, &["--tty"]),
        output: probe,
        kinds: &["plain", "engine", "userns", "rootless", "terminal"],
        ..BASE
    },
    Verb { name: "kill", words: |scene| words(&["kill", &scene.id, "KILL"]), effect: ends, ends: true, ..BASE },
    Verb {
        name: "delete",
        before: Before::Stopped,
        words: |scene| words(&["delete", &scene.id]),
        failed: &["stopped"],
        effect: hooks,
        kinds: &["plain", "rootless", "hooks", "userns", "engine"],
        ..BASE
    },
    Verb {
        name: "delete-force",
        words: |scene| words(&["delete", "--force", &scene.id]),
        failed: &["running", "stopped"],
        effect: hooks,
        kinds: &["plain", "rootless", "hooks", "userns", "engine"],
        ..BASE
    },
    Verb { name: "pause", words: |scene| words(&["pause", &scene.id]), ..BASE },
    Verb {
        name: "resume",
        before: Before::Paused,
        words: |scene| words(&["resume", &scene.id]),
        // The container was thawed and may have run, so freezing it again would not help.
        failed: &["paused", "running"],
        ..BASE
    },
    Verb { name: "update", words: update, effect: limited, ..BASE },
    Verb { name: "state", words: |scene| words(&["state", &scene.id]), kinds: &["plain", "rootless"], ..BASE },
    Verb { name: "list", words: |_| words(&["list"]), kinds: &["plain", "rootless"], ..BASE },
    Verb { name: "ps", words: |scene| words(&["ps", "--format", "json", &scene.id]), ..BASE },
    Verb { name: "events", words: |scene| words(&["events", "--stats", &scene.id]), ..BASE },
    Verb { name: "explain", words: |scene| of_bundle("explain", scene), output: as_it_is, ..ALONE },
    Verb { name: "check", words: |scene| of_bundle("check", scene), speaks: true, ..ALONE },
    Verb { name: "spec", words: spec, effect: written, ..ALONE },
    // A check may fail: then the verb reports that, and may exit with another code.
    Verb { name: "doctor", words: |_| words(&["doctor"]), speaks: true, ..ALONE },
    Verb { name: "features", words: |_| words(&["features"]), output: as_it_is, ..ALONE },
    Verb {
        name: "checkpoint",
        words: |scene| with_criu(scene, DUMPS, &["checkpoint"]),
        // After the dump is written, CRIU has frozen and killed the container, and only its removal remains.
        failed: &["running", "paused", "stopped"],
        effect: dumped,
        ..BASE
    },
    Verb {
        name: "checkpoint-running",
        words: |scene| with_criu(scene, DUMPS, &["checkpoint", "--leave-running"]),
        effect: dumped,
        ..BASE
    },
    Verb { name: "restore", words: |scene| restore(scene, "--detach"), payload: Payload::Sleep, ..ALONE },
    Verb {
        name: "restore-hold",
        words: |scene| restore(scene, "--hold"),
        payload: Payload::Sleep,
        effect: held,
        ..ALONE
    },
];

#[cfg(test)]
mod tests {
    use super::{probe, without_numbers};

    #[test]
    fn mount_tables_of_two_runs_are_equal() {
        let one = "== mountinfo\n36 35 98:0 / /a rw shared:1 - ext4 x rw\n== rest\n36 35 98:0 b c d";
        let two = one.replace("36 35 98:0 / /a", "47 46 99:1 / /a").replace("shared:1", "shared:23");
        assert_eq!(probe(one), probe(&two));
        assert_ne!(probe(one), probe(&one.replace("/a rw", "/a ro")));
        assert!(probe(one).ends_with("36 35 98:0 b c d"));
    }

    #[test]
    fn numbers_and_widths_do_not_count() {
        assert_eq!(without_numbers("a  12   b"), without_numbers("a 345 b"));
        assert_ne!(without_numbers("a 1"), without_numbers("a"));
    }
}
