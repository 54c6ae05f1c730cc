//! Writes the instructions for decisions.
//!
//! The program is written from its end to its start, so that the target of a jump exists before the jump and the
//! distance is known. If a `ret` is out of the reach of the 8-bit offsets, it is written again; another target out of
//! reach gets a trampoline.

use crate::instruction::{BpfProgram, sock_filter};
use crate::program::{Program, code, offset};
use crate::words::Operator;

/// The decision for a range of call numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    /// A value to return.
    Return(u32),
    /// The chain with this index, which tests the arguments.
    Chain(u32),
}

/// The call numbers from `start` to the start of the next range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u32,
    pub(crate) leaf: Leaf,
}

/// The decisions for one value of `seccomp_data.arch`; the first range starts at 0.
pub(crate) struct Section {
    pub(crate) audit: u32,
    pub(crate) ranges: Vec<Range>,
}

/// A comparison of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) index: u32,
    pub(crate) operator: Operator,
    /// The value to compare with, within the mask.
    pub(crate) value: u64,
    /// The bits to compare. Only [`Operator::MaskedEq`] compares fewer than all.
    pub(crate) mask: u64,
}

/// The clauses to be tried in turn for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain<'a> {
    /// The value to return under conditions, all of which must hold.
    pub(crate) clauses: Vec<(&'a [Condition], u32)>,
    /// The value to return if no clause applies.
    pub(crate) otherwise: u32,
    /// Whether only the low 32 bits of the arguments count.
    pub(crate) narrow: bool,
}

/// Writes the program, or `None` if it would be longer than the kernel allows.
///
/// The sections are tested in their order.
pub(crate) fn program(
    sections: &[Section],
    chains: &[Chain<'_>],
    bad_arch: u32,
    little_endian: bool,
) -> Option<Program> {
    let mut emitter = Emitter {
        code: Vec::with_capacity(512),
        returns: Vec::with_capacity(16),
        chains,
        chain_starts: vec![None; chains.len()],
        little_endian,
        overflow: false,
    };
    let mut starts = Vec::with_capacity(sections.len());
    for section in sections.iter().rev() {
        let tree = emitter.tree(&groups(&section.ranges));
        starts.push(emitter.load(offset::NUMBER, tree));
    }
    let mut next = Target::Return(bad_arch);
    for (section, start) in sections.iter().rev().zip(starts) {
        next = emitter.jump(code::JUMP_EQ, section.audit, start, next);
    }
    if emitter.load(offset::ARCH, next) == Target::Return(bad_arch) {
        // The decision is the same for every call, so no test was written.
        emitter.push(code::RETURN, 0, 0, bad_arch);
    }
    if emitter.overflow {
        return None;
    }
    emitter.code.reverse();
    Some(Program::from(emitter.code))
}

/// The target of a jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// An instruction, counted from the end of the program.
    At(usize),
    /// A `ret`, which need not have been written yet.
    Return(u32),
}

/// Most single numbers that are tested one by one at a leaf of the tree.
const MAX_RUN: usize = 3;

/// The longest distance of a conditional jump, in instructions.
const REACH: usize = u8::MAX as usize;

/// The low half of an argument.
const LOW: u64 = u32::MAX as u64;

struct Emitter<'a> {
    /// The program, last instruction first.
    code: BpfProgram,
    /// The place of the latest `ret` of each value.
    returns: Vec<(u32, usize)>,
    chains: &'a [Chain<'a>],
    chain_starts: Vec<Option<Target>>,
    little_endian: bool,
    overflow: bool,
}

