//! Executing this program from a read-only copy of its mount, before it comes near a container.
//!
//! A container can open the binary of a process that joins it through `/proc/PID/exe`, and a hostile image can make us
//! execute ourselves (`#!/proc/self/exe`). With such a descriptor the container could write to the host's binary as
//! soon as nothing runs it any more (CVE-2019-5736). So each verb whose processes enter a container runs from a
//! private, unattached, read-only copy of the mount that the binary is on.
//!
//! The other verbs need no seal, `restore`, `checkpoint` and `start` included. Their processes stay in the PID
//! namespace of the caller, with the caller's credentials; the processes that `restore` has in the container's are made
//! by CRIU. A container that shares the caller's PID namespace can open their program only if it may trace the caller's
//! processes, and then it can open every program that the caller runs.
//!
//! The alternatives:
//! - a sealed memfd costs a copy of the whole binary per command, in time and in memory that
//!   stays for as long as init waits;
//! - a process that is not dumpable cannot be opened, except by a container with CAP_SYS_PTRACE, and a script can
//!   still execute us; we are not dumpable as well;
//! - checking whether the program to execute is ourselves is a race against the container;
//! - a read-only copy of the mount costs three calls and one more execve(2). Executing a program again is
//!   expensive because the C library starts again, so this runs *before* the library: the binary's entry point is
//!   here, and continues at the library's only once the mount is read-only.
//!
//! Nothing is done if the binary was executed from the copy. A mount that is read-only already (as on image-based
//! hosts) is copied, too: the host may make it writable for an update while a container still has it open. If the copy
//! cannot be made (an ordinary user, a kernel before 5.12), the command goes on without it.
//!
//! `/proc/self/exe` is looked up once, because a lookup in procfs costs as much as ten other calls.
//!
//! Nothing of the C library or of std may be called here. Memory is read by volatile loads, so that the compiler does
//! not turn a loop into a call of `strlen`.

mod arch;
mod entry;

use windlass_base::mount::{MountAttributes, Propagation};

use arch::call;

/// The verbs whose processes enter a container.
const VERBS: [&[u8]; 3] = [b"create\0", b"exec\0", b"run\0"];

const SELF: &std::ffi::CStr = c"/proc/self/exe";

/// Executes this program again from a read-only copy of its mount. Returns if that is not needed or not possible.
///
/// `stack` points to the data that the kernel makes for a new program: argc, argv, envp, auxv.
extern "C" fn seal(stack: *const usize) {
    // SAFETY: the kernel puts argc at the top of the stack.
    let argc = unsafe { stack.read_volatile() };
    // SAFETY: argv follows argc.
    let argv = unsafe { stack.add(1) };
    // SAFETY: envp follows the null that ends argv.
    let envp = unsafe { argv.add(argc + 1) };
    // SAFETY: these are the vectors that the kernel made.
    if !unsafe { enters_container(argc, argv) } || unsafe { was_sealed(envp) } {
        return;
    }
    // SAFETY: the path is static and NUL-terminated.
    let copy = unsafe {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        call(libc::SYS_open_tree, [libc::AT_FDCWD as usize, SELF.as_ptr() as usize, flags as usize, 0, 0])
    };
    if copy < 0 {
        return;
    }
    let copy = copy as usize;
    // struct mount_attr: attributes to set, to clear, propagation, user namespace.
    const ATTRIBUTES: [u64; 4] = [MountAttributes::RDONLY.bits(), 0, Propagation::Private.flag().bits(), 0];
    let empty = c"".as_ptr() as usize;
    // SAFETY: `ATTRIBUTES` is laid out as a mount_attr of the size given, which is only read.
    let set = unsafe {
        call(libc::SYS_mount_setattr, [copy, empty, libc::AT_EMPTY_PATH as usize, ATTRIBUTES.as_ptr() as usize, 32])
    };
    if set == 0 {
        let flags = libc::AT_EMPTY_PATH as usize;
        // SAFETY: argv and envp are the vectors that the kernel made for us, ended by nulls.
        unsafe { call(libc::SYS_execveat, [copy, empty, argv as usize, envp as usize, flags]) };
    }
    // SAFETY: the descriptor was opened above and belongs to nobody else.
    unsafe { call(libc::SYS_close, [copy, 0, 0, 0, 0]) };
}

