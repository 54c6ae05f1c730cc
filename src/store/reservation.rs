//! A container's file during `create`.

use std::cell::{Cell, OnceCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_base::id::id_path;
use windlass_base::spec::Hooks;
use windlass_sys::attributes;
use windlass_sys::fd;
use windlass_sys::lock;
use windlass_sys::poll::Deadline;

use super::container::Container;
use super::files::{self, COPY, MARK};
use super::record::{self, Layout};
use super::state::{InitProcess, State};

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
    /// Makes the file of a container and locks it.
    pub(super) fn make(root: Rc<OwnedFd>, id: &str) -> Result<Reservation> {
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
        lock::exclusive(reservation.file(), true).with_context(|| "cannot lock the container")?;
        let stat = fd::stat(reservation.file()).with_context(|| "cannot look at the container's state")?;
        // Before the file was locked, a `delete --force` may have removed it as the file of a create that died.
        if stat.st_nlink == 0 {
            return Err(Error::new(Kind::NotFound, format!("container {id:?} was deleted while it was being created")));
        }
        reservation.inode = stat.st_ino;
        Ok(reservation)
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.file.as_ref().expect("only commit and drop take it, and both consume self").as_fd()
    }

    /// The state root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The name in the state root of the socket on which init waits for `start`.
    pub fn start_socket(&self) -> String {
        files::start_socket(self.inode)
    }

    /// Writes the state, before anything in it is made. `has_post_hooks` tells whether the configuration has poststart
    /// or poststop hooks.
    pub fn record(&self, state: &State, config: &[u8], has_post_hooks: bool) -> Result<()> {
        let (text, layout) = record::compose(state, config, has_post_hooks);
        let copy = &text[..layout.init()];
        if attributes::store(self.file(), COPY, copy).is_err() {
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

    /// Writes the init process: from here on the container exists.
    pub fn record_init(&self, init: &InitProcess) -> Result<()> {
        let at = self.layout()?.init();
        if let Some(copy) = self.copy.get() {
            let copy = [copy.as_slice(), &record::init_line(init)].concat();
            // Best effort: the copy is read only if the content of the file is lost.
            let _ = attributes::store(self.file(), COPY, &copy);
        }
        fd::write_at(self.file(), &record::init_line(init), at).with_context(|| "cannot record the process")
    }

    /// Keeps the file. The returned container is still locked.
    pub fn commit(mut self, mut state: State, init: InitProcess, hooks: Hooks) -> Result<Container> {
        let (root, layout) = (self.root.clone(), self.layout()?);
        let file = self.file.take().expect("only commit and drop take it, and both consume self");
        // If create has not read the annotations, they are read from the file on demand.
        let annotations = match std::mem::take(&mut state.annotations) {
            none if none.is_empty() => OnceCell::new(),
            annotations => annotations.into(),
        };
        let hooks = hooks.into();
        let (inode, locked, pinned) = (self.inode, Cell::new(true), Cell::new(false));
        let (init, exit, deferred) = (Some(init), None, OnceCell::new());
        Ok(Container { root, file, inode, locked, layout, pinned, state, init, exit, hooks, annotations, deferred })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.file.take().is_some_and(|file| files::is_linked(file.as_fd()).unwrap_or(true)) {
            // Best effort: `delete --force` removes what is left.
            let _ = files::remove(self.root.as_fd(), &self.id, self.inode);
        }
    }
}
