//! A number that a child leaves behind for its parent, however it dies.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags};

use super::{Called, Result};

/// One shared word: init counts its steps in it, and when it is killed the runtime can still
/// say how far it had come.
#[derive(Clone, Copy)]
pub struct Progress(&'static AtomicU32);

impl Progress {
    /// A new word at 0. The page stays mapped until the process ends or executes.
    pub fn new() -> Result<Progress> {
        let length = NonZeroUsize::MIN;
        let flags = MapFlags::MAP_SHARED;
        // SAFETY: the kernel chooses the place of a new anonymous mapping, so nothing is replaced.
        let page = unsafe {
            nix::sys::mman::mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags)
        };
        let page = page.called(|| "mmap(MAP_SHARED|MAP_ANONYMOUS)".into())?;
        // SAFETY: the page is zeroed, aligned, never unmapped, and only ever used as this word.
        Ok(Progress(unsafe { page.cast::<AtomicU32>().as_ref() }))
    }

    /// Notes the step that begins.
    pub fn at(self, step: usize) {
        self.0.store(step as u32, Ordering::Relaxed);
    }

    /// The last step noted.
    pub fn last(self) -> usize {
        self.0.load(Ordering::Relaxed) as usize
    }
}
