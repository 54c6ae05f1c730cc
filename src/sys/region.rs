//! Memory that can be given back to the kernel without being unmapped.

use std::ptr::NonNull;

use super::{Result, check};

/// Anonymous memory, zeroed when first touched.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    length: usize,
}

impl Region {
    /// `length` bytes, rounded up to pages by the kernel.
    pub fn new(length: usize) -> Result<Region> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: no address is asked for, so nothing is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, prot, flags, -1, 0) };
        check(start as libc::c_long, || format!("mmap({length}, MAP_ANONYMOUS)"))?;
        Ok(Region { start: NonNull::new(start.cast()).expect("mmap does not give the null page"), length })
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has this length, lives as long as `self`, and `&mut self` makes
        // the reference the only one. Fresh pages read as zeroes, so all of it is initialised.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// The address behind it, where a stack begins.
    pub(super) fn end(&self) -> *mut u8 {
        self.start.as_ptr().wrapping_add(self.length)
    }

    /// Gives the pages back; they read as zeroes afterwards.
    pub fn release(&mut self) {
        // SAFETY: the range is our own mapping, and nobody holds a reference into it (`&mut self`).
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.length, libc::MADV_DONTNEED) };
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range is our own mapping, and no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_memory_reads_as_zeroes() {
        let mut region = Region::new(8192).expect("memory");
        region.bytes()[5000] = 7;
        region.release();
        assert_eq!(region.bytes()[5000], 0);
    }
}
