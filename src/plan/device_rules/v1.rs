//! The device rules for a devices cgroup of version 1.
//!
//! Such a cgroup has a default, to allow or to deny, and exceptions to it, as `Access` has. But the effect of a line
//! written to `devices.allow` or `devices.deny` depends on the present default, and a new cgroup inherits everything
//! from its parent. So the rules are not written one by one. The default is written first, as a line `a` that also
//! clears what was inherited, then each exception once. Source: Documentation/admin-guide/cgroup-v1/devices.rst,
//! security/device_cgroup.c.

use std::collections::BTreeMap;

use super::{ALL, Access, DEFAULTS, Key, MKNOD, READ, Type, WRITE, letters};
use windlass_base::spec::DeviceRule;

/// One write(2) to a file of a devices cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicesWrite {
    /// `devices.allow` or `devices.deny`.
    pub file: &'static str,
    /// For example `c 1:3 rwm`.
    pub value: String,
}

/// The default and the exceptions of a devices cgroup of version 1.
#[derive(Debug)]
pub struct Rules {
    access: Access,
    /// Whether the configuration has rules; otherwise there are only the default rules.
    pub asked: bool,
}

const ALLOW: &str = "devices.allow";
const DENY: &str = "devices.deny";

impl Rules {
    /// Takes rules in which [`super::program`] found no fault. Returns `None` if everything is allowed.
    pub fn of(rules: &[DeviceRule]) -> Option<Rules> {
        let mut access = Access::default();
        for rule in rules {
            // Faults of the rule were reported when the program was made.
            let _ = access.take(rule, "", &mut Vec::new());
        }
        for (key, letters) in DEFAULTS {
            let _ = access.change(*key, *letters, true);
        }
        // The kernel reads 4294967295 as "any", and no device has a number beyond dev_t.
        access.exceptions.retain(|key, _| key.may_exist());
        let everything = access.allow && access.exceptions.is_empty();
        (!everything).then_some(Rules { access, asked: !rules.is_empty() })
    }

    /// The writes for a cgroup without processes and sub-cgroups, whatever it has inherited.
    pub fn fresh(&self) -> Vec<DevicesWrite> {
        let (default, exception) = if self.access.allow { (ALLOW, DENY) } else { (DENY, ALLOW) };
        let mut lines = vec![DevicesWrite { file: default, value: "a".into() }];
        lines.extend(self.access.exceptions.iter().map(|(key, letters)| line(exception, key, *letters)));
        lines
    }

    /// The writes for a cgroup with processes, whose `devices.list` is `list`. A device that the processes may use both
    /// before and after stays usable in between.
    ///
    /// Returns `None` if every order of the lines would allow too much for a moment.
    pub fn change(&self, list: &str) -> Option<Vec<DevicesWrite>> {
        if self.access.allow {
            return None;
        }
        let Some(now) = exceptions(list) else { return Some(self.fresh()) };
        let mut lines = Vec::new();
        for (file, one, other) in [(ALLOW, &self.access.exceptions, &now), (DENY, &now, &self.access.exceptions)] {
            for (key, letters) in one {
                match letters & !other.get(key).copied().unwrap_or(0) {
                    0 => {}
                    more => lines.push(line(file, key, more)),
                }
            }
        }
        Some(lines)
    }
}

fn line(file: &'static str, key: &Key, letters: u8) -> DevicesWrite {
    let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].into_iter().filter(|(bit, _)| letters & bit != 0);
    DevicesWrite { file, value: format!("{key} {}", letters.map(|(_, letter)| letter).collect::<String>()) }
}

/// The exceptions of a `devices.list` whose default is to deny. Returns `None` if it is to allow: then the kernel lists
/// no exceptions.
fn exceptions(list: &str) -> Option<BTreeMap<Key, u8>> {
    list.lines().map(exception).collect()
}

