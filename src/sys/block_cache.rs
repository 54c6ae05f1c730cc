//! An allocator that keeps two free blocks of each middle size.
//!
//! musl's allocator maps a page for the first block of a size beyond those that it has, and unmaps the page with that
//! block. A server that needs such a block for each request would make two system calls for it each time: an exec
//! below containerd took the shim 95 or 110 system calls, depending on the blocks in use, and takes 95 with one such
//! block. With one, every other exec still mapped a page and unmapped it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The sizes that are kept, in bytes: powers of two.
const SMALLEST: usize = 256;
const KINDS: usize = 5;
const LARGEST: usize = SMALLEST << (KINDS - 1);
/// Shorter blocks are left to the system's allocator, which has many in a page.
const SHORT: usize = 128;

/// How many blocks of each size are kept.
const EACH: usize = 2;

/// The blocks, by their sizes.
static KEPT: [[AtomicPtr<u8>; EACH]; KINDS] = [const { [const { AtomicPtr::new(null_mut()) }; EACH] }; KINDS];

/// The allocator, for `#[global_allocator]`.
pub struct BlockCache;

/// Returns the kept blocks to the system's allocator.
pub fn release() {
    let kept = KEPT.iter().enumerate().flat_map(|(kind, kept)| kept.iter().map(move |kept| (kind, kept)));
    for (kind, kept) in kept {
        let block = kept.swap(null_mut(), Ordering::Acquire);
        if !block.is_null() {
            // SAFETY: it came from the system's allocator with this layout, and belongs to nobody.
            unsafe { System.dealloc(block, BlockCache::layout(kind)) };
        }
    }
}

impl BlockCache {
    /// The kept size that serves a layout, if one does.
    fn kind(layout: Layout) -> Option<usize> {
        let fits = layout.size() > SHORT && layout.size() <= LARGEST && layout.align() <= 16;
        fits.then(|| layout.size().next_power_of_two().max(SMALLEST).ilog2() as usize - SMALLEST.ilog2() as usize)
    }

    fn layout(kind: usize) -> Layout {
        Layout::from_size_align(SMALLEST << kind, 16).expect("a power of two")
    }
}

// SAFETY: every block comes from the system's allocator with the layout that `kind` gives, the same when it is freed. A
// kept block belongs to nobody: whoever swaps it out of its place is its only owner.
unsafe impl GlobalAlloc for BlockCache {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(kind) = BlockCache::kind(layout) else {
            // SAFETY: as the caller promises.
            return unsafe { System.alloc(layout) };
        };
        let mut kept = KEPT[kind].iter().map(|kept| kept.swap(null_mut(), Ordering::Acquire));
        if let Some(block) = kept.find(|block| !block.is_null()) {
            return block;
        }
        // SAFETY: the size is not zero.
        unsafe { System.alloc(BlockCache::layout(kind)) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(kind) = BlockCache::kind(layout) else {
            // SAFETY: as the caller promises.
            return unsafe { System.dealloc(block, layout) };
        };
        let keep = |kept: &AtomicPtr<u8>| {
            kept.compare_exchange(null_mut(), block, Ordering::Release, Ordering::Relaxed).is_ok()
        };
        if !KEPT[kind].iter().any(keep) {
            // SAFETY: the block came from `alloc` with a layout of this kind.
            unsafe { System.dealloc(block, BlockCache::layout(kind)) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises, the size does not overflow with this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (BlockCache::kind(layout), BlockCache::kind(wanted)) {
            // SAFETY: neither is ours, so the block is the system's with this layout.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (old, new) if old == new => block,
            _ => {
                // SAFETY: the size is not zero, as the caller promises.
                let moved = unsafe { self.alloc(wanted) };
                if !moved.is_null() {
                    // SAFETY: both blocks have as many bytes, and are different ones.
                    unsafe { std::ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
                    // SAFETY: as the caller promises.
                    unsafe { self.dealloc(block, layout) };
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_block_is_the_next_of_its_size_and_keeps_what_is_in_it_when_it_grows() {
        let layout = |size| Layout::from_size_align(size, 8).expect("a layout");
        // SAFETY: no size is zero.
        let alloc = |size| unsafe { BlockCache.alloc(layout(size)) };
        // SAFETY: each block below is given with the size that it was last asked for.
        let realloc = |block, size, wanted| unsafe { BlockCache.realloc(block, layout(size), wanted) };
        // SAFETY: as above, and no block is used afterwards.
        let dealloc = |block, size| unsafe { BlockCache.dealloc(block, layout(size)) };
        // SAFETY: the block has as many bytes, which were written, and nobody else uses it.
        let bytes = |block, size| unsafe { std::slice::from_raw_parts_mut::<u8>(block, size) };

        let first = alloc(200);
        // SAFETY: the block has as many bytes.
        unsafe { first.write_bytes(7, 200) };
        assert_eq!(realloc(first, 200, 256), first, "there is room");
        let moved = realloc(first, 256, 5000);
        assert_eq!(bytes(moved, 200), [7; 200]);
        let again = realloc(moved, 5000, 100);
        assert_eq!(bytes(again, 100), [7; 100]);
        let reused = alloc(129);
        assert_eq!(reused, first, "the freed one");
        dealloc(again, 100);
        dealloc(reused, 129);
        release();
        assert!(KEPT.iter().flatten().all(|kept| kept.load(Ordering::Relaxed).is_null()));
    }

    #[test]
    fn short_and_long_blocks_and_odd_alignments_are_the_systems() {
        let kind = |size, align| BlockCache::kind(Layout::from_size_align(size, align).expect("a layout"));
        assert_eq!([kind(128, 8), kind(4097, 8), kind(300, 64)], [None; 3]);
        assert_eq!([kind(129, 8), kind(257, 16), kind(4096, 1)], [Some(0), Some(1), Some(4)]);
    }
}