impl Emitter<'_> {
    /// Finds the range of the call number in the accumulator by a balanced tree. At its leaves, a few numbers are
    /// tested one by one.
    fn tree(&mut self, groups: &[RangeGroup<'_>]) -> Target {
        if let [group] = groups {
            return self.group(group);
        }
        let (below, above) = groups.split_at(groups.len() / 2);
        let first_above = above[0].ranges[0].start;
        let above = self.tree(above);
        let below = self.tree(below);
        self.jump(code::JUMP_GE, first_above, above, below)
    }

    fn group(&mut self, group: &RangeGroup<'_>) -> Target {
        let mut next = self.leaf(group.common);
        for range in group.ranges.iter().rev() {
            if range.leaf != group.common {
                let leaf = self.leaf(range.leaf);
                next = self.jump(code::JUMP_EQ, range.start, leaf, next);
            }
        }
        next
    }

    fn leaf(&mut self, leaf: Leaf) -> Target {
        let index = match leaf {
            Leaf::Return(value) => return Target::Return(value),
            Leaf::Chain(index) => index as usize,
        };
        if let Some(start) = self.chain_starts[index] {
            return start;
        }
        let start = self.chain(&self.chains[index]);
        self.chain_starts[index] = Some(start);
        start
    }

    /// Tests clause after clause. Neighbours which compare the same half-known argument
    /// with `==` share the loads and the test of its high half.
    fn chain(&mut self, chain: &Chain<'_>) -> Target {
        let mut next = Target::Return(chain.otherwise);
        let mut rest = &chain.clauses[..];
        while let Some((last, before)) = rest.split_last() {
            let Some(key) = equality(last.0, chain.narrow) else {
                next = self.clause(last.0, last.1, next, chain.narrow);
                rest = before;
                continue;
            };
            let same = |clause: &&(&[Condition], u32)| equality(clause.0, chain.narrow) == Some(key);
            let run = rest.iter().rev().take_while(same).count();
            let (before, run) = rest.split_at(rest.len() - run);
            next = self.equal_run(run, key, next);
            rest = before;
        }
        next
    }

    /// Tests clauses of the same [`equality`].
    fn equal_run(
        &mut self,
        run: &[(&[Condition], u32)],
        (index, mask, high): (u32, u64, u32),
        otherwise: Target,
    ) -> Target {
        let mut next = otherwise;
        for (conditions, value) in run.iter().rev() {
            let low = conditions[0].value as u32;
            next = self.jump(code::JUMP_EQ, low, Target::Return(*value), next);
        }
        next = self.masked_half(index, false, mask as u32, next);
        if mask > LOW {
            next = self.jump(code::JUMP_EQ, high, next, otherwise);
            next = self.masked_half(index, true, (mask >> 32) as u32, next);
        }
        next
    }

    /// Tests all conditions of one clause.
    fn clause(&mut self, conditions: &[Condition], value: u32, no: Target, narrow: bool) -> Target {
        let mut yes = Target::Return(value);
        for condition in conditions.iter().rev() {
            yes = self.condition(condition, yes, no, narrow);
        }
        yes
    }

    fn condition(&mut self, condition: &Condition, yes: Target, no: Target, narrow: bool) -> Target {
        match condition.operator {
            Operator::Eq | Operator::MaskedEq => self.equal(condition, yes, no, narrow),
            Operator::Ne => self.equal(condition, no, yes, narrow),
            Operator::Gt => self.greater(condition, code::JUMP_GT, yes, no, narrow),
            Operator::Ge => self.greater(condition, code::JUMP_GE, yes, no, narrow),
            Operator::Lt => self.greater(condition, code::JUMP_GE, no, yes, narrow),
            Operator::Le => self.greater(condition, code::JUMP_GT, no, yes, narrow),
        }
    }

    fn equal(&mut self, condition: &Condition, yes: Target, no: Target, narrow: bool) -> Target {
        let low = self.equal_half(condition, false, yes, no);
        if narrow {
            return low;
        }
        self.equal_half(condition, true, low, no)
    }

    fn equal_half(&mut self, condition: &Condition, high: bool, yes: Target, no: Target) -> Target {
        let shift = if high { 32 } else { 0 };
        let mask = (condition.mask >> shift) as u32;
        let value = (condition.value >> shift) as u32;
        if mask == 0 {
            return yes;
        }
        let test = self.jump(code::JUMP_EQ, value, yes, no);
        self.masked_half(condition.index, high, mask, test)
    }

    /// Loads the masked half of an argument in front of a test that needs it.
    fn masked_half(&mut self, index: u32, high: bool, mask: u32, test: Target) -> Target {
        let test = if mask == u32::MAX { test } else { self.front(code::AND, mask, test) };
        self.load(self.half(index, high), test)
    }

    fn greater(&mut self, condition: &Condition, compare: u16, yes: Target, no: Target, narrow: bool) -> Target {
        let low = self.jump(compare, condition.value as u32, yes, no);
        let low = self.load(self.half(condition.index, false), low);
        if narrow {
            return low;
        }
        let high = (condition.value >> 32) as u32;
        let equal = self.jump(code::JUMP_EQ, high, low, no);
        let test = self.jump(code::JUMP_GT, high, yes, equal);
        self.load(self.half(condition.index, true), test)
    }

    fn half(&self, index: u32, high: bool) -> u32 {
        offset::half(index, high, self.little_endian)
    }

    /// Writes a load in front of a test that needs it.
    fn load(&mut self, at: u32, test: Target) -> Target {
        self.front(code::LOAD, at, test)
    }

    /// Writes an instruction that runs before `next`, which must be the newest. If it is not, the tests after this
    /// instruction were left out, and so is the instruction.
    fn front(&mut self, code: u16, k: u32, next: Target) -> Target {
        if next != Target::At(self.code.len().wrapping_sub(1)) {
            return next;
        }
        self.push(code, 0, 0, k)
    }

    fn jump(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        // Making `no` reachable may put one more instruction before `yes`.
        let yes = self.reachable(yes, 1);
        let no = self.reachable(no, 0);
        let (yes, no) = (self.distance(yes), self.distance(no));
        self.push(code, yes as u8, no as u8, k)
    }

    /// The position of a target in the reach of a jump that is written after up to `slack` more instructions.
    fn reachable(&mut self, target: Target, slack: usize) -> usize {
        let place = match target {
            Target::At(place) => Some(place),
            Target::Return(value) => {
                let known = self.returns.iter().find(|(known, _)| *known == value);
                known.map(|&(_, place)| place)
            }
        };
        if let Some(place) = place
            && self.distance(place) + slack <= REACH
        {
            return place;
        }
        let written = self.code.len();
        match (target, place) {
            (Target::Return(value), known) => {
                self.push(code::RETURN, 0, 0, value);
                match known {
                    Some(_) => self.returns.iter_mut().for_each(|(known, place)| {
                        if *known == value {
                            *place = written;
                        }
                    }),
                    None => self.returns.push((value, written)),
                }
            }
            (Target::At(place), _) => {
                let distance = self.distance(place);
                self.push(code::JUMP, 0, 0, distance as u32);
            }
        }
        written
    }

    /// How many instructions a jump that is written now skips to reach this position.
    fn distance(&self, place: usize) -> usize {
        (self.code.len() - place).saturating_sub(1)
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Target {
        if self.code.len() >= Program::MAX_LEN {
            // The program is discarded, so it need not grow further.
            self.overflow = true;
        } else {
            self.code.push(sock_filter { code, jt, jf, k });
        }
        Target::At(self.code.len() - 1)
    }
}

/// Neighbouring ranges with one leaf in common. A few ranges of a single number may have another one.
struct RangeGroup<'a> {
    ranges: &'a [Range],
    common: Leaf,
}

