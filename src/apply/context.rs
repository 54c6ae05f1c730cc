//! The state that the steps of one process share.

use std::cell::OnceCell;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use windlass_base::error::{Error, Kind, Result};
use windlass_base::spec::Hooks;
use windlass_plan::{Program, RootPath, SourceId};
use windlass_store::State;
use windlass_sys::descriptors;
use windlass_sys::process::{Execution, SingleThreaded};
use windlass_sys::progress::Progress;

use super::action::Stdio;
use super::procfs::Procfs;
use super::sources::Sources;
use super::sync::InitSync;

/// Descriptors are closed in batches of this size. With those in use, a batch fits into the kernel's first
/// table of descriptors.
const BATCH: usize = 40;

/// The barrier that delays the program once the process is ready.
pub(crate) enum Barrier {
    /// A later `start` opens it, over this listening socket.
    Start(OwnedFd),
    /// The runtime at the other end of the pair opens it: `run` and `exec`.
    Runtime,
    /// `start` has opened it over the connection `start`, and waits there for the outcome.
    Opened {
        /// The connection.
        start: OwnedFd,
        /// The listening socket, which the execution closes.
        _listener: OwnedFd,
    },
}

/// The mount namespace in which the root filesystem is set up.
pub(crate) enum MountNamespace {
    /// The container's own.
    Own,
    /// A namespace that init has made for the setup. Init returns to the runtime's, which is held here.
    Temporary(OwnedFd),
    /// The caller's: mounts are made for the caller too.
    Callers,
}

/// How a process of `exec` comes into the container's PID namespace: a child that it clones is a member of it.
pub(crate) enum PidNamespace<'a> {
    /// The process stays where it is.
    Own,
    /// Not joined yet.
    ToJoin {
        /// A pidfd of the container's init.
        init: OwnedFd,
        /// The parent of the clone.
        parent: Parent<'a>,
    },
    /// Joined, for the children of this process.
    Joined(Parent<'a>),
    /// This process was cloned into the namespace. Its parent waits until the execution closes the pipe end.
    Member {
        /// The pipe end.
        _executed: OwnedFd,
    },
}

/// The means of a process to make the one that executes the program, and to guard it.
pub(crate) struct Parent<'a> {
    /// A pidfd of the runtime.
    pub runtime: OwnedFd,
    /// The proof that this process has one thread.
    pub proof: &'a SingleThreaded,
}

/// How far the program is from its execution.
pub(crate) enum Executable {
    /// Not looked for yet.
    Unknown,
    /// Found at this path.
    Found(CString),
    /// Ready for the kernel.
    Prepared(Execution),
}

/// A directory below the root, held open.
pub(crate) struct Directory {
    /// Its path below the root.
    pub path: PathBuf,
    /// The descriptor below which its entries are made.
    pub fd: OwnedFd,
    /// Whether it is the root of a filesystem that init has made, and so has only what init put there: no link of the
    /// image, nothing of procfs.
    pub fresh: bool,
    /// Whether it is the caller's own `/dev`, in which nothing is made.
    pub callers: bool,
}

/// The mounts that hide masked paths. The first use attaches the mount itself, each later one a copy of it.
#[derive(Default)]
pub(crate) struct Masks {
    /// An empty directory, for directories.
    pub directory: Option<OwnedFd>,
    /// The null device, for files.
    pub file: Option<OwnedFd>,
}

/// The hooks that run in the container, and what they read on their standard input.
#[derive(Clone, Copy)]
pub(crate) struct ContainerHooks<'a> {
    /// Hooks of the configuration.
    pub hooks: &'a Hooks,
    /// The container's state.
    pub state: &'a State,
}

