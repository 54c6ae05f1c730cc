//! Swapping path components under a runtime's feet.

use super::t::T;
use nix::fcntl::{RenameFlags, renameat2};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Exchanges two paths again and again until dropped.
pub struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    /// Starts exchanging.
    pub fn start(one: PathBuf, other: PathBuf) -> Swapper {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), swaps.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if exchange(&one, &other) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Swapper { stop, swaps, thread: Some(thread) }
    }

    /// How often the paths were exchanged.
    pub fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Relaxed)
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `renameat2(…, RENAME_EXCHANGE)`.
pub fn exchange(one: &Path, other: &Path) -> bool {
    renameat2(nix::fcntl::AT_FDCWD, one, nix::fcntl::AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).is_ok()
}

/// How long a race runs: short by default, 60 s on request.
pub fn duration(t: &T) -> Duration {
    Duration::from_secs(if t.long { 60 } else { 4 })
}

/// Calls `round` until the time is up. Returns the number of rounds.
pub fn rounds<E>(limit: Duration, mut round: impl FnMut() -> Result<(), E>) -> Result<u64, E> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < limit {
        round()?;
        count += 1;
    }
    Ok(count)
}
