//! The check of an image in a child of the program that is to go on with it, before there is no way back.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::call;
use super::image::format::checksum;
use super::pipe::{captured, collect, null};
use super::upgrade_error::UpgradeError;
use windlass_sys::clock;
use windlass_sys::fd;
use windlass_sys::process::{Child, Exit};
use windlass_sys::spawn::{self, Environment, Spawn};
use windlass_sys::stream;

/// The argument that makes a program check an image, and the one that makes it go on with it. The number of the
/// image's descriptor follows.
pub(super) const CHECK: &str = "@check";
pub(super) const RESUME: &str = "@resume";

/// How long a check may take.
const LONGEST: Duration = Duration::from_secs(10);

/// The output of a program that can go on with an image. Its exit status says too little: any program may exit with 0.
pub(super) fn confirmation(image: &[u8]) -> String {
    format!("can go on with {:016x}", checksum(image))
}

/// A child that checks an image. If it takes too long, it is killed and reaped like an orphan, not waited for: it may
/// wait for a disk.
#[derive(Debug)]
pub(super) struct ImageCheck {
    pub(super) child: Child,
    /// The read end of its standard output and error.
    output: OwnedFd,
    /// The output of the child if the program can go on.
    confirmation: String,
    pub(super) until: Instant,
}

impl ImageCheck {
    /// Has the program check an image.
    pub(super) fn start(program: BorrowedFd<'_>, image_bytes: &[u8]) -> Result<ImageCheck, UpgradeError> {
        let image = stream::sealed(c"windlass-shim", image_bytes)?;
        let ((output, output_end), null) = (captured()?, null()?);
        let confirmation = confirmation(image_bytes);
        let arguments: [CString; 3] = [c"windlass-shim".into(), call::text(CHECK.as_ref()), c"3".into()];
        let child = Spawn {
            path: &call::text(fd::proc_path(program).as_os_str()),
            arguments: &arguments,
            environment: Environment::Given(&call::environment().collect::<Vec<_>>()),
            stdio: [null.as_fd(), output_end.as_fd(), output_end.as_fd()],
            preserve: &[],
            extra: &[image.as_fd()],
            directory: None,
            oom_score_adj: None,
            die_with_parent: true,
            session: false,
            listen_pid: false,
        };
        let child = spawn::start(&child).map_err(|failed| UpgradeError::NotExecuted(failed.errno))?;
        Ok(ImageCheck { child, output, confirmation, until: clock::now() + LONGEST })
    }

    /// The result of the check. Returns `None` while it runs.
    pub(super) fn result(&self) -> Option<Result<(), UpgradeError>> {
        let exit = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(exit)) => exit,
            Err(failed) => return Some(Err(failed.into())),
        };
        let mut text = Vec::new();
        collect(self.output.as_fd(), &mut text);
        let text = String::from_utf8_lossy(&text[..text.len().min(1000)]).trim().to_owned();
        Some(match exit {
            Exit::Code(0) if text == self.confirmation => Ok(()),
            Exit::Code(0) => Err(UpgradeError::NotAShim),
            exit if text.is_empty() => Err(UpgradeError::Ended(exit)),
            _ => Err(UpgradeError::Unable(text)),
        })
    }
}