/// The state that the steps of one process share.
pub(crate) struct Context<'a> {
    /// The connection to the runtime.
    pub sync: InitSync,
    /// The page shared with the runtime, over which both pass facts without a message.
    pub progress: Progress,
    /// The barrier that delays the program.
    pub barrier: Barrier,
    /// The sources of mounts, by the plan's index; each is used once.
    pub sources: Sources<'a>,
    /// Namespaces to join, by the plan's index.
    pub joins: Vec<Option<OwnedFd>>,
    /// How the process of an `exec` comes into the container's PID namespace.
    pub pid_namespace: PidNamespace<'a>,
    /// Whether the kernel kills this process when the runtime ends.
    pub dies_with_runtime: bool,
    /// The namespace in which mounts are made.
    pub mounts: MountNamespace,
    /// The root filesystem, once it is attached.
    pub root: Option<OwnedFd>,
    /// A directory in which something was made, kept for what is made next.
    pub directory: Option<Directory>,
    /// The caller's own `/dev`, by device and inode; looked up once.
    pub callers_dev: OnceCell<Option<(u64, u64)>>,
    /// The mounts that hide masked paths.
    pub masks: Masks,
    /// The procfs in which sysctls and labels are written.
    pub procfs: Procfs,
    /// Mounts that are made read-only when everything in them is made.
    pub late_readonly: Vec<(RootPath, OwnedFd)>,
    /// Descriptors that are no longer needed, see [`Context::close_later`].
    closing: Vec<OwnedFd>,
    /// The connection that gets the terminal's master end.
    pub console_socket: Option<OwnedFd>,
    /// The treatment of the caller's stdio.
    pub stdio: Stdio,
    /// Whether the program is told its id in `LISTEN_PID` (sd_listen_fds(3)).
    pub listens: bool,
    /// For `create`, if the configuration has hooks.
    pub hooks: Option<ContainerHooks<'a>>,
    /// The program's arguments and environment.
    pub program: Program,
    /// The program's file.
    pub executable: Executable,
    /// Whether the working directory is entered.
    pub in_working_directory: bool,
    /// How many descriptors to pass after 0, 1 and 2.
    pub preserve_fds: u32,
}

impl<'a> Context<'a> {
    /// A context with nothing prepared.
    pub(crate) fn new(sync: InitSync, progress: Progress, barrier: Barrier, program: Program) -> Context<'a> {
        Context {
            sync,
            progress,
            barrier,
            sources: Sources::none(),
            joins: Vec::new(),
            pid_namespace: PidNamespace::Own,
            dies_with_runtime: true,
            mounts: MountNamespace::Own,
            root: None,
            directory: None,
            callers_dev: OnceCell::new(),
            masks: Masks::default(),
            procfs: Procfs::new(),
            late_readonly: Vec::new(),
            closing: Vec::new(),
            console_socket: None,
            stdio: Stdio::Kept,
            listens: false,
            hooks: None,
            program,
            executable: Executable::Unknown,
            in_working_directory: false,
            preserve_fds: 0,
        }
    }

    /// Closes whatever the runtime and its caller had open and no step needs; `more` stays open too.
    pub(crate) fn close_the_rest(&self, more: &[BorrowedFd<'_>]) {
        let mut kept: Vec<BorrowedFd<'_>> = vec![self.sync.as_fd()];
        kept.extend(more);
        if let Barrier::Start(listener) = &self.barrier {
            kept.push(listener.as_fd());
        }
        kept.extend(self.console_socket.as_ref().map(AsFd::as_fd));
        kept.extend(self.stdio.kept());
        kept.extend(self.joins.iter().flatten().map(|fd| fd.as_fd()));
        kept.extend(self.sources.descriptors());
        descriptors::close_all_but(self.first_not_preserved(), &kept);
    }

    /// The first descriptor that is neither stdio nor passed on for the caller.
    pub(crate) fn first_not_preserved(&self) -> i32 {
        descriptors::first_not_preserved(self.preserve_fds)
    }

    /// Closes a descriptor, not necessarily at once: many are closed in one call. Descriptors of mounts are closed
    /// before the root is changed.
    pub(crate) fn close_later(&mut self, fd: OwnedFd) {
        self.closing.push(fd);
        if self.closing.len() >= BATCH {
            self.close_now();
        }
    }

    /// Closes what [`Context::close_later`] has collected.
    pub(crate) fn close_now(&mut self) {
        descriptors::close_many(std::mem::take(&mut self.closing));
    }

    /// The root filesystem. Steps that need it come after the one that attaches it.
    pub(crate) fn root(&self) -> Result<BorrowedFd<'_>> {
        let missing = || Error::new(Kind::Protocol, "the plan uses the root before it is attached");
        self.root.as_ref().map(OwnedFd::as_fd).ok_or_else(missing)
    }

    /// An unattached copy of a mount; it can be attached once.
    pub(crate) fn take_source(&mut self, source: SourceId) -> Result<OwnedFd> {
        self.sources.take(source, &self.sync)
    }
}
