//! The system call instruction, which differs between architectures and is needed before the C library has started.

use std::arch::asm;

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
