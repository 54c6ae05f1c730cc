//! The scenarios, by name: `VERB/KIND`.

use super::bundles::KINDS;
use super::case::Subject;
use super::life::LIVES;
use super::verbs::VERBS;

/// Verbs that the short sweep runs on all of its bundles. It runs the others on the plain one alone.
const ON_ALL: &[&str] = &["run", "create", "start", "exec"];

/// A verb or a life, on one kind of bundle.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// The verb or the life.
    pub subject: Subject,
    /// The kind.
    pub kind: &'static str,
}

impl Scenario {
    pub fn name(self) -> String {
        format!("{}/{}", self.subject.name(), self.kind)
    }

    /// The scenario of this name.
    pub fn named(name: &str) -> Option<Scenario> {
        all(false).into_iter().find(|scenario| scenario.name() == name)
    }
}

/// All scenarios, or those of the short sweep.
pub fn all(short: bool) -> Vec<Scenario> {
    let mut all = Vec::new();
    for verb in VERBS {
        for (kind, is_short) in KINDS.iter().filter(|(kind, _)| verb.is_for(kind)) {
            let is_in = !short
                || (*kind == "plain" || *is_short && ON_ALL.contains(&verb.name))
                || (*kind == "terminal" && verb.name == "run");
            if is_in {
                all.push(Scenario { subject: Subject::Verb(verb), kind });
            }
        }
    }
    all.extend(LIVES.iter().map(|life| Scenario { subject: Subject::Life(life), kind: "plain" }));
    all
}

#[cfg(test)]
mod tests {
    use super::{LIVES, Scenario, VERBS, all};

    #[test]
    fn names_lead_back() {
        for scenario in all(false) {
            assert_eq!(Scenario::named(&scenario.name()).map(Scenario::name), Some(scenario.name()));
        }
        assert!(Scenario::named("run/moon").is_none());
    }

    #[test]
    fn the_short_sweep_has_every_verb() {
        let mut verbs: Vec<_> = all(true).iter().map(|scenario| scenario.subject.name()).collect();
        verbs.dedup();
        assert_eq!(verbs.len(), VERBS.len() + LIVES.len());
        assert!(all(true).len() < all(false).len() / 2);
    }
}
