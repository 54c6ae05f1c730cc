//! A compiled program, and an interpreter for it.

use crate::arch::AUDIT_LITTLE_ENDIAN;
use crate::instruction::{BpfProgram, sock_filter};
use crate::words::ret;

/// The instruction codes of classic BPF that the compiler and the interpreter use (`linux/bpf_common.h`).
pub(crate) mod code {
    /// `ld [k]`: a word of `seccomp_data`.
    pub(crate) const LOAD: u16 = 0x20;
    pub(crate) const AND: u16 = 0x54;
    pub(crate) const JUMP: u16 = 0x05;
    pub(crate) const JUMP_EQ: u16 = 0x15;
    pub(crate) const JUMP_GT: u16 = 0x25;
    pub(crate) const JUMP_GE: u16 = 0x35;
    pub(crate) const JUMP_SET: u16 = 0x45;
    pub(crate) const RETURN: u16 = 0x06;
}

/// Offsets in `seccomp_data`.
pub(crate) mod offset {
    pub(crate) const NUMBER: u32 = 0;
    pub(crate) const ARCH: u32 = 4;
    pub(crate) const ARGS: u32 = 16;

    /// The offset of the low or the high half of an argument.
    pub(crate) fn half(index: u32, high: bool, little_endian: bool) -> u32 {
        ARGS + 8 * index + if high == little_endian { 4 } else { 0 }
    }
}

/// A system call as a filter sees it (`struct seccomp_data`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Data {
    /// The `AUDIT_ARCH_*` value, see [`Arch::audit`](crate::Arch::audit).
    pub arch: u32,
    /// The number of the call.
    pub nr: u32,
    /// The arguments; of a 32-bit ABI zero-extended.
    pub args: [u64; 6],
    /// The address of the instruction that made the call.
    pub instruction_pointer: u64,
}

impl Data {
    /// The word at an offset, in the layout of a kernel of this architecture.
    fn word(&self, at: u32) -> Option<u32> {
        let wide = match at {
            offset::NUMBER => return Some(self.nr),
            offset::ARCH => return Some(self.arch),
            8 | 12 => self.instruction_pointer,
            16..64 if at.is_multiple_of(4) => self.args[(at as usize - 16) / 8],
            _ => return None,
        };
        let little_endian = self.arch & AUDIT_LITTLE_ENDIAN != 0;
        let high = at.is_multiple_of(8) != little_endian;
        Some(if high { (wide >> 32) as u32 } else { wide as u32 })
    }
}

/// A program for seccomp(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(BpfProgram);

impl Program {
    /// The largest number of instructions that the kernel accepts (`BPF_MAXINSNS`).
    pub const MAX_LEN: usize = 4096;

    /// The number of instructions.
    #[allow(clippy::len_without_is_empty)] // a program has an end, so it is never empty
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The instructions, in the layout of the kernel (`struct sock_filter`).
    pub fn instructions(&self) -> &[sock_filter] {
        &self.0
    }

    /// The return value of the program for a call: `SECCOMP_RET_*` with its data.
    ///
    /// The interpreter has the instructions that filters use. For a program that the kernel would not load, this is
    /// `SECCOMP_RET_KILL_PROCESS`.
    pub fn simulate(&self, data: &Data) -> u32 {
        self.run(data).unwrap_or(ret::KILL_PROCESS)
    }

    fn run(&self, data: &Data) -> Option<u32> {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let sock_filter { code, jt, jf, k } = self.0.get(at)?;
            at += 1;
            let holds = match *code {
                code::LOAD => {
                    accumulator = data.word(*k)?;
                    continue;
                }
                code::AND => {
                    accumulator &= k;
                    continue;
                }
                code::JUMP => {
                    at = at.checked_add(*k as usize)?;
                    continue;
                }
                code::RETURN => return Some(*k),
                code::JUMP_EQ => accumulator == *k,
                code::JUMP_GT => accumulator > *k,
                code::JUMP_GE => accumulator >= *k,
                code::JUMP_SET => accumulator & k != 0,
                _ => return None,
            };
            at += usize::from(if holds { *jt } else { *jf });
        }
    }
}

impl From<BpfProgram> for Program {
    /// A program from another compiler, to simulate it. It is not checked.
    fn from(instructions: BpfProgram) -> Self {
        Program(instructions)
    }
}

impl From<Program> for BpfProgram {
    fn from(program: Program) -> Self {
        program.0
    }
}
