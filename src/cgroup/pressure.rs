//! Pressure stall information: how long processes waited for a resource (Documentation/accounting/psi.rst).

use procfs_core::{PressureRecord, parse_pressure_record};

/// The pressure on one resource of a cgroup.
pub struct Pressure {
    /// The time in which at least one process waited.
    pub some: Option<Waiting>,
    /// The time in which no process could go on. Linux before 5.13 does not count it for the CPU.
    pub full: Option<Waiting>,
}

/// A share of time that was spent waiting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiting {
    /// The averages over the last 10, 60 and 300 seconds, in percent.
    pub averages: [f64; 3],
    /// The whole time, in microseconds.
    pub total: u64,
}

impl Pressure {
    /// The text of a file such as `cpu.pressure`.
    pub fn parse(text: &str) -> Pressure {
        // For a line shorter than the word and a space, procfs panics.
        let record = |word| {
            let line = text.lines().find(|line| line.starts_with(word))?;
            parse_pressure_record(line).ok().map(Waiting::from)
        };
        Pressure { some: record("some "), full: record("full ") }
    }
}

impl From<PressureRecord> for Waiting {
    fn from(record: PressureRecord) -> Waiting {
        // The kernel writes hundredths. As `f32`, 0.12 would be printed as 0.11999999731779099.
        let percent = |average: f32| (f64::from(average) * 100.0).round() / 100.0;
        Waiting { averages: [record.avg10, record.avg60, record.avg300].map(percent), total: record.total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hundredth_is_the_number_that_the_kernel_wrote() {
        for hundredths in 0..=10_000_u32 {
            let written = format!("{}.{:02}", hundredths / 100, hundredths % 100);
            let text = format!("some avg10={written} avg60=0.00 avg300=100.00 total=18446744073709551615\n");
            let pressure = Pressure::parse(&text);
            let expected = Waiting { averages: [written.parse().expect("a number"), 0.0, 100.0], total: u64::MAX };
            assert_eq!((pressure.some, pressure.full), (Some(expected), None), "{text}");
        }
    }

    #[test]
    fn a_line_that_is_cut_short_is_none() {
        let line = "full avg10=1.00 avg60=2.00 avg300=3.00 total=4";
        for length in 0..line.len() {
            assert_eq!(Pressure::parse(&line[..length]).full, None, "{:?}", &line[..length]);
        }
        assert!(Pressure::parse(line).full.is_some());
    }
}
