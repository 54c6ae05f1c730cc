//! The state root. It has one file for each container, which is also the container's lock (flock(2)).

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;

use windlass_base::error::{Diagnostic, Error, Kind, Result, WithContext};
use windlass_base::spec::{Hooks, Spec};
use windlass_cgroup::{AnyCgroup, Cgroup, v1};
use windlass_sys::poll::Deadline;
use windlass_sys::process;
use windlass_sys::{directory, fd, tree};

use super::exit_pin::{self, ExitPin};
use super::process_stat::{ProcessStat, process_stat};
use super::record::{self, Head, Layout};
use super::state::{InitProcess, State, Status};
use super::unusable::Unusable;
use windlass_base::exit_record::ExitRecord;
use windlass_base::id::{check_id, id_path};

/// The name of init in `/proc/PID/stat` until it executes its program.
pub const INIT_NAME: &std::ffi::CStr = c"windlass:init";

/// An open state root.
pub struct Store {
    /// `None`: it does not exist.
    dir: Option<Rc<OwnedFd>>,
    path: PathBuf,
}

impl Store {
    /// Opens the state root. One that does not exist has no containers. One that other users may write to is refused,
    /// since the states in it name the processes to kill and the hooks to run.
    pub fn open(path: &Path) -> Result<Store> {
        let dir = match fd::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Err(failed) if failed.errno == Errno::ENOENT => None,
            other => {
                let dir = other.with_context(|| format!("cannot open the state root {path:?}"))?;
                check_owner(dir.as_fd(), || format!("the state root {path:?}"))?;
                Some(Rc::new(dir))
            }
        };
        Ok(Store { dir, path: path.into() })
    }

    /// Opens the state root, and makes it if it does not exist. Its mode is 01700: the sticky bit excepts it from the
    /// cleanup of a user's runtime directory (XDG Base Directory Specification).
    pub fn make(path: &Path) -> Result<Store> {
        let store = Store::open(path)?;
        if store.dir.is_some() {
            return Ok(store);
        }
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o1700);
        builder.recursive(true).create(path).with_context(|| format!("cannot make the state root {path:?}")).map_err(
            |error| match error.errno() {
                Some(Errno::EACCES | Errno::EROFS) => error.hint(
                    "an ordinary user's is below XDG_RUNTIME_DIR, which a login sets; otherwise say where with --root",
                ),
                _ => error,
            },
        )?;
        Store::open(path)
    }

    fn root(&self) -> Result<Rc<OwnedFd>> {
        self.dir.clone().ok_or_else(does_not_exist)
    }

    /// Reserves the id: makes its file and locks it.
    pub fn reserve(&self, id: &str) -> Result<Reservation> {
        check_id(id)?;
        let root = self.root()?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let file = match fd::openat(root.as_fd(), id_path(id), flags, 0o600) {
            Err(failed) if failed.errno == Errno::EEXIST => {
                return Err(Error::new(Kind::AlreadyExists, "container with given ID already exists").caused_by(failed));
            }
            other => other.with_context(|| format!("cannot make the state of {id:?}"))?,
        };
        let mut reservation = Reservation {
            root,
            id: id.into(),
            file: Some(file),
            inode: 0,
            layout: OnceCell::new(),
            copy: OnceCell::new(),
        };
        fd::lock(reservation.file(), true).with_context(|| "cannot lock the container")?;
        let stat = fd::stat(reservation.file()).with_context(|| "cannot look at the container's state")?;
        // Before it was locked, a `delete --force` may have removed it as the file of a create that died.
        if stat.st_nlink == 0 {
            return Err(Error::new(Kind::NotFound, format!("container {id:?} was deleted while it was made")));
        }
        reservation.inode = stat.st_ino;
        Ok(reservation)
    }

    /// Loads a container. If its create died before it wrote the state, that is [`Kind::NotFound`]; a damaged state is
    /// [`Kind::State`]. [`Store::load_to_remove`] removes both.
    pub fn load(&self, id: &str) -> Result<Container> {
        Ok(self.read(id)?)
    }

    /// Loads a container for `delete --force`. A damaged state is a warning. A file without a container is removed, and
    /// this is `None`.
    pub fn load_to_remove(&self, id: &str, warnings: &mut Vec<Diagnostic>) -> Result<Option<Container>> {
        match self.read(id) {
            Ok(container) => Ok(Some(container)),
            Err(Unusable::Damaged(error)) => {
                warnings.push(Diagnostic { pointer: String::new(), msg: error.message().into() });
                self.remove_leftover(id)
            }
            Err(Unusable::Other(error)) if error.kind() == Kind::NotFound => {
                let left = self.remove_leftover(id)?;
                if let (None, Some(root)) = (&left, &self.dir) {
                    exit_pin::remove_lost(root.as_fd(), id);
                }
                Ok(left)
            }
            Err(Unusable::Other(error)) => Err(error),
        }
    }

    fn read(&self, id: &str) -> Result<Container, Unusable> {
        check_id(id)?;
        let Some(file) = self.file(id)? else { return Err(does_not_exist().into()) };
        Container::read(self.root()?, file, id)?.ok_or_else(|| {
            does_not_exist().hint("its create died before it wrote anything; `delete --force` clears that away").into()
        })
    }

    fn file(&self, id: &str) -> Result<Option<OwnedFd>> {
        let Some(root) = &self.dir else { return Ok(None) };
        match fd::openat(root.as_fd(), id_path(id), OFlag::O_RDONLY | OFlag::O_NOFOLLOW, 0) {
            Err(failed) if failed.errno == Errno::ENOENT => Ok(None),
            other => other.map(Some).with_context(|| format!("cannot open the state of {id:?}")),
        }
    }

    /// Handles a file without a readable state, after it has waited for a create that holds the lock.
    ///
    /// If that create wrote the state meanwhile, or the state was damaged later and a part of it is known, the
    /// container is returned, locked. If nothing was made yet, the file is removed. If something was made and nothing
    /// is known of it, that is an error: its processes may be running.
    fn remove_leftover(&self, id: &str) -> Result<Option<Container>> {
        let Some(file) = self.file(id)? else { return Ok(None) };
        fd::lock(file.as_fd(), true).with_context(|| "cannot lock the container")?;
        let copy = fd::duplicate(file.as_fd()).with_context(|| "cannot hold the container")?;
        let why = match Container::read(self.root()?, copy, id) {
            Ok(Some(container)) => {
                container.locked.set(true);
                return Ok(Some(container));
            }
            // The holder of the lock has removed it, and the name may be another container's by now.
            _ if !is_linked(file.as_fd()) => return Ok(None),
            Ok(None) => "it was cut off".to_string(),
            Err(unusable) => Error::from(unusable).message().to_string(),
        };
        let text =
            fd::read_head(file.as_fd(), record::FIXED).with_context(|| format!("cannot read the state of {id:?}"))?;
        let marked = fd::stat(file.as_fd()).is_ok_and(|stat| stat.st_mode & MARK != 0);
        let known = fd::attribute_of(file.as_fd(), COPY).and_then(|copy| record::parse_copy(&copy));
        let known = known.or_else(|| Some((State::of_cgroup(id, record::cgroup_in(&text)?), None)));
        match known {
            Some((state, init)) => Container::recovered(self.root()?, file, state, init).map(Some),
            // Its create died before it made anything, or the file never was a state.
            None if !marked && !record::is_state(&text) => {
                remove(self.root()?.as_fd(), id, file.as_fd()).map(|()| None)
            }
            None => {
                let msg = format!("the state of {id:?} is damaged, and nothing tells which processes are its: {why}");
                let hint = format!("look for its processes, end them, and then remove {:?}", self.path.join(id));
                Err(Error::new(Kind::State, msg).hint(hint))
            }
        }
    }

    /// The ids of all containers, sorted.
    pub fn ids(&self) -> Result<Vec<String>> {
        let Some(dir) = &self.dir else { return Ok(Vec::new()) };
        let names =
            directory::names(dir.as_fd()).with_context(|| format!("cannot read the state root {:?}", self.path))?;
        let mut ids: Vec<String> = names
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .filter(|name| check_id(name).is_ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }
}

