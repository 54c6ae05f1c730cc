//! A front end whose state survives an upgrade.

use std::os::fd::OwnedFd;

use serde_json::{Value as Json, json};

use crate::image::format::{Encoder, FORMAT, Value, choice};
use crate::upgrade::field;
use crate::{Code, Front, Refusal, Reply, Supervisor, front};

/// The protocol of a shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// containerd's.
    Containerd,
    /// conmon's.
    Conmon,
    /// The engine-neutral one.
    Neutral,
}

choice! { Mode { 1 Containerd {}, 2 Conmon {}, 3 Neutral {} } }

/// A front end that the next program reads back from an image. Reading has no effect outside of the process, so that a
/// program can check an image. [`Upgradable::watch_again`] is called after it, in the program that serves on.
pub(crate) trait Upgradable: Front + Value {
    /// The protocol.
    const MODE: Mode;
    /// Watches again what the previous program watched. After a failure the rest is watched all the same.
    fn watch_again(&mut self, core: &mut Supervisor) -> windlass_sys::Result<()>;
    /// Logs a message for people.
    fn log(&self, text: &str);
}

/// Runs the loop until the front end has finished, or another program serves on.
pub(super) fn serve<F: Upgradable>(core: &mut Supervisor, front: &mut F) -> windlass_sys::Result<i32> {
    front::run(core, front, |core, front: &F| {
        if core.is_upgrade_due() {
            core.upgrade(&|to: &mut Encoder| {
                to.put(field::MODE, true, &F::MODE);
                to.put(field::FRONT, true, front);
            });
        }
    })
}

/// The description of a shim, in the answer to `hello`.
pub(super) fn describe(mode: Mode, core: &Supervisor) -> Json {
    let mode = match mode {
        Mode::Containerd => "containerd",
        Mode::Conmon => "conmon",
        Mode::Neutral => "neutral",
    };
    let (upgrades, upgrade_pause) = core.upgrades();
    json!({
        "v": 1,
        "mode": mode,
        "shim_pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "format": FORMAT,
        "upgrades": upgrades,
        "stood_still_us": u64::try_from(upgrade_pause.as_micros()).unwrap_or(u64::MAX),
    })
}

/// Requests an upgrade to the program that the client has passed.
pub(super) fn request_upgrade(passed: Option<OwnedFd>, core: &mut Supervisor) -> Result<Reply, Refusal> {
    let program = passed.ok_or_else(|| Refusal::new(Code::Invalid, "upgrade needs the descriptor of a program"))?;
    core.request_upgrade(program)
}
