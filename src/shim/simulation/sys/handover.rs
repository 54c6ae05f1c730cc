//! The descriptors for the next program, which is simulated in this process.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

pub use windlass_sys::handover::*;
use windlass_sys::{descriptors, directory, fd};

/// The descriptors of the previous program.
#[derive(Debug)]
pub struct Inherited(BTreeMap<u32, OwnedFd>);

impl Inherited {
    /// Takes over the listed descriptors. No others have to be closed.
    pub fn new(listed: &[u32]) -> (Inherited, Vec<u32>) {
        Inherited::of(listed, &[])
    }

    /// Takes over the listed descriptors. Their owners were forgotten. The descriptors in `closed` are closed, as
    /// execve(2) would.
    pub fn of(listed: &[u32], closed: &[u32]) -> (Inherited, Vec<u32>) {
        let open = |number: u32| descriptors::borrow_inherited(number as i32);
        let (mut kept, mut missing) = (BTreeMap::new(), Vec::new());
        for &number in listed {
            match open(number).map(fd::duplicate) {
                Some(Ok(copy)) => drop(kept.insert(number, copy)),
                _ => missing.push(number),
            }
        }
        let mut left = Vec::new();
        if let Ok(names) = fd::open("/proc/self/fd", nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY) {
            let numbers = directory::names(std::os::fd::AsFd::as_fd(&names)).unwrap_or_default();
            let numbers = numbers.iter().filter_map(|name| name.to_str()?.parse::<u32>().ok());
            left = numbers.filter(|number| !listed.contains(number) && !closed.contains(number)).collect();
        }
        let left: Vec<_> = left.into_iter().filter_map(open).collect();
        descriptors::close_all_but(3, &left);
        (Inherited(kept), missing)
    }

    /// Takes a descriptor out.
    pub fn take(&mut self, number: u32) -> Option<OwnedFd> {
        self.0.remove(&number)
    }

    /// Closes the descriptors that were not taken, and returns their numbers.
    pub fn close_rest(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.0).into_keys().collect()
    }
}
