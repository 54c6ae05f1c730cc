//! The kernel parameters of the UTS and IPC namespaces that the container joins. CRIU writes those of the images there,
//! but the namespaces belong to others: to a pod, or to the host.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::error::{Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_plan::Topology;
use windlass_sys::fd;

use crate::namespaces::JoinedNamespaces;

/// The parameters that CRIU writes, by the kind of namespace.
const WRITTEN: [(Namespaces, &[&str]); 2] = [
    (Namespaces::UTS, &["kernel/hostname", "kernel/domainname"]),
    (
        Namespaces::IPC,
        &[
            "kernel/sem",
            "kernel/msgmax",
            "kernel/msgmnb",
            "kernel/auto_msgmni",
            "kernel/msgmni",
            "kernel/shmmax",
            "kernel/shmall",
            "kernel/shmmni",
            "kernel/shm_rmid_forced",
            "fs/mqueue/queues_max",
            "fs/mqueue/msg_max",
            "fs/mqueue/msgsize_max",
            "fs/mqueue/msg_default",
            "fs/mqueue/msgsize_default",
        ],
    ),
];

/// The parameters as they were. Dropping this writes them back.
pub(crate) struct Parameters(Vec<Kept>);

/// The parameters of a namespace.
struct Kept {
    namespace: OwnedFd,
    kind: Namespaces,
    values: Vec<(String, Vec<u8>)>,
}

impl Parameters {
    /// Reads those of the namespaces that are joined.
    pub(crate) fn read(topology: &Topology, joins: &[Option<OwnedFd>]) -> Result<Parameters> {
        let context = || "cannot read the kernel parameters of a namespace that the container joins";
        let mut all = Vec::new();
        for (join, file) in topology.joined.iter().zip(joins) {
            let names = WRITTEN.iter().find(|(kind, _)| *kind == join.kind);
            let (Some((kind, names)), Some(file)) = (names, file) else { continue };
            let namespace = fd::duplicate(file.as_fd()).with_context(context)?;
            let mut values = Vec::new();
            {
                let _visit = JoinedNamespaces::visit(namespace.as_fd(), *kind)?;
                for path in names.iter().map(|name| format!("/proc/sys/{name}")) {
                    match fd::read_small(fd::CWD, &path) {
                        // A kernel need not have it.
                        Err(failed) if failed.errno == Errno::ENOENT => {}
                        value => values.push((path, value.with_context(context)?)),
                    }
                }
            }
            all.push(Kept { namespace, kind: *kind, values });
        }
        Ok(Parameters(all))
    }

    /// Writes them back, each if it differs.
    pub(crate) fn write_back(mut self) -> Result<()> {
        self.0.drain(..).try_for_each(|kept| kept.write_back())
    }
}

impl Drop for Parameters {
    fn drop(&mut self) {
        for kept in &self.0 {
            let _ = kept.write_back();
        }
    }
}

impl Kept {
    fn write_back(&self) -> Result<()> {
        let _visit = JoinedNamespaces::visit(self.namespace.as_fd(), self.kind)?;
        for (path, value) in &self.values {
            if fd::read_small(fd::CWD, path).is_ok_and(|now| now == *value) {
                continue;
            }
            fd::open(path, OFlag::O_WRONLY)
                .and_then(|file| fd::write_once(file.as_fd(), value))
                .with_context(|| format!("cannot write {path} of a namespace that the container joins"))?;
        }
        Ok(())
    }
}
