//! The directory of one container, `STATE/ID`: its files, and its lock, which shows whether the shim lives.
//!
//! | file | content |
//! | --- | --- |
//! | `shim.json` | [`ContainerConfig`], written before the container is made |
//! | `shim.lock` | locked by flock(2) while the shim lives |
//! | `shim.sock` | the socket of the protocol |
//! | `exit.json` | how init ended: [`crate::exit::Record`] |
//! | `events.log` | the numbered events |
//! | `log` | the log, unless `--log` names another file |
//! | `execs/` | `NAME.exit.json` of each exec, and its files while it starts |
//! | `shim.err` | the standard error of the shim |

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::exit::{self, Record};
use crate::refusal::{Refusal, Result};
use crate::stdio::{self, JournalFields, LogFile};
use crate::{Code, HOLD, Log, Making};
use windlass_sys::fd::Durability;
use windlass_sys::lock;
use windlass_sys::poll::Deadline;
use windlass_sys::{Called, directory, fd, trusted_path};

/// The version of [`ContainerConfig`] that is written. Every version up to it is read.
pub(super) const VERSION: u32 = 1;

/// The configuration of a container and its shim, which is fixed when the container is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContainerConfig {
    /// Version of this document.
    pub v: u32,
    pub id: String,
    pub bundle: PathBuf,
    /// The runtime's binary.
    pub runtime: PathBuf,
    /// The runtime's arguments before its command.
    pub runtime_args: Vec<String>,
    /// The runtime's arguments after `create` or `restore`.
    pub create_args: Vec<String>,
    /// The directory of the images that the container is restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<PathBuf>,
    pub tty: bool,
    /// Whether standard input is a pipe or terminal, not the null device.
    pub stdin: bool,
    /// The logs, as in `--log`, with absolute paths.
    pub logs: Vec<String>,
    /// How long output is awaited after the end of init, in milliseconds.
    pub drain_ms: u64,
    /// Whether the container outlives the shim (`--keep-on-shim-death`).
    pub keep: bool,
    /// Whether `run` does not start the container.
    pub create_only: bool,
    /// Whether the shim kills the other processes when init ends, because init has no PID namespace of its own whose
    /// end kills them.
    pub kill_on_exit: bool,
    /// The owner of the pipes: user and group.
    pub owner: Option<(u32, u32)>,
    /// The state file of windlass, into which the exit is written.
    pub runtime_exit: Option<PathBuf>,
}

impl ContainerConfig {
    /// The arguments of a call of the runtime: `verb` with the container's id.
    pub(super) fn words(&self, verb: &[&str]) -> Vec<OsString> {
        let words = self.runtime_args.iter().map(String::as_str).chain(verb.iter().copied()).chain([&*self.id]);
        words.map(OsString::from).collect()
    }

    /// How the runtime makes the container, and its arguments for that.
    pub(super) fn create(&self) -> (Making, Vec<OsString>) {
        let more = self.create_args.iter().map(OsString::from);
        match &self.restore {
            None => (Making::Create, more.collect()),
            Some(images) => {
                let words = [HOLD.into(), "--image-path".into(), images.into()];
                (Making::Restore, words.into_iter().chain(more).collect())
            }
        }
    }

    /// The parsed logs.
    pub(super) fn logs(&self) -> Result<Vec<Log>> {
        self.logs.iter().filter_map(|text| log(text, &self.id).transpose()).collect()
    }
}

/// The files of a container that was never created.
const FILES: [&str; 7] = ["shim.json", "shim.lock", "shim.sock", "shim.err", "events.log", "log", ".exit.json.reserve"];

/// Two pages, because a tmpfs counts pages: one for the exit record, and one in reserve.
const RESERVE: usize = 8192;
const RESERVE_FLAGS: OFlag = OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_TRUNC).union(OFlag::O_NOFOLLOW);

/// The directory of one container.
#[derive(Clone, Debug)]
pub(super) struct ContainerDir {
    pub(super) dir: PathBuf,
    /// Whether this is the working directory.
    pub(super) entered: bool,
}

impl ContainerDir {
    /// The directory of `id` below `state`. It need not exist.
    pub(super) fn of(state: &Path, id: &str) -> Result<ContainerDir> {
        windlass_base::id::check_id(id).map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?;
        Ok(ContainerDir { dir: state.join(id), entered: false })
    }

    /// A directory that exists.
    pub(super) fn at(dir: PathBuf) -> ContainerDir {
        ContainerDir { dir, entered: false }
    }

    /// Refuses a directory of another user, or one that others may write to: its configuration says which program is
    /// executed as the runtime. The parent is checked too, since its owner may replace the directory. It is no fault
    /// here if the directory does not exist.
    pub(crate) fn check(&self) -> Result<()> {
        let path = if self.entered { Path::new(".") } else { &self.dir };
        if !self.entered {
            self.check_state()?;
        }
        match fd::stat_at(fd::CWD, path) {
            Err(failed) if failed.errno == Errno::ENOENT => Ok(()),
            other => check_trusted(&other?, path),
        }
    }

