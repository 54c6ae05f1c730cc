//! Scheduling, memory policy, limits and other settings of a process.

use super::{Called, Result, SyscallError, check};
use windlass_base::abi::SchedulerAttributes;

/// sched_setattr(2) on this process.
pub fn set_scheduler(attributes: SchedulerAttributes) -> Result<()> {
    let attributes = SchedulerAttributes { size: size_of::<SchedulerAttributes>() as u32, ..attributes };
    // SAFETY: the structure has the kernel's layout, says its own size, and outlives the call.
    let returned = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    check(returned, || format!("sched_setattr(0, {attributes:?})")).map(drop)
}

/// ioprio_set(2) on this process; `priority` is class << 13 | level.
pub fn set_io_priority(priority: u32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: the call takes no pointers.
    let returned = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) };
    check(returned, || format!("ioprio_set(IOPRIO_WHO_PROCESS, 0, {priority:#x})")).map(drop)
}

/// set_mempolicy(2); `nodes` as bits, lowest first.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> Result<()> {
    // The kernel reads one bit less than this number.
    let bits = nodes.len() * 64 + 1;
    let pointer = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: `pointer` is null or has `nodes.len() * 64` bits, and outlives the call.
    let returned =
        unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, if nodes.is_empty() { 0 } else { bits }) };
    check(returned, || format!("set_mempolicy({mode:#x}, {nodes:x?})")).map(drop)
}

/// sched_setaffinity(2) on this process; `cpus` as bits, lowest first.
pub fn set_affinity(cpus: &[u64]) -> Result<()> {
    // SAFETY: the length given is that of the slice, which outlives the call.
    let returned = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) };
    check(returned, || format!("sched_setaffinity(0, {cpus:x?})")).map(drop)
}

/// Binds this process to each CPU that it may use, one after the other, until `work` returns something. It stays bound.
pub fn on_each_cpu<T>(mut work: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
    let allowed = allowed.called(|| "sched_getaffinity(0)".into())?;
    for cpu in (0..nix::sched::CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)) {
        let mut only = vec![0; cpu / 64 + 1];
        only[cpu / 64] = 1 << (cpu % 64);
        set_affinity(&only)?;
        if let Some(done) = work()? {
            return Ok(Some(done));
        }
    }
    Ok(None)
}

/// Lets a process use every CPU of its cpuset, now and when the cpuset changes; 0 is this process.
///
/// The affinity is inherited, and since Linux 6.2 the kernel keeps it whatever the cpuset becomes. Without this call a
/// container would be bound to the CPUs of the runtime's caller (`CPUAffinity=` of a service, taskset(1)).
pub fn use_all_cpus(pid: i32) -> Result<()> {
    all_cpus(pid).called(|| format!("sched_setaffinity({pid}, all)"))
}

/// Like [`use_all_cpus`], for the child of a fork, which must not allocate.
pub(super) fn all_cpus(pid: i32) -> nix::Result<()> {
    // The kernel ignores bits beyond its CPUs, and leaves out CPUs that the cpuset lacks.
    static ALL: [u64; 128] = [u64::MAX; 128];
    // SAFETY: the length given is that of the static.
    let returned = unsafe { libc::syscall(libc::SYS_sched_setaffinity, pid, size_of_val(&ALL), ALL.as_ptr()) };
    nix::errno::Errno::result(returned).map(drop)
}

/// setrlimit(2).
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    let none = std::ptr::null_mut::<libc::rlimit>();
    // SAFETY: `limit` outlives the call, and no old value is asked for.
    let returned = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, none) };
    check(returned, || format!("prlimit64(0, {resource}, {{{soft}, {hard}}})")).map(drop)
}

/// Sets a limit of another process.
pub fn set_limit_of(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    let none = std::ptr::null_mut::<libc::rlimit>();
    // SAFETY: `limit` outlives the call, and no old value is asked for.
    let returned = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, none) };
    check(returned, || format!("prlimit64({pid}, {resource}, {{{soft}, {hard}}})")).map(drop)
}

/// The hard limit of another process.
pub fn hard_limit_of(pid: i32, resource: u32) -> Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let none = std::ptr::null::<libc::rlimit>();
    // SAFETY: `limit` outlives the call, which writes it, and no new value is set.
    let returned = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, none, &raw mut limit) };
    check(returned, || format!("prlimit64({pid}, {resource})")).map(|_| limit.rlim_max)
}

/// The scheduling of a task, by sched_getattr(2).
pub fn scheduler_of(tid: i32) -> Result<SchedulerAttributes> {
    let mut found = SchedulerAttributes::default();
    let size = size_of::<SchedulerAttributes>();
    // SAFETY: the structure has the kernel's layout and the size that is told, and outlives the call, which writes it.
    let returned = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut found, size, 0) };
    check(returned, || format!("sched_getattr({tid})")).map(|_| found)
}

/// The I/O priority of a task, class << 13 | level, by ioprio_get(2).
pub fn io_priority_of(tid: i32) -> Result<u32> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: the call takes no pointers.
    let returned = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) };
    check(returned, || format!("ioprio_get(IOPRIO_WHO_PROCESS, {tid})")).map(|priority| priority as u32)
}

/// personality(2).
pub fn set_personality(domain: u64) -> Result<()> {
    // SAFETY: the call takes no pointers.
    let returned = unsafe { libc::personality(domain as libc::c_ulong) };
    check(returned.into(), || format!("personality({domain:#x})")).map(drop)
}

/// sethostname(2).
pub fn set_hostname(name: &str) -> Result<()> {
    nix::unistd::sethostname(name)
        .map_err(|errno| SyscallError { call: format!("sethostname({name:?})").into(), errno })
}

/// setdomainname(2).
pub fn set_domainname(name: &str) -> Result<()> {
    // SAFETY: the length given is that of the string, which outlives the call.
    let returned = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    check(returned.into(), || format!("setdomainname({name:?})")).map(drop)
}

/// umask(2); returns the old mask.
pub fn umask(mask: u32) -> u32 {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask)).bits()
}
