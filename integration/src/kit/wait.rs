//! Waiting for something to become true.

use super::stop::{Verdict, fail};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Polls until `done` returns a value, for at most two minutes.
pub fn eventually<V>(what: &str, mut done: impl FnMut() -> Option<V>) -> Verdict<V> {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return Ok(value);
        }
        if start.elapsed() > Duration::from_secs(120) {
            return fail(format!("waited 120 s in vain for: {what}"));
        }
        sleep(Duration::from_millis(2));
    }
}
