//! The plan of a run. A plan that fails is shrunk by leaving out parts.

use super::random::Random;

/// The parts that can be left out.
pub(super) const PARTS: [&str; 15] = [
    "execs",
    "runtime",
    "hangs",
    "disk",
    "slowness",
    "forks",
    "upgrades",
    "readers",
    "holders",
    "kills",
    "outages",
    "clients",
    "terminals",
    "crashes",
    "starvation",
];

/// The protocol of a run.
pub(super) enum Mode {
    /// None: an engine in the same program calls the supervisor.
    Supervisor,
    /// containerd.
    Containerd,
    /// podman or CRI-O.
    Conmon,
    /// Clients of the neutral protocol.
    Neutral,
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// How many requests are made before the end begins.
    pub(super) requests: u64,
    /// The longest stream in bytes, as a power of two.
    pub(super) size: u64,
    without: Vec<String>,
}

impl Plan {
    pub(super) fn of(seed: u64) -> Plan {
        let mut random = Random::new(seed);
        let without = PARTS.iter().filter(|_| random.chance(20)).map(|part| (*part).to_owned()).collect();
        Plan { seed, requests: random.within(2, 60), size: random.within(10, 23), without }
    }

    /// The protocol.
    pub(super) fn mode(&self) -> Mode {
        match self.seed % 4 {
            0 => Mode::Supervisor,
            2 => Mode::Neutral,
            3 => Mode::Conmon,
            _ => Mode::Containerd,
        }
    }

    /// Whether the plan has this part.
    pub(super) fn has(&self, part: &str) -> bool {
        debug_assert!(PARTS.contains(&part));
        !self.without.iter().any(|left_out| left_out == part)
    }

    /// The arguments that repeat the plan.
    pub(super) fn words(&self) -> String {
        let without: String = self.without.iter().map(|part| format!(" -{part}")).collect();
        format!("{} requests={} size={}{without}", self.seed, self.requests, self.size)
    }

    /// The plan from these arguments.
    pub(super) fn read(words: &[String]) -> Option<Plan> {
        let mut plan = Plan { without: Vec::new(), ..Plan::of(words.first()?.parse().ok()?) };
        for word in &words[1..] {
            match word.split_once('=') {
                Some(("requests", number)) => plan.requests = number.parse().ok()?,
                Some(("size", number)) => plan.size = number.parse().ok()?,
                _ => plan.without.push(PARTS.iter().find(|part| word.strip_prefix('-') == Some(part))?.to_string()),
            }
        }
        Some(plan)
    }

    /// Smaller plans.
    pub(super) fn smaller(&self) -> Vec<Plan> {
        let mut smaller = Vec::new();
        for part in PARTS.iter().filter(|part| self.has(part)) {
            let without = self.without.iter().cloned().chain([(*part).to_owned()]).collect();
            smaller.push(Plan { without, ..self.clone() });
        }
        if self.requests > 2 {
            smaller.push(Plan { requests: self.requests / 2, ..self.clone() });
            smaller.push(Plan { requests: self.requests - 1, ..self.clone() });
        }
        if self.size > 4 {
            smaller.push(Plan { size: self.size / 2, ..self.clone() });
            smaller.push(Plan { size: self.size - 1, ..self.clone() });
        }
        smaller
    }
}
