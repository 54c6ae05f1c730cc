//! Converts the device rules of `config.json` to an eBPF program of type CGROUP_DEVICE.
//!
//! The rules have the meaning that runc gives them, which is that of cgroup v1. Nothing is allowed at first. A rule of
//! type `a` clears all exceptions, and whether it allows or denies becomes the default. Any other rule adds an
//! exception with exactly its own type and numbers, or removes it. A rule that would remove a part of a wider exception
//! is refused: cgroup v1 ignores it silently, and the user would rely on a protection that does not exist.
//!
//! There is one deviation, towards less access. If everything but the exceptions is allowed, an access is denied if an
//! exception names *any* of the requested letters, as in cgroup v1. runc's program requires all of them, so that
//! opening a device read-write is allowed although writing is denied.

pub mod v1;

use std::collections::BTreeMap;
use std::fmt;

use windlass_base::error::Diagnostic;
use windlass_base::spec::DeviceRule;

/// A CGROUP_DEVICE program, ready to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceProgram {
    /// eBPF instructions in the byte order of this machine.
    pub instructions: Vec<u64>,
    /// Whether the configuration has rules; otherwise only the default ones are meant.
    pub asked: bool,
}

/// Makes the program for `rules`, followed by the devices that every container may use.
///
/// Returns `None` if everything is allowed, so that no program is needed.
pub fn program(
    rules: &[DeviceRule],
    faults: &mut Vec<Diagnostic>,
    warnings: &mut Vec<Diagnostic>,
) -> Option<DeviceProgram> {
    let mut access = Access::default();
    for (index, rule) in rules.iter().enumerate() {
        let pointer = format!("/linux/resources/devices/{index}");
        if let Err(fault) = access.take(rule, &pointer, warnings) {
            faults.push(fault);
        }
    }
    for (key, letters) in DEFAULTS {
        // If everything is denied, a default only adds an exception and cannot fail. If everything is allowed, a
        // default that would remove a part of a wider exception is left out: the configuration asked for that one.
        let _ = access.change(*key, *letters, true);
    }
    if access.allow && access.exceptions.is_empty() {
        return None;
    }
    let instructions = access.assemble();
    Some(DeviceProgram { instructions, asked: !rules.is_empty() })
}

/// `BPF_DEVCG_ACC_MKNOD`, `_READ`, `_WRITE` (linux/bpf.h).
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Type {
    Char,
    Block,
}

impl Type {
    /// `BPF_DEVCG_DEV_BLOCK`, `_CHAR`.
    fn code(self) -> i32 {
        match self {
            Type::Block => 1,
            Type::Char => 2,
        }
    }
}

/// The devices that an exception covers; `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: Type,
    major: Option<u32>,
    minor: Option<u32>,
}

impl Key {
    /// Whether a device may have these numbers: dev_t has 12 bits of major and 20 of minor number.
    fn may_exist(&self) -> bool {
        self.major.is_none_or(|major| major < 1 << 12) && self.minor.is_none_or(|minor| minor < 1 << 20)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let kind = if self.kind == Type::Char { 'c' } else { 'b' };
        write!(f, "{kind} {}:{}", number(self.major), number(self.minor))
    }
}

const fn char_device(major: u32, minor: Option<u32>) -> Key {
    Key { kind: Type::Char, major: Some(major), minor }
}

/// The exceptions of every container, as with runc: make any node, and use the default devices of the specification,
/// pseudo-terminals and `/dev/tty`.
const DEFAULTS: &[(Key, u8)] = &[
    (Key { kind: Type::Char, major: None, minor: None }, MKNOD),
    (Key { kind: Type::Block, major: None, minor: None }, MKNOD),
    (char_device(1, Some(3)), ALL), // null
    (char_device(1, Some(5)), ALL), // zero
    (char_device(1, Some(7)), ALL), // full
    (char_device(1, Some(8)), ALL), // random
    (char_device(1, Some(9)), ALL), // urandom
    (char_device(5, Some(0)), ALL), // tty
    (char_device(5, Some(2)), ALL), // ptmx
    (char_device(136, None), ALL),  // pts/*
];