fn does_not_exist() -> Error {
    Error::new(Kind::NotFound, "container does not exist")
}

/// Refuses a file or directory that belongs to a user other than the caller and root, or that others may write to.
fn check_owner(file: BorrowedFd<'_>, what: impl Fn() -> String) -> Result<FileStat> {
    let stat = fd::stat(file).with_context(|| format!("cannot look at {}", what()))?;
    let Some(wrong) = fd::distrust(&stat) else { return Ok(stat) };
    let error = Error::new(Kind::PermissionDenied, format!("{} {wrong}", what()));
    Err(error.hint("what is in it decides which processes are killed and which hooks run: use a directory of your own"))
}

/// The extended attribute with a copy of the first line. If the content of the file is lost, `delete --force` finds
/// here what to kill and remove.
const COPY: &str = "windlass.state";
/// The mode bit of a written state on a file system without extended attributes.
const MARK: u32 = 0o100;

/// Removes all files of a container in the state root. The state is removed last.
fn remove(root: BorrowedFd<'_>, id: &str, file: BorrowedFd<'_>) -> Result<()> {
    let cannot = |what: &str| format!("cannot remove {what} of {id:?}");
    let inode = fd::stat(file).with_context(|| "cannot look at the container's state")?.st_ino;
    if_exists(fd::unlinkat(root, start_socket(inode))).with_context(|| cannot("the start socket"))?;
    let directory = notify_directory(id);
    match if_exists(fd::rmdirat(root, &directory)) {
        // The socket of an unfinished start.
        Err(failed) if failed.errno == Errno::ENOTEMPTY => {
            tree::remove(root, &directory, tree::Files::Unlink).with_context(|| cannot("the notify socket"))?;
        }
        // The id is too long for such a directory, so there is none.
        Err(failed) if failed.errno == Errno::ENAMETOOLONG => {}
        other => other.with_context(|| cannot("the directory of the notify socket"))?,
    }
    if_exists(fd::unlinkat(root, id_path(id))).with_context(|| cannot("the state"))
}

