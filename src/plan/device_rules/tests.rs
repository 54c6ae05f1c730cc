use super::*;

/// One access as the kernel asks for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) kind: Type,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) letters: u8,
}

/// The accesses that the tests ask about.
pub(super) fn every_access() -> impl Iterator<Item = Wanted> {
    let minors = [0, 3, 5, 31, 32, 35, 200, (1 << 20) - 1];
    let devices = [1, 5, 8, 136, 7].into_iter().flat_map(move |major| minors.map(|minor| (major, minor)));
    let kinds = devices.flat_map(|(major, minor)| [Type::Char, Type::Block].map(|kind| (kind, major, minor)));
    kinds.flat_map(|(kind, major, minor)| (1..=ALL).map(move |letters| Wanted { kind, major, minor, letters }))
}

/// Runs a program as the kernel would, with no other knowledge than the instruction format.
fn interpret(program: &[u64], wanted: Wanted) -> bool {
    let context =
        [u64::from(wanted.letters) << 16 | wanted.kind.code() as u64, u64::from(wanted.major), u64::from(wanted.minor)];
    let mut register = [0u64; 11];
    let mut at = 0usize;
    loop {
        let bytes = program[at].to_ne_bytes();
        let (to, from) = if cfg!(target_endian = "little") {
            (bytes[1] & 15, bytes[1] >> 4)
        } else {
            (bytes[1] >> 4, bytes[1] & 15)
        };
        let (to, from) = (usize::from(to), usize::from(from));
        let offset = i16::from_ne_bytes([bytes[2], bytes[3]]);
        let immediate = i64::from(i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])) as u64;
        at += 1;
        // BPF_ALU64 with an immediate or a register.
        let operand = if bytes[0] & 8 == 0 { immediate } else { register[from] };
        match bytes[0] {
            0x61 => {
                assert_eq!(from, 1, "only the context can be read");
                register[to] = context[usize::try_from(offset).expect("forward") / 4];
            }
            0x18 => {
                register[to] = immediate & 0xffff_ffff | program[at] & !0xffff_ffff;
                at += 1;
            }
            0x07 => register[to] = register[to].wrapping_add(operand),
            0x87 => register[to] = register[to].wrapping_neg(),
            0xb7 | 0xbf => register[to] = operand,
            0x57 | 0x5f => register[to] &= operand,
            0x47 | 0x4f => register[to] |= operand,
            0xa7 | 0xaf => register[to] ^= operand,
            0x67 | 0x6f => register[to] <<= operand,
            0x77 => register[to] >>= operand,
            0xc7 => register[to] = ((register[to] as i64) >> operand) as u64,
            0x95 => {
                assert!(register[0] <= 1, "the verifier wants 0 or 1");
                return register[0] == 1;
            }
            other => panic!("unknown opcode {other:#x}"),
        }
    }
}

/// The meaning of a list of rules, from the documentation of cgroup v1 (devices.rst): a
/// default and a set of exceptions, kept as a plain list.
pub(super) fn allowed(rules: &[DeviceRule], wanted: Wanted) -> bool {
    let mut default = false;
    let mut exceptions: Vec<(Type, i64, i64, u8)> = Vec::new();
    let standard = DEFAULTS.iter().map(|(key, letters)| {
        let number = |n: Option<u32>| n.map(i64::from);
        rule(true, if key.kind == Type::Char { "c" } else { "b" }, number(key.major), number(key.minor), *letters)
    });
    for rule in rules.iter().cloned().chain(standard) {
        let kind = match rule.kind.as_deref() {
            Some("c") => Type::Char,
            Some("b") => Type::Block,
            _ => {
                default = rule.allow;
                exceptions.clear();
                continue;
            }
        };
        let (major, minor) = (rule.major.unwrap_or(-1), rule.minor.unwrap_or(-1));
        let bits = letters(rule.access.as_deref().unwrap_or("rwm")).expect("generated");
        let same = |e: &(Type, i64, i64, u8)| (e.0, e.1, e.2) == (kind, major, minor);
        if rule.allow == default {
            let within_wider = exceptions.iter().any(|e| {
                !same(e) && e.0 == kind && e.3 & bits != 0 && [-1, major].contains(&e.1) && [-1, minor].contains(&e.2)
            });
            if within_wider {
                continue;
            }
            exceptions.iter_mut().filter(|e| same(e)).for_each(|e| e.3 &= !bits);
            exceptions.retain(|e| e.3 != 0);
        } else if let Some(mine) = exceptions.iter_mut().find(|e| same(e)) {
            mine.3 |= bits;
        } else {
            exceptions.push((kind, major, minor, bits));
        }
    }
    let hit = exceptions.iter().any(|&(kind, major, minor, bits)| {
        kind == wanted.kind
            && [-1, i64::from(wanted.major)].contains(&major)
            && [-1, i64::from(wanted.minor)].contains(&minor)
            && if default { wanted.letters & bits != 0 } else { wanted.letters & !bits == 0 }
    });
    hit != default
}

