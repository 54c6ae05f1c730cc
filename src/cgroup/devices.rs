//! The device filter of a cgroup: an eBPF program that permits or refuses each open and mknod of a device.

use nix::errno::Errno;

use super::v2::Cgroup;
use windlass_base::error::{Error, Origin, Result};
use windlass_plan::device_rules::DeviceProgram;
use windlass_sys::{SyscallError, bpf};

impl Cgroup {
    /// Attaches a device filter. In a cgroup that was not made for the container, it replaces the existing filters.
    pub fn set_devices(&self, program: &DeviceProgram) -> Result<()> {
        if !self.was_created() {
            return self.replace_devices(Some(program), Filters::All);
        }
        set(self, program).map_err(|failed| explain(Some(program), failed))
    }

    /// Replaces the attached filters; `None` detaches them. If there is a new filter, it is attached before the old
    /// ones are detached.
    pub fn replace_devices(&self, program: Option<&DeviceProgram>, which: Filters) -> Result<()> {
        replace(self, program, which).map_err(|failed| explain(program, failed))
    }
}

/// The filters of a cgroup that are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filters {
    /// All of them.
    All,
    /// The filters of windlass. systemd attaches one to the cgroup of a unit, and would attach it again.
    Ours,
}

fn set(cgroup: &Cgroup, program: &DeviceProgram) -> windlass_sys::Result<()> {
    bpf::attach_device_program(cgroup.dir_fd(), bpf::load_device_program(&program.instructions)?)
}

fn replace(cgroup: &Cgroup, program: Option<&DeviceProgram>, which: Filters) -> windlass_sys::Result<()> {
    let mut old = Vec::new();
    for id in bpf::device_programs(cgroup.dir_fd())? {
        match bpf::program_by_id(id) {
            Ok(fd) if which == Filters::All || bpf::is_ours(&fd)? => old.push(fd),
            Ok(_) => {}
            // The program was detached meanwhile, or a security module denies access to it. A device is usable only if
            // every program permits it, so a program that stays attached permits nothing more.
            Err(SyscallError { errno: Errno::ENOENT | Errno::EPERM | Errno::EACCES, .. }) => {}
            Err(failed) => return Err(failed),
        }
    }
    if let Some(program) = program {
        let new = bpf::load_device_program(&program.instructions)?;
        if let [only] = &old[..] {
            match bpf::replace_device_program(cgroup.dir_fd(), &new, only) {
                // BPF_F_REPLACE came with Linux 5.6.
                Err(SyscallError { errno: Errno::EINVAL, .. }) => {}
                result => return result,
            }
        }
        bpf::attach_device_program(cgroup.dir_fd(), new)?;
    }
    old.iter().try_for_each(|old| bpf::detach_device_program(cgroup.dir_fd(), old))
}

fn explain(program: Option<&DeviceProgram>, failed: SyscallError) -> Error {
    let errno = failed.errno;
    let origin = match program {
        Some(DeviceProgram { asked: false, .. }) => {
            Origin::Default("only the default devices may be used without device rules".into())
        }
        _ => Origin::config("/linux/resources/devices"),
    };
    let error = failed.context("cannot apply the device rules").with_origin(origin);
    match errno {
        Errno::EPERM => error.with_hint(
            "a device filter needs CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN, in the initial user namespace",
        ),
        Errno::E2BIG => error.with_hint("the rules make a program of more instructions than this kernel loads"),
        Errno::ENOSYS | Errno::EINVAL => {
            error.with_hint("a device filter needs a kernel with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL")
        }
        _ => error,
    }
}
