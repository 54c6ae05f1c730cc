//! The serialization of the state of processes, as far as serde needs help.
//!
//! A new program of a shim, and the simulation, read the state back. A moment is written as nanoseconds of
//! `CLOCK_MONOTONIC` (clock_gettime(2)), which goes on across execve(2).

use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use windlass_sys::clock;
use windlass_sys::process::Exit;

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

/// A moment.
pub(super) mod moment {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(at: &Instant, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(since_boot(*at))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Instant, D::Error> {
        Ok(at(u64::deserialize(from)?))
    }
}

/// How a process ended.
pub(super) mod exit {
    use super::*;

    #[derive(Serialize, Deserialize)]
    enum WrittenExit {
        Code(i32),
        Signal(i32),
    }

    pub(in super::super) fn serialize<S: Serializer>(exit: &Option<Exit>, to: S) -> Result<S::Ok, S::Error> {
        let written = exit.map(|exit| match exit {
            Exit::Code(code) => WrittenExit::Code(code),
            Exit::Signal(signal) => WrittenExit::Signal(signal),
        });
        written.serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Exit>, D::Error> {
        let written = Option::<WrittenExit>::deserialize(from)?;
        Ok(written.map(|written| match written {
            WrittenExit::Code(code) => Exit::Code(code),
            WrittenExit::Signal(signal) => Exit::Signal(signal),
        }))
    }
}

/// A shared string.
pub(super) mod text {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(text: &Rc<str>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Rc<str>, D::Error> {
        Ok(String::deserialize(from)?.into())
    }
}

/// A shared string that may be missing.
pub(super) mod optional_text {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(text: &Option<Rc<str>>, to: S) -> Result<S::Ok, S::Error> {
        text.as_deref().serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Rc<str>>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Rc::from))
    }
}
