//! The shim is killed at any moment, and another one adopts the container.

use super::engine::{Engine, Observed};
use super::upgrade;
use crate::exit::Record;
use crate::frontend::containerd;
use crate::{Phase, ProcessId, Supervisor};
use windlass_sys::process;

impl Engine {
    /// Kills the shim. Reported ends must be on disk. The next shim goes on with init, or there is a new container.
    pub(super) fn crash(&mut self, core: &mut Supervisor) -> Result<(), String> {
        upgrade::kill::<containerd::ContainerdFront>(core, None)?;
        let init = self.outside.borrow_mut().lose_shim();
        self.pending.clear();
        for (process, told) in self.told.iter().filter(|(_, told)| !told.deleted) {
            let name = process.exec.as_deref().unwrap_or("init");
            let record = Record::read(&self.record(name)).map(|record| record.status());
            if told.exited.is_some() && record != told.exited && self.outside.borrow().failures < 5 {
                return Err(format!("the end of {process:?} was told, {told:?}, and its record is {record:?}"));
            }
        }
        self.streams.values().flatten().for_each(|stream| stream.lost.set(true));
        let told = std::mem::take(&mut self.told).remove(&ProcessId::init("c")).unwrap_or_default();
        self.open(core);
        match init.filter(|_| told.created && told.exited.is_none()) {
            Some(pid) => self.adopt(core, pid, told.started),
            None => {
                self.outside.borrow_mut().delete();
                // A child of the killed shim may still write its record to a slow disk.
                self.containers += 1;
                Ok(())
            }
        }
    }

    fn adopt(&mut self, core: &mut Supervisor, pid: i32, started: bool) -> Result<(), String> {
        let new = self.process(None);
        let pidfd = process::open_pid(pid).map_err(|failed| failed.to_string())?;
        let phase = if started { Phase::Running } else { Phase::Created };
        core.adopt(new, pid, pidfd, phase).map_err(|refusal| refusal.to_string())?;
        self.told.insert(ProcessId::init("c"), Observed { created: true, started, ..Observed::default() });
        Ok(())
    }
}