/// The devices that the rules and the defaults allow, as for systemd's `DeviceAllow`: a name such as `/dev/char/1:3`,
/// `char-136` or `block-*`, and letters. Returns `None` if everything is allowed, perhaps with exceptions.
pub fn allowed(rules: &[DeviceRule]) -> Option<Vec<(String, String)>> {
    let mut access = Access::default();
    for rule in rules {
        // Faults of the rule are reported when the program is made.
        let _ = access.take(rule, "", &mut Vec::new());
    }
    if access.allow {
        return None;
    }
    for (key, letters) in DEFAULTS {
        let _ = access.change(*key, *letters, true);
    }
    let entry = |(key, letters): (&Key, &u8)| {
        let kind = if key.kind == Type::Char { "char" } else { "block" };
        let name = match (key.major, key.minor) {
            (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
            (Some(major), None) => format!("{kind}-{major}"),
            (None, _) => format!("{kind}-*"),
        };
        let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].into_iter().filter(|(bit, _)| letters & bit != 0);
        (name, letters.map(|(_, letter)| letter).collect())
    };
    Some(access.exceptions.iter().map(entry).collect())
}

/// The default and the exceptions to it: the state of a v1 devices cgroup.
#[derive(Debug, Default)]
struct Access {
    allow: bool,
    exceptions: BTreeMap<Key, u8>,
}

impl Access {
    fn take(&mut self, rule: &DeviceRule, pointer: &str, warnings: &mut Vec<Diagnostic>) -> Result<(), Diagnostic> {
        let fault = |name: &str, msg: String| Diagnostic { pointer: format!("{pointer}{name}"), msg };
        let letters = match rule.access.as_deref() {
            None => ALL,
            Some(text) => {
                let wrong = || format!("invalid device access {text:?}: it must be one or more of r, w and m");
                if text.contains(|letter| !matches!(letter, 'r' | 'w' | 'm')) {
                    // Other runtimes ignore unknown letters.
                    warnings.push(fault("/access", wrong()));
                }
                letters(text).ok_or_else(|| fault("/access", wrong()))?
            }
        };
        let number = |name: &str, value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(n) => {
                u32::try_from(n).map(Some).map_err(|_| fault(&format!("/{name}"), format!("invalid device {name} {n}")))
            }
        };
        let (major, minor) = (number("major", rule.major)?, number("minor", rule.minor)?);
        let kind = match rule.kind.as_deref() {
            None | Some("a" | "") => {
                if rule.allow && (major.is_some() || minor.is_some()) {
                    warnings.push(fault(
                        "/type",
                        "a device rule without a type, or of type a, is about all devices, whatever its numbers".into(),
                    ));
                }
                *self = Access { allow: rule.allow, exceptions: BTreeMap::new() };
                return Ok(());
            }
            Some("c") => Type::Char,
            Some("b") => Type::Block,
            Some(other) => return Err(fault("/type", format!("invalid cgroup device type {other:?}"))),
        };
        self.change(Key { kind, major, minor }, letters, rule.allow).map_err(|wider| {
            let key = Key { kind, major, minor };
            fault("", format!("device rule for {key}: cannot punch hole in existing wildcard rule for {wider}"))
        })
    }

    /// Adds an exception or removes one. The error is the wider exception in the way.
    fn change(&mut self, key: Key, letters: u8, allow: bool) -> Result<(), Key> {
        if allow != self.allow {
            *self.exceptions.entry(key).or_default() |= letters;
            return Ok(());
        }
        for (major, minor) in [(None, key.minor), (key.major, None), (None, None)] {
            let wider = Key { kind: key.kind, major, minor };
            if wider != key && self.exceptions.get(&wider).is_some_and(|theirs| theirs & letters != 0) {
                return Err(wider);
            }
        }
        if let Some(theirs) = self.exceptions.get_mut(&key) {
            *theirs &= !letters;
            if *theirs == 0 {
                self.exceptions.remove(&key);
            }
        }
        Ok(())
    }

    /// Makes the program without a single jump: for the verifier a conditional jump is a state to copy and a second
    /// path to walk (3 us each on Linux 6.18), an arithmetic instruction a tenth of that. So every exception is
    /// computed, as a mask of all ones or all zeros, and the masks are combined in r0.
    fn assemble(&self) -> Vec<u64> {
        let groups = self.groups();
        let mut out = Assembler::default();
        out.prologue(groups.iter().any(|group| group.minors != 0), groups.iter().any(|group| group.minor.is_some()));
        for group in &groups {
            match (group.major, group.minor) {
                // An exception for both types and any number has nothing to compare.
                (None, None) if group.kind.is_none() => {
                    out.immediate(MOV, HIT, -1);
                }
                (None, None) => out.equal(TYPE, group.kind.map_or(0, Type::code)),
                (Some(major), None) => out.equal(MAJOR, (major as i32) << 2 | group.kind.map_or(0, Type::code)),
                (None, Some(minor)) => {
                    out.equal(TYPE, group.kind.map_or(0, Type::code));
                    out.equal_too(MINOR, minor as i32);
                }
                (Some(major), Some(minor)) => {
                    let id = u64::from(major) << 2 | group.kind.map_or(0, Type::code) as u64;
                    out.equal_wide(KEY, id << 32 | u64::from(minor));
                }
            }
            if group.minors != 0 {
                out.register(AND, HIT, BIT);
                out.immediate(AND, HIT, group.minors as i32);
            }
            if group.letters != ALL {
                out.access(group.letters, self.allow);
            }
            out.register(OR, ANSWER, HIT);
        }
        out.finish(self.allow)
    }

    /// Merges exceptions that differ only in a minor number below 32, and exceptions for all devices of either type.
    fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut places = BTreeMap::new();
        for (&Key { kind, major, minor }, &letters) in self.exceptions.iter().filter(|(key, _)| key.may_exist()) {
            let (minor, minors) = match minor {
                Some(minor) if minor < 32 => (None, 1 << minor),
                minor => (minor, 0),
            };
            let place = match (major, minor, minors) {
                (None, None, 0) => (None, None, letters),
                (_, None, 1..) => (Some(kind), major, letters),
                _ => {
                    groups.push(Group { kind: Some(kind), major, minor, minors, letters });
                    continue;
                }
            };
            let index = *places.entry(place).or_insert(groups.len());
            match groups.get_mut(index) {
                Some(group) if minors == 0 => group.kind = None,
                Some(group) => group.minors |= minors,
                None => groups.push(Group { kind: Some(kind), major, minor, minors, letters }),
            }
        }
        groups
    }
}

