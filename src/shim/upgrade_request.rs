//! A requested upgrade, and its progress.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::WaitToken;
use super::image::format::Kinds;
use super::image_check::ImageCheck;
use super::upgrade_error::UpgradeError;

/// An upgrade that was requested.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// The program, which was checked and is executed.
    pub(super) program: OwnedFd,
    /// The program that runs now, which takes the process back if the other cannot read the image.
    pub(super) own: OwnedFd,
    /// The request.
    pub(super) token: WaitToken,
    pub(super) stage: Stage,
    /// The kinds of fields that the program was shown and can read.
    pub(super) seen: Kinds,
}

/// The progress of an upgrade.
#[derive(Debug)]
pub(super) enum Stage {
    /// The check is to be begun.
    Requested,
    /// The program checks an image while the loop serves on.
    Checking(ImageCheck, Kinds),
    /// The program can read the image, or cannot, for this reason.
    Checked(Result<(), UpgradeError>),
}

impl Upgrade {
    pub(super) fn new(program: OwnedFd, own: OwnedFd, token: WaitToken) -> Upgrade {
        Upgrade { program, own, token, stage: Stage::Requested, seen: Kinds::default() }
    }

    /// Whether the upgrade continues at the top of the loop.
    pub(super) fn is_due(&self) -> bool {
        !matches!(self.stage, Stage::Checking(..))
    }

    /// When a check takes too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Checking(check, _) => Some(check.until),
            _ => None,
        }
    }

    /// Looks whether the child that checks has ended or takes too long. Returns its process id if it is over.
    pub(super) fn look_at_check(&mut self, now: Instant) -> Option<i32> {
        let Stage::Checking(check, kinds) = &self.stage else { return None };
        let result = match check.result() {
            None if now < check.until => return None,
            None => {
                check.child.kill();
                Err(UpgradeError::TimedOut)
            }
            Some(result) => result,
        };
        let pid = check.child.pid;
        self.seen.add_all(kinds);
        self.stage = Stage::Checked(result);
        Some(pid)
    }
}
