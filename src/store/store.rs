//! The state root. It has one file for each container, which is also the container's lock (flock(2)).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::error::{Diagnostic, Error, Kind, Result, WithContext};
use windlass_base::id::{check_id, id_path};
use windlass_base::rfc3339;
use windlass_cgroup::AnyCgroup;
use windlass_sys::attributes;
use windlass_sys::lock;
use windlass_sys::{directory, fd, trusted_path};

use super::container::Container;
use super::exit_pin;
use super::files::{self, COPY, MARK};
use super::record;
use super::reservation::Reservation;
use super::state::State;
use super::unusable::Unusable;

/// An open state root.
pub struct Store {
    /// `None` if it does not exist.
    dir: Option<Rc<OwnedFd>>,
    path: PathBuf,
}

impl Store {
    /// Opens the state root. A missing state root has no containers. Refuses a state root that other users may write
    /// to, since its states name the processes to kill and the hooks to run, and a path that another user's link leads
    /// elsewhere.
    pub fn open(path: &Path) -> Result<Store> {
        let dir = match trusted_path::open(path) {
            Err(failed) if failed.errno == Errno::ENOENT => None,
            other => {
                let dir = other.with_context(|| format!("cannot open the state root {path:?}"))?;
                files::check_owner(dir.as_fd(), || format!("the state root {path:?}"))?;
                Some(Rc::new(dir))
            }
        };
        Ok(Store { dir, path: path.into() })
    }

