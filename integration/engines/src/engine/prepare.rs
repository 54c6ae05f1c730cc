//! Preparations that several engines share: links, bind mounts, networks.

use crate::session::Session;
use integration::kit::Verdict;
use integration::kit::stop::Context;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

/// A file of `contrib/` with the runtime under test in place of the installed one.
pub(super) fn below(file: &str, session: &Session) -> String {
    file.replace("/usr/local/bin/windlass", &session.below.runtime.display().to_string())
}

/// Puts a text in place of a file of the host, in the session's mount namespace alone.
pub fn bind_over(session: &Session, file: &str, text: &str) -> Verdict {
    let ours = session.path(&file.replace('/', "_"));
    let known = ours.exists();
    fs::write(&ours, text).context(ours.display())?;
    if known { Ok(()) } else { mount(Some(&ours), file, None::<&str>, MsFlags::MS_BIND, None::<&str>).context(file) }
}

/// Links a program into the first directory of the session's `PATH`, under this name.
pub(super) fn link(session: &Session, target: &std::path::Path, name: &str) -> Verdict {
    let link = session.path("bin").join(name);
    let _ = fs::remove_file(&link);
    symlink(target, &link).context(link.display())
}

/// Whether this kernel is User-Mode Linux, whose nftables cannot do NAT and whose modules are in their own directory.
pub(super) fn user_mode_linux() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("User Mode Linux"))
}

/// Makes networks of containers possible: old iptables and kernel modules in User-Mode Linux.
pub(super) fn prepare_networks(session: &Session) -> Verdict {
    if !user_mode_linux() {
        return Ok(());
    }
    for name in ["iptables", "iptables-save", "iptables-restore", "ip6tables"] {
        link(session, "/usr/sbin/xtables-legacy-multi".as_ref(), name)?;
    }
    let modules = session.path("lib/modules");
    fs::create_dir_all(&modules).context(modules.display())?;
    let release = integration::kit::machine::text("/proc/sys/kernel/osrelease");
    let _ = symlink(format!("/usr/lib/uml/modules/{release}"), modules.join(&release));
    let modprobe = session.path("bin/modprobe");
    let script = format!("#!/bin/sh\nexec /sbin/modprobe -d {} \"$@\"\n", session.dir.display());
    fs::write(&modprobe, script).context(modprobe.display())?;
    fs::set_permissions(&modprobe, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    // The kernel loads missing modules by the same program.
    fs::write("/proc/sys/kernel/modprobe", modprobe.display().to_string()).context("kernel/modprobe")?;
    let wanted = "overlay veth bridge br_netfilter iptable_nat iptable_filter xt_MASQUERADE xt_addrtype xt_conntrack";
    let mut command = Command::new(&modprobe);
    command.arg("-a").args(wanted.split(' '));
    session.finish(command)?.ok().map(drop)
}

/// For containers.conf(5): the limits that this system has. Without them podman asks for more, and a build since
/// buildah 1.39 for 1048576 files and processes, which root may not grant everywhere.
pub fn default_limits() -> String {
    let limits = integration::kit::machine::text("/proc/self/limits");
    let hard = |row: &str| {
        let words = limits.lines().find_map(|line| line.strip_prefix(row)).unwrap_or_default();
        words.split_whitespace().nth(1).unwrap_or("unlimited").replace("unlimited", "-1")
    };
    let (files, processes) = (hard("Max open files"), hard("Max processes"));
    format!("default_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]")
}
