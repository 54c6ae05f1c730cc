//! Joining and making namespaces, and the processes that are cloned into them.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};

use crate::context::{Context, Parent, PidNamespace};
use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_plan::JoinId;
use windlass_plan::explain::kind_names;
use windlass_sys::pipe;
use windlass_sys::poll::Deadline;
use windlass_sys::process::{Child, Forked};
use windlass_sys::{credentials, descriptors, poll, process};

use super::console;
use super::execute::{die_with_runtime, outlive_runtime};

pub(super) fn map_ids(cx: &Context<'_>) -> Result<()> {
    cx.sync.map_ids()?;
    // Init must not be dumpable from now on: see init::begin.
    process::set_nondumpable().with_context(|| "cannot make init non-dumpable")
}

pub(super) fn enter_user_namespace(uid: u32, gid: u32, cx: &mut Context<'_>) -> Result<()> {
    // The supplementary groups are still the caller's. They are replaced when the container's user is assumed.
    credentials::set_ids(uid, gid).with_context(|| "cannot become a user of the user namespace")?;
    die_with_runtime(cx)
}

pub(super) fn join(id: JoinId, cx: &mut Context<'_>) -> Result<()> {
    let missing = || Error::new(Kind::Protocol, "the plan joins a namespace that was not opened");
    let namespace = cx.joins.get_mut(id.index()).and_then(Option::take).ok_or_else(missing)?;
    // The type of the namespace was checked when it was opened.
    process::setns(namespace.as_fd(), Namespaces::empty()).with_context(|| "cannot join the namespace")
}

pub(super) fn join_pid(cx: &mut Context<'_>) -> Result<()> {
    let missing = || Error::new(Kind::Protocol, "there is no container to join");
    let PidNamespace::ToJoin { init, parent } = std::mem::replace(&mut cx.pid_namespace, PidNamespace::Own) else {
        return Err(missing());
    };
    cx.pid_namespace = PidNamespace::Joined(parent);
    process::setns(init.as_fd(), Namespaces::PID).with_context(|| "cannot join the container's PID namespace")
}

/// Makes the process that executes the program, as a child of the runtime; only the new process returns.
///
/// Processes of the container may stop it from its clone on, and a stopped process would survive the runtime. So its
/// parent, which the container does not see, waits until the program is executed, and kills it if the runtime dies.
pub(super) fn fork_into_pid_namespace(terminal: bool, cx: &mut Context<'_>) -> Result<()> {
    let missing = || Error::new(Kind::Protocol, "the plan makes a process in a PID namespace that was not joined");
    let PidNamespace::Joined(Parent { runtime, proof }) = std::mem::replace(&mut cx.pid_namespace, PidNamespace::Own)
    else {
        return Err(missing());
    };
    // The new process gets a copy of everything, and a process that traces it must find nothing of the host.
    cx.procfs.close();
    cx.close_now();
    process::set_nondumpable().with_context(|| "cannot make the process non-dumpable")?;
    // This process must outlive the runtime, to kill the new process, which does not inherit the setting.
    outlive_runtime(cx)?;
    let (executed, held) = pipe::new().with_context(|| "cannot make a pipe")?;
    let forked = match process::fork_sibling(proof) {
        // The container has as many processes as it may have, and this process is one of them.
        Err(failed) if failed.errno == Errno::EAGAIN => {
            cx.sync.place()?;
            process::fork_sibling(proof)
        }
        other => other,
    };
    if let Forked::Parent(child) = forked.with_context(|| "cannot clone the process")? {
        if let Err(error) = cx.sync.spawned(child.pid, child.pidfd.as_fd()) {
            cx.sync.failed(&error);
            child.kill();
            process::exit_now(1);
        }
        descriptors::close_all_but(cx.first_not_preserved(), &[executed.as_fd(), runtime.as_fd(), child.pidfd.as_fd()]);
        guard(&child, executed.as_fd(), runtime.as_fd())
    }
    drop((runtime, executed));
    cx.pid_namespace = PidNamespace::Member { _executed: held };
    let _ = nix::unistd::setsid();
    if terminal { console::take(std::io::stdin().as_fd()) } else { Ok(()) }
}

/// How long execve(2) may take from closing the first close-on-exec descriptor to closing the last.
const GRACE: std::time::Duration = std::time::Duration::from_secs(1);

/// The pause before a wait that has failed is begun again.
const RETRY: std::time::Duration = std::time::Duration::from_millis(10);

/// Waits until the program is executed. If the runtime ends before that, kills the process.
fn guard(child: &Child, executed: BorrowedFd<'_>, runtime: BorrowedFd<'_>) -> ! {
    let mut fds = [executed, runtime].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    // A call that fails for want of memory tells nothing about either.
    while poll::poll(&mut fds, Deadline::NEVER).is_err() {
        // The container's filter may refuse a sleep. An empty set of descriptors needs no memory.
        let _ = poll::poll(&mut [], Deadline::after(RETRY));
    }
    // execve(2) closes the connection to the runtime and this pipe one after the other. The runtime waits only for
    // the first, and may end before the second.
    if fds[0].any().unwrap_or(false) || poll::readable(executed, Deadline::after(GRACE)).unwrap_or(false) {
        process::exit_now(0);
    }
    child.kill();
    process::exit_now(1)
}

pub(super) fn unshare(kinds: Namespaces) -> Result<()> {
    process::unshare(kinds).with_context(|| format!("cannot unshare the {} namespace", kind_names(kinds)))
}

pub(super) fn session_keyring(name: &str) -> Result<()> {
    match credentials::join_session_keyring(name) {
        // This kernel has no keyrings.
        Err(failed) if failed.errno == Errno::ENOSYS => Ok(()),
        other => other.with_context(|| "cannot make a session keyring").map_err(|error| match error.errno() {
            Some(Errno::EDQUOT) => error
                .with_hint("the user's quota of keys is used up: raise kernel.keys.maxkeys, or use --no-new-keyring"),
            _ => error,
        }),
    }
}
