//! A look at an image by the program that is to go on with it, in a child, before there is no way back.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::WaitToken;
use super::call::{environment, text};
use super::image::format::{Kinds, checksum};
use super::pipe::{captured, collect, null};
use windlass_sys::clock;
use windlass_sys::process::{Child, Exit};
use windlass_sys::spawn::{self, Environment, Spawn};
use windlass_sys::stream;

/// The word that makes a program look at an image, and the one that makes it go on with it. The number of the
/// image's descriptor follows.
pub(super) const CHECK: &str = "@check";
pub(super) const RESUME: &str = "@resume";

/// How long a look may take.
const LONGEST: Duration = Duration::from_secs(10);

/// An upgrade that was asked for.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// The program, which was checked and is executed.
    pub(super) program: OwnedFd,
    /// The program that runs now, which goes on if the other cannot.
    pub(super) own: OwnedFd,
    /// The request.
    pub(super) token: WaitToken,
    pub(super) stage: Stage,
    /// What the program has seen and can read.
    pub(super) seen: Kinds,
}

/// How far it has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// It is to be begun.
    Wanted,
    /// The program looks at an image while the loop goes on.
    Looking(Look, Kinds),
    /// It can read the image, or cannot for a reason.
    Looked(Result<(), String>),
}

impl Upgrade {
    pub(super) fn new(program: OwnedFd, own: OwnedFd, token: WaitToken) -> Upgrade {
        Upgrade { program, own, token, stage: Stage::Wanted, seen: Kinds::default() }
    }

    /// Whether something is to be done at the top of the loop.
    pub(super) fn is_due(&self) -> bool {
        !matches!(self.stage, Stage::Looking(..))
    }

    /// When a look takes too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Looking(look, _) => Some(look.until),
            _ => None,
        }
    }

    /// The child that looks may have ended, or takes too long. Returns its process id if it is over.
    pub(super) fn look(&mut self, now: Instant) -> Option<i32> {
        let Stage::Looking(look, kinds) = &self.stage else { return None };
        let found = match look.found() {
            None if now < look.until => return None,
            None => {
                look.child.kill();
                Err("it takes too long to read what is to be handed over".into())
            }
            Some(found) => found,
        };
        let pid = look.child.pid;
        self.seen.add_all(kinds);
        self.stage = Stage::Looked(found);
        Some(pid)
    }
}

/// What a program says that can go on with an image. Any program can end well.
pub(super) fn proof(image: &[u8]) -> String {
    format!("can go on with {:016x}", checksum(image))
}

/// A child that looks at an image. One that takes too long is killed and not waited for: it may wait for a disk, and is
/// reaped like an orphan.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) child: Child,
    said: OwnedFd,
    /// What it says if it can.
    proof: String,
    until: Instant,
}

impl Look {
    /// Has the program look at an image.
    pub(super) fn start(program: BorrowedFd<'_>, image_bytes: &[u8]) -> Result<Look, String> {
        let prepared = || {
            let image = stream::sealed(c"windlass-shim", image_bytes)?;
            windlass_sys::Result::Ok((image, captured()?, null()?))
        };
        let (image, (said, said_end), null) = prepared().map_err(|failed| failed.to_string())?;
        let proof = proof(image_bytes);
        let words: [CString; 3] = [c"windlass-shim".into(), text(CHECK.as_ref()), c"3".into()];
        let child = Spawn {
            path: &text(stream::path_of(program).as_os_str()),
            arguments: &words,
            environment: Environment::Given(&environment().collect::<Vec<_>>()),
            stdio: [null.as_fd(), said_end.as_fd(), said_end.as_fd()],
            preserve: &[],
            extra: &[image.as_fd()],
            directory: None,
            oom_score_adj: None,
            die_with_parent: true,
            session: false,
            listen_pid: false,
        };
        let child = spawn::start(&child).map_err(|failed| format!("it cannot be executed: {}", failed.errno.desc()))?;
        Ok(Look { child, said, proof, until: clock::now() + LONGEST })
    }

    /// What was found. `None`: it still looks.
    fn found(&self) -> Option<Result<(), String>> {
        let exit = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(exit)) => exit,
            Err(failed) => return Some(Err(failed.to_string())),
        };
        let mut said = Vec::new();
        collect(self.said.as_fd(), &mut said);
        let said = String::from_utf8_lossy(&said[..said.len().min(1000)]).trim().to_owned();
        Some(match exit {
            Exit::Code(0) if said == self.proof => Ok(()),
            Exit::Code(0) => Err("it is no shim that could read the state".into()),
            exit if said.is_empty() => Err(format!("it ends with {exit} when it is to read the state")),
            _ => Err(said),
        })
    }
}
