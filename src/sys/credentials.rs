//! The credentials of a process: ids, capabilities, no_new_privs, seccomp filter, keyring.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use windlass_base::capability::CapabilitySet;

use super::{Result, SyscallError, check};

/// setgroups(2) on this thread.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the length is that of the list, which outlives the call and is only read.
    let returned = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(returned, || format!("setgroups({groups:?})")).map(drop)
}

/// Leaves all supplementary groups. Without CAP_SETGID they stay.
pub fn leave_groups() -> Result<()> {
    match set_groups(&[]) {
        Err(failed) if failed.errno == Errno::EPERM => Ok(()),
        other => other,
    }
}

/// setresgid(2) and then setresuid(2), on this thread: after the second, the first might no longer be allowed. These
/// are the kernel's calls. The C library would first stop all other threads, and there are none.
pub fn set_ids(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: the call takes numbers.
    let returned = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    check(returned, || format!("setresgid({gid}, {gid}, {gid})"))?;
    // SAFETY: the call takes numbers.
    let returned = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    check(returned, || format!("setresuid({uid}, {uid}, {uid})")).map(drop)
}

/// prctl(2) with numbers only.
fn prctl(name: &str, option: libc::c_int, a: u64, b: u64) -> Result<libc::c_long> {
    // SAFETY: every option passed here takes numbers and no pointers.
    let returned = unsafe { libc::prctl(option, a, b, 0, 0) };
    check(returned.into(), || format!("prctl({name}, {a}, {b})"))
}

/// Whether capabilities survive a change of the user id (`PR_SET_KEEPCAPS`); execve(2) clears it.
pub fn keep_capabilities(keep: bool) -> Result<()> {
    prctl("PR_SET_KEEPCAPS", libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

/// `PR_SET_NO_NEW_PRIVS`.
pub fn no_new_privileges() -> Result<()> {
    prctl("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Drops from the bounding set every capability that is not in `keep`, including those newer than any table: the kernel
/// tells where its list ends.
pub fn bound_capabilities(keep: CapabilitySet) -> Result<()> {
    for capability in 0..64 {
        if keep.bits() >> capability & 1 == 1 {
            continue;
        }
        match prctl("PR_CAPBSET_DROP", libc::PR_CAPBSET_DROP, capability, 0) {
            Err(failed) if failed.errno == Errno::EINVAL => break,
            // Without CAP_SETPCAP nothing can be dropped, but a capability that is not in the set need not be.
            Err(failed) if failed.errno == Errno::EPERM && !is_bounding(capability) => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Whether the bounding set has this capability.
pub fn is_bounding(capability: u64) -> bool {
    prctl("PR_CAPBSET_READ", libc::PR_CAPBSET_READ, capability, 0).is_ok_and(|set| set == 1)
}

/// The sets that capget(2) and capset(2) know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// The capabilities in force.
    pub effective: CapabilitySet,
    /// The capabilities that may be put in force.
    pub permitted: CapabilitySet,
    /// The capabilities that execve(2) keeps if the file allows it.
    pub inheritable: CapabilitySet,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits.
const VERSION_3: u32 = 0x2008_0522;

/// capget(2) of this process.
pub fn capabilities() -> Result<CapabilitySets> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 writes two elements, and `data` has two; both outlive the call.
    let returned = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    check(returned, || "capget()".into())?;
    let join = |low: u32, high: u32| CapabilitySet::from_bits_retain(u64::from(low) | u64::from(high) << 32);
    Ok(CapabilitySets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// capset(2), all three sets at once.
pub fn set_capabilities(sets: CapabilitySets) -> Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let part = |shift: u32| Data {
        effective: (sets.effective.bits() >> shift) as u32,
        permitted: (sets.permitted.bits() >> shift) as u32,
        inheritable: (sets.inheritable.bits() >> shift) as u32,
    };
    let data = [part(0), part(32)];
    // SAFETY: version 3 reads two elements, and `data` has two; both outlive the call.
    let returned = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    check(returned, || {
        format!(
            "capset(effective={:#x}, permitted={:#x}, inheritable={:#x})",
            sets.effective, sets.permitted, sets.inheritable
        )
    })
    .map(drop)
}

/// Makes the ambient set exactly `set`; returns the capabilities that cannot be raised.
pub fn set_ambient(set: CapabilitySet) -> Result<CapabilitySet> {
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as u64;
    match prctl("PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL", libc::PR_CAP_AMBIENT, clear, 0) {
        Err(failed) if failed.errno == Errno::EINVAL && set.is_empty() => return Ok(set),
        other => drop(other?),
    }
    let raise = libc::PR_CAP_AMBIENT_RAISE as u64;
    let mut refused = 0;
    for capability in (0..64).filter(|n| set.bits() >> n & 1 == 1) {
        if prctl("PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE", libc::PR_CAP_AMBIENT, raise, capability).is_err() {
            refused |= 1 << capability;
        }
    }
    Ok(CapabilitySet::from_bits_retain(refused))
}

/// One instruction of a classic BPF program, as seccomp(2) takes it.
pub type Instruction = windlass_seccomp::sock_filter;

/// Installs a seccomp filter with `SECCOMP_FILTER_FLAG_*`; with `NEW_LISTENER` among them the
/// listener's descriptor is returned.
pub fn install_filter(program: &[Instruction], flags: u32, listener: bool) -> Result<Option<OwnedFd>> {
    super::hide_fd_paths();
    let program = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `filter` points to `len` instructions of the kernel's layout (sock_filter), which
    // outlive the call and are only read.
    let returned =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let returned =
        check(returned, || format!("seccomp(SECCOMP_SET_MODE_FILTER, {flags:#x}, {{len={}}})", program.len))?;
    if !listener && returned > 0 {
        // With TSYNC the kernel names the thread that could not follow.
        return Err(SyscallError { call: format!("seccomp(TSYNC): thread {returned}").into(), errno: Errno::ESRCH });
    }
    Ok(listener.then(|| super::owned::from_raw(returned)))
}

/// Makes a session keyring named `name`, which the caller may change (keyctl(2)). Fails with `ENOSYS` if the kernel has
/// no keyrings.
pub fn join_session_keyring(name: &str) -> Result<()> {
    let name =
        std::ffi::CString::new(name).map_err(|_| SyscallError { call: "keyctl".into(), errno: Errno::EINVAL })?;
    // SAFETY: `name` is NUL-terminated and outlives the call.
    let ring = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    let ring = check(ring, || format!("keyctl(KEYCTL_JOIN_SESSION_KEYRING, {name:?})"))?;
    // The possessor has all rights, so that the container's processes, whatever their user, can work with their
    // keyring. Its owner may see, read, search and link it, which exec needs to join it by name. It may not write to
    // it: the same user may be in another container, and find out the number.
    const RIGHTS: u64 = 0x3f1b_0000;
    // SAFETY: KEYCTL_SETPERM takes numbers and no pointers.
    let returned = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, ring, RIGHTS) };
    check(returned, || format!("keyctl(KEYCTL_SETPERM, {ring}, {RIGHTS:#x})")).map(drop)
}
