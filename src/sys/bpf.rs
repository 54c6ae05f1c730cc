//! bpf(2), for the device filters of cgroups.
//!
//! RLIMIT_MEMLOCK is raised only after an EPERM on a kernel before 5.11. Later kernels charge programs to the
//! memory cgroup instead, and raising a hard limit fails without CAP_SYS_RESOURCE.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::owned::from_raw;
use super::{Result, SyscallError, check};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 1 << 1;
const F_REPLACE: u32 = 1 << 2;

/// Most programs that the kernel allows at one cgroup and hook (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

/// Most repetitions of loading: a signal ends the verifier with EAGAIN.
const INTERRUPTIONS: u32 = 30;

/// Loads a CGROUP_DEVICE program.
pub fn load_device_program(instructions: &[u64]) -> Result<OwnedFd> {
    match load(instructions) {
        Err(SyscallError { errno: Errno::EPERM, .. }) if charges_memlock() => {
            // If this fails, the retry fails too and reports it.
            let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
            load(instructions)
        }
        result => result,
    }
}

/// Attaches a program to a cgroup, beside those that are attached.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd) -> Result<()> {
    attach(cgroup.as_fd().as_raw_fd(), program.as_fd().as_raw_fd(), F_ALLOW_MULTI, 0)
}

/// Replaces a program by another in one step, so that one of them judges each access.
///
/// Fails with EINVAL before Linux 5.6.
pub fn replace_device_program(cgroup: impl AsFd, program: impl AsFd, replaced: impl AsFd) -> Result<()> {
    let (cgroup, program) = (cgroup.as_fd().as_raw_fd(), program.as_fd().as_raw_fd());
    attach(cgroup, program, F_ALLOW_MULTI | F_REPLACE, replaced.as_fd().as_raw_fd())
}

/// Detaches a program from a cgroup.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> Result<()> {
    let (target, program) = (cgroup.as_fd().as_raw_fd(), program.as_fd().as_raw_fd());
    let mut attr = Attach { target: target as u32, program: program as u32, kind: CGROUP_DEVICE, ..Attach::default() };
    bpf(PROG_DETACH, &mut attr, || {
        format!("bpf(BPF_PROG_DETACH, {{target_fd={target}, attach_bpf_fd={program}, BPF_CGROUP_DEVICE}})")
    })?;
    Ok(())
}

/// The ids of the device programs at a cgroup itself, not those of its ancestors.
pub fn device_programs(cgroup: impl AsFd) -> Result<Vec<u32>> {
    let mut ids = [0u32; MAX_PROGRAMS];
    let target = cgroup.as_fd().as_raw_fd();
    let mut attr = Query {
        target: target as u32,
        kind: CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut attr, || format!("bpf(BPF_PROG_QUERY, {{target_fd={target}, BPF_CGROUP_DEVICE}})"))?;
    Ok(ids[..ids.len().min(attr.count as usize)].to_vec())
}

/// A file descriptor of the program with this id.
pub fn program_by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = ById { id, ..ById::default() };
    let fd = bpf(PROG_GET_FD_BY_ID, &mut attr, || format!("bpf(BPF_PROG_GET_FD_BY_ID, {{prog_id={id}}})"))?;
    Ok(from_raw(fd))
}

/// The name of our programs, which `bpftool prog` shows.
const NAME: &[u8] = b"windlass";

/// Whether a program is one of ours: loaded by [`load_device_program`].
pub fn is_ours(program: impl AsFd) -> Result<bool> {
    let program = program.as_fd().as_raw_fd();
    let mut info = [0u8; INFO];
    let mut attr = ByFd { program: program as u32, length: INFO as u32, info: info.as_mut_ptr() as u64 };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr, || format!("bpf(BPF_OBJ_GET_INFO_BY_FD, {{bpf_fd={program}}})"))?;
    Ok(info[INFO - NAME_LENGTH..].starts_with(NAME) && info[INFO - NAME_LENGTH + NAME.len()] == 0)
}

/// `BPF_OBJ_NAME_LEN`.
const NAME_LENGTH: usize = 16;

/// `struct bpf_prog_info` up to and with the name, since Linux 4.15.
const INFO: usize = 64 + NAME_LENGTH;

#[repr(C)]
#[derive(Default)]
struct ByFd {
    program: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_LENGTH],
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

/// Linux 6.17 and later write `revision` whatever size the call gives, so the structure must have it.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    open_flags: u32,
}

/// The part of `union bpf_attr` that a command uses. For the kernel the rest is zero.
///
/// # Safety
/// The type is `repr(C)`, has no padding, and every pointer in it is valid during the call.
unsafe trait Attr {}
// SAFETY: six 4-byte and three 8-byte members on their own boundaries and 16 bytes; filled by `load`
// only.
unsafe impl Attr for Load {}
// SAFETY: five u32, no pointer.
unsafe impl Attr for Attach {}
// SAFETY: members on their own boundaries, `padding` named; filled by `device_programs` only.
unsafe impl Attr for Query {}
// SAFETY: three u32, no pointer.
unsafe impl Attr for ById {}
// SAFETY: members on their own boundaries; filled by `is_ours` only.
unsafe impl Attr for ByFd {}

fn load(instructions: &[u64]) -> Result<OwnedFd> {
    let mut name = [0; NAME_LENGTH];
    name[..NAME.len()].copy_from_slice(NAME);
    let mut attr = Load {
        name,
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        // The kernel checks the licence only for helpers that are for GPL programs alone, and we use none.
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    let call = || format!("bpf(BPF_PROG_LOAD, {{BPF_PROG_TYPE_CGROUP_DEVICE, insn_cnt={}}})", instructions.len());
    for _ in 0..INTERRUPTIONS {
        match bpf(PROG_LOAD, &mut attr, call) {
            Err(SyscallError { errno: Errno::EAGAIN, .. }) => {}
            result => return result.map(from_raw),
        }
    }
    bpf(PROG_LOAD, &mut attr, call).map(from_raw)
}

fn attach(target: i32, program: i32, flags: u32, replaced: i32) -> Result<()> {
    let mut attr = Attach {
        target: target as u32,
        program: program as u32,
        kind: CGROUP_DEVICE,
        flags,
        replaced: replaced as u32,
    };
    let names = if flags & F_REPLACE == 0 { "BPF_F_ALLOW_MULTI" } else { "BPF_F_ALLOW_MULTI|BPF_F_REPLACE" };
    bpf(PROG_ATTACH, &mut attr, || {
        format!("bpf(BPF_PROG_ATTACH, {{target_fd={target}, attach_bpf_fd={program}, BPF_CGROUP_DEVICE, {names}}})")
    })?;
    Ok(())
}

fn bpf<A: Attr>(command: libc::c_int, attr: &mut A, call: impl FnOnce() -> String) -> Result<libc::c_long> {
    let attr: *mut A = attr;
    // SAFETY: attr points to a live union bpf_attr of the given size, see `Attr`; the kernel
    // writes at most into it and into the buffers it names.
    let returned = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<A>()) };
    check(returned, call)
}

/// Whether this kernel charges programs to RLIMIT_MEMLOCK, as kernels before 5.11 do.
fn charges_memlock() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version < (5, 11)
}
