//! The state root: one directory per container, which is the container's lock as well.

use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::cgroup::{Cgroup, Group, v1};
use crate::error::{Doing, Error, Kind, Result};
use crate::spec::{Hooks, Spec};
use crate::sys::fd;
use crate::sys::process::{self, Exit};

use super::id::{check_id, id_path};
use super::state::{ExitRecord, Init, State, Status, VERSION};

/// File names in a container's directory. `create` writes them in this order.
pub(super) const FILES: &[&str] = &["exit.json", "start.sock", "init.json", "config.json", "state.json"];

/// The name by which init shows itself in `/proc/PID/stat` until it executes its program.
pub const INIT_NAME: &std::ffi::CStr = c"windlass:init";

/// The state root.
pub struct Store {
    dir: Option<OwnedFd>,
    path: PathBuf,
}

impl Store {
    /// Opens the state root; one that does not exist has no containers.
    pub fn open(path: &Path) -> Result<Store> {
        let dir = match fd::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Err(failed) if failed.errno == Errno::ENOENT => None,
            other => Some(other.doing(|| format!("cannot open the state root {path:?}"))?),
        };
        Ok(Store { dir, path: path.into() })
    }

    /// Opens the state root, and makes it (mode 0700) if need be. The sticky bit keeps what is below
    /// a user's runtime directory from being tidied away (XDG Base Directory Specification).
    pub fn make(path: &Path) -> Result<Store> {
        let store = Store::open(path)?;
        if store.dir.is_some() {
            return Ok(store);
        }
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o1700);
        builder.recursive(true).create(path).doing(|| format!("cannot make the state root {path:?}")).map_err(
            |error| match error.errno() {
                Some(Errno::EACCES | Errno::EROFS) => error.hint(
                    "an ordinary user's is below XDG_RUNTIME_DIR, which a login sets; otherwise say where with --root",
                ),
                _ => error,
            },
        )?;
        Store::open(path)
    }

    fn dir(&self) -> Result<BorrowedFd<'_>> {
        self.dir.as_ref().map(OwnedFd::as_fd).ok_or_else(does_not_exist)
    }

    /// Takes the id: makes its directory and locks it.
    pub fn reserve(&self, id: &str) -> Result<Reservation<'_>> {
        check_id(id)?;
        let root = self.dir()?;
        match fd::mkdirat(root, id_path(id), 0o700) {
            Err(failed) if failed.errno == Errno::EEXIST => {
                return Err(Error::new(Kind::AlreadyExists, "container with given ID already exists").failed(failed));
            }
            other => other.doing(|| format!("cannot make the state directory of {id:?}"))?,
        }
        let dir = fd::openat(root, id_path(id), OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, 0)
            .doing(|| format!("cannot open the state directory of {id:?}"))?;
        let reservation = Reservation { root, id: id.into(), dir: Some(dir) };
        fd::lock(reservation.dir(), true).doing(|| "cannot lock the container")?;
        Ok(reservation)
    }

    /// Finds a container. A directory whose `create` died before it wrote anything has no state;
    /// see [`Store::remove_leftover`].
    pub fn load(&self, id: &str) -> Result<Container> {
        check_id(id)?;
        let Some(dir) = self.container_dir(id)? else { return Err(does_not_exist()) };
        match Container::read(dir, id) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Err(does_not_exist()
                .hint("its create died before it wrote anything; `delete --force` clears the directory away")),
            other => other,
        }
    }

    fn container_dir(&self, id: &str) -> Result<Option<OwnedFd>> {
        let Ok(root) = self.dir() else { return Ok(None) };
        match fd::openat(root, id_path(id), OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, 0) {
            Err(failed) if failed.errno == Errno::ENOENT => Ok(None),
            other => other.map(Some).doing(|| format!("cannot open the state directory of {id:?}")),
        }
    }

    /// Removes a directory that has no readable state, if there is one. A create that had not
    /// written it yet is waited for: then there is a container, which is returned, locked.
    pub fn remove_leftover(&self, id: &str) -> Result<Option<Container>> {
        let Some(dir) = self.container_dir(id)? else { return Ok(None) };
        fd::lock(dir.as_fd(), true).doing(|| "cannot lock the container")?;
        let copy = fd::duplicate(dir.as_fd()).doing(|| "cannot hold the container")?;
        match Container::read(copy, id) {
            Ok(container) => Ok(Some(container)),
            Err(_) => self.remove(id, dir.as_fd()).map(|()| None),
        }
    }

    /// Removes a container's directory: its files, whatever they are, and itself.
    pub(super) fn remove(&self, id: &str, dir: BorrowedFd<'_>) -> Result<()> {
        remove_directory(self.dir()?, id, dir)
    }

    /// The ids of all containers, sorted.
    pub fn ids(&self) -> Result<Vec<String>> {
        let Some(dir) = &self.dir else { return Ok(Vec::new()) };
        let copy = fd::openat(dir.as_fd(), ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)
            .doing(|| "cannot read the state root")?;
        let mut ids: Vec<String> = nix::dir::Dir::from_fd(copy)
            .map_err(|errno| Error::new(Kind::Kernel, format!("cannot read the state root {:?}: {errno}", self.path)))?
            .iter()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_string))
            .filter(|name| check_id(name).is_ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }
}

