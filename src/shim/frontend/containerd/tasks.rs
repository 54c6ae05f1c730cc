//! The table of the tasks, which are containerd's containers.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::answer::refused;
use super::message::event::{TaskCreate, TaskIo};
use super::message::task::Name;
use super::message::{Mount, Status};
use super::ttrpc::code;
use crate::table::Table;
use crate::{ProcessId, Runtime, Spooling};

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub id: Rc<str>,
    pub bundle: PathBuf,
    /// The stdio that containerd has chosen.
    pub io: TaskIo,
    /// The checkpoint that the task is restored from at its start; empty if there is none.
    pub checkpoint: String,
    /// User and group of the pipes.
    pub owner: (u32, u32),
    /// How output is kept while nobody reads it.
    pub spooling: Spooling,
    pub runtime: Runtime,
    pub stage: TaskStage,
    /// The execs, with their stdio.
    pub execs: Table<String, TaskIo>,
}

/// The progress of a task's creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TaskStage {
    /// The root filesystem is being mounted, or the runtime has not answered. containerd cannot ask for the task.
    Preparing {
        /// The mounts of the root filesystem.
        rootfs: Vec<Mount>,
    },
    /// The event of its creation was sent.
    Created,
}

impl Task {
    /// The stdio of a process of the task.
    pub(super) fn io(&self, process: &ProcessId) -> &TaskIo {
        process.exec.as_deref().and_then(|exec| self.execs.get(exec)).unwrap_or(&self.io)
    }

    /// The file with the OCI process of an exec.
    pub(super) fn process_file(&self, exec: &str) -> PathBuf {
        process_file(&self.bundle, exec)
    }
}

/// The file in a bundle with the OCI process of an exec.
pub(super) fn process_file(bundle: &Path, exec: &str) -> PathBuf {
    bundle.join(format!("exec-{exec}.json"))
}

/// The tasks, by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tasks(pub(super) Table<String, Box<Task>>);

impl Tasks {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses an id that is taken.
    pub(super) fn refuse_taken(&self, id: &str) -> Result<(), Status> {
        match self.0.get(id).is_some() {
            true => Err(refused(code::ALREADY_EXISTS, format!("container {id:?} already exists"))),
            false => Ok(()),
        }
    }

    /// Adds a task, whose id must be free.
    pub(super) fn insert(&mut self, task: Task) {
        self.0.insert(task.id.to_string(), Box::new(task));
    }

    /// Removes a task.
    pub(super) fn remove(&mut self, id: &str) -> Option<Box<Task>> {
        self.0.remove(id)
    }

    /// A task, even if containerd cannot ask for it yet.
    pub(super) fn get(&self, id: &str) -> Option<&Task> {
        self.0.get(id).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Task> {
        self.0.get_mut(id).map(Box::as_mut)
    }

    /// A task that containerd can ask for.
    pub(super) fn find(&self, id: &str) -> Result<&Task, Status> {
        let task = self.get(id).filter(|task| task.stage == TaskStage::Created);
        task.ok_or_else(|| refused(code::NOT_FOUND, format!("container {id:?} does not exist")))
    }

    /// A process of a task that containerd can ask for.
    pub(super) fn process(&self, name: &Name) -> Result<ProcessId, Status> {
        let task = self.find(&name.id)?;
        if !name.exec_id.is_empty() && task.execs.get(&*name.exec_id).is_none() {
            return Err(refused(code::NOT_FOUND, format!("process {:?} does not exist", name.exec_id)));
        }
        Ok(ProcessId::of(&name.id, &name.exec_id))
    }

    /// Notes that the task was created. Returns the event for containerd, or `None` if it was sent before.
    pub(super) fn created(&mut self, id: &str, pid: u32) -> Option<TaskCreate> {
        let task = self.0.get_mut(id)?;
        let TaskStage::Preparing { rootfs } = std::mem::replace(&mut task.stage, TaskStage::Created) else {
            return None;
        };
        Some(TaskCreate {
            container_id: id.into(),
            bundle: task.bundle.to_string_lossy().into_owned(),
            rootfs,
            io: Some(task.io.clone()),
            checkpoint: task.checkpoint.clone(),
            pid,
        })
    }

    /// Adds an exec.
    pub(super) fn add_exec(&mut self, id: &ProcessId, io: TaskIo) {
        if let (Some(task), Some(exec)) = (self.0.get_mut(&*id.container), &id.exec) {
            task.execs.insert(exec.to_string(), io);
        }
    }

    /// Removes an exec. Returns the file with its OCI process, which is not needed any more.
    pub(super) fn remove_exec(&mut self, id: &ProcessId) -> Option<PathBuf> {
        let task = self.0.get_mut(&*id.container)?;
        let exec = id.exec.as_deref()?;
        task.execs.remove(exec);
        Some(task.process_file(exec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::format::read_back;

    fn tasks() -> Tasks {
        let runtime = Runtime { binary: "/runtime".into(), global: Vec::new(), log: None };
        let io = TaskIo { stdin: "/in".into(), ..TaskIo::default() };
        let rootfs = vec![Mount { kind: "bind".into(), ..Mount::default() }];
        let mut tasks = Tasks::default();
        tasks.insert(Task {
            id: "c".into(),
            bundle: "/b".into(),
            io,
            checkpoint: String::new(),
            owner: (0, 0),
            spooling: Spooling::default(),
            runtime,
            stage: TaskStage::Preparing { rootfs },
            execs: Table::default(),
        });
        tasks
    }

    fn name(id: &str, exec_id: &str) -> Name {
        Name { id: id.into(), exec_id: exec_id.into() }
    }

    #[test]
    fn a_task_can_be_asked_for_once_it_is_created() {
        let mut tasks = tasks();
        assert_eq!(tasks.refuse_taken("c").expect_err("it is taken").code, code::ALREADY_EXISTS);
        assert_eq!(tasks.refuse_taken("d"), Ok(()));
        assert_eq!(tasks.find("c").expect_err("not yet").code, code::NOT_FOUND);
        assert_eq!(tasks.process(&name("c", "")).expect_err("not yet").code, code::NOT_FOUND);
        let event = tasks.created("c", 7).expect("news");
        assert_eq!((event.pid, event.rootfs.len(), event.bundle.as_str()), (7, 1, "/b"));
        assert_eq!(event.io.expect("its stdio").stdin, "/in");
        assert_eq!(tasks.created("c", 7), None, "the event is sent once");
        assert_eq!(tasks.created("d", 7), None);
        assert_eq!(tasks.process(&name("c", "")), Ok(ProcessId::init("c")));
        assert!(tasks.remove("c").is_some() && tasks.is_empty());
    }

    #[test]
    fn an_exec_belongs_to_its_task() {
        let mut tasks = tasks();
        tasks.created("c", 7);
        let id = ProcessId::of("c", "e");
        assert_eq!(tasks.process(&name("c", "e")).expect_err("not yet").code, code::NOT_FOUND);
        tasks.add_exec(&id, TaskIo::default());
        assert_eq!(tasks.process(&name("c", "e")), Ok(id.clone()));
        assert_eq!(read_back(&tasks), tasks);
        assert_eq!(tasks.remove_exec(&id), Some("/b/exec-e.json".into()));
        assert_eq!(tasks.process(&name("c", "e")).expect_err("no more").code, code::NOT_FOUND);
        assert_eq!(tasks.remove_exec(&ProcessId::of("d", "e")), None);
    }
}