/// The name of the socket on which init waits for `start`. It has the inode of the state, which is unique while the
/// state exists, and not the id, which may be too long for the address of a socket.
fn start_socket(inode: u64) -> String {
    format!("@start-{inode}")
}

/// The name of the directory of a container's notify socket. It cannot be an id, which has no `@`.
pub fn notify_directory(id: &str) -> String {
    format!("{id}@notify")
}

fn is_linked(file: BorrowedFd<'_>) -> bool {
    fd::stat(file).is_ok_and(|stat| stat.st_nlink > 0)
}

/// Takes ENOENT of a removal as success.
fn if_exists(removed: windlass_sys::Result<()>) -> windlass_sys::Result<()> {
    match removed {
        Err(failed) if failed.errno == Errno::ENOENT => Ok(()),
        other => other,
    }
}

/// A container's file during `create`: locked, and removed on drop unless [`Reservation::commit`] was called.
pub struct Reservation {
    root: Rc<OwnedFd>,
    id: String,
    file: Option<OwnedFd>,
    inode: u64,
    layout: OnceCell<Layout>,
    /// The copy of the first line, if the container has no cgroup: it is written again with the process.
    copy: OnceCell<Vec<u8>>,
}

impl Reservation {
    fn file(&self) -> BorrowedFd<'_> {
        self.file.as_ref().expect("only commit and drop take it, and both consume self").as_fd()
    }

    /// The state root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The name in the state root of the socket on which init waits for `start`.
    pub fn start_socket(&self) -> String {
        start_socket(self.inode)
    }

    /// Writes the state, before anything in it is made. `post`: the configuration has poststart or poststop hooks.
    pub fn record(&self, state: &State, config: &[u8], post: bool) -> Result<()> {
        let (text, layout) = record::compose(state, config, post);
        let copy = &text[..layout.init()];
        if fd::set_attribute(self.file(), COPY, copy).is_err() {
            fd::chmod(self.file(), 0o600 | MARK).with_context(|| "cannot mark the container's state")?;
        }
        if state.cgroup.is_none() && state.cgroup_v1.is_empty() {
            let _ = self.copy.set(copy.to_vec());
        }
        fd::write_all(self.file(), &text, Deadline::NEVER).with_context(|| "cannot write the container's state")?;
        self.layout.set(layout).map_err(|_| Error::new(Kind::State, "the container was recorded before"))
    }

    fn layout(&self) -> Result<Layout> {
        self.layout.get().copied().ok_or_else(|| Error::new(Kind::State, "the container was not recorded"))
    }

    /// Writes the process: from here on the container exists.
    pub fn record_init(&self, init: &InitProcess) -> Result<()> {
        let at = self.layout()?.init();
        if let Some(copy) = self.copy.get() {
            let copy = [copy.as_slice(), &record::init_line(init)].concat();
            // Best effort: the copy is read only if the content of the file is lost.
            let _ = fd::set_attribute(self.file(), COPY, &copy);
        }
        fd::write_at(self.file(), &record::init_line(init), at).with_context(|| "cannot record the process")
    }

    /// Keeps the file. The returned container is still locked.
    pub fn commit(mut self, mut state: State, init: InitProcess, hooks: Hooks) -> Result<Container> {
        let (root, layout) = (self.root.clone(), self.layout()?);
        let file = self.file.take().expect("only commit and drop take it, and both consume self");
        // Where create has not read them, they are read from the file on demand.
        let annotations = match std::mem::take(&mut state.annotations) {
            none if none.is_empty() => OnceCell::new(),
            annotations => annotations.into(),
        };
        let hooks = hooks.into();
        let (inode, locked, pinned) = (self.inode, Cell::new(true), Cell::new(false));
        let init = Some(init);
        Ok(Container { root, file, inode, locked, layout, pinned, state, init, exit: None, hooks, annotations })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(file) = self.file.take().filter(|file| is_linked(file.as_fd())) {
            // Best effort: `delete --force` removes what is left.
            let _ = remove(self.root.as_fd(), &self.id, file.as_fd());
        }
    }
}