fn does_not_exist() -> Error {
    Error::new(Kind::NotFound, "container does not exist")
}

/// Removes every file in `dir` and then `dir` itself, which is `id` in `root`.
fn remove_directory(root: BorrowedFd<'_>, id: &str, dir: BorrowedFd<'_>) -> Result<()> {
    for name in FILES {
        if let Err(failed) = gone(fd::unlinkat(dir, name)) {
            return Err(failed.doing(format!("cannot remove {name} of {id:?}")));
        }
    }
    // Usually that was all. Otherwise something unusual is left: a temporary file of a write that
    // was cut off, or is going on while we look; the notify socket.
    for _ in 0..16 {
        match gone(fd::rmdirat(root, id_path(id))) {
            Err(failed) if failed.errno == Errno::ENOTEMPTY => {}
            other => return other.doing(|| format!("cannot remove the state directory of {id:?}")),
        }
        remove_contents(dir).doing(|| format!("cannot empty the state directory of {id:?}"))?;
    }
    gone(fd::rmdirat(root, id_path(id))).doing(|| format!("cannot remove the state directory of {id:?}"))
}

/// What is gone already need not be removed.
fn gone(removed: crate::sys::Result<()>) -> crate::sys::Result<()> {
    match removed {
        Err(failed) if failed.errno == Errno::ENOENT => Ok(()),
        other => other,
    }
}

fn remove_contents(dir: BorrowedFd<'_>) -> crate::sys::Result<()> {
    let copy = match fd::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0) {
        Err(failed) if failed.errno == Errno::ENOENT => return Ok(()),
        other => other?,
    };
    let Ok(mut entries) = nix::dir::Dir::from_fd(copy) else { return Ok(()) };
    let names: Vec<_> = entries.iter().flatten().map(|entry| entry.file_name().to_owned()).collect();
    for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        use std::os::unix::ffi::OsStrExt;
        let name = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        if gone(fd::unlinkat(dir, name)).is_err() {
            let below = fd::openat(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, 0)?;
            remove_contents(below.as_fd())?;
            gone(fd::rmdirat(dir, name))?;
        }
    }
    Ok(())
}

/// A container's directory while `create` works on it: locked, and removed again when this is
/// dropped without [`Reservation::keep`].
pub struct Reservation<'a> {
    root: BorrowedFd<'a>,
    id: String,
    dir: Option<OwnedFd>,
}