    /// Opens the state root, and makes it if it does not exist. Its mode is 01700: the sticky bit excepts it from the
    /// cleanup of a user's runtime directory (XDG Base Directory Specification).
    pub fn make(path: &Path) -> Result<Store> {
        let store = Store::open(path)?;
        if store.dir.is_some() {
            return Ok(store);
        }
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o1700);
        builder.recursive(true).create(path).with_context(|| format!("cannot make the state root {path:?}")).map_err(
            |error| match error.errno() {
                Some(Errno::EACCES | Errno::EROFS) => error.with_hint(
                    "an ordinary user's is below XDG_RUNTIME_DIR, which a login sets; otherwise say where with --root",
                ),
                _ => error,
            },
        )?;
        Store::open(path)
    }

    fn root(&self) -> Result<Rc<OwnedFd>> {
        self.dir.clone().ok_or_else(does_not_exist)
    }

    /// Reserves the id: makes its file and locks it.
    pub fn reserve(&self, id: &str) -> Result<Reservation> {
        check_id(id)?;
        Reservation::make(self.root()?, id)
    }

    /// Loads a container. Fails with [`Kind::NotFound`] if its create died before it wrote the state, and with
    /// [`Kind::State`] if the state is damaged. [`Store::load_to_remove`] removes the first, and returns the second if
    /// enough of it is known.
    pub fn load(&self, id: &str) -> Result<Container> {
        Ok(self.read(id)?)
    }

    /// Loads a container for `delete --force`. Warns of a damaged state. Removes a file without a container, and
    /// returns `None`.
    pub fn load_to_remove(&self, id: &str, warnings: &mut Vec<Diagnostic>) -> Result<Option<Container>> {
        match self.read(id) {
            Ok(container) => Ok(Some(container)),
            Err(Unusable::Damaged(error)) => {
                warnings.push(Diagnostic { pointer: String::new(), msg: error.message().into() });
                self.remove_leftover(id)
            }
            Err(Unusable::Other(error)) if error.kind() == Kind::NotFound => {
                let left = self.remove_leftover(id)?;
                if let (None, Some(root)) = (&left, &self.dir) {
                    exit_pin::remove_lost(root.as_fd(), id)?;
                }
                Ok(left)
            }
            Err(Unusable::Other(error)) => Err(error),
        }
    }

    fn read(&self, id: &str) -> Result<Container, Unusable> {
        check_id(id)?;
        let Some(file) = self.file(id)? else { return Err(does_not_exist().into()) };
        Container::read(self.root()?, file, id)?.ok_or_else(|| {
            does_not_exist()
                .with_hint("its create died before it wrote anything; `delete --force` clears that away")
                .into()
        })
    }

    fn file(&self, id: &str) -> Result<Option<OwnedFd>> {
        let Some(root) = &self.dir else { return Ok(None) };
        match fd::openat(root.as_fd(), id_path(id), OFlag::O_RDONLY | OFlag::O_NOFOLLOW, 0) {
            Err(failed) if failed.errno == Errno::ENOENT => Ok(None),
            other => other.map(Some).with_context(|| format!("cannot open the state of {id:?}")),
        }
    }

    /// Handles a file without a readable state, after it has waited for a create that holds the lock.
    ///
    /// If that create wrote the state meanwhile, or the state was damaged later and a part of it is known, the
    /// container is returned, locked. If nothing was made yet, the file is removed. If something was made and nothing
    /// is known of it, this fails: processes may be running.
    fn remove_leftover(&self, id: &str) -> Result<Option<Container>> {
        let Some(file) = self.file(id)? else { return Ok(None) };
        lock::exclusive(file.as_fd(), true).with_context(|| "cannot lock the container")?;
        let copy = fd::duplicate(file.as_fd()).with_context(|| "cannot hold the container")?;
        let read = Container::read(self.root()?, copy, id);
        let stat = fd::stat(file.as_fd()).with_context(|| format!("cannot look at the state of {id:?}"))?;
        let why = match read {
            Ok(Some(container)) => {
                container.locked.set(true);
                return Ok(Some(container));
            }
            // The holder of the lock has removed the file, and the name may be another container's by now.
            _ if stat.st_nlink == 0 => return Ok(None),
            Ok(None) => "it was cut off".to_string(),
            Err(unusable) => Error::from(unusable).message().to_string(),
        };
        let text =
            fd::read_head(file.as_fd(), record::FIXED).with_context(|| format!("cannot read the state of {id:?}"))?;
        let marked = stat.st_mode & MARK != 0;
        let known = attributes::load(file.as_fd(), COPY).and_then(|copy| record::parse_copy(&copy));
        let known = known.or_else(|| Some((State::of_cgroup(id, record::cgroup_in(&text)?), None)));
        match known {
            Some((state, init)) => Container::recovered(self.root()?, file, state, init).map(Some),
            // Its create died before it made anything, or the file never was a state.
            None if !marked && !record::is_state(&text) => {
                files::remove(self.root()?.as_fd(), id, stat.st_ino).map(|()| None)
            }
            None => {
                let msg = format!("the state of {id:?} is damaged, and nothing tells which processes are its: {why}");
                let hint = format!("look for its processes, end them, and then remove {:?}", self.path.join(id));
                Err(Error::new(Kind::State, msg).with_hint(hint))
            }
        }
    }

    /// The container that has one of these cgroups; with `first`, only if it was created after that container.
    pub fn of_cgroup(&self, paths: &[String], first: Option<&State>) -> Result<Option<Container>> {
        let has = |container: &Container| {
            let state = &container.state;
            state.cgroup.iter().chain(&state.cgroup_v1).any(|path| paths.contains(path))
                && first.is_none_or(|first| rfc3339::is_before(&first.created, &state.created))
        };
        Ok(self.ids()?.iter().filter_map(|id| self.load(id).ok()).find(has))
    }

    /// The ids of all containers, sorted.
    pub fn ids(&self) -> Result<Vec<String>> {
        let Some(dir) = &self.dir else { return Ok(Vec::new()) };
        let names =
            directory::names(dir.as_fd()).with_context(|| format!("cannot read the state root {:?}", self.path))?;
        let mut ids: Vec<String> = names
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .filter(|name| check_id(name).is_ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }
}

impl Container {
    /// Whether `group`, the container's cgroup, now belongs to a later container in this state root: it was removed
    /// after the end of init, and another was made at its path. Only for a container whose init has ended.
    pub fn cgroup_was_replaced(&self, group: &AnyCgroup) -> Result<bool> {
        if group.pids()?.is_empty() { Ok(false) } else { self.has_successor() }
    }

    /// Whether a later container in this state root has its cgroup's path. That is refused as long as the cgroup is
    /// there, so it was removed.
    pub(super) fn has_successor(&self) -> Result<bool> {
        let store = Store { dir: Some(self.root.clone()), path: PathBuf::new() };
        let places: Vec<String> = self.state.cgroup.iter().chain(&self.state.cgroup_v1).cloned().collect();
        Ok(store.of_cgroup(&places, Some(&self.state))?.is_some())
    }
}

fn does_not_exist() -> Error {
    Error::new(Kind::NotFound, "container does not exist")
}

#[cfg(test)]
mod tests;
