//! containerd and ctr from the host's packages, with windlass-shim before their shim in PATH.

use super::machine::text;
use super::ran::Ran;
use super::runtime;
use super::stop::{Context, Verdict, fail, skip};
use super::t::T;
use super::wait::eventually;
use crate::sys;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The name of the image.
const IMAGE: &str = "localhost/busybox:latest";

/// Makes an image of a root file system: `ROOTFS TAR`. A registry needs a layer and a manifest with their digests,
/// which a shell can make.
const MAKE_IMAGE: &str = r#"
set -e; rootfs=$1 tar=$2; dir=$tar.d; mkdir -p "$dir/blobs/sha256"; cd "$dir"
put() { d=$(sha256sum < "$1" | cut -d' ' -f1); s=$(stat -c %s "$1"); mv "$1" "blobs/sha256/$d"; }
tar -C "$rootfs" -cf layer .; put layer; layer=$d size=$s
printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' $layer > config
put config
m=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"%s.layer.v1.tar","digest":"sha256:%s","size":%s}]}' $m $m $d $s $m $layer $size > manifest
put manifest
printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"localhost/busybox:latest"},"platform":{"architecture":"amd64","os":"linux"}}]}' $m $d $s > index.json
echo '{"imageLayoutVersion":"1.0.0"}' > oci-layout
tar -cf "$tar" oci-layout index.json blobs; rm -rf "$dir"
"#;

/// A running containerd.
pub struct Engine<'t> {
    t: &'t T,
    dir: PathBuf,
    /// The directory with the shim, ahead in PATH.
    bin: PathBuf,
    runtime: PathBuf,
    daemon: Option<Child>,
}

fn installed(program: &str) -> Verdict {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path.split(':').any(|dir| Path::new(dir).join(program).is_file());
    if found { Ok(()) } else { skip(format!("{program} is not installed")) }
}

