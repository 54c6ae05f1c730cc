//! The entry point of the program, ahead of the C library's.
//!
//! `windlass_start` is where the kernel starts the program: the stack pointer is at argc, and a register holds what a
//! dynamic linker wants called at exit. It calls `seal` with the stack pointer and goes on at the library's `_start`
//! with both as they were. build.rs makes it the entry point on the architectures that are here.

use std::arch::global_asm;

use super::seal;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x")))]
compile_error!(
    "this architecture is not supported: the program would not be protected from the containers that it makes; \
     src/sys/exeseal/entry.rs needs its entry point, and arch.rs its system call"
);

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl windlass_start",
    ".type windlass_start, @function",
    "windlass_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "push rdx", // called at exit
    "sub rsp, 8",
    "call {seal}",
    "add rsp, 8",
    "pop rdx",
    "jmp _start",
    seal = sym seal,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl windlass_start",
    ".type windlass_start, %function",
    "windlass_start:",
    "mov x29, #0",
    "mov x19, x0", // called at exit
    "mov x0, sp",
    "bl {seal}",
    "mov x0, x19",
    "b _start",
    seal = sym seal,
);

#[cfg(target_arch = "riscv64")]
global_asm!(
    ".globl windlass_start",
    ".type windlass_start, @function",
    "windlass_start:",
    // The linker may address data by the global pointer, which `_start` sets only afterwards.
    ".option push",
    ".option norelax",
    "lla gp, __global_pointer$",
    ".option pop",
    "mv s1, a0", // called at exit
    "mv a0, sp",
    "call {seal}",
    "mv a0, s1",
    "tail _start",
    seal = sym seal,
);

#[cfg(target_arch = "s390x")]
global_asm!(
    ".globl windlass_start",
    ".type windlass_start, @function",
    "windlass_start:",
    "lgr %r6, %r14", // called at exit
    "lgr %r2, %r15",
    "aghi %r15, -160", // where a callee saves registers
    "xc 0(8,%r15), 0(%r15)",
    "brasl %r14, {seal}",
    "aghi %r15, 160",
    "lgr %r14, %r6",
    "jg _start",
    seal = sym seal,
);
