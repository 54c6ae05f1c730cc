//! The device filter of a cgroup: an eBPF program that judges each open and mknod.

use nix::errno::Errno;

use super::v2::Cgroup;
use windlass_base::error::{Error, Origin, Result};
use windlass_plan::device_rules::DeviceProgram;
use windlass_sys::{Failed, bpf};

impl Cgroup {
    /// Gives the cgroup its device filter. One that was there (in a cgroup made by others) is
    /// replaced.
    pub fn set_devices(&self, program: &DeviceProgram) -> Result<()> {
        if !self.made() {
            return self.replace_devices(Some(program), Filters::All);
        }
        set(self, program).map_err(|failed| explain(Some(program), failed))
    }

    /// Puts a filter in the place of those that are there; `None` takes them away. There is no
    /// moment without a filter.
    pub fn replace_devices(&self, program: Option<&DeviceProgram>, which: Filters) -> Result<()> {
        replace(self, program, which).map_err(|failed| explain(program, failed))
    }
}

/// Which filters of a cgroup are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filters {
    /// All.
    All,
    /// Ours: systemd has its own at the cgroup of a unit, and would put it back.
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
            // Gone meanwhile, or a security module keeps it from us. All programs must agree to
            // an access, so one that stays can only allow less.
            Err(Failed { errno: Errno::ENOENT | Errno::EPERM | Errno::EACCES, .. }) => {}
            Err(failed) => return Err(failed),
        }
    }
    if let Some(program) = program {
        let new = bpf::load_device_program(&program.instructions)?;
        if let [only] = &old[..] {
            match bpf::replace_device_program(cgroup.dir_fd(), &new, only) {
                // BPF_F_REPLACE came with Linux 5.6.
                Err(Failed { errno: Errno::EINVAL, .. }) => {}
                result => return result,
            }
        }
        bpf::attach_device_program(cgroup.dir_fd(), new)?;
    }
    old.iter().try_for_each(|old| bpf::detach_device_program(cgroup.dir_fd(), old))
}

fn explain(program: Option<&DeviceProgram>, failed: Failed) -> Error {
    let errno = failed.errno;
    let origin = match program {
        Some(DeviceProgram { asked: false, .. }) => {
            Origin::Default("only the default devices may be used without device rules".into())
        }
        _ => Origin::config("/linux/resources/devices"),
    };
    let error = failed.doing("cannot apply the device rules").origin(origin);
    match errno {
        Errno::EPERM => error
            .hint("a device filter needs CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN, in the initial user namespace"),
        Errno::E2BIG => error.hint("the rules make a program of more instructions than this kernel loads"),
        Errno::ENOSYS | Errno::EINVAL => {
            error.hint("a device filter needs a kernel with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL")
        }
        _ => error,
    }
}
