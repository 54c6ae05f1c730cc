//! A restored container that waits for `start`: its init is in its namespaces, CRIU waits for an answer, and a process
//! of windlass, the keeper, lets CRIU go on when `start` connects.
//!
//! The keeper is a copy of the runtime, which itself ends as after `create`. Init and CRIU are children of the runtime,
//! and later of the process that gets its orphans. The keeper ends, and CRIU and init with it, if the runtime ends
//! before it has committed the container, or if init or CRIU ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sched::CloneFlags;

use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_criu::session::Session;
use windlass_sys::pipe;
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::{self, Forked, SingleThreaded};
use windlass_sys::{descriptors, socket};

use super::conversation::{Progress, Restoring};
use super::lazy_pages::LazyPages;
use crate::action::accept_start;
use crate::create::NewContainer;
use crate::launch::Launch;
use crate::sync::encode_failure;

/// Leaves a held restore to a keeper.
pub(crate) fn leave<'a>(
    mut restoring: Restoring<'_, '_>,
    session: Session,
    mut launch: Launch<NewContainer<'a>>,
    undo: Duration,
    proof: &SingleThreaded,
) -> Result<Launch<NewContainer<'a>>> {
    let begun = begin(launch.handler(), proof);
    let (kept, keeper) = match begun {
        Ok(ForkSide::Runtime(keeper)) => {
            restoring.pages.take().into_iter().for_each(LazyPages::leave_to_copy);
            (true, Ok(keeper))
        }
        Ok(ForkSide::Keeper { listener, runtime }) => {
            Keeper { restoring, session, launch, listener, runtime, undo }.keep()
        }
        Err(error) => (false, Err(error)),
    };
    drop(session);
    if !kept {
        launch.end_predecessor(undo);
    }
    let keeper = keeper?;
    launch.release_predecessor();
    launch.handler_mut().keeper = Some(keeper);
    Ok(launch)
}

/// Which of the two processes returns from the fork.
enum ForkSide {
    /// The runtime, with the pipe's end by which it tells the keeper that the container is committed.
    Runtime(OwnedFd),
    /// The keeper.
    Keeper {
        /// The socket of `start`.
        listener: OwnedFd,
        /// The pipe's end that reads from the runtime.
        runtime: OwnedFd,
    },
}

fn begin(creation: &NewContainer<'_>, proof: &SingleThreaded) -> Result<ForkSide> {
    let listener = socket::listen_at(creation.root(), &creation.start_socket());
    let listener = listener.with_context(|| "cannot make the start socket")?;
    let (runtime, keeper) = pipe::new().with_context(|| "cannot make a pipe")?;
    match process::fork(CloneFlags::empty(), None, proof).with_context(|| "cannot make the process that waits")? {
        Forked::Parent(_) => Ok(ForkSide::Runtime(keeper)),
        Forked::Child => Ok(ForkSide::Keeper { listener, runtime }),
    }
}

/// The pause before a failed wait is repeated.
const AGAIN: Duration = Duration::from_millis(10);

/// The keeper's copy of what the runtime has made.
struct Keeper<'r, 'i, 'a> {
    restoring: Restoring<'r, 'i>,
    session: Session,
    launch: Launch<NewContainer<'a>>,
    listener: OwnedFd,
    runtime: OwnedFd,
    undo: Duration,
}

impl Keeper<'_, '_, '_> {
    /// Runs the keeper, and ends it without dropping `self`: what was made belongs to the runtime, of which this
    /// process is a copy.
    fn keep(mut self) -> ! {
        // The log's descriptor is closed as well.
        ::log::set_max_level(::log::LevelFilter::Off);
        // A copied descriptor would keep the lock, and the caller's session may end.
        self.close_the_rest();
        let _ = nix::unistd::setsid();
        let _ = nix::unistd::chdir("/");
        let done = match self.wait() {
            Some(start) => self.restore(&start),
            None => Err(Error::new(Kind::Protocol, "the runtime, init or CRIU ended before `start`")),
        };
        process::exit_now(i32::from(done.is_err()))
    }

    fn close_the_rest(&self) {
        let creation = self.launch.handler();
        let (init, criu) = self.launch.child_and_predecessor();
        let directories = self.restoring.images.directories;
        let mut kept: Vec<BorrowedFd<'_>> = vec![
            self.session.as_fd(),
            self.listener.as_fd(),
            self.runtime.as_fd(),
            init.pidfd.as_fd(),
            criu.pidfd.as_fd(),
            creation.root(),
            directories.work.as_fd(),
        ];
        kept.extend(creation.cgroup.unified().map(windlass_cgroup::Cgroup::dir_fd));
        kept.extend(self.restoring.pages.iter().flat_map(LazyPages::descriptors));
        kept.extend(self.restoring.joins.iter().flatten().map(AsFd::as_fd));
        kept.extend(creation.request.caller.console_socket.as_ref().map(AsFd::as_fd));
        descriptors::close_all_but(descriptors::first_not_preserved(0), &kept);
    }

    /// Waits until the runtime has committed the container, and then for `start`. Returns `None` if one of the
    /// processes ended.
    fn wait(&self) -> Option<OwnedFd> {
        let mut word = [0; 8];
        loop {
            match nix::unistd::read(&self.runtime, &mut word) {
                Err(Errno::EINTR) => {}
                Ok(1..) => break,
                _ => return None,
            }
        }
        loop {
            let (init, criu) = self.launch.child_and_predecessor();
            // Init has a copy of CRIU's end of the connection, so that need not end with CRIU.
            let mut fds = [self.listener.as_fd(), init.pidfd.as_fd(), self.session.as_fd(), criu.pidfd.as_fd()]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            // The runtime has reported success, so a kernel that is short of memory must not end the container.
            if poll::poll(&mut fds, Deadline::NEVER).is_err() {
                std::thread::sleep(AGAIN);
                continue;
            }
            let ready = fds.map(|fd| fd.any().unwrap_or(true));
            if ready[3] {
                // Nobody else would end it.
                init.kill();
            }
            if ready[1..].contains(&true) {
                return None;
            }
            if ready[0]
                && let Some(start) = accept_start(self.listener.as_fd()).ok()?
            {
                return Some(start);
            }
        }
    }

    /// Continues the restore. The end of the connection tells `start` that the processes run.
    fn restore(&mut self, start: &OwnedFd) -> Result<()> {
        let done = self.restoring.resume(&mut self.session, &mut self.launch);
        let done = done.and_then(|progress| match progress {
            Progress::Restored => Ok(()),
            other => Err(Error::new(Kind::Protocol, format!("the restore ended {other:?}"))),
        });
        let (init, criu) = self.launch.child_and_predecessor();
        if done.is_err() {
            // CRIU kills what it has made. If it cannot, init must not run half restored.
            self.session.close();
        }
        if !poll::readable(criu.pidfd.as_fd(), Deadline::after(self.undo)).unwrap_or(false) {
            criu.kill();
        }
        if let Err(error) = &done {
            init.kill();
            let _ = self.launch.handler().cgroup.unified().map_or(Ok(()), windlass_cgroup::Cgroup::kill);
            let _ = socket::send(start.as_fd(), &encode_failure(error), &[]);
        }
        done
    }
}
