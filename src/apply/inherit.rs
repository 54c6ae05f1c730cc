//! Stdio, CPUs and descriptors of a service manager, which a process inherits from the caller.

use std::os::fd::OwnedFd;

use windlass_base::error::{Result, WithContext};
use windlass_base::spec::IdMapping;
use windlass_plan::Host;
use windlass_sys::process::Child;
use windlass_sys::{fd, sched, socket};

use super::action::{Stdio, give_pipes};
use super::context::Context;

/// The user that a process will be.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// The user id in the container.
    pub uid: u32,
    /// The user id on the host; `None` if it depends on a user namespace that is not known yet.
    pub host_uid: Option<u32>,
}

/// The kind of stdio that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdioMode {
    /// A terminal takes the place of the caller's stdio.
    Terminal,
    /// The caller's stdio, in the foreground: the runtime waits until the process ends.
    Foreground,
    /// The caller's stdio, detached: the runtime ends before the process.
    Detached,
}

/// The inheritance of one process.
#[derive(Debug, Default)]
pub struct Inherit {
    stdio: Stdio,
    /// Our end of the connection over which the process sends its pipes.
    relayed: Option<OwnedFd>,
    /// The new owner of pipes without a name among the caller's stdio.
    pipe_owner: Option<PipeOwner>,
    /// Whether the program is told its id in `LISTEN_PID` (sd_listen_fds(3)).
    pub listens: bool,
    /// Whether `execCPUAffinity` names CPUs. Otherwise the process gets all CPUs of its cpuset.
    pub chooses_cpus: bool,
}

#[derive(Clone, Copy, Debug)]
struct PipeOwner(User);

impl Inherit {
    /// Decides about stdio. A process that is the same user as the caller may use what the caller gave. User ids are
    /// compared as ids of the host.
    pub fn plan(user: User, host: &Host, wanted: StdioMode) -> Result<Inherit> {
        let same = user.host_uid == Some(host.uid);
        Ok(match wanted {
            _ if same => Inherit::default(),
            StdioMode::Terminal => Inherit::default(),
            StdioMode::Foreground => {
                let (ours, theirs) = socket::pair().with_context(|| "cannot make a pair of sockets")?;
                Inherit { stdio: Stdio::Relayed(theirs), relayed: Some(ours), ..Inherit::default() }
            }
            // The host's root may always change the owner. Any other runtime may not, so init tries.
            StdioMode::Detached => {
                let stdio = if host.administers() { Stdio::Kept } else { Stdio::Given };
                Inherit { stdio, pipe_owner: Some(PipeOwner(user)), ..Inherit::default() }
            }
        })
    }

    /// In the child: passes stdio and `listens` on to its steps.
    pub(super) fn pass_to(&mut self, cx: &mut Context<'_>) {
        cx.stdio = std::mem::take(&mut self.stdio);
        cx.listens = self.listens;
    }

    /// Gives the process all CPUs of its cpuset, unless `execCPUAffinity` asks for certain ones.
    pub(super) fn adjust(&self, child: &Child) {
        if !self.chooses_cpus {
            // If a seccomp profile around the runtime refuses the call, the process keeps the runtime's CPUs.
            let _ = sched::use_all_cpus(child.pid);
        }
    }

    /// Changes the owner of pipes from the host, where every id is known, while the process waits.
    pub(super) fn give(&self, child: &Child) {
        let Some(PipeOwner(user)) = self.pipe_owner else { return };
        let mapped = || host_uid(&fd::read_small(fd::CWD, format!("/proc/{}/uid_map", child.pid)).ok()?, user.uid);
        if let Some(uid) = user.host_uid.or_else(mapped) {
            give_pipes(uid);
        }
    }

    /// Our end of the connection over which the process sends its pipes, if it makes any.
    pub fn relayed(&mut self) -> Option<OwnedFd> {
        self.relayed.take()
    }
}

/// The host's id for an id of the container, according to a `/proc/PID/uid_map` (user_namespaces(7)).
fn host_uid(map: &[u8], uid: u32) -> Option<u32> {
    IdMapping::parse_lines(map).iter().find_map(|mapping| mapping.to_host(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_user_than_the_caller_needs_anything() {
        let root = Host { capabilities: windlass_base::capability::CapabilitySet::all(), ..Host::default() };
        let user = |uid, host_uid| User { uid, host_uid };
        for wanted in [StdioMode::Terminal, StdioMode::Foreground, StdioMode::Detached] {
            let kept = Inherit::plan(user(0, Some(0)), &root, wanted).expect("planned");
            assert!(matches!(kept.stdio, Stdio::Kept) && kept.pipe_owner.is_none() && kept.relayed.is_none());
        }
        // Root's map makes the container's root another user of the host; a user's own map does not.
        let relayed = Inherit::plan(user(0, Some(100_000)), &root, StdioMode::Foreground).expect("planned");
        assert!(matches!(relayed.stdio, Stdio::Relayed(_)) && relayed.relayed.is_some());
        let rootless = Host { uid: 1000, ..Host::default() };
        let kept = Inherit::plan(user(0, Some(1000)), &rootless, StdioMode::Foreground).expect("planned");
        assert!(matches!(kept.stdio, Stdio::Kept));
        let given = Inherit::plan(user(1000, Some(101_000)), &rootless, StdioMode::Detached).expect("planned");
        assert!(matches!(given.stdio, Stdio::Given) && given.pipe_owner.is_some());
        let unknown = Inherit::plan(user(0, None), &root, StdioMode::Foreground).expect("planned");
        assert!(unknown.relayed.is_some(), "nobody knows yet who that is");
    }

    #[test]
    fn an_id_is_looked_up_in_a_map() {
        let map = b"         0       1000          1\n         1     100000      65536\n";
        assert_eq!([0, 1, 1000, 70000].map(|uid| host_uid(map, uid)), [Some(1000), Some(100_000), Some(100_999), None]);
    }
}
