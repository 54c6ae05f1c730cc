//! What differs between architectures before the C library has started: the entry point, and a system call.
//!
//! `windlass_start` is where the kernel starts the program: the stack pointer is at argc, and a register holds what a
//! dynamic linker wants called at exit. It calls `seal` with the stack pointer and goes on at the library's `_start`
//! with both as they were. build.rs makes it the entry point on the architectures that are here.

use std::arch::{asm, global_asm};

use super::seal;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x")))]
compile_error!(
    "this architecture is not supported: the program would not be protected from the containers that it makes; \
     src/sys/exeseal/entry.rs needs its entry point and system call"
);

/// Where `struct statfs` has its flags, in words of 64 bits, and the bit of a read-only mount in that word. On s390x
/// the flags are 32 bits wide, and the more significant half of their word (`asm/statfs.h`).
#[cfg(not(target_arch = "s390x"))]
pub(super) const STATFS_FLAGS: usize = 10;
#[cfg(not(target_arch = "s390x"))]
pub(super) const STATFS_RDONLY: u64 = libc::ST_RDONLY;
#[cfg(target_arch = "s390x")]
pub(super) const STATFS_FLAGS: usize = 8;
#[cfg(target_arch = "s390x")]
pub(super) const STATFS_RDONLY: u64 = libc::ST_RDONLY << 32;

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

/// A system call without the C library, which sets errno in memory that does not exist yet.
///
/// # Safety
/// As for the call itself.
pub(super) unsafe fn call(number: libc::c_long, args: [usize; 5]) -> isize {
    let returned: isize;
    // SAFETY: the kernel takes the arguments in these registers and clobbers those that are named; what it does with
    // them is the caller's responsibility.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => returned,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3], in("r8") args[4],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] => returned,
            in("x1") args[1], in("x2") args[2], in("x3") args[3], in("x4") args[4],
            options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "riscv64")]
    unsafe {
        asm!(
            "ecall",
            in("a7") number,
            inlateout("a0") args[0] => returned,
            in("a1") args[1], in("a2") args[2], in("a3") args[3], in("a4") args[4],
            options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "s390x")]
    unsafe {
        asm!(
            "svc 0",
            in("r1") number,
            inlateout("r2") args[0] => returned,
            in("r3") args[1], in("r4") args[2], in("r5") args[3], in("r6") args[4],
            options(nostack),
        );
    }
    returned
}
