//! Turns rules into decisions for the call numbers of each ABI.

use crate::arch::{Arch, X32_BIT};
use crate::emit::{Chain, Condition, Leaf, Range, Section};
use crate::multiplex;
use crate::table::{self, ARM_PRIVATE, ARM_PRIVATE_SLOT, CALLS, NO, SLOTS};
use crate::words::{ENOSYS, ret};

/// The return value for a call of an architecture that is not listed, as in libseccomp.
pub(crate) const BAD_ARCH: u32 = ret::KILL_THREAD;

/// The return value for a call newer than the profile, unless the default action lets it pass.
const NOT_THERE: u32 = ret::ERRNO | ENOSYS;

/// One alternative of a rule: an action, and conditions that must all be true.
pub(crate) struct Clause {
    /// The conditions, as indices of [`Rules::conditions`].
    pub(crate) conditions: std::ops::Range<usize>,
    pub(crate) value: u32,
}

/// The rules of a profile by call, the same for all ABIs.
///
/// Clauses are numbered from 1 in the order of the profile.
pub(crate) struct Rules {
    pub(crate) default: u32,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) clauses: Vec<Clause>,
    /// For each name of the table the first clause without conditions, or 0.
    pub(crate) always: [u32; CALLS],
    /// The clauses with conditions, each with the index of its name.
    pub(crate) sometimes: Vec<(u16, u32)>,
    /// For each name whether the profile has it in any rule.
    pub(crate) named: [bool; CALLS],
}

impl Rules {
    pub(crate) fn new(default: u32) -> Rules {
        Rules {
            default,
            conditions: Vec::new(),
            clauses: Vec::new(),
            always: [0; CALLS],
            sometimes: Vec::new(),
            named: [false; CALLS],
        }
    }

    pub(crate) fn clause(&self, number: u32) -> &Clause {
        &self.clauses[number as usize - 1]
    }

    /// Whether calls pass by default. As in runc, `SCMP_ACT_TRACE` counts: the tracer can decide about a new call.
    pub(crate) fn permissive(&self) -> bool {
        permissive(self.default)
    }
}

/// Whether an action lets a call pass.
pub(crate) fn permissive(value: u32) -> bool {
    value == ret::ALLOW || value == ret::LOG || value & 0xffff_0000 == ret::TRACE
}

/// The decisions for these architectures, and the chains to which they refer.
pub(crate) fn resolve<'a>(rules: &'a Rules, archs: &[Arch]) -> (Vec<Section>, Vec<Chain<'a>>) {
    let mut resolver = Resolver { rules, chains: Vec::new() };
    let mut sections: Vec<Section> = Vec::with_capacity(archs.len());
    for &arch in archs {
        if sections.iter().any(|section| section.audit == arch.audit()) {
            continue;
        }
        let ranges = if arch.audit() == Arch::X86_64.audit() {
            resolver.x86_64(archs.contains(&Arch::X86_64), archs.contains(&Arch::X32))
        } else {
            resolver.single(arch)
        };
        sections.push(Section { audit: arch.audit(), ranges });
    }
    (sections, resolver.chains)
}

struct Resolver<'a> {
    rules: &'a Rules,
    chains: Vec<Chain<'a>>,
}

/// A clause that may apply to the call of a slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    slot: u16,
    /// The number of the clause.
    clause: u32,
    /// The index in [`multiplex::CALLS`] if the call is made through another one. The condition there then replaces
    /// the conditions of the clause.
    inner: Option<u8>,
}

impl<'a> Resolver<'a> {
    /// x86_64 and x32, which differ by a bit of the number. -1 is not a call: a tracer
    /// sets it to have one skipped.
    fn x86_64(&mut self, x86_64: bool, x32: bool) -> Vec<Range> {
        let mut ranges = Vec::with_capacity(256);
        if x86_64 {
            self.abi(Arch::X86_64, &mut ranges);
        } else {
            push(&mut ranges, 0, Leaf::Return(BAD_ARCH));
        }
        let above = ranges.last().expect("an ABI has ranges").leaf;
        if x32 {
            self.abi(Arch::X32, &mut ranges);
        } else {
            push(&mut ranges, X32_BIT, Leaf::Return(BAD_ARCH));
            push(&mut ranges, u32::MAX, above);
        }
        ranges
    }

    fn single(&mut self, arch: Arch) -> Vec<Range> {
        let mut ranges = Vec::with_capacity(128);
        push(&mut ranges, 0, Leaf::Return(self.rules.default));
        self.abi(arch, &mut ranges);
        ranges
    }

    /// Adds the ranges of one ABI, from its first number up.
    fn abi(&mut self, arch: Arch, ranges: &mut Vec<Range>) {
        let gap = Leaf::Return(self.rules.default);
        let (mut leaves, newest) = self.leaves(arch);
        let mut newer = gap;
        if newest.is_some() && !self.rules.permissive() {
            newer = Leaf::Return(NOT_THERE);
            // The kernel of s390 shows a filter number 0 for every call that it does not
            // know; setup(2), which had this number, is long gone.
            if matches!(arch, Arch::S390 | Arch::S390x) && leaves[0] == gap {
                leaves[0] = newer;
            }
        }

        let end = newest.map_or(0, |newest| usize::from(newest) + 1);
        let private = usize::from(ARM_PRIVATE_SLOT);
        push(ranges, arch.first(), gap);
        for (number, leaf) in (arch.first()..).zip(&leaves[..end]) {
            push(ranges, number, *leaf);
        }
        push(ranges, arch.first() + end as u32, newer);
        if arch == Arch::Arm {
            for (number, leaf) in (ARM_PRIVATE..).zip(&leaves[private..]) {
                push(ranges, number, *leaf);
            }
            push(ranges, ARM_PRIVATE + (SLOTS - private) as u32, gap);
        }
    }

