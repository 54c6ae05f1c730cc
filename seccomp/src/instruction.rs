//! The instructions of a program: seccompiler's types if that crate is built, and the same types elsewhere.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
pub use seccompiler::{BpfProgram, sock_filter};

/// An instruction of classic BPF (`struct sock_filter` of `linux/filter.h`).
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct sock_filter {
    /// The operation.
    pub code: u16,
    /// How many instructions a jump skips if the comparison holds.
    pub jt: u8,
    /// How many instructions it skips otherwise.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// Instructions in the order of their execution.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
pub type BpfProgram = Vec<sock_filter>;
