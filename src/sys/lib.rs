//! The only unsafe code of the runtime: one kernel call, one function, one safety comment.
//!
//! What nix has is used through nix; this module adds the calls that nix lacks and wraps the
//! few that we want with the call's text in the error. Every function returns [`Failed`] on
//! failure: the call as strace would print it, and the errno.
#![allow(unsafe_code)]

use std::borrow::Cow;

use nix::errno::Errno;

pub use windlass_base::error::Failed;

pub mod attributes;
pub mod bpf;
pub mod clock;
pub mod credentials;
pub mod directory;
pub mod exeseal;
pub mod fd;
pub mod heap;
pub mod mount;
pub mod netlink;
pub mod own_status;
pub mod poll;
pub mod probe;
pub mod process;
pub mod progress;
pub mod region;
pub mod sched;
pub mod signals;
pub mod socket;
pub mod spawn;
pub mod start;
pub mod stdio;
pub mod stream;
pub mod tree;
pub mod waiting;

/// What every call here returns.
pub type Result<T> = std::result::Result<T, Failed>;

/// Flags as strace prints them: `O_CREAT|O_WRONLY`, and 0 where there are none.
fn names(flags: impl std::fmt::Debug) -> String {
    let shown = format!("{flags:?}");
    let inner = shown.split_once('(').map_or(shown.as_str(), |(_, rest)| rest.trim_end_matches(')'));
    if inner == "0x0" { "0".into() } else { inner.replace(" | ", "|") }
}

/// The raw return value of a system call made through libc as a result.
///
/// `call` is evaluated only on failure.
pub(crate) fn check(returned: libc::c_long, call: impl FnOnce() -> String) -> Result<libc::c_long> {
    if returned == -1 { Err(Failed { call: Cow::Owned(call()), errno: Errno::last() }) } else { Ok(returned) }
}

/// The same for calls made through nix.
pub trait Called<T> {
    fn called(self, call: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Called<T> for nix::Result<T> {
    fn called(self, call: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Failed { call: Cow::Owned(call()), errno })
    }
}

impl<T> Called<T> for std::io::Result<T> {
    fn called(self, call: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failed {
            call: Cow::Owned(call()),
            errno: error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        })
    }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::OFlag;

    #[test]
    fn flags_are_shown_as_strace_shows_them() {
        assert_eq!(super::names(OFlag::O_CREAT | OFlag::O_WRONLY), "O_CREAT|O_WRONLY");
        assert_eq!(super::names(OFlag::empty()), "0");
    }
}
