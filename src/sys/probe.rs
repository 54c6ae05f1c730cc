//! What the running kernel knows, asked without changing anything.

use nix::errno::Errno;

/// Whether seccomp(2) knows these `SECCOMP_FILTER_FLAG_*`.
///
/// The kernel judges the flags before it reads the filter, so a filter at address 0 tells the
/// two apart: `EINVAL` for the flags, `EFAULT` for the filter.
pub fn seccomp_knows(flags: u32) -> bool {
    // SAFETY: the null pointer is the point: the kernel refuses to read it.
    let returned = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::null::<libc::sock_fprog>())
    };
    returned == -1 && Errno::last() == Errno::EFAULT
}

/// Whether this process is in the first user namespace: the kernel gives that one a fixed inode
/// (`PROC_USER_INIT_INO` of linux/proc_ns.h). Where it cannot be told, it is.
pub fn in_first_user_namespace() -> bool {
    const FIRST: u64 = 0xefff_fffd;
    nix::sys::stat::stat("/proc/self/ns/user").map_or(true, |stat| stat.st_ino == FIRST)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_flag_that_does_not_exist_is_told_from_one_that_does() {
        assert!(super::seccomp_knows(0));
        assert!(!super::seccomp_knows(1 << 30));
    }
}