fn exception(line: &str) -> Option<(Key, u8)> {
    let number = |text: &str| match text {
        "*" => Some(None),
        text => text.parse().ok().map(Some),
    };
    let mut words = line.split(' ');
    let kind = match words.next()? {
        "c" => Type::Char,
        "b" => Type::Block,
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let key = Key { kind, major: number(major)?, minor: number(minor)? };
    Some((key, letters(words.next()?)? & ALL))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Random, Wanted, allowed, compiled, every_access, rule};
    use super::*;

    /// A model of a devices cgroup after security/device_cgroup.c. Its parent allows everything.
    #[derive(Clone, Default)]
    struct Kernel {
        deny: bool,
        exceptions: Vec<(Key, u8)>,
    }

    impl Kernel {
        fn write(&mut self, DevicesWrite { file, value }: &DevicesWrite) {
            if value == "a" {
                *self = Kernel { deny: *file == DENY, exceptions: Vec::new() };
                return;
            }
            let (key, letters) = exception(value).expect("a line that the kernel parses");
            let place = self.exceptions.iter().position(|(there, _)| *there == key);
            // A line in the sense of the default removes an exception, any other line adds one.
            match (place, (*file == DENY) == self.deny) {
                (Some(at), true) => self.exceptions[at].1 &= !letters,
                (None, true) => {}
                (Some(at), false) => self.exceptions[at].1 |= letters,
                (None, false) => self.exceptions.push((key, letters)),
            }
            self.exceptions.retain(|(_, letters)| *letters != 0);
        }

        fn allows(&self, wanted: Wanted) -> bool {
            let is = |number: Option<u32>, wanted| number.is_none_or(|number| number == wanted);
            let hit = self.exceptions.iter().any(|(key, letters)| {
                let same = key.kind == wanted.kind && is(key.major, wanted.major) && is(key.minor, wanted.minor);
                let access = if self.deny { wanted.letters & !letters == 0 } else { wanted.letters & letters != 0 };
                same && access
            });
            hit == self.deny
        }

        fn list(&self) -> String {
            if !self.deny {
                return "a *:* rwm\n".into();
            }
            self.exceptions.iter().map(|(key, letters)| line("", key, *letters).value + "\n").collect()
        }
    }

    fn valid(random: &mut Random) -> Vec<DeviceRule> {
        loop {
            let rules: Vec<DeviceRule> = (0..random.below(7)).map(|_| random.rule()).collect();
            if compiled(&rules).1.is_empty() {
                return rules;
            }
        }
    }

    #[test]
    fn a_fresh_cgroup_means_what_the_rules_mean_whatever_it_inherits() {
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        let mut checked = 0;
        for _ in 0..80 {
            let rules = valid(&mut random);
            let Some(read) = Rules::of(&rules) else {
                assert!(every_access().all(|wanted| allowed(&rules, wanted)), "{rules:?}");
                continue;
            };
            let inherited: Vec<(Key, u8)> =
                Rules::of(&valid(&mut random)).into_iter().flat_map(|rules| rules.access.exceptions).collect();
            let mut kernel = Kernel { deny: random.below(2) == 0, exceptions: inherited };
            read.fresh().iter().for_each(|line| kernel.write(line));
            for wanted in every_access() {
                assert_eq!(kernel.allows(wanted), allowed(&rules, wanted), "{wanted:?} {rules:?}");
                checked += 1;
            }
        }
        assert!(checked > 20_000, "{checked} checks");
    }

    #[test]
    fn a_change_ends_where_a_fresh_cgroup_is_and_takes_nothing_away_in_between() {
        let mut random = Random(0x0bad_cafe_dead_beef);
        let mut changed = 0;
        for _ in 0..80 {
            let (before, after) = (valid(&mut random), valid(&mut random));
            let (Some(old), Some(new)) = (Rules::of(&before), Rules::of(&after)) else { continue };
            let mut kernel = Kernel::default();
            old.fresh().iter().for_each(|line| kernel.write(line));
            let Some(lines) = new.change(&kernel.list()) else {
                assert!(new.access.allow, "{after:?}");
                continue;
            };
            for line in lines {
                kernel.write(&line);
                for wanted in every_access().filter(|_| !old.access.allow) {
                    if allowed(&before, wanted) && allowed(&after, wanted) {
                        assert!(kernel.allows(wanted), "{wanted:?} {line:?}");
                    }
                    // Reading was allowed before and writing is after: both, for a moment.
                    let by_letter = |letters| Wanted { letters, ..wanted };
                    let ever = |wanted| allowed(&before, wanted) || allowed(&after, wanted);
                    let mut requested = [READ, WRITE, MKNOD].into_iter().filter(|letter| letter & wanted.letters != 0);
                    let never = !requested.all(|letter| ever(by_letter(letter)));
                    assert!(!never || !kernel.allows(wanted), "{wanted:?} {line:?}");
                }
            }
            assert!(every_access().all(|wanted| kernel.allows(wanted) == allowed(&after, wanted)), "{after:?}");
            changed += 1;
        }
        assert!(changed > 10, "{changed} changes");
    }

    #[test]
    fn a_number_that_the_kernel_reads_as_any_is_not_written() {
        let rules = [rule(true, "c", Some(4_294_967_295), Some(3), ALL), rule(true, "b", Some(8), Some(1 << 20), ALL)];
        let lines = Rules::of(&rules).expect("not everything").fresh();
        assert_eq!(lines, Rules::of(&[]).expect("not everything").fresh());
        assert_eq!(lines[0], DevicesWrite { file: "devices.deny", value: "a".into() });
        assert!(lines.contains(&DevicesWrite { file: "devices.allow", value: "c 1:3 rwm".into() }), "{lines:?}");
    }
}