impl Reservation<'_> {
    /// The directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_ref().expect("only keep and drop take it, and both consume self").as_fd()
    }

    /// Writes down what will be made, before it is made.
    pub fn record(&self, state: &State, config: &[u8]) -> Result<()> {
        let text = serde_json::to_vec(state).expect("plain data");
        fd::create_new(self.dir(), "state.json", 0o600, &text).doing(|| "cannot write state.json")?;
        fd::create_new(self.dir(), "config.json", 0o600, config).doing(|| "cannot write the copy of config.json")
    }

    /// Makes the file for [`Init::write`]. While it is empty it says nothing.
    pub fn make_init_file(&self) -> Result<OwnedFd> {
        fd::make_new(self.dir(), "init.json", 0o600).doing(|| "cannot make init.json")
    }

    /// Gives up the right to remove the directory; the lock goes with the returned descriptor.
    pub fn keep(mut self) -> OwnedFd {
        self.dir.take().expect("only keep and drop take it, and both consume self")
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(dir) = self.dir.take() {
            // What cannot be removed now is there for `delete --force`.
            let _ = remove_directory(self.root, &self.id, dir.as_fd());
        }
    }
}

/// A container as found on disk.
pub struct Container {
    /// Its directory.
    pub dir: OwnedFd,
    /// What was decided at create.
    pub state: State,
    /// Its process, once it stood.
    pub init: Option<Init>,
    /// The hooks of its configuration, once they were asked for.
    hooks: OnceCell<Hooks>,
}

impl Init {
    /// Writes down the process: from here on the container exists.
    pub fn write(&self, file: BorrowedFd<'_>) -> Result<()> {
        let text = serde_json::to_vec(self).expect("plain data");
        fd::write_once(file, &text).doing(|| "cannot write init.json")
    }
}

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// Its name (field 2).
    pub name: String,
    /// Its state letter (field 3).
    pub state: char,
    /// Its start time in clock ticks since boot (field 22).
    pub start_time: u64,
    /// Its exit status as waitpid(2) gives it (field 52); 0 for those who may not know.
    pub exit_code: i32,
}

/// Reads `/proc/PID/stat`; `None` when there is no such process.
pub fn process_stat(pid: i32) -> Option<ProcessStat> {
    let text = fd::read_small(fd::CWD, format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&text))
}

fn parse_stat(text: &str) -> Option<ProcessStat> {
    // The name is in parentheses and may itself have any character.
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_string();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(ProcessStat {
        name,
        state: fields.first()?.chars().next()?,
        start_time: fields.get(19)?.parse().ok()?,
        exit_code: fields.get(49).and_then(|field| field.parse().ok()).unwrap_or(0),
    })
}

/// How the names of the hooks that run outside of create begin.
const POST: &[u8] = b"\"post";

impl Container {
    fn read(dir: OwnedFd, id: &str) -> Result<Container> {
        let text = fd::read_small(dir.as_fd(), "state.json").doing(|| format!("cannot read the state of {id:?}"))?;
        let damaged = |why: String| {
            Error::new(Kind::State, format!("the state of {id:?} is damaged: {why}"))
                .hint("`delete --force` clears what is left of it away")
        };
        #[derive(serde::Deserialize)]
        struct Versioned {
            version: u32,
        }
        let state = serde_json::from_slice::<State>(&text);
        // A state of another version need not be one of ours at all.
        let versioned = match &state {
            Ok(state) => Versioned { version: state.version },
            Err(_) => serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?,
        };
        if versioned.version > VERSION || versioned.version == 0 {
            let msg = format!(
                "the state of {id:?} has version {}, and this windlass knows versions up to {VERSION}",
                versioned.version
            );
            return Err(Error::new(Kind::State, msg).hint("use the windlass that made the container, or a newer one"));
        }
        let state = state.map_err(|error| damaged(error.to_string()))?;
        let init = match fd::read_small(dir.as_fd(), "init.json") {
            Err(failed) if failed.errno == Errno::ENOENT => None,
            // Its create has not filled it yet, or was killed before it could.
            Ok(text) if text.is_empty() => None,
            text => {
                let text = text.doing(|| format!("cannot read init.json of {id:?}"))?;
                Some(serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?)
            }
        };
        Ok(Container { dir, state, init, hooks: OnceCell::new() })
    }