    fn check_state(&self) -> Result<()> {
        let state = self.state();
        match trusted_path::open(state) {
            Err(failed) if failed.errno == Errno::ENOENT => Ok(()),
            other => check_trusted(&fd::stat(other?.as_fd())?, state),
        }
    }

    /// The parent directory.
    fn state(&self) -> &Path {
        self.dir.parent().filter(|state| !state.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Makes this the working directory. From then on [`ContainerDir::file`] means this very directory, even if it is
    /// removed and another is made at its path.
    pub(crate) fn enter(self) -> Result<ContainerDir> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let dir = fd::open(&self.dir, flags).map_err(|failed| match failed.errno {
            Errno::ENOENT => Refusal::new(Code::NotFound, format!("{:?} does not exist", self.dir)),
            _ => failed.into(),
        })?;
        nix::unistd::fchdir(&dir).called(|| format!("fchdir({:?})", self.dir))?;
        Ok(ContainerDir { entered: true, ..self })
    }

    /// Whether the path leads to another directory than the entered one, or to none.
    pub(super) fn is_replaced(&self) -> bool {
        let of = |path: &Path| fd::stat_at(fd::CWD, path).map(|stat| (stat.st_dev, stat.st_ino));
        self.entered && of(".".as_ref()) != of(&self.dir)
    }

    pub(super) fn as_path(&self) -> &Path {
        &self.dir
    }

    /// The path of a file, for this process.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        if self.entered { name.into() } else { self.path(name) }
    }

    /// The path of a file, for other processes.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The path of a file of an exec, for this process.
    pub(super) fn exec_file(&self, exec: &str, suffix: &str) -> PathBuf {
        self.file(&exec_name(exec, suffix))
    }

    /// The path of a file of an exec, for other processes.
    pub(super) fn exec_path(&self, exec: &str, suffix: &str) -> PathBuf {
        self.path(&exec_name(exec, suffix))
    }

