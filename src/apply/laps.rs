//! Where the runtime's own time goes, for `--debug`: a line per step, as init has them.

use std::time::Instant;

/// Times the steps of a story, in microseconds; costs nothing where nobody wants to know.
pub struct Laps(Option<Instant>);

impl Laps {
    /// Begins, if `wanted`.
    pub fn begin(wanted: bool) -> Laps {
        Laps(wanted.then(Instant::now))
    }

    /// Ends a step and begins the next.
    pub fn done(&mut self, what: &str) {
        if let Some(begun) = &mut self.0 {
            ::log::debug!("runtime: {what} {}us", begun.elapsed().as_micros());
            *begun = Instant::now();
        }
    }
}
