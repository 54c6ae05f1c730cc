//! Carrying out one planned step.

mod console;
mod copy_up;
mod device;
mod execute;
mod identity;
mod mask;
mod mount;
mod namespace;
mod passwd;
mod root;
mod stdio;

pub(crate) use execute::accept_start;
pub(crate) use stdio::{Stdio, give_pipes, replace_for};

use windlass_base::error::{Error, Result, WithContext};
use windlass_plan::{Action, ResourceLimit, Seccomp};
use windlass_sys::netlink;
use windlass_sys::{credentials, sched};

use super::context::Context;
use super::hooks;

/// Carries out one step.
pub(crate) fn apply(action: &Action, cx: &mut Context<'_>) -> Result<()> {
    match action {
        Action::MapIds => namespace::map_ids(cx),
        Action::EnterUserNamespace { uid, gid } => namespace::enter_user_namespace(*uid, *gid, cx),
        Action::Copy(source) => cx.sources.take_early(*source),
        Action::Scope => cx.sync.scope(),
        Action::Join(id) => namespace::join(*id, cx),
        Action::Unshare(kinds) => namespace::unshare(*kinds),
        Action::KeyLabel(label) => identity::label("keycreate", label, cx),
        Action::SessionKeyring(name) => namespace::session_keyring(name),
        Action::LoopbackUp => netlink::loopback_up().with_context(|| "cannot bring the loopback interface up"),
        Action::Hostname(name) => sched::set_hostname(name).with_context(|| "cannot set the hostname"),
        Action::Domainname(name) => sched::set_domainname(name).with_context(|| "cannot set the domainname"),
        Action::LeaveMounts => root::leave_mounts(cx),
        Action::ReturnToMounts => root::return_to_mounts(cx),
        Action::Propagation(flags) => root::propagate(*flags, "the mounts"),
        Action::Rootfs { source, path } => root::attach(*source, path, cx),
        Action::Mount(mount) => mount::mount(mount, cx),
        Action::Node(node) => device::node(node, cx),
        Action::DevLinks => device::links(cx),
        Action::Console { size, device, controlling } => console::console(size.as_ref(), *device, *controlling, cx),
        Action::JoinPid => namespace::join_pid(cx),
        Action::Fork { terminal } => namespace::fork_into_pid_namespace(*terminal, cx),
        Action::NetDevices => cx.sync.net_devices(),
        Action::RuntimeHooks => cx.sync.runtime_hooks(),
        Action::CreateContainerHooks => hooks::create_container(cx),
        Action::HoldProc => cx.procfs.open().map(drop).with_context(|| "cannot make a private procfs"),
        Action::Pivot(pivot) => root::pivot(*pivot, cx),
        Action::RootPropagation(flags) => root::propagate(*flags, "the root"),
        Action::Readonly(path) => root::readonly(path, cx),
        Action::Sysctl(key, value) => sysctl(key, value, cx),
        Action::ReadonlyPath(path) => mask::readonly(path, cx),
        Action::Mask(path) => mask::mask(path, cx),
        Action::Umask(mask) => umask(*mask),
        Action::MakeWorkingDirectory(path) => execute::make_working_directory(path, cx),
        Action::Limit(wanted) => limit(wanted),
        Action::Scheduler(attributes) => {
            sched::set_scheduler(*attributes).with_context(|| "cannot set the scheduling policy")
        }
        Action::IoPriority(priority) => {
            sched::set_io_priority(*priority).with_context(|| "cannot set the I/O priority")
        }
        Action::Affinity(cpus) => sched::set_affinity(cpus).with_context(|| "cannot set the CPU affinity"),
        Action::MemoryPolicy(mode, nodes) => {
            sched::set_memory_policy(*mode, nodes).with_context(|| "cannot set the memory policy")
        }
        Action::Personality(domain) => sched::set_personality(*domain).with_context(|| "cannot set the personality"),
        Action::AppArmor(profile) => identity::apparmor(profile, cx),
        Action::SeLinux(label) => identity::label("exec", label, cx),
        Action::Identity(identity) => identity::assume(identity, cx),
        Action::NoNewPrivileges => credentials::no_new_privileges().with_context(|| "cannot set no_new_privs"),
        Action::WorkingDirectory(path) => execute::enter(path, cx),
        Action::WorkingDirectoryAsUser(path) => execute::enter_as_user(path, cx),
        Action::FindExecutable => execute::find(cx),
        Action::Seccomp(seccomp) => install_seccomp(seccomp, cx),
        Action::Capabilities(sets) => identity::reduce(sets),
        Action::Ready => execute::ready(cx),
        Action::StartContainerHooks => hooks::start_container(cx),
        Action::Execute => execute::execute(cx),
    }
}

fn umask(mask: u32) -> Result<()> {
    sched::umask(mask);
    Ok(())
}

fn limit(wanted: &ResourceLimit) -> Result<()> {
    sched::set_limit(wanted.resource, wanted.soft, wanted.hard)
        .with_context(|| format!("error setting rlimit type {}", wanted.name))
}

fn sysctl(key: &str, value: &str, cx: &mut Context<'_>) -> Result<()> {
    cx.procfs
        .write(&format!("sys/{}", sysctl_path(key)), value.as_bytes())
        .with_context(|| format!("cannot set sysctl {key:?} to {value:?}"))
}

/// The path of a kernel parameter below `/proc/sys`. Interface names may have dots, so both ways of writing a key are
/// known: with slashes the dots are part of names.
pub(crate) fn sysctl_path(key: &str) -> String {
    if key.contains('/') { key.to_string() } else { key.replace('.', "/") }
}

fn install_seccomp(seccomp: &Seccomp, cx: &mut Context<'_>) -> Result<()> {
    let filter = &seccomp.filter;
    if !filter.allows(windlass_seccomp::Arch::native(), "prctl", [libc::PR_SET_PDEATHSIG as u64, 0, 0, 0, 0, 0]) {
        execute::outlive_runtime(cx)?;
    }
    let listener = credentials::install_filter(filter.program.instructions(), filter.flags, filter.needs_listener)
        .map_err(|failed| {
            let error: Error = failed.context("cannot install the seccomp filter");
            error
        })?;
    match listener {
        Some(listener) => {
            use std::os::fd::AsFd;
            cx.sync.listener(listener.as_fd())
        }
        None => Ok(()),
    }
}
