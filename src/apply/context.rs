//! The few things that one step leaves for another.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};

use windlass_base::abi::PROC_SUPER_MAGIC;
use windlass_base::error::{Error, Kind, Result};
use windlass_base::mount::MountAttributes;
use windlass_base::spec::Hooks;
use windlass_plan::{Program, RootPath, SourceId};
use windlass_store::State;
use windlass_sys::mount::Filesystem;
use windlass_sys::process::{Execution, SingleThreaded};
use windlass_sys::progress::Progress;
use windlass_sys::{self as sys, Failed, descriptors, fd};

use super::action::Stdio;
use super::sources::Sources;
use super::sync::InitSync;

/// So many descriptors wait to be closed: with those in use they fit into the kernel's first table.
const SPENT: usize = 40;

/// Where the word to execute comes from, once init is ready.
pub enum Gate {
    /// From a later `start`, over this listening socket.
    Start(OwnedFd),
    /// From the runtime that waits at the other end of the pair: `run` and `exec`.
    Runtime,
}

/// A directory below the root, held open.
pub struct Directory {
    /// Its path below the root.
    pub path: PathBuf,
    /// Where what is below it is made.
    pub fd: OwnedFd,
    /// Whether it is the root of a filesystem that init has made, and so has what init put there
    /// and nothing else: no link of the image, nothing of procfs.
    pub fresh: bool,
}

/// What the steps of one process work with.
pub struct Context<'a> {
    /// To the runtime.
    pub sync: InitSync,
    /// Where the word to execute comes from.
    pub gate: Gate,
    /// A `start` that waits for the outcome.
    pub starter: Option<OwnedFd>,
    /// Where mounts come from, by the plan's index; each is used once.
    pub sources: Sources<'a>,
    /// Namespaces to join, by the plan's index.
    pub joins: Vec<Option<OwnedFd>>,
    /// The container's init, for exec.
    pub target: Option<OwnedFd>,
    /// A pidfd of the runtime, for steps that watch for its end.
    pub runtime: Option<OwnedFd>,
    /// A pipe end that execve(2) closes; whoever waits for the execution reads the other end.
    pub held: Option<OwnedFd>,
    /// Whether the kernel kills this process when the runtime ends.
    pub dies_with_runtime: bool,
    /// The proof that this process has one thread, for the step that forks.
    pub proof: Option<&'a SingleThreaded>,
    /// The runtime's mount namespace, while init is in another that it leaves again.
    pub mounts: Option<OwnedFd>,
    /// The root filesystem.
    pub root: Option<OwnedFd>,
    /// Whether what is mounted now is mounted for the caller too.
    pub mounts_are_callers: bool,
    /// A directory in which something was made, kept for what is made next.
    pub directory: Option<Directory>,
    /// The empty directory that hides directories, attached once.
    pub empty: Option<OwnedFd>,
    /// The null device that hides files, attached once.
    pub null: Option<OwnedFd>,
    /// Whether `/` is still the caller's.
    pub callers_root: bool,
    /// A procfs, see [`Context::proc`].
    proc: Option<OwnedFd>,
    /// Mounts that are made read-only when everything in them is made.
    pub late_readonly: Vec<(RootPath, OwnedFd)>,
    /// What is no longer needed, see [`Context::spend`].
    spent: Vec<OwnedFd>,
    /// Gets the terminal's master end.
    pub console_socket: Option<OwnedFd>,
    /// What becomes of the caller's stdio.
    pub stdio: Stdio,
    /// The page shared with the runtime, by which it tells things without a message.
    pub progress: Option<Progress>,
    /// Whether the program is told its id in `LISTEN_PID` (sd_listen_fds(3)).
    pub listens: bool,
    /// Hooks of the configuration.
    pub hooks: Option<&'a Hooks>,
    /// For the hooks' standard input.
    pub state: Option<&'a State>,
    /// The program.
    pub program: Program,
    /// Whether the working directory is entered.
    pub entered: bool,
    /// Where it was found.
    pub executable: Option<std::ffi::CString>,
    /// Both, ready for the kernel.
    pub ready: Option<Execution>,
    /// Descriptors to pass besides 0, 1 and 2.
    pub preserve_fds: u32,
}

