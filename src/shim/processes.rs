//! The table of the processes that the supervisor knows.

use std::os::fd::{AsFd, OwnedFd};

use super::console::Console;
use super::exit;
use super::life::{self, DrainProgress, Life, Parent, Process, Reaped};
use super::streams::Streams;
use super::table::Table;
use super::{NewProcess, ProcessId, ProcessState, Refusal};
use windlass_sys::process::{self, Child};

/// A process, with the descriptors that belong to its state.
#[derive(Debug)]
pub(super) struct ManagedProcess {
    /// Names the process in the keys of its descriptors.
    pub(super) serial: u32,
    pub(super) process: Process,
    /// The description. The stdio is taken out when it is opened.
    pub(super) new: NewProcess,
    /// The pidfd, from the moment when the process is made until it is reaped.
    pub(super) pidfd: Option<OwnedFd>,
    /// The stdio, once it is open.
    pub(super) streams: Option<Streams>,
    /// The socket on which the runtime sends the terminal, while that is awaited.
    pub(super) console: Option<Console>,
    /// The child that writes the exit record.
    pub(super) recorder: Option<Child>,
    /// Whether an exit file was written, from which the engine can learn the status.
    pub(super) is_told: bool,
}

impl ManagedProcess {
    fn new(serial: u32, new: NewProcess) -> ManagedProcess {
        let process = Process::new(new.id.clone());
        ManagedProcess {
            serial,
            process,
            new,
            pidfd: None,
            streams: None,
            console: None,
            recorder: None,
            is_told: false,
        }
    }

    /// Leaves the exit files that a try has not written.
    pub(super) fn keep_unwritten(&mut self, unwritten: u8) {
        let before = self.new.exit_files.len();
        exit::keep_unwritten(&mut self.new.exit_files, unwritten);
        self.is_told |= self.new.exit_files.len() < before;
    }

    pub(super) fn state(&self) -> ProcessState {
        let terminal = self.streams.as_ref().map_or(self.new.stdio.terminal, |streams| streams.terminal);
        let bytes = |of: fn(&Streams) -> u64| self.streams.as_ref().map_or(0, of);
        self.process.state(terminal, bytes(Streams::dropped), bytes(Streams::unsent))
    }

    /// Whether a reader is about to take the output that is left. Engines open the fifos of an exec while it is being
    /// started, and stop when it is deleted; so the reader of an exec may still come.
    pub(super) fn is_wanted(&mut self) -> bool {
        let late = !self.process.id.is_init();
        self.streams.as_mut().is_some_and(|streams| streams.are_wanted(late))
    }

    /// The progress of draining the output.
    pub(super) fn output(&self) -> DrainProgress {
        match &self.streams {
            None => DrainProgress { read: true, held_back: false, taken: true },
            Some(streams) => {
                DrainProgress { read: streams.is_read(), held_back: streams.is_held_back(), taken: streams.is_taken() }
            }
        }
    }

    /// Checks whether the process has ended, and reaps it if this shim is its parent.
    pub(super) fn reap(&self) -> Reaped {
        let (Some(pidfd), Life::Alive { parent, .. }) = (&self.pidfd, &self.process.life) else {
            return Reaped::NotYet;
        };
        if *parent == Parent::Shim {
            return match process::try_wait(pidfd.as_fd()) {
                Ok(None) => Reaped::NotYet,
                Ok(Some(exit)) => Reaped::Ended(Some(exit)),
                Err(_) => Reaped::Ended(None),
            };
        }
        // Only newer kernels report the exit to others than the parent.
        match process::exit_of_other(pidfd.as_fd()) {
            Ok(Some(exit)) => Reaped::Ended(Some(exit)),
            Ok(None) => Reaped::ByItsParent,
            Err(_) => Reaped::Ended(None),
        }
    }

    /// Whether `pid` is a child of this shim: the process itself, or the child that writes its record.
    pub(super) fn has_child(&self, pid: i32) -> bool {
        (self.process.is_alive() && self.process.pid() == pid)
            || self.recorder.as_ref().is_some_and(|child| child.pid == pid)
    }
}

/// The processes, by serial number and by name. Serial numbers are in the order of creation.
#[derive(Debug, Default)]
pub(super) struct Processes {
    by_serial: Table<u32, Box<ManagedProcess>>,
    by_id: Table<ProcessId, u32>,
}

impl Processes {
    /// Adds a process. Its name must be free.
    pub(super) fn insert(&mut self, serial: u32, new: NewProcess) {
        self.by_id.insert(new.id.clone(), serial);
        self.by_serial.insert(serial, Box::new(ManagedProcess::new(serial, new)));
    }

    /// Puts back a process from the image of the previous program.
    pub(super) fn put(&mut self, managed: Box<ManagedProcess>) {
        self.by_id.insert(managed.process.id.clone(), managed.serial);
        self.by_serial.insert(managed.serial, managed);
    }

    pub(super) fn remove(&mut self, serial: u32) -> Option<Box<ManagedProcess>> {
        let removed = self.by_serial.remove(&serial)?;
        self.by_id.remove(&removed.process.id);
        Some(removed)
    }

    pub(super) fn get(&self, serial: u32) -> Option<&ManagedProcess> {
        self.by_serial.get(&serial).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, serial: u32) -> Option<&mut ManagedProcess> {
        self.by_serial.get_mut(&serial).map(Box::as_mut)
    }

    /// The id of the process with a serial number.
    pub(super) fn id(&self, serial: u32) -> Option<ProcessId> {
        self.get(serial).map(|managed| managed.process.id.clone())
    }

    /// The serial number of a process.
    pub(super) fn serial(&self, id: &ProcessId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    pub(super) fn find(&self, id: &ProcessId) -> Result<&ManagedProcess, Refusal> {
        self.serial(id).and_then(|serial| self.get(serial)).ok_or_else(|| life::not_found(id.name()))
    }

    pub(super) fn find_mut(&mut self, id: &ProcessId) -> Result<&mut ManagedProcess, Refusal> {
        let serial = self.serial(id).ok_or_else(|| life::not_found(id.name()))?;
        self.get_mut(serial).ok_or_else(|| life::not_found(id.name()))
    }

    /// Whether the init of a container is known and has ended.
    pub(super) fn has_init_ended(&self, container: &str) -> bool {
        self.find(&ProcessId::init(container)).is_ok_and(|init| !init.process.is_alive())
    }

    /// The processes of a container, in the order in which they were made.
    pub(super) fn of<'a>(&'a self, container: &'a str) -> impl Iterator<Item = &'a ManagedProcess> + Clone {
        self.by_serial.values().map(Box::as_ref).filter(move |managed| &*managed.process.id.container == container)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ManagedProcess> {
        self.by_serial.values().map(Box::as_ref)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut ManagedProcess> {
        self.by_serial.values_mut().map(Box::as_mut)
    }

    /// The serial numbers of the processes for which `chosen` holds.
    pub(super) fn serials(&self, chosen: impl Fn(&ManagedProcess) -> bool) -> Vec<u32> {
        self.iter().filter(|managed| chosen(managed)).map(|managed| managed.serial).collect()
    }
}