pub(super) fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>, bits: u8) -> DeviceRule {
    let access = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
    let access = access.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, letter)| letter).collect();
    DeviceRule { allow, kind: Some(kind.into()), major, minor, access: Some(access) }
}

pub(super) fn compiled(rules: &[DeviceRule]) -> (Option<DeviceProgram>, Vec<Diagnostic>) {
    let mut faults = Vec::new();
    let program = program(rules, &mut faults, &mut Vec::new());
    (program, faults)
}

fn may(rules: &[DeviceRule], kind: Type, major: u32, minor: u32, letters: u8) -> bool {
    let (program, faults) = compiled(rules);
    assert_eq!(faults, []);
    program.is_none_or(|program| interpret(&program.instructions, Wanted { kind, major, minor, letters }))
}

/// A random sequence (xorshift) that is the same on every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    pub(super) fn rule(&mut self) -> DeviceRule {
        const MAJORS: [Option<i64>; 6] = [None, Some(-1), Some(1), Some(5), Some(136), Some(8)];
        const MINORS: [Option<i64>; 10] = [
            None,
            Some(-1),
            Some(0),
            Some(3),
            Some(5),
            Some(31),
            Some(32),
            Some(200),
            Some((1 << 20) - 1),
            Some(1 << 20),
        ];
        let kind = ["a", "c", "c", "c", "b", "b"][self.below(6) as usize];
        let bits = 1 + self.below(7) as u8;
        rule(
            self.below(3) != 0,
            kind,
            MAJORS[self.below(6) as usize],
            MINORS[self.below(10) as usize],
            if self.below(2) == 0 { ALL } else { bits },
        )
    }
}

#[test]
fn the_program_means_what_the_rules_mean() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut checked, mut denied) = (0u32, 0u32);
    for _ in 0..800 {
        let rules: Vec<DeviceRule> = (0..random.below(7)).map(|_| random.rule()).collect();
        let (program, faults) = compiled(&rules);
        // A refused list has no meaning to compare.
        if !faults.is_empty() {
            continue;
        }
        for wanted in every_access() {
            let answer = program.as_ref().is_none_or(|p| interpret(&p.instructions, wanted));
            assert_eq!(answer, allowed(&rules, wanted), "{wanted:?} {rules:?}");
            checked += 1;
            denied += u32::from(!answer);
        }
    }
    assert!(checked > 100_000, "most generated lists must be valid, {checked} checks");
    assert!(denied > checked / 10 && denied < checked / 10 * 9, "both answers must occur, {denied} of {checked}");
}

#[test]
fn without_rules_only_the_default_devices_may_be_opened() {
    assert!(may(&[], Type::Char, 1, 3, READ | WRITE));
    assert!(may(&[], Type::Char, 136, 77, READ | WRITE));
    assert!(may(&[], Type::Block, 8, 0, MKNOD));
    assert!(!may(&[], Type::Block, 8, 0, READ));
    assert!(!may(&[], Type::Char, 1, 1, READ));
    assert!(!may(&[], Type::Char, 10, 200, READ));
    assert!(!compiled(&[]).0.expect("a program").asked);
}

#[test]
fn everything_allowed_needs_no_program() {
    assert_eq!(compiled(&[rule(true, "a", None, None, ALL)]).0, None);
    assert_eq!(compiled(&[rule(false, "a", None, None, ALL), rule(true, "a", None, None, ALL)]).0, None);
}