/// A container on disk.
pub struct Container {
    root: Rc<OwnedFd>,
    pub(super) file: OwnedFd,
    inode: u64,
    /// Whether this process holds the lock through `file`.
    pub(super) locked: Cell<bool>,
    pub(super) layout: Layout,
    /// Whether its init may have an exit pin.
    pub(super) pinned: Cell<bool>,
    /// What create decided.
    pub state: State,
    /// Its process. `None`: create has not started it.
    pub init: Option<InitProcess>,
    /// Its exit, if that was written.
    pub(super) exit: Option<ExitRecord>,
    /// The hooks of its configuration, read on demand.
    hooks: OnceCell<Hooks>,
    /// Its annotations, read on demand.
    annotations: OnceCell<BTreeMap<String, String>>,
}

/// How the names of the hooks poststart and poststop begin in a configuration.
const POST: &[u8] = b"\"post";

impl Container {
    /// Reads a state. `None`: its create has not written it, or died before that.
    fn read(root: Rc<OwnedFd>, file: OwnedFd, id: &str) -> Result<Option<Container>, Unusable> {
        let stat = check_owner(file.as_fd(), || format!("the state of {id:?}"))?;
        let head =
            fd::read_head(file.as_fd(), record::FIXED).with_context(|| format!("cannot read the state of {id:?}"))?;
        let head = record::parse(&head).map_err(|unreadable| Unusable::new(id, unreadable))?;
        Ok(head.map(|Head { layout, state, init, exit }| Container {
            root,
            file,
            inode: stat.st_ino,
            locked: Cell::new(false),
            layout,
            pinned: Cell::new(true),
            state,
            init,
            exit,
            hooks: OnceCell::new(),
            annotations: OnceCell::new(),
        }))
    }