/// Whether one of [`VERBS`] is among the arguments. An argument that only looks like one costs time
/// and does no harm.
///
/// # Safety
/// `argv` has `argc` pointers to NUL-terminated strings.
unsafe fn enters_container(argc: usize, argv: *const usize) -> bool {
    let mut n = 1;
    while n < argc {
        // SAFETY: n is less than argc.
        let place = unsafe { argv.add(n) };
        // SAFETY: argv has a pointer there.
        let word = unsafe { place.read_volatile() } as *const u8;
        let mut verb = 0;
        while verb < VERBS.len() {
            // SAFETY: the caller promises strings that end with NUL.
            if unsafe { same(word, VERBS[verb].as_ptr()) } {
                return true;
            }
            verb += 1;
        }
        n += 1;
    }
    false
}

/// Whether two strings are the same.
///
/// # Safety
/// Both end with NUL.
unsafe fn same(mut a: *const u8, mut b: *const u8) -> bool {
    loop {
        // SAFETY: not beyond the NUL: the loop ends there.
        let x = unsafe { a.read_volatile() };
        // SAFETY: the strings were the same so far, so this one has not ended either.
        let y = unsafe { b.read_volatile() };
        if x != y {
            return false;
        }
        if x == 0 {
            return true;
        }
        // SAFETY: the string goes on.
        a = unsafe { a.add(1) };
        // SAFETY: the string goes on.
        b = unsafe { b.add(1) };
    }
}

/// Whether this is the second execution already: then the kernel names us by the descriptor that
/// we were executed from. A caller who executes us so (fexecve(3)) is taken at its word: it could as
/// well have executed another program.
///
/// # Safety
/// `envp` is the vector that the kernel made, followed by the auxiliary vector.
unsafe fn was_sealed(envp: *const usize) -> bool {
    let mut at = envp;
    // SAFETY: envp ends with a null.
    while unsafe { at.read_volatile() } != 0 {
        // SAFETY: not at the end yet.
        at = unsafe { at.add(1) };
    }
    loop {
        // SAFETY: the auxiliary vector follows: pairs, ended by AT_NULL.
        at = unsafe { at.add(1) };
        // SAFETY: not beyond AT_NULL: the loop ends there.
        let key = unsafe { at.read_volatile() } as u64;
        // SAFETY: a pair has two words.
        at = unsafe { at.add(1) };
        if key == libc::AT_NULL {
            return false;
        }
        if key == libc::AT_EXECFN {
            // SAFETY: AT_EXECFN is the address of a NUL-terminated string.
            let name = unsafe { at.read_volatile() } as *const u8;
            // SAFETY: the prefix is compared up to the string's own end at the most.
            return unsafe { starts_with(name, c"/dev/fd/".as_ptr().cast()) };
        }
    }
}

/// Whether `text` starts with `prefix`.
///
/// # Safety
/// Both end with NUL.
unsafe fn starts_with(mut text: *const u8, mut prefix: *const u8) -> bool {
    loop {
        // SAFETY: not beyond the NUL: the loop ends there.
        let wanted = unsafe { prefix.read_volatile() };
        if wanted == 0 {
            return true;
        }
        // SAFETY: the text was the same so far and has not ended.
        if unsafe { text.read_volatile() } != wanted {
            return false;
        }
        // SAFETY: the text goes on.
        text = unsafe { text.add(1) };
        // SAFETY: the prefix goes on.
        prefix = unsafe { prefix.add(1) };
    }
}
