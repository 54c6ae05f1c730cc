//! A moment as a number, for the next program of a shim: nanoseconds of `CLOCK_MONOTONIC` (clock_gettime(2)), which
//! goes on across execve(2).

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use windlass_sys::clock;

/// One moment by both clocks, so that all conversions agree. It is the best of several readings, because between the
/// two clocks this process may have had to wait for a CPU.
fn anchor() -> (Instant, Duration) {
    static ANCHOR: OnceLock<(Instant, Duration)> = OnceLock::new();
    let read = || {
        let (before, clock, after) = (clock::now(), clock::monotonic(), clock::now());
        (after - before, before, clock)
    };
    *ANCHOR.get_or_init(|| {
        let (_, instant, clock) = (0..8).map(|_| read()).min().unwrap_or_else(read);
        (instant, clock)
    })
}

/// A moment as nanoseconds of `CLOCK_MONOTONIC`.
pub(super) fn since_boot(at: Instant) -> u64 {
    let (instant, clock) = anchor();
    let since_boot = clock + at.saturating_duration_since(instant) - instant.saturating_duration_since(at);
    u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX)
}

/// The moment with these nanoseconds of `CLOCK_MONOTONIC`.
pub(super) fn at(nanoseconds: u64) -> Instant {
    let (instant, clock) = anchor();
    let since_boot = Duration::from_nanos(nanoseconds);
    let at = (instant + since_boot.saturating_sub(clock)).checked_sub(clock.saturating_sub(since_boot));
    at.unwrap_or(instant)
}
