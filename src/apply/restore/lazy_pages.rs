//! The process that fetches the memory of a restored container page by page, when it is needed: `criu lazy-pages`.
//!
//! Its socket is in the directory of the log, where CRIU connects to it. The caller may have started one there, as for
//! runc. Otherwise one is started here. It ends when all memory is there, or when the container's processes end.
//!
//! It waits without end for a CRIU that never connects. So a process of ours, the guard, is its parent, and kills it if
//! this process ends before the restore is done.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sched::CloneFlags;
use nix::sys::socket::Shutdown;

use windlass_base::error::{Error, Origin, Result, WithContext};
use windlass_criu::session::{Outcome, number};
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::{self, Child, Exit, Forked, SingleThreaded};
use windlass_sys::{descriptors, fd, pipe, socket};

use super::chain::LAZY_PAGES as SOCKET;
use crate::checkpoint::{self, Directories, Log, failure};

/// The name of its log.
const LOG: &str = "lazy-pages.log";
/// How long it may take until it can be connected to.
const READY: Duration = Duration::from_secs(10);

/// Bytes of the longest message from the guard.
const LONGEST: usize = 8 << 10;

/// The process, until the restore is done. Dropping this ends it.
pub(crate) struct LazyPages(Option<Guard>);

/// The guard, and our end of the pair of sockets by which it knows of our end.
struct Guard {
    process: Child,
    socket: OwnedFd,
}

impl LazyPages {
    /// Starts it and waits until CRIU can connect to it, unless the caller has started one.
    pub(crate) fn start(
        program: &Path,
        path: &OsStr,
        directories: &Directories,
        server: Option<&(String, u16)>,
    ) -> Result<LazyPages> {
        let work = &directories.work;
        let address = format!("/proc/self/fd/{}/{SOCKET}", number(work.as_fd()));
        // A socket of another type cannot be connected, which does not disturb whoever listens there.
        let listens = socket::connect_datagram(&address, 0).is_err_and(|failed| failed.errno == Errno::EPROTOTYPE);
        if listens {
            return match server {
                None => Ok(LazyPages(None)),
                Some(_) => Err(Error::usage("a process fetches memory for the directory of the log already")
                    .with_origin(Origin::Flag("--page-server".into()))
                    .with_hint("leave the flag out, or name another directory by --work-path")),
            };
        }
        let (ready, ready_end) = pipe::new().with_context(|| "cannot make a pipe")?;
        let null = fd::open("/dev/null", OFlag::O_RDWR).with_context(|| "cannot open /dev/null")?;
        // The descriptors that it gets are 3, 4 and 5.
        let mut words = vec!["lazy-pages", "--status-fd", "3", "-D", "/proc/self/fd/4", "-W", "/proc/self/fd/5"];
        words.extend(["-o", LOG, "-v4"]);
        let server = server.map(|(address, port)| (address.as_str(), port.to_string()));
        if let Some((address, port)) = &server {
            words.extend(["--page-server", "--address", address, "--port", port]);
        }
        // The guard's copy of the pipe's end is closed when CRIU has been started.
        let start = move || {
            let descriptors = [ready_end.as_fd(), directories.images.as_fd(), work.as_fd()];
            checkpoint::process::start(program, &words, path, [null.as_fd(); 3], &descriptors)
        };
        let guard = Guard::start(start)?;
        let answered = poll::readable(ready.as_fd(), Deadline::after(READY)).with_context(|| "cannot wait for CRIU")?;
        if answered && nix::unistd::read(&ready, &mut [0]) == Ok(1) {
            return Ok(LazyPages(Some(guard)));
        }
        Err(guard.error().unwrap_or_else(|| LazyPages::failure(directories)))
    }

