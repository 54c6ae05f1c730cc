//! The engines: how each is started, given its image, and cleaned after a case.

mod buildah;
mod containerd;
#[cfg(feature = "cri")]
mod cri;
mod docker;
mod podman;

#[cfg(feature = "cri")]
pub use containerd::SOCKET as CONTAINERD_SOCKET;
pub use containerd::start_daemon as start_containerd;
pub use docker::{SOCKET as DOCKER_SOCKET, start_with as start_dockerd};
pub use podman::configuration as podman_configuration;

use crate::session::Session;
use integration::kit::Verdict;
use integration::kit::stop::Context;
#[cfg(not(feature = "cri"))]
use integration::kit::stop::skip;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

/// An engine under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// dockerd and its client.
    Docker,
    /// containerd, by `ctr`.
    Containerd,
    /// containerd's CRI plugin, by a client of the suite.
    Cri,
    /// podman.
    Podman,
    /// buildah.
    Buildah,
}

impl Engine {
    /// All of them, in the order in which they run.
    pub const ALL: [Engine; 5] = [Engine::Docker, Engine::Containerd, Engine::Cri, Engine::Podman, Engine::Buildah];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Docker => "docker",
            Engine::Containerd => "containerd",
            Engine::Cri => "cri",
            Engine::Podman => "podman",
            Engine::Buildah => "buildah",
        }
    }

    /// The engine of this name.
    pub fn named(name: &str) -> Option<Engine> {
        Engine::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// The programs of which it consists.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Engine::Docker => &["dockerd", "containerd"],
            Engine::Containerd | Engine::Cri => &["containerd"],
            Engine::Podman => &["podman", "conmon"],
            Engine::Buildah => &["buildah"],
        }
    }

    /// Whether another shim can be put below it: buildah calls the runtime itself.
    pub fn has_shim(self) -> bool {
        self != Engine::Buildah
    }
}

/// Starts what the engine needs; the words of its client.
pub fn start(session: &Session) -> Verdict<Vec<String>> {
    match session.engine {
        Engine::Docker => docker::start(session),
        Engine::Containerd => containerd::start(session),
        #[cfg(feature = "cri")]
        Engine::Cri => cri::start(session),
        #[cfg(not(feature = "cri"))]
        Engine::Cri => skip("built without the feature `cri`"),
        Engine::Podman => podman::start(session),
        Engine::Buildah => buildah::start(session),
    }
}

/// Gives the engine the image of the suite.
pub fn load(session: &Session) -> Verdict {
    match session.engine {
        Engine::Docker => docker::load(session),
        Engine::Containerd => containerd::load(session),
        #[cfg(feature = "cri")]
        Engine::Cri => cri::load(session),
        #[cfg(not(feature = "cri"))]
        Engine::Cri => skip("built without the feature `cri`"),
        Engine::Podman => podman::load(session),
        Engine::Buildah => buildah::load(session),
    }
}

/// Removes what a case has left.
pub fn clean(session: &Session) -> Verdict {
    match session.engine {
        Engine::Docker => docker::clean(session),
        Engine::Containerd => containerd::clean(session),
        #[cfg(feature = "cri")]
        Engine::Cri => cri::clean(session),
        #[cfg(not(feature = "cri"))]
        Engine::Cri => skip("built without the feature `cri`"),
        Engine::Podman => podman::clean(session),
        Engine::Buildah => buildah::clean(session),
    }
}

/// A file of `contrib/` with the runtime under test in place of the installed one.
fn below(file: &str, session: &Session) -> String {
    file.replace("/usr/local/bin/windlass", &session.below.runtime.display().to_string())
}

/// Puts a text in place of a file of the host, in the session's mount namespace alone.
pub fn bind_over(session: &Session, file: &str, text: &str) -> Verdict {
    let ours = session.path(&file.replace('/', "_"));
    let known = ours.exists();
    fs::write(&ours, text).context(ours.display())?;
    if known { Ok(()) } else { mount(Some(&ours), file, None::<&str>, MsFlags::MS_BIND, None::<&str>).context(file) }
}

/// Puts a program among the first of the session's `PATH` under this name.
fn link(session: &Session, target: &std::path::Path, name: &str) -> Verdict {
    let link = session.path("bin").join(name);
    let _ = fs::remove_file(&link);
    symlink(target, &link).context(link.display())
}

/// Whether this kernel is User-Mode Linux, whose nftables cannot do NAT and whose modules are in a
/// directory of their own.
fn user_mode_linux() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("User Mode Linux"))
}

/// Makes networks of containers possible: old iptables and kernel modules in User-Mode Linux.
fn prepare_networks(session: &Session) -> Verdict {
    if !user_mode_linux() {
        return Ok(());
    }
    for name in ["iptables", "iptables-save", "iptables-restore", "ip6tables"] {
        link(session, "/usr/sbin/xtables-legacy-multi".as_ref(), name)?;
    }
    let modules = session.path("lib/modules");
    fs::create_dir_all(&modules).context(modules.display())?;
    let release = integration::kit::t::text("/proc/sys/kernel/osrelease");
    let _ = symlink(format!("/usr/lib/uml/modules/{release}"), modules.join(&release));
    let modprobe = session.path("bin/modprobe");
    let script = format!("#!/bin/sh\nexec /sbin/modprobe -d {} \"$@\"\n", session.dir.display());
    fs::write(&modprobe, script).context(modprobe.display())?;
    fs::set_permissions(&modprobe, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    // The kernel loads what it misses by the same program.
    fs::write("/proc/sys/kernel/modprobe", modprobe.display().to_string()).context("kernel/modprobe")?;
    let wanted = "overlay veth bridge br_netfilter iptable_nat iptable_filter xt_MASQUERADE xt_addrtype xt_conntrack";
    let mut command = Command::new(&modprobe);
    command.arg("-a").args(wanted.split(' '));
    session.finish(command)?.ok().map(drop)
}
