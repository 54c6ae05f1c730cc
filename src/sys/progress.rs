//! Numbers that a child and its parent share in memory. They need no message, and what the child has written stays
//! after its death.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags};

use super::{Called, Result};

/// A shared page in which init counts its steps, so that the runtime knows at which step a killed init was.
#[derive(Clone, Copy)]
pub struct Progress(&'static Numbers);

struct Numbers {
    step: AtomicU32,
    ignored: AtomicU64,
}

impl Progress {
    /// A new page of zeroes. The page stays mapped until the process ends or executes.
    pub fn new() -> Result<Progress> {
        let length = NonZeroUsize::MIN;
        let flags = MapFlags::MAP_SHARED;
        // SAFETY: the kernel chooses the place of a new anonymous mapping, so nothing is replaced.
        let page = unsafe {
            nix::sys::mman::mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags)
        };
        let page = page.called(|| "mmap(MAP_SHARED|MAP_ANONYMOUS)".into())?;
        // SAFETY: the page is zeroed, which is a valid value, aligned, never unmapped, and only ever
        // used as these numbers.
        Ok(Progress(unsafe { page.cast::<Numbers>().as_ref() }))
    }

    /// Records the step that begins.
    pub fn at(self, step: usize) {
        self.0.step.store(step as u32, Ordering::Relaxed);
    }

    /// The last step recorded.
    pub fn last(self) -> usize {
        self.0.step.load(Ordering::Relaxed) as usize
    }

    /// Sets, in the parent, the signals that the child has inherited as ignored, as in
    /// [`super::own_status::OwnStatus`].
    pub fn set_ignored(self, signals: u64) {
        self.0.ignored.store(signals, Ordering::Relaxed);
    }

    /// Returns, in the child, the ignored signals that the parent has set.
    pub fn ignored(self) -> u64 {
        self.0.ignored.load(Ordering::Relaxed)
    }
}