    /// A container that this process has just made.
    pub fn of(dir: OwnedFd, state: State, init: Init, hooks: Hooks) -> Container {
        Container { dir, state, init: Some(init), hooks: hooks.into() }
    }

    /// Lets other commands change the container again.
    pub fn unlock(&self) {
        fd::unlock(self.dir.as_fd());
    }

    /// Locks the container against other commands that change it.
    pub fn lock(&self) -> Result<()> {
        fd::lock(self.dir.as_fd(), true).doing(|| "cannot lock the container")
    }

    /// Whether the directory is still the one that the id names: a delete may have been faster.
    pub fn still_there(&self) -> bool {
        fd::stat(self.dir.as_fd()).is_ok_and(|stat| stat.st_nlink > 0)
    }

    /// What is known of init's process, if it is still that process.
    pub fn init_stat(&self) -> Option<ProcessStat> {
        let init = self.init?;
        process_stat(init.pid).filter(|stat| stat.start_time == init.start_time)
    }

    /// A handle of init that is surely init: taken first, compared afterwards.
    pub fn open_init(&self) -> Result<Option<OwnedFd>> {
        let Some(init) = self.init else { return Ok(None) };
        match process::open_pid(init.pid) {
            Err(failed) if failed.errno == Errno::ESRCH => Ok(None),
            Err(failed) => Err(failed.doing("cannot open the container's process")),
            Ok(pidfd) => Ok(self.init_stat().filter(|stat| !matches!(stat.state, 'Z' | 'X')).map(|_| pidfd)),
        }
    }

    /// Where the container is in its life.
    pub fn status(&self) -> Result<Status> {
        let Some(init) = self.init_stat() else {
            let unfinished = self.init.is_none() && fd::lock(self.dir.as_fd(), false).is_err();
            return Ok(if unfinished { Status::Creating } else { Status::Stopped });
        };
        if matches!(init.state, 'Z' | 'X') {
            return Ok(Status::Stopped);
        }
        let frozen = match &self.state.cgroup {
            Some(path) => crate::cgroup::is_frozen(path),
            None => self.group()?.map_or(Ok(false), |group| group.is_frozen()),
        };
        if frozen.unwrap_or(false) {
            return Ok(Status::Paused);
        }
        let waits = init.name.as_bytes() == INIT_NAME.to_bytes() && fd::stat_at(self.dir.as_fd(), "start.sock").is_ok();
        Ok(if waits { Status::Created } else { Status::Running })
    }

    /// Its cgroups of version 1, as far as there are any.
    pub fn cgroup_v1(&self) -> Result<v1::Cgroup> {
        v1::Cgroup::open(&self.state.cgroup_v1)
    }

    /// The cgroup that knows its processes, if there is one.
    pub fn group(&self) -> Result<Option<Group>> {
        if let Some(cgroup) = self.cgroup()? {
            return Ok(Some(Group::Unified(cgroup)));
        }
        Ok(Some(self.cgroup_v1()?).filter(|cgroup| !cgroup.is_nothing()).map(Group::V1))
    }

    /// How many of its processes the kernel killed for want of memory, where that is known.
    pub fn oom_kills(&self) -> Option<u64> {
        let unified = self.cgroup().ok().flatten().and_then(|cgroup| cgroup.oom_kills());
        unified.or_else(|| self.cgroup_v1().ok()?.oom_kills())
    }

    /// Its cgroup of version 2, if it has one and it still exists.
    pub fn cgroup(&self) -> Result<Option<Cgroup>> {
        match &self.state.cgroup {
            None => Ok(None),
            Some(path) => match Cgroup::open(path) {
                Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
                other => other.map(Some),
            },
        }
    }

