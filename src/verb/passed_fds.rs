//! The descriptors that the caller passes to the process: by `--preserve-fds`, and as a service manager
//! (sd_listen_fds(3)).

use std::ffi::OsString;
use std::os::fd::BorrowedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::cli::Command;
use windlass_base::error::{Error, Kind, Origin, Result};
use windlass_sys::descriptors;

/// Descriptors from 3 on that the process gets, and the variables that describe them.
#[derive(Clone, Debug, Default)]
pub(super) struct PassedFds {
    pub count: u32,
    /// The descriptor of `--status-fd`.
    pub status: Option<BorrowedFd<'static>>,
    /// `LISTEN_FDS` and `LISTEN_FDNAMES`. The process adds `LISTEN_PID` itself, since only it knows its own id.
    pub environment: Vec<String>,
}

/// The variables by which a service manager describes the descriptors that it passes.
#[derive(Debug, Default)]
struct ListenVariables {
    fds: Option<OsString>,
    pid: Option<OsString>,
    names: Option<OsString>,
}

impl PassedFds {
    /// Whether a service manager passes any.
    pub(super) fn listens(&self) -> bool {
        !self.environment.is_empty()
    }

    /// Checks that every descriptor asked for is open. The program must do this before it opens anything: later its own
    /// descriptors could be mistaken for the caller's.
    pub(super) fn find(command: &Command) -> Result<PassedFds> {
        let preserve = match command {
            Command::Create(options) => options.preserve_fds,
            Command::Run(options) => options.create.preserve_fds,
            Command::Exec(options) => options.preserve_fds,
            Command::Checkpoint(options) => {
                let status = options.status_fd.map(writable).transpose()?;
                return Ok(PassedFds { status, ..PassedFds::default() });
            }
            _ => return Ok(PassedFds::default()),
        };
        let variable = |name: &str| std::env::var_os(name);
        let listening = ListenVariables {
            fds: variable("LISTEN_FDS"),
            pid: variable("LISTEN_PID"),
            names: variable("LISTEN_FDNAMES"),
        };
        let (listen, environment) = listening.meant_for(std::process::id());
        let total = u64::from(preserve) + u64::from(listen);
        for number in 3..3 + total {
            let open = i32::try_from(number).ok().and_then(descriptors::borrow_inherited).is_some();
            if !open {
                let flag = if number - 3 < u64::from(listen) { "LISTEN_FDS" } else { "--preserve-fds" };
                let msg = format!("unable to preserve file descriptor {number}: it is not open");
                return Err(Error::new(Kind::Usage, msg).with_origin(Origin::Flag(flag.into())));
            }
        }
        // They are all open, so their number fits.
        Ok(PassedFds { count: total as u32, status: None, environment })
    }
}

/// The descriptor of `--status-fd`, which must be open for writing alone.
fn writable(number: i32) -> Result<BorrowedFd<'static>> {
    let flags =
        |fd: &BorrowedFd<'_>| fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain).unwrap_or(OFlag::O_RDWR);
    let open = descriptors::borrow_inherited(number).filter(|fd| flags(fd) & OFlag::O_ACCMODE == OFlag::O_WRONLY);
    open.ok_or_else(|| {
        let msg = format!("invalid --status-fd argument {number}: not writable");
        Error::new(Kind::Usage, msg).with_origin(Origin::Flag("--status-fd".into()))
    })
}

impl ListenVariables {
    /// The number of descriptors passed to the process `own`, and the variables for the container. Variables
    /// whose `LISTEN_PID` is another process were inherited from it and count as absent.
    fn meant_for(self, own: u32) -> (u32, Vec<String>) {
        let number = |text: &OsString| text.to_str().and_then(|text| text.parse::<u32>().ok());
        let fds = self.fds.as_ref().and_then(number).filter(|n| *n > 0);
        let (Some(fds), true) = (fds, self.pid.as_ref().and_then(number) == Some(own)) else {
            return (0, Vec::new());
        };
        let mut environment = vec![format!("LISTEN_FDS={fds}")];
        environment.extend(self.names.map(|names| format!("LISTEN_FDNAMES={}", names.to_string_lossy())));
        (fds, environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(fds: &str, pid: &str, names: Option<&str>) -> (u32, Vec<String>) {
        ListenVariables { fds: Some(fds.into()), pid: Some(pid.into()), names: names.map(Into::into) }.meant_for(7)
    }

    #[test]
    fn only_what_is_meant_for_us_is_passed() {
        assert_eq!(listening("2", "7", None), (2, vec!["LISTEN_FDS=2".into()]));
        let named = vec!["LISTEN_FDS=2".to_string(), "LISTEN_FDNAMES=a:b".into()];
        assert_eq!(listening("2", "7", Some("a:b")), (2, named));
        for (fds, pid) in [("2", "8"), ("2", ""), ("0", "7"), ("-1", "7"), ("x", "7")] {
            assert_eq!(listening(fds, pid, Some("a")), (0, Vec::new()), "{fds} {pid}");
        }
        assert_eq!(
            ListenVariables { fds: Some("2".into()), ..ListenVariables::default() }.meant_for(7),
            (0, Vec::new())
        );
    }

    #[test]
    fn more_than_there_are_is_refused_whatever_the_number() {
        for preserve_fds in [1 << 20, i32::MAX as u32, u32::MAX] {
            let options = crate::cli::Create { preserve_fds, ..Default::default() };
            let error = PassedFds::find(&Command::Create(options)).expect_err("not so many are open");
            assert_eq!(error.origin(), Some(&Origin::Flag("--preserve-fds".into())));
            assert!(error.message().contains("it is not open"), "{error}");
        }
    }
}