    /// A container with a damaged state, of which `state` is known. It can be killed and removed; its hooks are lost.
    /// `file` is locked.
    fn recovered(root: Rc<OwnedFd>, file: OwnedFd, state: State, init: Option<InitProcess>) -> Result<Container> {
        let inode = fd::stat(file.as_fd()).with_context(|| "cannot look at the container's state")?.st_ino;
        let (locked, layout, pinned) = (Cell::new(true), Layout::default(), Cell::new(true));
        let (hooks, annotations) = (Hooks::default().into(), BTreeMap::new().into());
        Ok(Container { root, file, inode, locked, layout, pinned, state, init, exit: None, hooks, annotations })
    }

    /// The state root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The name in the state root of the socket on which init waits for `start`.
    pub fn start_socket(&self) -> String {
        start_socket(self.inode)
    }

    /// Removes its exit pin and its files in the state root. The caller holds the lock.
    pub fn remove(&self) -> Result<()> {
        // First: with the record, nobody would know of the pin any more.
        if let Some(pin) = self.exit_pin().filter(|_| self.pinned.get()) {
            pin.remove();
        }
        remove(self.root(), &self.state.id, self.file.as_fd())
    }

    /// The exit pin of its init, which may exist or not.
    pub(super) fn exit_pin(&self) -> Option<ExitPin> {
        self.init.map(|init| ExitPin::of(self.root(), &self.state.id, &init))
    }

    /// Releases the lock.
    pub fn unlock(&self) {
        fd::unlock(self.file.as_fd());
        self.locked.set(false);
    }

    /// Locks the container against other commands that change it, and waits for one that holds the lock. If that was
    /// its create, the process that it has recorded is read.
    pub fn lock(&mut self) -> Result<()> {
        fd::lock(self.file.as_fd(), true).with_context(|| "cannot lock the container")?;
        self.locked.set(true);
        if self.init.is_none() {
            let head = fd::read_head(self.file.as_fd(), record::FIXED).with_context(|| "cannot read the state")?;
            if let Ok(Some(head)) = record::parse(&head) {
                (self.init, self.exit) = (head.init, head.exit);
            }
        }
        Ok(())
    }

    /// Whether the container was not deleted since it was loaded.
    pub fn exists(&self) -> bool {
        is_linked(self.file.as_fd())
    }

    /// Init's `/proc/PID/stat`, if init has not been reaped.
    pub fn init_stat(&self) -> Option<ProcessStat> {
        let init = self.init?;
        process_stat(init.pid).filter(|stat| stat.is_from(init.start_time))
    }

    /// The pidfd of init, if init runs. The start time is compared after the pidfd was opened, so the pidfd cannot be
    /// that of a later process with the same pid.
    pub fn open_init(&self) -> Result<Option<OwnedFd>> {
        let Some(init) = self.init else { return Ok(None) };
        match process::open_pid(init.pid) {
            Err(failed) if failed.errno == Errno::ESRCH => Ok(None),
            Err(failed) => Err(failed.context("cannot open the container's process")),
            Ok(pidfd) => Ok(self.init_stat().filter(|stat| !matches!(stat.state, 'Z' | 'X')).map(|_| pidfd)),
        }
    }

    /// The container's status now.
    pub fn status(&self) -> Result<Status> {
        let Some(init) = self.init_stat() else {
            // Until it has recorded the process, create holds the lock.
            let creating = self.init.is_none() && !self.locked.get() && fd::is_locked(self.file.as_fd());
            return Ok(if creating { Status::Creating } else { Status::Stopped });
        };
        if matches!(init.state, 'Z' | 'X') {
            return Ok(Status::Stopped);
        }
        let frozen = match &self.state.cgroup {
            Some(path) => windlass_cgroup::is_frozen(path),
            None => self.any_cgroup()?.map_or(Ok(false), |group| group.is_frozen()),
        };
        if frozen.unwrap_or(false) {
            return Ok(Status::Paused);
        }
        let waits_for_start =
            init.name.as_bytes() == INIT_NAME.to_bytes() && fd::stat_at(self.root(), self.start_socket()).is_ok();
        Ok(if waits_for_start { Status::Created } else { Status::Running })
    }

