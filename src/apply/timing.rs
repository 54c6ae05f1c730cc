//! The durations of the runtime's own steps, for `--debug`: a line per step, as for init's.

use std::time::Instant;

/// Times one step after the other, in microseconds; without `--debug` it does nothing.
pub struct StepTimer(Option<Instant>);

impl StepTimer {
    /// Begins, if `wanted`.
    pub fn start(wanted: bool) -> StepTimer {
        StepTimer(wanted.then(Instant::now))
    }

    /// Logs a step that has ended, and begins the next.
    pub fn done(&mut self, step: &str) {
        if let Some(begun) = &mut self.0 {
            ::log::debug!("runtime: {step} {}us", begun.elapsed().as_micros());
            *begun = Instant::now();
        }
    }
}
