//! The upgrade in place: another program takes over this process, with its children, descriptors and sockets.
//!
//! ```text
//! Requested ─> Checking ─> Checked ─> (image) ─> execveat(2) ─> the other program
//!    ^            │          │          │            │
//!    │            └──────────┴── refused <───────────┘   this program serves on
//!    └──── there is something new ──┘
//! ```
//!
//! First the program checks an image in a child while the loop serves on. Then, at the top of the loop, where nothing
//! is half done, the loop stands still: the image is taken once more, and the program is executed. If the image has a
//! kind of field that the program has not seen, the program checks again first, and the loop serves on. This ends,
//! because the format has a bounded number of kinds of fields. The loop never waits for the other program.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::call::{environment, text};
use super::image::format::{self, Encoder, Kinds};
use super::image::supervisor;
use super::image_check::{ImageCheck, RESUME};
use super::key::{Kind, key};
use super::supervisor::Supervisor;
use super::upgrade_error::UpgradeError;
use super::upgrade_request::{Stage, Upgrade};
use super::{Code, Interest, Refusal, Reply, WaitToken, moment};
use windlass_sys::deferred::DeferredClose;
use windlass_sys::handover;
use windlass_sys::{clock, fd, stream};

/// An image, the numbers of the descriptors in it, and the kinds of its fields.
struct Image {
    bytes: Vec<u8>,
    descriptors: Vec<u32>,
    kinds: Kinds,
}

impl Supervisor {
    /// Begins to replace this program by another in the same process. The later answer is [`Reply::Done`] from the
    /// other program, or the reason why this program serves on.
    pub fn request_upgrade(&mut self, program: OwnedFd) -> Result<Reply, Refusal> {
        if self.upgrade.is_some() {
            return Err(Refusal::new(Code::WrongPhase, "an upgrade is under way"));
        }
        let stat = fd::stat(program.as_fd())?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(Refusal::new(Code::Invalid, "the program is not a regular file"));
        }
        if stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            return Err(Refusal::new(Code::Invalid, "the program changes its user or group (setuid)"));
        }
        if let Some(why) = fd::why_untrusted(&stat) {
            return Err(Refusal::new(Code::Invalid, format!("the program {why}")));
        }
        let own = fd::open("/proc/self/exe", OFlag::O_PATH)?;
        let program = handover::aside(program.as_fd())?;
        let token = self.next_token();
        self.upgrade = Some(Box::new(Upgrade::new(program, own, token)));
        Ok(Reply::Pending(token))
    }

    /// How often a program was replaced in this process, and how long the loop stood still the last time.
    pub(crate) fn upgrades(&self) -> (u64, Duration) {
        (self.upgrades, self.upgrade_pause)
    }

    /// Serves on with this program. `answer` is for the client that requested the upgrade.
    pub(crate) fn resumed(&mut self, token: WaitToken, answer: Result<Reply, Refusal>, upgrade_pause: Duration) {
        self.upgrade_pause = upgrade_pause;
        self.answer(token, answer);
        self.rescan_watches();
    }

    /// Whether the upgrade continues at the top of the loop.
    pub(crate) fn is_upgrade_due(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_due())
    }

    /// Takes the next step of the upgrade. `save` writes the front end down. Does not return if the other program
    /// takes over.
    pub(crate) fn upgrade(&mut self, save: &dyn Fn(&mut Encoder)) {
        let Some(mut upgrade) = self.upgrade.take() else { return };
        let done = match std::mem::replace(&mut upgrade.stage, Stage::Requested) {
            Stage::Requested => self.check(&mut upgrade, save),
            Stage::Checking(check, kinds) => {
                upgrade.stage = Stage::Checking(check, kinds);
                Ok(())
            }
            Stage::Checked(Err(why)) => Err(why),
            Stage::Checked(Ok(())) => self.hand_over(&upgrade, save),
        };
        match done {
            Ok(()) => self.upgrade = Some(upgrade),
            Err(why) => self.answer(upgrade.token, Err(why.refusal())),
        }
    }

    fn check(&mut self, upgrade: &mut Upgrade, save: &dyn Fn(&mut Encoder)) -> Result<(), UpgradeError> {
        let image = self.image(upgrade, save);
        let check = ImageCheck::start(upgrade.program.as_fd(), &image.bytes)?;
        if let Err(failed) = self.poll.watch(&check.child.pidfd, key(Kind::ImageCheck, 0, 0), Interest::Read) {
            check.child.kill();
            return Err(failed.into());
        }
        self.keep_child(check.child.pid);
        upgrade.stage = Stage::Checking(check, image.kinds);
        Ok(())
    }

    /// Checks whether the child that checks an image has ended.
    pub(super) fn image_check_ready(&mut self, now: Instant) {
        if let Some(pid) = self.upgrade.as_mut().and_then(|upgrade| upgrade.look_at_check(now)) {
            self.forget_child(pid);
        }
    }

    /// Takes the image and executes the program while the loop stands still. `Ok`: the program has to check again.
    fn hand_over(&self, upgrade: &Upgrade, save: &dyn Fn(&mut Encoder)) -> Result<(), UpgradeError> {
        let began = clock::now();
        let image = self.image(upgrade, save);
        if !upgrade.seen.contain(&image.kinds) {
            return Ok(());
        }
        let file = stream::sealed(c"windlass-shim", &image.bytes)?;
        let number = handover::number(file.as_fd());
        let kept: Vec<u32> = image.descriptors.iter().copied().chain([number]).collect();
        let place = format!("{number},{}", moment::since_boot(began));
        let environment: Vec<CString> = environment().collect();
        // Otherwise closing the inotify instance would take most of the time.
        let _closed_later = self.poll.notifier_fd().map(DeferredClose::of);
        Err(handover::execute(upgrade.program.as_fd(), &words(&place, None), &environment, &kept).into())
    }

    fn image(&self, upgrade: &Upgrade, save: &dyn Fn(&mut Encoder)) -> Image {
        let mut to = Encoder::default();
        save(&mut to);
        let start = to.begin(field::CORE, true);
        supervisor::save(self, &mut to);
        to.end(start);
        to.put(field::TOKEN, true, &upgrade.token);
        to.put(field::PREVIOUS_PROGRAM, true, &upgrade.own);
        to.put(field::NAME, false, &fd::read_small(fd::CWD, "/proc/self/comm").unwrap_or_default());
        let kinds = std::mem::take(to.kinds());
        let (mut body, descriptors) = to.finish();
        let mut to = Encoder::default();
        to.put(field::DESCRIPTORS, true, &descriptors);
        body.extend(to.finish().0);
        Image { bytes: format::with_header(env!("CARGO_PKG_VERSION"), &body), descriptors, kinds }
    }
}

