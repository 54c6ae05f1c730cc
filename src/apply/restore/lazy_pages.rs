//! The process that fetches the memory of a restored container page by page, when it is needed: `criu lazy-pages`.
//!
//! Its socket is in the directory of the log, where CRIU connects to it. The caller may have started one there, as for
//! runc. Otherwise one is started here. It ends when all memory is there, or when the container's processes end.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::error::{Error, Origin, Result, WithContext};
use windlass_criu::session::{Outcome, number};
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::Child;
use windlass_sys::{fd, pipe, socket};

use super::chain::LAZY_PAGES as SOCKET;
use crate::checkpoint::{Directories, Log, failure, process};

/// The name of its log.
const LOG: &str = "lazy-pages.log";
/// How long it may take until it can be connected to.
const READY: Duration = Duration::from_secs(10);

/// The process, until the restore is done. Dropping this ends it.
pub(crate) struct LazyPages(Option<Child>);

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
                    .origin(Origin::Flag("--page-server".into()))
                    .hint("leave the flag out, or name another directory by --work-path")),
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
        let descriptors = [ready_end.as_fd(), directories.images.as_fd(), work.as_fd()];
        let child = process::start(program, &words, path, [null.as_fd(); 3], &descriptors)?;
        let pages = LazyPages(Some(child));
        drop(ready_end);
        let told = poll::readable(ready.as_fd(), Deadline::after(READY)).with_context(|| "cannot wait for CRIU")?;
        if told && nix::unistd::read(&ready, &mut [0]) == Ok(1) {
            return Ok(pages);
        }
        Err(LazyPages::failure(directories))
    }

    /// Why it has failed.
    pub(crate) fn failure(directories: &Directories) -> Error {
        let log = Log { work: directories.work.as_fd(), work_path: &directories.work_path, name: LOG };
        failure(&Outcome::Died, "LAZY_PAGES", &log, "")
    }

    /// Its pidfd, if it was started here.
    pub(crate) fn process(&self) -> windlass_sys::Result<Option<OwnedFd>> {
        self.0.as_ref().map(|child| fd::duplicate(child.pidfd.as_fd())).transpose()
    }

    /// Lets it go on by itself: CRIU has connected to it.
    pub(crate) fn leave(mut self, directories: &Directories) {
        if self.0.take().is_some() {
            let _ = fd::unlinkat(directories.work.as_fd(), SOCKET);
        }
    }
}

impl Drop for LazyPages {
    fn drop(&mut self) {
        if let Some(child) = &self.0 {
            child.kill();
            let _ = child.wait();
        }
    }
}
