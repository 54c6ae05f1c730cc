//! Memory that can be returned to the kernel without being unmapped.

use std::ptr::NonNull;

use super::{Result, check};

/// Anonymous memory, zeroed when first touched.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    length: usize,
}

impl Region {
    /// Maps `length` bytes, which the kernel rounds up to pages.
    pub fn new(length: usize) -> Result<Region> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: no address is asked for, so nothing is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, prot, flags, -1, 0) };
        check(start as libc::c_long, || format!("mmap({length}, MAP_ANONYMOUS)"))?;
        Ok(Region { start: NonNull::new(start.cast()).expect("mmap does not give the null page"), length })
    }

    /// The whole memory.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has this length, lives as long as `self`, and `&mut self` makes
        // the reference the only one. Fresh pages read as zeroes, so all of it is initialised.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// The address behind it, where a stack begins.
    pub(super) fn end(&self) -> *mut u8 {
        self.start.as_ptr().wrapping_add(self.length)
    }

    /// Returns the pages to the kernel; they read as zeroes afterwards.
    pub fn release(&mut self) {
        // SAFETY: the range is our own mapping, and nobody holds a reference into it (`&mut self`).
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.length, libc::MADV_DONTNEED) };
    }
}

/// The size of a page in bytes, in which the kernel maps memory (sysconf(3)).
pub fn page_size() -> u64 {
    // SAFETY: takes a number.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.unsigned_abs()
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range is our own mapping, and no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Returns the allocator's free pages to the kernel, and unmaps the program's own code and constants. The kernel maps
/// those again page by page when they are needed. So pages that only the start or many requests at once needed no
/// longer count as ours.
pub fn release_unused() {
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and touches only memory that the allocator knows to be free.
    unsafe {
        libc::malloc_trim(0)
    };
    let page = page_size() as usize;
    let start = (&raw const __executable_start).addr().next_multiple_of(page);
    let end = (&raw const etext).addr() & !(page - 1);
    // SAFETY: the program never writes to what the linker puts between the two symbols, so the pages are those of the
    // file, and read the same when they are mapped again. (A debugger's breakpoints there vanish.)
    unsafe { libc::madvise(std::ptr::without_provenance_mut(start), end.saturating_sub(start), libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_runs_on_when_its_code_was_unmapped() {
        let kept: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        release_unused();
        assert_eq!(kept.iter().map(|text| text.parse::<u32>().expect("a number")).sum::<u32>(), 499_500);
    }

    #[test]
    fn released_memory_reads_as_zeroes() {
        let mut region = Region::new(8192).expect("memory");
        region.bytes()[5000] = 7;
        region.release();
        assert_eq!(region.bytes()[5000], 0);
    }
}
