//! The simulated clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use super::kernel;

/// The moment at which the simulation began.
fn base() -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(Instant::now)
}

/// The simulated time since the beginning.
fn passed() -> Duration {
    Duration::from_nanos(kernel::now())
}

/// The simulated moment.
pub fn now() -> Instant {
    base() + passed()
}

/// Nanoseconds from the beginning of the simulation to a moment.
pub fn since_begin(moment: Instant) -> u64 {
    moment.saturating_duration_since(base()).as_nanos() as u64
}

/// The simulated time of day: some day in 2026.
pub fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + passed()
}

/// Nanoseconds from the beginning of the simulation to a time of day.
pub fn since_wall(time: SystemTime) -> u64 {
    let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    time.duration_since(begin).unwrap_or_default().as_nanos() as u64
}

/// The simulated `CLOCK_MONOTONIC`: the machine was up for an hour when the simulation began.
pub fn monotonic() -> Duration {
    Duration::from_secs(3600) + passed()
}

/// The moment that many nanoseconds after the beginning of the simulation.
pub fn at(nanoseconds: u64) -> Instant {
    base() + Duration::from_nanos(nanoseconds)
}
