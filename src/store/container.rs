//! A container on disk.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;

use windlass_base::error::{Result, WithContext};
use windlass_base::exit_record::ExitRecord;
use windlass_base::spec::{Hooks, Spec};
use windlass_cgroup::{AnyCgroup, Cgroup, v1};
use windlass_sys::deferred::DeferredClose;
use windlass_sys::lock;
use windlass_sys::poll::Deadline;
use windlass_sys::{fd, process};

use super::exit_pin::ExitPin;
use super::files;
use super::process_stat::{ProcessStat, process_stat};
use super::record::{self, Head, Layout};
use super::state::{InitProcess, State, Status};
use super::unusable::Unusable;

/// The name of init in `/proc/PID/stat` until it executes its program.
pub const INIT_NAME: &std::ffi::CStr = c"windlass:init";

/// A container on disk.
pub struct Container {
    pub(super) root: Rc<OwnedFd>,
    pub(super) file: OwnedFd,
    pub(super) inode: u64,
    /// Whether this process holds the lock through `file`.
    pub(super) locked: Cell<bool>,
    pub(super) layout: Layout,
    /// Whether its init may have an exit pin.
    pub(super) pinned: Cell<bool>,
    /// The state that create decided.
    pub state: State,
    /// The container's init; `None` if create has not started it.
    pub init: Option<InitProcess>,
    /// The container's exit, if it was written.
    pub(super) exit: Option<ExitRecord>,
    /// The hooks of its configuration, read on demand.
    pub(super) hooks: OnceCell<Hooks>,
    /// Its annotations, read on demand.
    pub(super) annotations: OnceCell<BTreeMap<String, String>>,
    /// Keeps a large file until it is removed. Declared after `file`, so that it closes the file later.
    pub(super) deferred: OnceCell<DeferredClose>,
}

/// From this size on, in bytes, the kernel needs a noticeable time to free configuration and annotations (30 us).
const LARGE: usize = 256 << 10;

fn cannot_lock() -> &'static str {
    "cannot lock the container"
}

/// The beginning of the names of poststart and poststop hooks in a configuration.
const POST: &[u8] = b"\"post";