    /// The descriptors of its guard, if it was started here.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().flat_map(|guard| [guard.socket.as_fd(), guard.process.pidfd.as_fd()])
    }

    /// Leaves it to a copy of this process, which goes on to own it.
    pub(crate) fn leave_to_copy(self) {
        // The socket is closed at the end of this process. To shut it down would end the copy's as well.
        std::mem::forget(self.0);
    }

    /// Why it has failed.
    pub(crate) fn failure(directories: &Directories) -> Error {
        let log = Log { work: directories.work.as_fd(), work_path: &directories.work_path, name: LOG };
        failure(&Outcome::Died, "LAZY_PAGES", &log, "")
    }

    /// The pidfd of its guard, which ends as it ends, if it was started here.
    pub(crate) fn process(&self) -> windlass_sys::Result<Option<OwnedFd>> {
        self.0.as_ref().map(|guard| fd::duplicate(guard.process.pidfd.as_fd())).transpose()
    }

    /// Lets it go on by itself: the restore is done.
    pub(crate) fn leave(mut self, directories: &Directories) {
        if let Some(guard) = self.0.take() {
            let _ = fd::unlinkat(directories.work.as_fd(), SOCKET);
            guard.dismiss();
        }
    }
}

impl Guard {
    fn start(program: impl FnOnce() -> Result<Child>) -> Result<Guard> {
        let context = || "cannot make the guard of CRIU";
        let proof = SingleThreaded::check().with_context(context)?;
        let (socket, end) = socket::pair().with_context(context)?;
        match process::fork(CloneFlags::empty(), None, &proof).with_context(context)? {
            Forked::Parent(process) => Ok(Guard { process, socket }),
            Forked::Child => {
                drop(socket);
                let guarded = program().and_then(|child| guard(&child, end.as_fd()));
                if let Err(error) = &guarded {
                    let text = serde_json::to_vec(&error.shortened(1024)).expect("plain data");
                    let _ = socket::send(end.as_fd(), &text, &[]);
                }
                process::exit_now(guarded.unwrap_or(1))
            }
        }
    }

    /// What it has reported, if it has failed itself. Waits for its end.
    fn error(self) -> Option<Error> {
        socket::shutdown(self.socket.as_fd(), Shutdown::Write);
        let mut buffer = vec![0; LONGEST];
        let (length, _) = socket::receive(self.socket.as_fd(), &mut buffer).ok()?;
        serde_json::from_slice(&buffer[..length]).ok()
    }

    /// Ends it, and lets its child go on.
    fn dismiss(self) {
        let _ = socket::send(self.socket.as_fd(), b"L", &[]);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // If it was not dismissed, the end of the socket makes it kill its child.
        socket::shutdown(self.socket.as_fd(), Shutdown::Both);
        let _ = self.process.wait();
    }
}

/// The guard: waits until the runtime dismisses it, or ends. Returns its exit status, which is that of `child` if that
/// ends first.
fn guard(child: &Child, runtime: BorrowedFd<'_>) -> Result<i32> {
    let context = || "cannot guard CRIU";
    // Signals of the caller's terminal are for the runtime, and a reader of the caller's output does not wait for this.
    let _ = nix::unistd::setsid();
    // A copied descriptor would keep the container's lock.
    ::log::set_max_level(::log::LevelFilter::Off);
    descriptors::close_all_but(descriptors::first_not_preserved(0), &[runtime, child.pidfd.as_fd()]);
    let null = fd::open("/dev/null", OFlag::O_RDWR);
    let left = null.and_then(|null| (0..3).try_for_each(|number| descriptors::install_at(null.as_fd(), number)));
    let waited = left.and_then(|()| {
        let mut fds = [runtime, child.pidfd.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll::poll(&mut fds, Deadline::NEVER)?;
        Ok(fds[0].any().unwrap_or(true))
    });
    let dismissed = match waited {
        Ok(false) => return Ok(i32::from(child.wait().with_context(context)? != Exit::Code(0))),
        Ok(true) => socket::receive(runtime, &mut [0]).is_ok_and(|(length, _)| length > 0),
        Err(_) => false,
    };
    if !dismissed {
        child.end();
    }
    waited.with_context(context)?;
    Ok(0)
}