    /// Opens its cgroups of version 1; there may be none.
    pub fn cgroup_v1(&self) -> Result<v1::Cgroups> {
        v1::Cgroups::open(&self.state.cgroup_v1)
    }

    /// Opens the cgroups of version 1 for a new process of the container. `init` is the pidfd of init.
    pub fn cgroup_v1_for_exec(&self, init: BorrowedFd<'_>) -> Result<v1::Cgroups> {
        v1::Cgroups::for_exec(&self.state.cgroup_v1, self.init.map_or(0, |init| init.pid), init)
    }

    /// Opens the cgroup that holds its processes, if there is one.
    pub fn any_cgroup(&self) -> Result<Option<AnyCgroup>> {
        if let Some(cgroup) = self.cgroup()? {
            return Ok(Some(AnyCgroup::Unified(cgroup)));
        }
        Ok(Some(self.cgroup_v1()?).filter(|cgroup| !cgroup.is_empty()).map(AnyCgroup::V1))
    }

    /// How many of its processes the OOM killer has killed, if that is known.
    pub fn oom_kills(&self) -> Option<u64> {
        let unified = self.cgroup().ok().flatten().and_then(|cgroup| cgroup.oom_kills());
        unified.or_else(|| self.cgroup_v1().ok()?.oom_kills())
    }

    /// Opens its cgroup of version 2, if it has one that exists.
    pub fn cgroup(&self) -> Result<Option<Cgroup>> {
        match &self.state.cgroup {
            None => Ok(None),
            Some(path) => match Cgroup::open(path) {
                Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
                other => other.map(Some),
            },
        }
    }

    /// The configuration that create read.
    pub fn config(&self) -> Result<Spec> {
        let text = self.config_text()?;
        windlass_base::spec::parse(&text, "the container's config.json")
    }

    /// The text of that configuration.
    pub fn config_text(&self) -> Result<Vec<u8>> {
        let length = self.layout.bulk().map_or(usize::MAX, |bulk| bulk.config);
        fd::read_part(self.file.as_fd(), self.layout.config(), length)
            .with_context(|| "cannot read the container's configuration")
    }

    /// The annotations of its configuration.
    pub fn annotations(&self) -> Result<&BTreeMap<String, String>> {
        let Some(bulk) = self.layout.bulk() else { return Ok(&self.state.annotations) };
        if let Some(annotations) = self.annotations.get() {
            return Ok(annotations);
        }
        let text = match bulk.annotations {
            0 => Vec::new(),
            length => fd::read_part(self.file.as_fd(), self.layout.annotations(), length)
                .with_context(|| "cannot read the container's annotations")?,
        };
        let annotations = record::annotations(&text).map_err(|unreadable| Unusable::new(&self.state.id, unreadable))?;
        Ok(self.annotations.get_or_init(|| annotations))
    }

    /// Its hooks. Only poststart and poststop are sure to be in them: a configuration without these is not parsed.
    pub fn hooks(&self) -> Result<&Hooks> {
        if let Some(hooks) = self.hooks.get() {
            return Ok(hooks);
        }
        if self.layout.bulk().is_some_and(|bulk| !bulk.post) {
            return Ok(self.hooks.get_or_init(Hooks::default));
        }
        let text = self.config_text()?;
        let hooks = match text.windows(POST.len()).any(|window| window == POST) {
            false => Hooks::default(),
            true => match windlass_base::spec::parse(&text, "the container's config.json") {
                // Its create died while it wrote the configuration, before it ran any hook.
                Err(_) if self.init.is_none() => Hooks::default(),
                spec => spec?.hooks.unwrap_or_default(),
            },
        };
        Ok(self.hooks.get_or_init(|| hooks))
    }
}

#[cfg(test)]
mod tests;