impl<'t> Engine<'t> {
    /// Starts containerd with windlass-shim under the name of containerd's own shim.
    pub fn start(t: &'t T) -> Verdict<Engine<'t>> {
        let engine = Engine::prepare(t, "ours")?;
        symlink(&t.shim, engine.bin.join("containerd-shim-runc-v2")).context("the shim's name")?;
        engine.up()
    }

    /// Starts containerd with its own shim, for a comparison.
    pub fn start_with_theirs(t: &'t T) -> Verdict<Engine<'t>> {
        installed("containerd-shim-runc-v2")?;
        Engine::prepare(t, "theirs")?.up()
    }

    /// Starts containerd with its own shim on another runtime.
    pub fn start_with_theirs_on(t: &'t T, runtime: PathBuf) -> Verdict<Engine<'t>> {
        installed("containerd-shim-runc-v2")?;
        let mut engine = Engine::prepare(t, "theirs")?;
        engine.runtime = runtime;
        engine.up()
    }

    fn prepare(t: &'t T, name: &str) -> Verdict<Engine<'t>> {
        ["containerd", "ctr"].into_iter().try_for_each(installed)?;
        let dir = t.path(name);
        let bin = dir.join("bin");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&bin).context("a directory")?;
        super::criu::link_into(&bin)?;
        // Tasks alone: the rest of containerd takes longer to start than a case.
        let config = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.runtime\", \
                      \"io.containerd.cri.v1.images\", \"io.containerd.internal.v1.opt\"]\n";
        fs::write(dir.join("config.toml"), config)?;
        Ok(Engine { t, dir, bin, runtime: t.runtime.clone(), daemon: None })
    }

    fn up(mut self) -> Verdict<Engine<'t>> {
        self.restart()?;
        let tar = self.dir.join("image.tar");
        let bundle = self.t.bundle()?;
        let words = ["-c", MAKE_IMAGE, "sh", &bundle.rootfs().display().to_string(), &tar.display().to_string()];
        self.t.host("sh", &words)?;
        let tar = tar.display().to_string();
        self.ctr(&["images", "import", "--snapshotter", snapshotter(), &tar])?.ok()?;
        Ok(self)
    }

    /// Starts containerd, which must not run.
    pub fn restart(&mut self) -> Verdict {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("containerd");
        // The log has the events: since 1.7 only with this level.
        command.args(["--log-level", "trace", "--config"]).arg(self.dir.join("config.toml"));
        command.arg("--address").arg(self.socket()).arg("--root").arg(self.dir.join("root"));
        command.arg("--state").arg(self.dir.join("run"));
        command.env("PATH", format!("{}:{path}", self.bin.display())).env("TMPDIR", &self.dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // crun raises RLIMIT_MEMLOCK, which root may not be allowed to do.
        if self.runtime.ends_with("crun") {
            sys::pretend_memlock(&mut command);
        }
        self.daemon = Some(command.spawn().context("containerd")?);
        eventually("containerd answers", || self.ctr(&["version"]).ok().filter(|ran| ran.code == 0))?;
        Ok(())
    }

    /// SIGKILL to containerd.
    pub fn kill(&mut self) -> Verdict {
        let mut daemon = self.daemon.take().context_none("containerd runs")?;
        daemon.kill().context("kill containerd")?;
        daemon.wait().context("wait for containerd")?;
        Ok(())
    }

    /// Runs containers on a script that calls the runtime after `before`, a piece of shell in
    /// which `$verb` is the runtime's verb.
    pub fn wrap(&mut self, before: &str) -> Verdict {
        let wrapper = self.dir.join("runtime");
        let script = format!(
            "#!/bin/sh\nverb=; for w in \"$@\"; do case $w in create|start|exec|kill|delete|state) verb=$w; break;; esac; done\n\
             {before}\nexec {} \"$@\"\n",
            self.t.runtime.display()
        );
        fs::write(&wrapper, script)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        self.runtime = wrapper;
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("containerd.log")
    }

    /// A ctr command that is not started yet.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(words).stdin(Stdio::null()).current_dir(&self.dir);
        // containerd mounts images there, and the usual place may be read-only.
        command.env("TMPDIR", &self.dir);
        command
    }

    /// Runs ctr.
    pub fn ctr(&self, words: &[&str]) -> Verdict<Ran> {
        self.t.finish(self.command(words))
    }

    /// `ctr run` with these options, then the id and the command.
    pub fn run_command(&self, options: &[&str], id: &str, words: &[&str]) -> Command {
        // The share that ctr asks for needs the cpu controller.
        let mut command = self.command(&["run", "--cpu-shares", "0", "--runtime", "io.containerd.runc.v2"]);
        command.args(["--snapshotter", snapshotter()]);
        command.arg("--runc-binary").arg(&self.runtime).args(options).args([IMAGE, id]).args(words);
        command
    }

    /// Runs a container.
    pub fn run(&self, options: &[&str], id: &str, words: &[&str]) -> Verdict<Ran> {
        self.t.finish(self.run_command(options, id, words))
    }

    /// The status that containerd shows for a task; empty if there is none.
    pub fn status(&self, id: &str) -> Verdict<String> {
        let ran = self.ctr(&["tasks", "ls"])?.ok()?;
        let line =
            ran.stdout.lines().map(str::split_whitespace).find_map(|mut words| {
                (words.next() == Some(id)).then(|| words.next_back().unwrap_or_default().to_owned())
            });
        Ok(line.unwrap_or_default())
    }

    /// Waits until the task has this status.
    pub fn wait_for(&self, id: &str, status: &str) -> Verdict {
        eventually(&format!("{id} is {status:?}"), || self.status(id).ok().filter(|now| now == status))?;
        Ok(())
    }

    /// Deletes the task, which must have ended with this code, and the container.
    pub fn remove(&self, id: &str, code: i32) -> Verdict {
        let ran = self.ctr(&["tasks", "rm", id])?.ok()?;
        let said = ran.stderr.contains(&format!("non-zero exit code {code}"));
        ran.check(said == (code != 0), &format!("exit code {code} of the task"))?;
        self.ctr(&["containers", "rm", id])?.ok().map(drop)
    }

    /// The topics of the events that containerd has taken from shims, in order.
    pub fn events(&self) -> Vec<String> {
        let log = text(self.log());
        let forwarded = log.lines().filter(|line| line.contains("event forwarded"));
        let topic = |line: &str| Some(line.split("topic=/tasks/").nth(1)?.split(' ').next()?.to_owned());
        forwarded.filter_map(topic).collect()
    }

    /// Waits until containerd has taken exactly these events, and a little longer for a surplus one.
    pub fn expect_events(&self, expected: &[&str]) -> Verdict {
        let _ = eventually("the events", || (self.events().len() >= expected.len()).then_some(()));
        std::thread::sleep(Duration::from_millis(100));
        let events = self.events();
        if events == expected { Ok(()) } else { fail(format!("events {events:?}, expected {expected:?}")) }
    }

    /// The processes of the shims, ours or theirs.
    pub fn shims(&self) -> Vec<i32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
        pids.filter(|pid| {
            let line = text(format!("/proc/{pid}/cmdline"));
            line.contains("containerd-shim-runc-v2\0") && line.contains("-namespace\0")
        })
        .collect()
    }

    /// The output of our shim's action `delete` for a container whose shim is dead: a message of ttrpc.
    pub fn delete_of(&self, id: &str) -> Verdict<Vec<u8>> {
        let mut command = Command::new(self.bin.join("containerd-shim-runc-v2"));
        command.args(["-namespace", "default", "-id", id, "-bundle"]);
        command.arg(self.dir.join("run/io.containerd.runtime.v2.task/default").join(id));
        command.arg("-address").arg(self.socket()).arg("delete");
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.bin.display())).stdin(Stdio::null());
        Ok(command.output().context("delete")?.stdout)
    }

    /// SIGKILL to all shims.
    pub fn kill_shims(&self) -> Verdict {
        let shims = self.shims();
        if shims.is_empty() {
            return fail("there is no shim");
        }
        shims.into_iter().try_for_each(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL)).context("kill a shim")
    }

    /// Checks that nothing of any container is left: no shim, no bundle, no socket, no mount.
    pub fn is_clean(&self) -> Verdict {
        let below = |path: &str| fs::read_dir(self.dir.join(path)).into_iter().flatten().flatten().count();
        let left = || {
            let mounts = text("/proc/self/mountinfo");
            let mut left: Vec<String> = self.shims().iter().map(|pid| format!("shim {pid}")).collect();
            let places = ["run/s", "run/io.containerd.runtime.v2.task/default"];
            left.extend(places.iter().filter(|place| below(place) > 0).map(|place| (*place).to_owned()));
            let dir = self.dir.display().to_string();
            left.extend(
                mounts.lines().filter(|line| line.contains(&dir) && line.contains("rootfs")).map(str::to_owned),
            );
            left
        };
        match eventually("nothing is left", || left().is_empty().then_some(())) {
            Ok(()) => Ok(()),
            Err(_) => fail(format!("left: {:?}", left())),
        }
    }
}

/// Overlays if the kernel has them, otherwise copies with bind mounts.
fn snapshotter() -> &'static str {
    if text("/proc/filesystems").contains("\toverlay") { "overlayfs" } else { "native" }
}

/// `None` as an error.
trait ContextNone<T> {
    fn context_none(self, what: &str) -> Verdict<T>;
}

impl<T> ContextNone<T> for Option<T> {
    fn context_none(self, what: &str) -> Verdict<T> {
        self.map_or_else(|| fail(format!("not so: {what}")), Ok)
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM);
            let _ = runtime::wait(&mut daemon, Duration::from_secs(5), "containerd");
        }
        // ctr's namespace is a cgroup too, above those of its containers.
        let _ = fs::remove_dir("/sys/fs/cgroup/default");
    }
}