    /// The leaf for the call of each slot, and the newest call that the profile names, not counting the private calls
    /// of ARM: new calls never get numbers beyond those.
    fn leaves(&mut self, arch: Arch) -> ([Leaf; SLOTS], Option<u16>) {
        let numbers = table::numbers(arch.column());
        let (always, mut newest) = self.unconditional(numbers);
        let candidates = self.conditional(numbers, &always);
        let mut leaves = [Leaf::Return(self.rules.default); SLOTS];
        for (leaf, clause) in leaves.iter_mut().zip(always) {
            if clause != 0 {
                *leaf = Leaf::Return(self.rules.clause(clause).value);
            }
        }
        for same in candidates.chunk_by(|a, b| a.slot == b.slot) {
            let slot = same[0].slot;
            leaves[usize::from(slot)] = self.chain(same, arch.narrow());
            // If a profile names such an inner call, it counts as knowing socketcall(2).
            if slot < ARM_PRIVATE_SLOT {
                newest = newest.max(Some(slot));
            }
        }
        (leaves, newest)
    }

    /// For each slot the first clause without conditions, or 0, and the newest call named.
    fn unconditional(&self, numbers: &[u16; CALLS]) -> ([u32; SLOTS], Option<u16>) {
        let mut always = [0; SLOTS];
        let mut newest = None;
        for (call, &slot) in numbers.iter().enumerate() {
            if slot == NO || !self.rules.named[call] {
                continue;
            }
            if slot < ARM_PRIVATE_SLOT {
                newest = newest.max(Some(slot));
            }
            let clause = self.rules.always[call];
            let known: &mut u32 = &mut always[usize::from(slot)];
            // Two names can be the same call: the earlier rule wins.
            if clause != 0 && (*known == 0 || clause < *known) {
                *known = clause;
            }
        }
        (always, newest)
    }

    /// The clauses to be tried, by slot and in the order of the profile.
    fn conditional(&self, numbers: &[u16; CALLS], always: &[u32; SLOTS]) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for &(call, clause) in &self.rules.sometimes {
            let slot = numbers[usize::from(call)];
            candidates.push(Candidate { slot, clause, inner: None });
        }
        self.multiplexed(numbers, &mut candidates);
        candidates.retain(|candidate| candidate.slot != NO && always[usize::from(candidate.slot)] == 0);
        candidates.sort_unstable();
        candidates.dedup();
        candidates
    }

    /// Adds rules for calls which can also be made through socketcall(2) or ipc(2).
    ///
    /// A rule without conditions applies there, too. A rule with conditions cannot, since these arguments are behind a
    /// pointer: if it restricts a profile that lets calls pass, it applies to all such calls, otherwise to none.
    fn multiplexed(&self, numbers: &[u16; CALLS], candidates: &mut Vec<Candidate>) {
        for (inner, outer) in multiplex::CALLS.iter().enumerate() {
            let slot = numbers[outer.outer];
            if slot == NO {
                continue;
            }
            let mut add = |clause| {
                candidates.push(Candidate { slot, clause, inner: Some(inner as u8) });
            };
            match self.rules.always[outer.inner] {
                0 if self.rules.permissive() => self
                    .rules
                    .sometimes
                    .iter()
                    .filter(|(call, _)| usize::from(*call) == outer.inner)
                    .filter(|(_, clause)| !permissive(self.rules.clause(*clause).value))
                    .for_each(|(_, clause)| add(*clause)),
                0 => {}
                clause => add(clause),
            }
        }
    }

    /// The chain of these clauses, which is reused if there was the same before.
    fn chain(&mut self, candidates: &[Candidate], narrow: bool) -> Leaf {
        let rules = self.rules;
        let clauses = candidates.iter().map(|candidate| {
            let clause = rules.clause(candidate.clause);
            let conditions = match candidate.inner {
                Some(inner) => std::slice::from_ref(&multiplex::CALLS[usize::from(inner)].condition),
                None => &rules.conditions[clause.conditions.clone()],
            };
            (conditions, clause.value)
        });
        let chain = Chain { clauses: clauses.collect(), otherwise: rules.default, narrow };
        // In a usual profile few chains differ, so a longer search would cost more than it saves.
        let start = self.chains.len().saturating_sub(64);
        let known = self.chains[start..].iter().position(|known| *known == chain);
        let index = match known {
            Some(known) => start + known,
            None => {
                self.chains.push(chain);
                self.chains.len() - 1
            }
        };
        Leaf::Chain(index as u32)
    }
}

/// Adds a range, unless it has the leaf of the one before. A range from the same start replaces that one.
fn push(ranges: &mut Vec<Range>, start: u32, leaf: Leaf) {
    if ranges.last().is_some_and(|last| last.start == start) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|last| last.leaf != leaf) {
        ranges.push(Range { start, leaf });
    }
}
