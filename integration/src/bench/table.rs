//! The measurements and their table: medians, and the runtime under test beside its peers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The time of one command in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Wall time, from its start until its end is known.
    pub wall: f64,
    /// Processor time of the command and of the processes that it has waited for.
    pub cpu: f64,
}

/// All samples by case and runtime, in the order of the measurements.
#[derive(Default)]
pub struct BenchTable {
    cases: Vec<String>,
    samples: BTreeMap<(usize, usize), Vec<Sample>>,
}

impl BenchTable {
    /// Adds a sample of a case by the runtime of this index; 0 is the one under test.
    pub fn add(&mut self, case: &str, who: usize, sample: Sample) {
        let index = self.cases.iter().position(|known| known == case).unwrap_or_else(|| {
            self.cases.push(case.to_owned());
            self.cases.len() - 1
        });
        self.samples.entry((index, who)).or_default().push(sample);
    }

    /// The table as text. A ratio is the median of the ratios within a round, so that changes of the machine's speed
    /// cancel out. Below 1 the runtime under test takes less.
    pub fn shown(&self, names: &[String]) -> String {
        let mut out = format!(
            "{:<26}{:<12}{:>9}{:>9}{:>9}   {}\n",
            "case", "runtime", "min ms", "median", "cpu", "windlass/this: wall, cpu"
        );
        for ((case, who), samples) in &self.samples {
            let walls: Vec<f64> = samples.iter().map(|sample| sample.wall).collect();
            let cpus: Vec<f64> = samples.iter().map(|sample| sample.cpu).collect();
            let name = names.get(*who).map_or("nothing", String::as_str);
            let _ = write!(
                out,
                "{:<26}{name:<12}{:>9.2}{:>9.2}{:>9.2}",
                self.cases[*case],
                walls.iter().copied().fold(f64::INFINITY, f64::min) * 1e3,
                median(walls) * 1e3,
                median(cpus) * 1e3,
            );
            if let Some(ours) = self.samples.get(&(*case, 0)).filter(|_| *who != 0) {
                let ratios = |part: fn(&Sample) -> f64| {
                    median(ours.iter().zip(samples).map(|(a, b)| part(a) / part(b)).filter(|r| r.is_finite()).collect())
                };
                let _ = write!(out, "   {:.2}, {:.2}", ratios(|sample| sample.wall), ratios(|sample| sample.cpu));
            }
            out.push('\n');
        }
        out
    }
}

/// The middle value; of none, 0.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::{BenchTable, Sample, median};

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut table = BenchTable::default();
        // The machine was ten times slower in the second round, for both runtimes.
        for slow in [1.0, 10.0, 1.0] {
            table.add("run", 0, Sample { wall: 0.001 * slow, cpu: 0.001 });
            table.add("run", 1, Sample { wall: 0.004 * slow, cpu: 0.002 });
        }
        let text = table.shown(&["windlass".into(), "peer".into()]);
        assert!(text.contains("0.25, 0.50"), "{text}");
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