    /// The configuration that create saw.
    pub fn config(&self) -> Result<Spec> {
        let text = self.config_text()?;
        crate::spec::parse(&text, "the container's config.json")
    }

    /// Its text.
    pub fn config_text(&self) -> Result<Vec<u8>> {
        fd::openat(self.dir.as_fd(), "config.json", OFlag::O_RDONLY | OFlag::O_NOFOLLOW, 0)
            .and_then(fd::read_all)
            .doing(|| "cannot read the container's config.json")
    }

    /// Its hooks that run outside of create. The configuration is parsed only if it has any.
    pub fn hooks(&self) -> Result<&Hooks> {
        if let Some(hooks) = self.hooks.get() {
            return Ok(hooks);
        }
        let hooks = match self.config_text() {
            // Its create died before that was written.
            Err(error) if error.errno() == Some(Errno::ENOENT) => Hooks::default(),
            text => {
                let text = text?;
                match text.windows(POST.len()).any(|window| window == POST) {
                    false => Hooks::default(),
                    true => {
                        let spec: Spec = crate::spec::parse(&text, "the container's config.json")?;
                        spec.hooks.unwrap_or_default()
                    }
                }
            }
        };
        Ok(self.hooks.get_or_init(|| hooks))
    }

    /// How it ended, if that is known or can still be found out.
    pub fn exit(&self) -> Option<ExitRecord> {
        let text =
            fd::openat(self.dir.as_fd(), "exit.json", OFlag::O_RDONLY | OFlag::O_NOFOLLOW, 0).and_then(fd::read_all);
        if let Some(record) = text.ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            return Some(record);
        }
        // Nobody has written it down, but a zombie still carries its status; and where that was
        // taken by a caller who reaped it, the cgroup still tells of a kill for want of memory.
        let Some(stat) = self.init_stat().filter(|stat| stat.state == 'Z') else {
            return Some(self.exit_record(None)).filter(|record| record.oom_killed);
        };
        let exit = match stat.exit_code & 0x7f {
            0 => Exit::Code(stat.exit_code >> 8 & 0xff),
            signal => Exit::Signal(signal),
        };
        // Somebody who holds the lock may be removing the directory: nothing is put into it then.
        if fd::lock(self.dir.as_fd(), false).is_err() {
            return Some(self.exit_record(Some(exit)));
        }
        let record = self.record_exit(exit);
        self.unlock();
        Some(record)
    }

    /// Writes down how the container ended. For who holds the lock.
    pub fn record_exit(&self, exit: Exit) -> ExitRecord {
        let record = self.exit_record(Some(exit));
        let text = serde_json::to_vec(&record).expect("plain data");
        // Best effort: a reader without the right to write still gets the answer.
        let _ = fd::replace(self.dir.as_fd(), Path::new("exit.json"), 0o600, &text);
        record
    }

    fn exit_record(&self, exit: Option<Exit>) -> ExitRecord {
        ExitRecord {
            code: if let Some(Exit::Code(code)) = exit { Some(code) } else { None },
            signal: if let Some(Exit::Signal(signal)) = exit { Some(signal) } else { None },
            oom_killed: self.oom_kills().is_some_and(|n| n > 0),
            at: crate::rfc3339::nanoseconds(std::time::SystemTime::now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_look_like_the_rest_of_the_line() {
        let mut fields = vec!["0"; 50];
        fields[0] = "Z";
        fields[19] = "777";
        fields[49] = "256";
        let text = format!("12 (a) R 1 (b) {}", fields.join(" "));
        let stat = parse_stat(&text).expect("well formed");
        assert_eq!(stat, ProcessStat { name: "a) R 1 (b".into(), state: 'Z', start_time: 777, exit_code: 256 });
        assert_eq!(parse_stat("nonsense"), None);
    }
}