/// The numbers of the fields of an image's body.
pub(crate) mod field {
    /// The protocol. A front end writes it beside [`FRONT`].
    pub(crate) const MODE: u32 = 1;
    /// The numbers of all descriptors.
    pub(crate) const DESCRIPTORS: u32 = 2;
    /// The supervisor.
    pub(crate) const CORE: u32 = 3;
    /// The state of the front end.
    pub(crate) const FRONT: u32 = 4;
    /// The request that the other program answers.
    pub(crate) const TOKEN: u32 = 5;
    /// The program that has written the image.
    pub(crate) const PREVIOUS_PROGRAM: u32 = 6;
    /// The name in `/proc/PID/comm`.
    pub(crate) const NAME: u32 = 7;
}

/// The command line of the next program: the words of this one, and the place of the image. A search for a shim by its
/// command line finds it as before.
pub(crate) fn words(place: &str, failed: Option<&str>) -> Vec<CString> {
    let mut own: Vec<OsString> = std::env::args_os().collect();
    if own.get(1).is_some_and(|word| word == RESUME) {
        let failed = own.get(3).is_some_and(|word| word.as_encoded_bytes().starts_with(b"!"));
        own.drain(1..3 + usize::from(failed));
    }
    let at = own.len().min(1);
    let inserted = [Some(RESUME.into()), Some(place.into()), failed.map(|why| format!("!{why}").into())];
    own.splice(at..at, inserted.into_iter().flatten());
    own.iter().map(|word| text(word)).collect()
}

#[cfg(test)]
mod tests;
