//! Tests of the running kernel that change nothing.

use nix::errno::Errno;

/// Whether seccomp(2) knows these `SECCOMP_FILTER_FLAG_*`.
///
/// The kernel judges the flags before it reads the filter, so a filter at address 0 shows the difference: `EINVAL` for
/// the flags, `EFAULT` for the filter.
pub fn seccomp_knows(flags: u32) -> bool {
    // SAFETY: the kernel refuses to read the null pointer, which is intended.
    let returned = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::null::<libc::sock_fprog>())
    };
    returned == -1 && Errno::last() == Errno::EFAULT
}

/// Whether the kernel has this system call, and allows us to make it. The calls that the runtime asks about refuse the
/// arguments used here before they do anything.
pub fn knows_call(number: libc::c_long) -> bool {
    // SAFETY: no descriptor is -1 and the rest is zero, so no call finds anything to act upon, nor
    // memory to write to.
    let returned = unsafe { libc::syscall(number, -1, 0, 0, 0, 0, 0) };
    returned != -1 || !matches!(Errno::last(), Errno::ENOSYS)
}

/// Whether this process is in the first user namespace: the kernel gives that one a fixed inode
/// (`PROC_USER_INIT_INO` of linux/proc_ns.h). If that cannot be found out, the answer is yes.
pub fn in_first_user_namespace() -> bool {
    const FIRST: u64 = 0xefff_fffd;
    nix::sys::stat::stat("/proc/self/ns/user").map_or(true, |stat| stat.st_ino == FIRST)
}

/// Whether this process is in the first time namespace (`PROC_TIME_INIT_INO`). A kernel without time namespaces
/// has no other.
pub fn in_first_time_namespace() -> bool {
    const FIRST: u64 = 0xefff_fffa;
    nix::sys::stat::stat("/proc/self/ns/time").map_or(true, |stat| stat.st_ino == FIRST)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_flag_that_does_not_exist_is_told_from_one_that_does() {
        assert!(super::seccomp_knows(0));
        assert!(!super::seccomp_knows(1 << 30));
    }

    #[test]
    fn a_call_that_does_not_exist_is_told_from_one_that_does() {
        assert!(super::knows_call(libc::SYS_openat2) && super::knows_call(libc::SYS_close_range));
        assert!(!super::knows_call(1 << 20));
    }
}