impl<'a> Context<'a> {
    /// A context with nothing prepared.
    pub fn new(sync: InitSync, gate: Gate, program: Program) -> Context<'a> {
        Context {
            sync,
            gate,
            starter: None,
            sources: Sources::none(),
            joins: Vec::new(),
            target: None,
            runtime: None,
            held: None,
            dies_with_runtime: true,
            proof: None,
            mounts: None,
            root: None,
            mounts_are_callers: false,
            directory: None,
            empty: None,
            null: None,
            callers_root: true,
            proc: None,
            late_readonly: Vec::new(),
            spent: Vec::new(),
            console_socket: None,
            stdio: Stdio::Kept,
            progress: None,
            listens: false,
            hooks: None,
            state: None,
            program,
            entered: false,
            executable: None,
            ready: None,
            preserve_fds: 0,
        }
    }

    /// Closes whatever the runtime and its caller had open and no step needs.
    pub fn close_the_rest(&self) {
        let gate = match &self.gate {
            Gate::Start(listener) => Some(listener),
            Gate::Runtime => None,
        };
        let mut kept: Vec<BorrowedFd<'_>> = vec![self.sync.as_fd()];
        kept.extend(
            gate.into_iter()
                .chain(&self.console_socket)
                .chain(&self.target)
                .chain(&self.runtime)
                .chain(&self.root)
                .map(|fd| fd.as_fd()),
        );
        kept.extend(self.stdio.kept());
        kept.extend(self.joins.iter().flatten().map(|fd| fd.as_fd()));
        kept.extend(self.sources.descriptors());
        descriptors::close_all_but(descriptors::first_not_preserved(self.preserve_fds), &kept);
    }

    /// Lets go of a descriptor, not necessarily at once: many are closed in one call. None of the
    /// mounts' is open any more when the root is changed.
    pub fn spend(&mut self, fd: OwnedFd) {
        self.spent.push(fd);
        if self.spent.len() >= SPENT {
            self.close_spent();
        }
    }

    /// Closes what was spent.
    pub fn close_spent(&mut self) {
        descriptors::close_many(std::mem::take(&mut self.spent));
    }

    /// The root filesystem. Steps that need it come after the one that attaches it.
    pub fn root(&self) -> Result<BorrowedFd<'_>> {
        let missing = || Error::new(Kind::Protocol, "the plan uses the root before it is attached");
        self.root.as_ref().map(OwnedFd::as_fd).ok_or_else(missing)
    }

    /// A copy of a mount, attached nowhere; it can be attached once.
    pub fn take_source(&mut self, source: SourceId) -> Result<OwnedFd> {
        self.sources.take(source, &self.sync)
    }

    /// A procfs of our own: a new mount that is attached nowhere, so that neither the container's
    /// mounts nor its processes can put anything in the place of its files (CVE-2019-16884,
    /// CVE-2025-52881). A user namespace that may not have one uses the caller's, until the root is changed.
    pub fn proc(&mut self) -> sys::Result<BorrowedFd<'_>> {
        if self.proc.is_none() {
            let mount = Filesystem::open("proc")
                .and_then(|fs| fs.mount(MountAttributes::NOSUID | MountAttributes::NOEXEC | MountAttributes::NODEV));
            match mount {
                Err(failed) if failed.errno == Errno::EPERM && self.callers_root => self.hold_callers_proc()?,
                other => self.proc = Some(other?),
            }
        }
        Ok(self.proc.as_ref().expect("just made").as_fd())
    }

    /// Makes the caller's procfs the one that [`Context::proc`] gives. What it shows of namespaces is about
    /// those of who opens a file in it, whoever has mounted it.
    pub fn hold_callers_proc(&mut self) -> sys::Result<()> {
        self.proc = Some(procfs("/proc")?);
        Ok(())
    }

    /// Lets go of the procfs.
    pub fn drop_proc(&mut self) {
        self.proc = None;
    }

    /// Writes to a file of the procfs, never through a link out of it nor to what is mounted in it.
    pub fn write_proc(&mut self, path: &str, value: &[u8]) -> sys::Result<()> {
        let proc = self.proc()?;
        // `self` is a link of procfs itself, and stays in it.
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        let file = fd::openat2(proc, path, OFlag::O_WRONLY, 0, resolve)?;
        fd::write_once(file.as_fd(), value)
    }
}

/// `PROC_ROOT_INO` (linux/proc_fs.h).
const PROC_ROOT: u64 = 1;

/// The procfs at `path`, which must be the root of one (`O_PATH`).
fn procfs(path: &str) -> sys::Result<OwnedFd> {
    let found = fd::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    if fd::filesystem(found.as_fd())? != PROC_SUPER_MAGIC || fd::stat(found.as_fd())?.st_ino != PROC_ROOT {
        return Err(Failed { call: format!("open({path:?}), which is no procfs").into(), errno: Errno::ENOTSUP });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::procfs;

    #[test]
    fn only_the_root_of_a_procfs_is_taken_for_one() {
        assert!(procfs("/proc").is_ok());
        for path in ["/", "/proc/self", "/proc/sys", "/proc/self/root", "/dev/null", "/nothing"] {
            assert!(procfs(path).is_err(), "{path}");
        }
    }
}