/// Divides ranges into groups, each as long as possible.
///
/// `n` single numbers cost `n` tests in a group, and `2 * n` as ranges of their own.
fn groups(ranges: &[Range]) -> Vec<RangeGroup<'_>> {
    let mut groups = Vec::with_capacity(ranges.len() / 4 + 1);
    let mut start = 0;
    while start < ranges.len() {
        let mut common = ranges[start].leaf;
        // While all ranges are single numbers, the leaf in common may still change.
        let mut open = true;
        let mut end = start;
        while end < ranges.len() {
            let single = ranges.get(end + 1).is_some_and(|next| next.start - ranges[end].start == 1);
            if open && !single {
                common = ranges[end].leaf;
                open = false;
            }
            let exceptions = ranges[start..=end].iter().filter(|range| range.leaf != common);
            if exceptions.count() > MAX_RUN || (!single && ranges[end].leaf != common) {
                break;
            }
            end += 1;
        }
        let ranges = &ranges[start..end];
        // The range that did not fit may have the common leaf.
        if ranges.iter().all(|range| range.leaf != common) {
            common = ranges[0].leaf;
        }
        groups.push(RangeGroup { ranges, common });
        start = end;
    }
    groups
}

/// The part that neighbouring clauses must have in common to share their loads: the argument, the mask and the high
/// half of the value; `None` for clauses that are not one `==`.
fn equality(conditions: &[Condition], narrow: bool) -> Option<(u32, u64, u32)> {
    let [condition] = conditions else {
        return None;
    };
    let mask = if narrow { condition.mask & LOW } else { condition.mask };
    let value = if narrow { condition.value & LOW } else { condition.value };
    let equal = matches!(condition.operator, Operator::Eq | Operator::MaskedEq);
    let low = mask & LOW != 0;
    (equal && low).then_some((condition.index, mask, (value >> 32) as u32))
}
