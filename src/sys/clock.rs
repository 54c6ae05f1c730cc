//! Clocks.

use std::time::{Duration, Instant, SystemTime};

/// The present moment by the clock of [`monotonic`].
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day.
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The time of `CLOCK_MONOTONIC` (clock_gettime(2)). It never steps, and is the same for all processes of a time
/// namespace. [`std::time::Instant`] uses this clock too, but does not give its value.
pub fn monotonic() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, and `now` is one that outlives it.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    debug_assert_eq!(failed, 0, "the clock and the pointer are valid");
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_as_instants_do() {
        let (instant, clock) = (std::time::Instant::now(), monotonic());
        std::thread::sleep(Duration::from_millis(20));
        let (later, clock_later) = (std::time::Instant::now(), monotonic());
        let difference = (clock_later - clock).abs_diff(later - instant);
        assert!(difference < Duration::from_millis(15), "{difference:?}");
    }
}