#[test]
fn a_ban_on_writing_also_stops_opening_read_write() {
    let rules = [rule(true, "a", None, None, ALL), rule(false, "c", Some(10), Some(1), WRITE)];
    assert!(may(&rules, Type::Char, 10, 1, READ));
    assert!(!may(&rules, Type::Char, 10, 1, WRITE));
    assert!(!may(&rules, Type::Char, 10, 1, READ | WRITE));
}

#[test]
fn a_later_rule_takes_back_an_earlier_one() {
    let rules = [rule(true, "c", Some(10), Some(1), ALL), rule(false, "c", Some(10), Some(1), WRITE)];
    assert!(may(&rules, Type::Char, 10, 1, READ));
    assert!(!may(&rules, Type::Char, 10, 1, WRITE));
    let rules = [rule(true, "c", Some(10), Some(1), ALL), rule(false, "a", None, None, ALL)];
    assert!(!may(&rules, Type::Char, 10, 1, READ));
}

#[test]
fn a_hole_in_a_wildcard_is_refused() {
    let rules = [rule(true, "c", Some(10), None, ALL), rule(false, "c", Some(10), Some(1), WRITE)];
    let (_, faults) = compiled(&rules);
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].pointer, "/linux/resources/devices/1");
    assert!(faults[0].msg.contains("cannot punch hole in existing wildcard rule for c 10:*"), "{}", faults[0].msg);
}

#[test]
fn a_wrong_rule_is_named_by_its_element() {
    let wrong = |rule: DeviceRule| compiled(&[DeviceRule::default(), rule]).1.remove(0).pointer;
    let kind = |kind: &str| Some(kind.to_owned());
    assert_eq!(
        wrong(DeviceRule { access: Some(String::new()), ..Default::default() }),
        "/linux/resources/devices/1/access"
    );
    assert_eq!(
        wrong(DeviceRule { access: Some("x".into()), ..Default::default() }),
        "/linux/resources/devices/1/access"
    );
    assert_eq!(wrong(DeviceRule { kind: kind("p"), ..Default::default() }), "/linux/resources/devices/1/type");
    assert_eq!(
        wrong(DeviceRule { kind: kind("c"), major: Some(-2), ..Default::default() }),
        "/linux/resources/devices/1/major"
    );
    assert_eq!(
        wrong(DeviceRule { kind: kind("c"), minor: Some(1 << 32), ..Default::default() }),
        "/linux/resources/devices/1/minor"
    );
}

#[test]
fn a_letter_that_is_no_access_counts_for_nothing_beside_one_that_is() {
    let rules = [DeviceRule { access: Some("rwa".into()), ..rule(true, "c", Some(7), Some(1), ALL) }];
    assert!(may(&rules, Type::Char, 7, 1, READ | WRITE));
    let closed = [rules[0].clone(), DeviceRule { access: Some("za".into()), ..rules[0].clone() }];
    assert_eq!(compiled(&closed).1[0].pointer, "/linux/resources/devices/1/access");
}

#[test]
fn a_rule_for_all_devices_with_a_number_is_warned_about() {
    let mut warnings = Vec::new();
    let one = DeviceRule { allow: true, major: Some(10), ..Default::default() };
    assert_eq!(program(&[one], &mut Vec::new(), &mut warnings), None);
    assert_eq!(warnings[0].pointer, "/linux/resources/devices/0/type");
}

#[test]
fn numbers_that_no_device_has_match_nothing() {
    let rules = [rule(true, "c", Some(1 << 12), None, ALL), rule(true, "c", Some(7), Some(1 << 20), ALL)];
    assert_eq!(compiled(&rules).0.expect("a program").instructions, compiled(&[]).0.expect("a program").instructions);
}

#[test]
fn dockers_rules_make_a_short_program_without_jumps() {
    let rules = [rule(false, "a", None, None, ALL), rule(true, "c", Some(10), Some(200), ALL)];
    let (program, _) = compiled(&rules);
    assert!(program.expect("a program").instructions.len() <= 56);
}
