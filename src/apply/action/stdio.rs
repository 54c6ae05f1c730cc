//! Standard input, output and error of the process, if the caller's own cannot be passed on.
//!
//! A program may open `/dev/stdout` again, which the kernel allows only to the owner of the pipe or file. The
//! caller's terminals and files never change their owner, because that user of the host could then read and write
//! them. So in the foreground the process gets pipes of its own, which the runtime relays. Otherwise only pipes
//! without a name change their owner, since nobody else can open those.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::relay::{NO_MORE, PIPES};
use windlass_base::error::{Result, WithContext};
use windlass_sys::pipe;
use windlass_sys::{descriptors, fd, socket, stdio};

/// The process's treatment of the caller's stdio.
#[derive(Debug, Default)]
pub(crate) enum Stdio {
    /// The process keeps it.
    #[default]
    Kept,
    /// The process replaces it by pipes and sends their other ends to the runtime, unless it turns out
    /// to be the same user as the caller.
    Relayed(OwnedFd),
    /// The process keeps it, and makes the container's user the owner of the pipes without a name. The process
    /// does so as root of its user namespace, where the runtime is an ordinary user's and may not.
    Given,
    /// A terminal of the container has taken its place, and the container's user becomes its owner.
    Terminal,
}

impl Stdio {
    /// The connection over which pipes are sent, which the child must keep open.
    pub(crate) fn kept(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Stdio::Relayed(runtime) => Some(runtime.as_fd()),
            Stdio::Kept | Stdio::Given | Stdio::Terminal => None,
        }
    }
}

/// Changes the owner while this process is still root of the user namespace. If the kernel refuses, that is not an
/// error: the descriptors themselves work.
pub(super) fn give(stdio: &Stdio, uid: u32) {
    match stdio {
        Stdio::Given => give_pipes(uid),
        Stdio::Terminal => {
            let _ = stdio::give_to(stdio::input(), uid);
        }
        Stdio::Kept | Stdio::Relayed(_) => {}
    }
}

/// Makes this user the owner of the pipes without a name among 0, 1 and 2.
pub(crate) fn give_pipes(uid: u32) {
    for fd in (0..3).filter_map(descriptors::borrow_inherited) {
        let Ok(stat) = fd::stat(fd) else { continue };
        if stat.st_uid != uid && stdio::is_anonymous_pipe(fd, &stat) {
            let _ = stdio::give_to(fd, uid);
        }
    }
}

/// Makes a pipe for each of 0, 1 and 2 that is not the null device. This process is the container's
/// user already, so the pipes are that user's.
pub(super) fn replace(stdio: &Stdio) -> Result<()> {
    let Stdio::Relayed(runtime) = stdio else { return Ok(()) };
    replace_if(!is_callers(runtime.as_fd()), runtime.as_fd())
}

/// Like [`replace`], by a process with the runtime's credentials, for the user `uid`.
pub(crate) fn replace_for(stdio: &Stdio, uid: u32) -> Result<()> {
    if let Stdio::Relayed(runtime) = stdio {
        replace_if(true, runtime.as_fd())?;
        give_pipes(uid);
    }
    Ok(())
}

fn replace_if(wanted: bool, runtime: BorrowedFd<'_>) -> Result<()> {
    let context = || "cannot make pipes for stdio";
    if wanted {
        let [input, output, errors] = [0, 1, 2].map(|number| {
            let fd = descriptors::borrow_inherited(number)?;
            (!stdio::is_null(&fd::stat(fd).ok()?)).then_some(fd)
        });
        // If both are the same open file, they share one pipe, which keeps the order of the output.
        let shared = output.zip(errors).is_some_and(|(output, errors)| stdio::same_open_file(output, errors));
        let wanted: [(bool, &[i32]); 3] = [
            (input.is_some(), &[0]),
            (output.is_some(), if shared { &[1, 2] } else { &[1] }),
            (errors.is_some() && !shared, &[2]),
        ];
        for (number, (_, numbers)) in wanted.into_iter().enumerate().filter(|(_, (wanted, _))| *wanted) {
            let (read_end, write_end) = pipe::new().with_context(context)?;
            let (theirs, ours) = if number == 0 { (read_end, write_end) } else { (write_end, read_end) };
            socket::send(runtime, PIPES[number], &[ours.as_fd()]).with_context(context)?;
            for at in numbers {
                descriptors::install_at(theirs.as_fd(), *at).with_context(context)?;
            }
        }
    }
    socket::send(runtime, NO_MORE, &[]).with_context(context)
}

/// Whether this process is the same user as the runtime at the other end of the socket.
///
/// In a user namespace the kernel shows the overflow id for every user that is not mapped there, so that id
/// never counts as the same user.
fn is_callers(runtime: BorrowedFd<'_>) -> bool {
    let own = nix::unistd::getuid().as_raw();
    own != stdio::OVERFLOW_ID && socket::peer_uid(runtime).is_ok_and(|uid| uid == own)
}
