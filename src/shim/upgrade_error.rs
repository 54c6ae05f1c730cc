//! Why an upgrade fails.

use std::fmt;

use nix::errno::Errno;

use super::{Code, Refusal};
use windlass_sys::SyscallError;
use windlass_sys::process::Exit;

/// Why another program cannot take over this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UpgradeError {
    /// The program cannot be executed to check an image.
    NotExecuted(Errno),
    /// It ends with success and does not say that it can read the image.
    NotAShim,
    /// It ends like this and says nothing.
    Ended(Exit),
    /// It says that it cannot read the image, and why.
    Unable(String),
    /// The check takes too long.
    TimedOut,
    /// A system call of this program has failed.
    Kernel(SyscallError),
}

impl UpgradeError {
    /// What a client gets to know.
    pub(super) fn refusal(&self) -> Refusal {
        let code = match self {
            UpgradeError::NotExecuted(Errno::EAGAIN | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)
            | UpgradeError::Kernel(_) => Code::Kernel,
            UpgradeError::TimedOut => Code::TimedOut,
            _ => Code::Invalid,
        };
        Refusal::new(code, format!("the program cannot continue the shim: {self}"))
    }
}

impl From<SyscallError> for UpgradeError {
    fn from(failed: SyscallError) -> UpgradeError {
        UpgradeError::Kernel(failed)
    }
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpgradeError::NotExecuted(errno) => write!(f, "it cannot be executed: {}", errno.desc()),
            UpgradeError::NotAShim => f.write_str("it is not a shim that can read the state"),
            UpgradeError::Ended(exit) => write!(f, "it ends with {exit} when it is to read the state"),
            UpgradeError::Unable(why) => f.write_str(why),
            UpgradeError::TimedOut => f.write_str("it takes too long to read what is to be handed over"),
            UpgradeError::Kernel(failed) => failed.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_can_tell_a_bad_program_from_a_shortage_and_from_a_timeout() {
        let code = |error: UpgradeError| error.refusal().code;
        for errno in [Errno::ENOEXEC, Errno::EACCES, Errno::ENOENT] {
            assert_eq!(code(UpgradeError::NotExecuted(errno)), Code::Invalid, "{errno}");
        }
        for errno in [Errno::ENOMEM, Errno::EAGAIN, Errno::EMFILE] {
            assert_eq!(code(UpgradeError::NotExecuted(errno)), Code::Kernel, "{errno}");
        }
        assert_eq!(code(UpgradeError::Ended(Exit::Code(1))), Code::Invalid);
        assert_eq!(code(UpgradeError::TimedOut), Code::TimedOut);
        let failed = SyscallError { call: "memfd_create(\"windlass-shim\")".into(), errno: Errno::ENOMEM };
        assert_eq!(code(UpgradeError::Kernel(failed)), Code::Kernel);
    }
}