/// Exceptions that one test decides.
struct Group {
    /// `None` for both types.
    kind: Option<Type>,
    major: Option<u32>,
    /// One minor number, 32 or above.
    minor: Option<u32>,
    /// Minor numbers below 32, a bit each; 0 if they do not matter.
    minors: u32,
    letters: u8,
}

fn letters(text: &str) -> Option<u8> {
    let mut bits = 0;
    for letter in text.chars() {
        bits |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => 0,
        };
    }
    (bits != 0).then_some(bits)
}

// Operations of BPF_ALU64 (linux/bpf.h); with `FROM_REGISTER` the operand is a register.
const MOV: u8 = 0xb7;
const ADD: u8 = 0x07;
const OR: u8 = 0x47;
const AND: u8 = 0x57;
const XOR: u8 = 0xa7;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT: u8 = 0x77;
const SHIFT_RIGHT_SIGNED: u8 = 0xc7;
const NEGATE: u8 = 0x87;
const FROM_REGISTER: u8 = 0x08;
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const LOAD_WIDE: u8 = 0x18; // BPF_LD | BPF_IMM | BPF_DW: two instructions long
const EXIT: u8 = 0x95;

// Registers.
const ANSWER: u8 = 0;
/// The argument, until it has been read.
const CONTEXT: u8 = 1;
/// The part of the current exception that is left.
const HIT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
/// The major number, shifted by two, and the type.
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SPARE: u8 = 6;
/// The bit of a minor number below 32; zero for larger numbers.
const BIT: u8 = 7;
/// [`MAJOR`] in the upper half, the minor number in the lower.
const KEY: u8 = 8;

#[derive(Default)]
struct Assembler {
    code: Vec<u64>,
}

