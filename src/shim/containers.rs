//! The table of the containers that the supervisor knows.

use std::path::PathBuf;
use std::rc::Rc;

use super::oom::OomWatch;
use super::poll::Poll;
use super::table::Table;
use super::{Code, Container, Refusal, life};
use windlass_cgroup::membership::Membership;

/// A container, with its cgroup and its OOM counter.
#[derive(Debug)]
pub(super) struct ManagedContainer {
    pub(super) container: Container,
    /// The counter of its OOM kills.
    pub(super) oom: Option<OomWatch>,
    /// Whether the kernel has killed processes of the container for want of memory.
    pub(super) oom_killed: bool,
    /// The directory of the cgroup, once it is created.
    pub(super) cgroup: Option<PathBuf>,
}

impl ManagedContainer {
    /// Whether the kernel has killed processes of the container for want of memory since the last call.
    pub(super) fn look_for_oom(&mut self) -> bool {
        let killed = self.oom.as_mut().is_some_and(|watch| watch.new_kills() > 0);
        self.oom_killed |= killed;
        killed
    }

    /// Watches the memory of the cgroup of `pid`. Without a memory controller there is nothing to watch.
    pub(super) fn watch_memory(&mut self, pid: i32, poll: &Poll) {
        let Ok(membership) = Membership::of(pid) else { return };
        self.cgroup = membership.directory();
        if self.oom.is_none() {
            self.oom = OomWatch::of(&membership);
            self.oom.iter_mut().for_each(|watch| watch.notify(poll));
        }
    }
}

/// The containers, by id.
#[derive(Debug, Default)]
pub(super) struct Containers(Table<Rc<str>, Box<ManagedContainer>>);

impl Containers {
    /// Takes a container in. Its id must be free.
    pub(super) fn insert(&mut self, container: Container) -> Result<(), Refusal> {
        if self.get(&container.id).is_some() {
            return Err(Refusal::new(Code::AlreadyExists, format!("container {:?} already exists", container.id)));
        }
        let managed = ManagedContainer { container, oom: None, oom_killed: false, cgroup: None };
        self.0.insert(managed.container.id.clone(), Box::new(managed));
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.0.remove(id);
    }

    pub(super) fn get(&self, id: &str) -> Option<&ManagedContainer> {
        self.0.get(id).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut ManagedContainer> {
        self.0.get_mut(id).map(Box::as_mut)
    }

    pub(super) fn find(&self, id: &str) -> Result<&ManagedContainer, Refusal> {
        self.get(id).ok_or_else(|| life::not_found(id))
    }

    /// Puts back a container from the image of the previous program.
    pub(super) fn put(&mut self, container: Box<ManagedContainer>) {
        self.0.insert(container.container.id.clone(), container);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ManagedContainer> {
        self.0.values().map(Box::as_ref)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut ManagedContainer> {
        self.0.values_mut().map(Box::as_mut)
    }
}