impl Container {
    /// Reads a state. Returns `None` if its create has not written it, or died before that.
    pub(super) fn read(root: Rc<OwnedFd>, file: OwnedFd, id: &str) -> Result<Option<Container>, Unusable> {
        let stat = files::check_owner(file.as_fd(), || format!("the state of {id:?}"))?;
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
            deferred: OnceCell::new(),
        }))
    }

    /// A container with a damaged state, of which only `state` is known. It can be killed and removed; its hooks are
    /// lost. `file` is locked.
    pub(super) fn recovered(
        root: Rc<OwnedFd>,
        file: OwnedFd,
        state: State,
        init: Option<InitProcess>,
    ) -> Result<Container> {
        let inode = fd::stat(file.as_fd()).with_context(|| "cannot look at the container's state")?.st_ino;
        let (locked, layout, pinned) = (Cell::new(true), Layout::default(), Cell::new(true));
        let (hooks, annotations) = (Hooks::default().into(), BTreeMap::new().into());
        let deferred = OnceCell::new();
        Ok(Container {
            root,
            file,
            inode,
            locked,
            layout,
            pinned,
            state,
            init,
            exit: None,
            hooks,
            annotations,
            deferred,
        })
    }

    /// The state root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The name in the state root of the socket on which init waits for `start`.
    pub fn start_socket(&self) -> String {
        files::start_socket(self.inode)
    }

    /// Removes its exit pin and its files in the state root. The caller holds the lock.
    pub fn remove(&self) -> Result<()> {
        // The pin is removed first: without the record, no command would find it.
        if let Some(pin) = self.exit_pin().filter(|_| self.pinned.get()) {
            pin.remove()?;
        }
        let lengths = self.layout.lengths().map_or(0, |lengths| lengths.config.saturating_add(lengths.annotations));
        // Without the deferred close, the end of this process waits until the content is freed.
        if lengths >= LARGE
            && let Ok(deferred) = DeferredClose::of(self.file.as_fd())
        {
            let _ = self.deferred.set(deferred);
        }
        files::remove(self.root(), &self.state.id, self.inode)
    }

    /// The exit pin of its init, which may exist or not.
    pub(super) fn exit_pin(&self) -> Option<ExitPin> {
        self.init.map(|init| ExitPin::of(self.root(), &self.state.id, &init))
    }

    /// Releases the lock.
    pub fn unlock(&self) {
        lock::release(self.file.as_fd());
        self.locked.set(false);
    }

    /// Locks the container against other commands that change it, and waits for one that holds the lock. If that was
    /// its create, the recorded init is read.
    pub fn lock(&mut self) -> Result<()> {
        lock::exclusive(self.file.as_fd(), true).with_context(cannot_lock)?;
        self.note_locked()
    }

    /// Locks the container, and waits until `deadline` at most. Returns false if another command still holds the lock.
    pub fn lock_until(&mut self, deadline: Deadline) -> Result<bool> {
        let locked = lock::exclusive_until(self.file.as_fd(), deadline).with_context(cannot_lock)?;
        if locked {
            self.note_locked()?;
        }
        Ok(locked)
    }

    fn note_locked(&mut self) -> Result<()> {
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
    pub fn exists(&self) -> Result<bool> {
        files::is_linked(self.file.as_fd())
    }

    /// Init's `/proc/PID/stat`, if init has not been reaped.
    pub fn init_stat(&self) -> Result<Option<ProcessStat>> {
        let Some(init) = self.init else { return Ok(None) };
        let what = || "cannot look at the container's process";
        let Some(stat) = process_stat(init.pid).with_context(what)? else { return Ok(None) };
        Ok(stat.is_from(init.start_time).with_context(what)?.then_some(stat))
    }

    /// The pidfd of init, if init runs. The start time is compared after the pidfd was opened, so the pidfd cannot
    /// belong to a later process with the same pid.
    pub fn open_init(&self) -> Result<Option<OwnedFd>> {
        let Some(init) = self.init else { return Ok(None) };
        match process::open_pid(init.pid) {
            Err(failed) if failed.errno == Errno::ESRCH => Ok(None),
            Err(failed) => Err(failed.context("cannot open the container's process")),
            Ok(pidfd) => Ok(self.init_stat()?.filter(|stat| !stat.has_ended()).map(|_| pidfd)),
        }
    }

    /// The container's status now.
    pub fn status(&self) -> Result<Status> {
        let Some(init) = self.init_stat()? else {
            // Until it has recorded the process, create holds the lock.
            let creating = self.init.is_none() && !self.locked.get() && lock::is_held(self.file.as_fd());
            return Ok(if creating { Status::Creating } else { Status::Stopped });
        };
        if init.has_ended() {
            return Ok(Status::Stopped);
        }
        let frozen = match &self.state.cgroup {
            Some(path) => windlass_cgroup::is_frozen(path),
            None => self.any_cgroup()?.map_or(Ok(false), |group| group.is_frozen()),
        };
        if frozen? {
            return Ok(Status::Paused);
        }
        // A program may take init's name, and a killed `start` may have left the socket; but no process can hide that
        // it has executed a program. Until a held container is restored, its init has CRIU's name. Its start socket is
        // removed before the processes run.
        let is_init = self.state.held || (!init.has_executed && init.name.as_bytes() == INIT_NAME.to_bytes());
        Ok(if is_init && self.has_start_socket()? { Status::Created } else { Status::Running })
    }

    fn has_start_socket(&self) -> Result<bool> {
        fd::exists_at(self.root(), Path::new(&self.start_socket())).with_context(|| "cannot look at the start socket")
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

    /// The text of the configuration.
    pub fn config_text(&self) -> Result<Vec<u8>> {
        let length = self.layout.lengths().map_or(usize::MAX, |lengths| lengths.config);
        fd::read_part(self.file.as_fd(), self.layout.config(), length)
            .with_context(|| "cannot read the container's configuration")
    }

    /// The annotations of its configuration.
    pub fn annotations(&self) -> Result<&BTreeMap<String, String>> {
        let Some(lengths) = self.layout.lengths() else { return Ok(&self.state.annotations) };
        if let Some(annotations) = self.annotations.get() {
            return Ok(annotations);
        }
        let text = match lengths.annotations {
            0 => Vec::new(),
            length => fd::read_part(self.file.as_fd(), self.layout.annotations(), length)
                .with_context(|| "cannot read the container's annotations")?,
        };
        let annotations = record::annotations(&text).map_err(|unreadable| Unusable::new(&self.state.id, unreadable))?;
        Ok(self.annotations.get_or_init(|| annotations))
    }

    /// The hooks of its configuration. Only poststart and poststop hooks are certain to be there: a configuration
    /// without these is not parsed.
    pub fn hooks(&self) -> Result<&Hooks> {
        if let Some(hooks) = self.hooks.get() {
            return Ok(hooks);
        }
        if self.layout.lengths().is_some_and(|lengths| !lengths.has_post_hooks) {
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