impl Assembler {
    /// `struct bpf_insn`: opcode, two registers of four bits, offset, immediate.
    fn push(&mut self, opcode: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        let registers = if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from };
        let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
        self.code.push(u64::from_ne_bytes([opcode, registers, o0, o1, i0, i1, i2, i3]));
    }

    fn immediate(&mut self, operation: u8, to: u8, value: i32) {
        self.push(operation, to, 0, 0, value);
    }

    fn register(&mut self, operation: u8, to: u8, from: u8) {
        self.push(operation | FROM_REGISTER, to, from, 0, 0);
    }

    /// The argument is `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`,
    /// access in the upper 16 bits of the first, type in the lower.
    fn prologue(&mut self, bit: bool, key: bool) {
        for (register, offset) in [(TYPE, 0), (MAJOR, 4), (MINOR, 8)] {
            self.push(LOAD_WORD, register, CONTEXT, offset, 0);
        }
        self.register(MOV, ACCESS, TYPE);
        self.immediate(AND, TYPE, 0xffff);
        self.immediate(SHIFT_RIGHT, ACCESS, 16);
        self.immediate(SHIFT_LEFT, MAJOR, 2);
        self.register(OR, MAJOR, TYPE);
        if bit {
            self.register(MOV, BIT, MINOR);
            self.immediate(SHIFT_RIGHT, BIT, 5);
            self.immediate(ADD, BIT, -1);
            self.immediate(SHIFT_RIGHT, BIT, 63);
            self.register(MOV, SPARE, MINOR);
            self.immediate(AND, SPARE, 31);
            self.register(SHIFT_LEFT, BIT, SPARE);
        }
        if key {
            self.register(MOV, KEY, MAJOR);
            self.immediate(SHIFT_LEFT, KEY, 32);
            self.register(OR, KEY, MINOR);
        }
        self.immediate(MOV, ANSWER, 0);
    }

    /// Sets the hit to all ones if the register has the value: only then their difference less one is negative, since
    /// no value has 63 bits.
    fn equal(&mut self, register: u8, value: i32) {
        self.register(MOV, HIT, register);
        self.ones_if(HIT, value);
    }

    fn equal_too(&mut self, register: u8, value: i32) {
        self.register(MOV, SPARE, register);
        self.ones_if(SPARE, value);
        self.register(AND, HIT, SPARE);
    }

    fn ones_if(&mut self, register: u8, value: i32) {
        self.immediate(XOR, register, value);
        self.immediate(ADD, register, -1);
        self.immediate(SHIFT_RIGHT_SIGNED, register, 63);
    }

    fn equal_wide(&mut self, register: u8, value: u64) {
        self.push(LOAD_WIDE, HIT, 0, 0, value as u32 as i32);
        self.push(0, 0, 0, 0, (value >> 32) as u32 as i32);
        self.register(XOR, HIT, register);
        self.immediate(ADD, HIT, -1);
        self.immediate(SHIFT_RIGHT_SIGNED, HIT, 63);
    }

    /// Keeps the hit of an allowed exception if no other letter is wanted, and of a denied exception if any of its
    /// letters is.
    fn access(&mut self, letters: u8, denied: bool) {
        self.register(MOV, SPARE, ACCESS);
        if denied {
            self.immediate(AND, SPARE, letters.into());
            self.immediate(NEGATE, SPARE, 0);
        } else {
            self.immediate(AND, SPARE, i32::from(ALL & !letters));
            self.immediate(ADD, SPARE, -1);
        }
        self.immediate(SHIFT_RIGHT_SIGNED, SPARE, 63);
        self.register(AND, HIT, SPARE);
    }

    /// Returns one for any hit and zero for none; the other way round if a hit denies.
    fn finish(mut self, allow: bool) -> Vec<u64> {
        self.register(MOV, HIT, ANSWER);
        self.immediate(NEGATE, HIT, 0);
        self.register(OR, ANSWER, HIT);
        self.immediate(SHIFT_RIGHT, ANSWER, 63);
        if allow {
            self.immediate(XOR, ANSWER, 1);
        }
        self.push(EXIT, 0, 0, 0, 0);
        self.code
    }
}

#[cfg(test)]
mod tests;