    /// Makes the directory, which must not exist: the directory reserves the id.
    pub(crate) fn make(&self) -> Result<()> {
        let state = self.state();
        // Whatever the umask is, no other user may write to the directory.
        let make = || std::fs::DirBuilder::new().mode(0o700).create(state);
        let made = match (make(), state.parent()) {
            (Err(error), Some(above)) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(above).called(|| format!("mkdir({above:?})"))?;
                make()
            }
            (made, _) => made,
        };
        match made {
            // The check below reports what is wrong with it.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.called(|| format!("mkdir({state:?})"))?,
        }
        self.check_state()?;
        match fd::mkdirat(fd::CWD, &self.dir, 0o700) {
            Err(failed) if failed.errno == Errno::EEXIST => {
                Err(Refusal::new(Code::AlreadyExists, format!("{:?} is there already: delete it first", self.dir)))
            }
            other => Ok(other?),
        }?;
        Ok(fd::mkdirat(fd::CWD, self.dir.join("execs"), 0o700).inspect_err(|_| self.remove())?)
    }

    /// Frees the id and removes the directory. A directory that replaced it stays.
    pub(super) fn remove(&self) {
        if self.is_replaced() {
            return;
        }
        let gone = self.gone();
        let renamed = || std::fs::rename(&self.dir, &gone).is_ok();
        // Renamed first, so that the id is free at once and no partial directory has its name.
        let dir = if renamed() || (self.remove_rest() && renamed()) { &gone } else { &self.dir };
        clear(dir);
    }

    /// Completes a removal that was killed. Returns false if there is none to complete.
    pub(super) fn remove_rest(&self) -> bool {
        let gone = self.gone();
        let left = gone.is_dir();
        if left {
            clear(&gone);
        }
        left
    }

    /// The name of the directory during its removal, which is not a valid id.
    fn gone(&self) -> PathBuf {
        let mut name = OsString::from("@gone-");
        name.push(self.dir.file_name().unwrap_or_default());
        self.dir.with_file_name(name)
    }

    /// Reserves room for the exit record on the file system, because a log may fill it.
    pub(super) fn reserve(&self) -> Result<()> {
        let file = fd::openat(fd::CWD, exit::reserve_of(&self.file("exit.json")), RESERVE_FLAGS, 0o600)?;
        Ok(fd::write_all(file.as_fd(), &[0; RESERVE], Deadline::NEVER)?)
    }

    /// Writes `shim.json`.
    pub(super) fn write_config(&self, config: &ContainerConfig) -> Result<()> {
        let text = serde_json::to_vec(config).map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?;
        Ok(exit::put(&self.file("shim.json"), &text, Durability::Cached)?)
    }

    /// Reads `shim.json`.
    pub(super) fn config(&self) -> Result<ContainerConfig> {
        self.check()?;
        let path = self.file("shim.json");
        let file = fd::open(&path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW).map_err(|failed| match failed.errno {
            Errno::ENOENT => Refusal::new(Code::NotFound, format!("{:?} is not the container of a shim", self.dir)),
            _ => failed.into(),
        })?;
        check_trusted(&fd::stat(file.as_fd())?, &path)?;
        let text = fd::read_all(file, fd::DOCUMENT)?;
        let config: ContainerConfig =
            serde_json::from_slice(&text).map_err(|error| Refusal::new(Code::Invalid, format!("{path:?}: {error}")))?;
        if !(1..=VERSION).contains(&config.v) {
            return Err(Refusal::new(Code::Invalid, format!("{path:?} is of version {}, which is newer", config.v)));
        }
        Ok(config)
    }

    /// The exit record of init, if it exists.
    pub(super) fn exit(&self) -> Option<Record> {
        Record::read(&self.file("exit.json"))
    }

    /// Takes the lock. Returns `None` if a shim lives.
    pub(super) fn lock(&self) -> Result<Option<OwnedFd>> {
        self.check()?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW;
        let file = match fd::openat(fd::CWD, self.file("shim.lock"), flags, 0o600) {
            Err(failed) if failed.errno == Errno::ENOENT => {
                return Err(Refusal::new(Code::NotFound, format!("{:?} does not exist", self.dir)));
            }
            other => other?,
        };
        match lock::exclusive(file.as_fd(), false) {
            Ok(()) => Ok(Some(file)),
            Err(failed) if failed.errno == Errno::EWOULDBLOCK => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    /// [`ContainerDir::lock`] that waits up to two seconds: a reader has the lock for a moment, and a killed shim has
    /// it until the kernel has closed its files.
    pub(super) fn lock_soon(&self) -> Result<Option<OwnedFd>> {
        for _ in 0..100 {
            if let Some(lock) = self.lock()? {
                return Ok(Some(lock));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(None)
    }

    /// [`ContainerDir::lock_soon`] for a shim that starts.
    pub(super) fn lock_for_life(&self) -> Result<OwnedFd> {
        self.lock_soon()?.ok_or_else(|| Refusal::new(Code::AlreadyExists, "another shim serves this container"))
    }
}

fn check_trusted(stat: &nix::sys::stat::FileStat, path: &Path) -> Result<()> {
    let refused = |why| Err(Refusal::new(Code::Invalid, format!("{path:?} {why}")));
    fd::why_untrusted(stat).map_or(Ok(()), refused)
}

fn exec_name(exec: &str, suffix: &str) -> String {
    format!("execs/{exec}.{suffix}")
}

/// Removes a container's directory.
fn clear(dir: &Path) {
    // The usual files are removed by name, which needs no descriptor: there may be none left.
    FILES.iter().for_each(|name| drop(std::fs::remove_file(dir.join(name))));
    let _ = std::fs::remove_dir(dir.join("execs"));
    if std::fs::remove_dir(dir).is_err() {
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// All containers below a state directory, or none if it does not exist.
pub(super) fn all(state: &Path) -> Result<Vec<(String, ContainerDir)>> {
    let directory = match fd::open(state, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        Err(failed) if failed.errno == Errno::ENOENT => return Ok(Vec::new()),
        other => other?,
    };
    let mut found: Vec<(String, ContainerDir)> = directory::names(directory.as_fd())?
        .into_iter()
        .filter(|name| state.join(name).join("shim.json").is_file())
        .filter_map(|name| name.into_string().ok())
        .filter(|id| windlass_base::id::check_id(id).is_ok())
        .map(|id| (id.clone(), ContainerDir::at(state.join(id))))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Parses a `--log`: `FORMAT[:PATH][,max=SIZE][,files=N]`. `None` for the format `none`.
pub(super) fn log(text: &str, id: &str) -> Result<Option<Log>> {
    let invalid = |what: &str| Refusal::new(Code::Invalid, format!("log {text:?}: {what}"));
    let (format, rest) = text.split_once(':').unwrap_or((text, ""));
    let mut parts = rest.split(',');
    let path = parts.next().unwrap_or_default();
    let mut file = LogFile { path: path.into(), sync: true, ..LogFile::default() };
    for part in parts {
        match part.split_once('=') {
            Some(("max", size)) => {
                file.max_size =
                    Some(stdio::size(size).filter(|&size| size > 0).ok_or_else(|| invalid("max is a size"))?)
            }
            Some(("files", n)) => file.max_files = n.parse().map_err(|_| invalid("files is a number"))?,
            _ => return Err(invalid("only max= and files= may follow the path")),
        }
    }
    let in_file = |make: fn(LogFile) -> Log| match path.starts_with('/') {
        true => Ok(Some(make(file.clone()))),
        false => Err(invalid("an absolute path must follow the format")),
    };
    match format {
        "k8s" => in_file(Log::K8s),
        "json" => in_file(Log::Json),
        "raw" => in_file(Log::Raw),
        "journald" => {
            let tag = path.to_string();
            Ok(Some(Log::Journald(JournalFields {
                id: id.into(),
                name: id.into(),
                tag,
                partial: true,
                ..JournalFields::default()
            })))
        }
        "none" => Ok(None),
        _ => Err(invalid("the format is k8s, json, raw, journald or none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_described_in_one_word() {
        let file =
            LogFile { path: "/l".into(), max_size: Some(10 << 20), max_files: 3, sync: true, ..LogFile::default() };
        assert_eq!(log("k8s:/l,max=10m,files=3", "c"), Ok(Some(Log::K8s(file.clone()))));
        assert_eq!(log("json:/l,files=3,max=10485760", "c"), Ok(Some(Log::Json(file))));
        assert_eq!(log("none", "c"), Ok(None));
        for bad in ["k8s", "k8s:rel", "x:/l", "raw:/l,max=0", "raw:/l,max=1q", "raw:/l,what=1", "raw:/l,files=-1"] {
            assert!(log(bad, "c").is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_removal_that_was_killed_has_left_is_cleared_and_is_no_container() {
        let state = std::env::temp_dir().join(format!("windlass-rest-{}", std::process::id()));
        let dir = ContainerDir::of(&state, "c").expect("an id");
        let killed = || {
            dir.make().expect("made");
            std::fs::write(dir.file("shim.json"), "{}").expect("written");
            std::fs::write(dir.file("log.1"), "much").expect("written");
            std::fs::rename(dir.as_path(), dir.gone()).expect("renamed");
        };
        killed();
        assert_eq!(all(&state).expect("read").len(), 0);
        assert!(super::super::dead::delete(&dir, true).is_ok());
        assert_eq!(std::fs::read_dir(&state).expect("read").count(), 0);
        assert_eq!(super::super::dead::delete(&dir, true).expect_err("gone").code, Code::NotFound);
        // Removing the next container of the id removes the rest as well.
        killed();
        dir.make().expect("made");
        dir.remove();
        assert_eq!(std::fs::read_dir(&state).expect("read").count(), 0);
        std::fs::remove_dir_all(&state).expect("removed");
    }

    #[test]
    fn the_configuration_of_a_directory_that_others_may_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let state = std::env::temp_dir().join(format!("windlass-foreign-{}", std::process::id()));
        let dir = ContainerDir::of(&state, "c").expect("an id");
        dir.make().expect("made");
        std::fs::write(dir.file("shim.json"), "{}").expect("written");
        let refused = || {
            let (config, deleted) = (dir.config().expect_err("refused"), super::super::dead::delete(&dir, true));
            assert!(deleted.expect_err("refused").message.contains("can be written by others"));
            config.message.contains("can be written by others")
        };
        assert!(!dir.config().expect_err("no configuration").message.contains("can be written"));
        for (path, mode, after) in [
            (state.clone(), 0o777, 0o755),
            (dir.as_path().to_path_buf(), 0o777, 0o700),
            (dir.file("shim.json"), 0o666, 0o644),
        ] {
            let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            set(mode);
            assert!(refused(), "{path:?}");
            let another = ContainerDir::of(&state, "another").expect("an id");
            assert!(path != state || another.make().is_err(), "nothing is made there");
            set(after);
        }
        std::fs::remove_dir_all(&state).expect("removed");
    }

    #[test]
    fn the_lock_tells_whether_a_shim_lives() {
        let state = std::env::temp_dir().join(format!("windlass-dir-{}", std::process::id()));
        let dir = ContainerDir::of(&state, "c").expect("an id");
        dir.make().expect("made");
        assert_eq!(dir.make().expect_err("taken").code, Code::AlreadyExists);
        let lock = dir.lock().expect("locked").expect("free");
        assert!(dir.lock().expect("asked").is_none());
        drop(lock);
        assert!(dir.lock().expect("asked").is_some());
        // A killed shim has the lock until the kernel has closed its files.
        let lock = dir.lock().expect("asked").expect("free");
        let dying = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(lock);
        });
        assert!(dir.lock_soon().expect("asked").is_some());
        dying.join().expect("no panic");
        dir.remove();
        assert_eq!(dir.lock().expect_err("gone").code, Code::NotFound);
        assert_eq!(std::fs::read_dir(&state).expect("read").count(), 0);
        std::fs::remove_dir_all(&state).expect("removed");
    }
}
