//! The allocator of short-lived processes: memory comes from one block and is hardly ever returned.
//!
//! A command allocates a few hundred small pieces and exits. A general allocator sorts them by size, which touches
//! many pages; it makes system calls to get and return memory; and after a fork the kernel copies every page in which
//! it keeps its records. Here each piece is simply the next bytes of the block. Only the newest piece can grow in place
//! or be freed, which suffices for growing strings and read buffers. When the block is full, memory comes from the C
//! library, so a long-lived process wastes at most the block.
//!
//! There is no lock that a fork could find held.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The size of the block in bytes. Docker's default configuration needs a twentieth of it, a list of a thousand
/// containers all of it. Pages that are not touched take no memory. It is smaller in tests, where it is on the stack.
const SIZE: usize = if cfg!(test) { 64 * 1024 } else { 2 * 1024 * 1024 };

/// Pieces of at least this many bytes come from the C library, which returns them to the kernel when they are freed.
/// In the block they would stay, and cost page tables in every process that is forked later.
const LARGE: usize = if cfg!(test) { 16 * 1024 } else { 256 * 1024 };

/// Every piece begins at a multiple of this many bytes. Code that reads bytes as a structure (control messages of a
/// socket) relies on it.
const LEAST: usize = 8;

/// The allocator, for `#[global_allocator]`.
#[repr(C, align(4096))]
pub struct Heap {
    block: UnsafeCell<[MaybeUninit<u8>; SIZE]>,
    /// The number of bytes in use.
    used: AtomicUsize,
}

// SAFETY: `used` only changes by compare-and-exchange, so that no byte is handed out twice, and
// the block is only accessed through the pointers handed out.
unsafe impl Sync for Heap {}

impl Heap {
    /// An empty heap.
    #[allow(clippy::new_without_default)] // It is for statics only.
    pub const fn new() -> Heap {
        Heap { block: UnsafeCell::new([MaybeUninit::uninit(); SIZE]), used: AtomicUsize::new(0) }
    }

    fn start(&self) -> *mut u8 {
        self.block.get().cast()
    }

    /// The offset of `pointer` in the block; `None` if it is outside.
    fn place(&self, pointer: *mut u8) -> Option<usize> {
        pointer.addr().checked_sub(self.start().addr()).filter(|place| *place < SIZE)
    }

    /// Moves the end of the used bytes, if it is where the caller expects it.
    fn shift(&self, from: usize, to: usize) -> bool {
        self.used.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

// SAFETY: a piece handed out begins at a multiple of the alignment asked for, ends within the
// block, and overlaps no other one that is still in use, as `used` moves only over free bytes or
// back over the piece that is returned. All else is the C library's.
//
// Never inlined: thousands of places allocate, and copies of this code there would be read from the disk page by page.
unsafe impl GlobalAlloc for Heap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            // SAFETY: the caller's promises are those that System asks for.
            return unsafe { System.alloc(layout) };
        }
        loop {
            let used = self.used.load(Ordering::Relaxed);
            // The block begins at a page, and no alignment in use is larger.
            let place = used.next_multiple_of(layout.align().max(LEAST));
            match place.checked_add(layout.size()) {
                Some(end) if end <= SIZE && layout.align() <= 4096 => {
                    if self.shift(used, end) {
                        return self.start().wrapping_add(place);
                    }
                }
                // SAFETY: the caller's promises are those that System asks for.
                _ => return unsafe { System.alloc(layout) },
            }
        }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            // Fresh pages of the kernel are zeroed already.
            // SAFETY: the caller's promises are those that System asks for.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: as above.
        let piece = unsafe { self.alloc(layout) };
        if !piece.is_null() {
            // SAFETY: the piece is new and has this size.
            unsafe { piece.write_bytes(0, layout.size()) };
        }
        piece
    }

    #[inline(never)]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match self.place(pointer) {
            // Only the newest piece can be freed.
            Some(place) => drop(self.shift(place + layout.size(), place)),
            // SAFETY: what is not of the block came from System, with this layout.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(place) = self.place(pointer) else {
            // SAFETY: what is not of the block came from System, with this layout.
            return unsafe { System.realloc(pointer, layout, size) };
        };
        let end = place.saturating_add(size);
        if end <= SIZE && size < LARGE && self.shift(place + layout.size(), end) {
            return pointer;
        }
        if size <= layout.size() {
            return pointer;
        }
        // SAFETY: the caller promises that `size` is not zero and does not overflow.
        let layout_now = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as above.
        let new = unsafe { self.alloc(layout_now) };
        if !new.is_null() {
            // SAFETY: both have the old size at least, and a new piece overlaps no old one.
            unsafe { std::ptr::copy_nonoverlapping(pointer, new, layout.size()) };
            self.shift(place + layout.size(), place);
        }
        new
    }
}

#[cfg(test)]
#[allow(clippy::multiple_unsafe_ops_per_block)]
mod tests {
    use super::*;

    fn heap() -> Box<Heap> {
        Box::new(Heap::new())
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("valid")
    }

    #[test]
    fn the_newest_piece_grows_in_place_and_is_taken_back() {
        let heap = heap();
        // SAFETY: no size is zero, and each piece is used with its own layout until it is given back.
        unsafe {
            let a = heap.alloc(layout(3, 1));
            assert_eq!(heap.alloc(layout(1, 1)).addr() % LEAST, 0);
            let b = heap.alloc(layout(16, 16));
            assert_eq!(b.addr() % 16, 0);
            b.write_bytes(7, 16);
            assert_eq!(heap.realloc(b, layout(16, 16), 64), b);
            heap.dealloc(b, layout(64, 16));
            assert_eq!(heap.alloc(layout(8, 16)), b);
            // An older piece moves, with its content.
            a.write_bytes(5, 3);
            let moved = heap.realloc(a, layout(3, 1), 5000);
            assert_ne!(moved, a);
            assert_eq!(std::slice::from_raw_parts(moved, 3), [5, 5, 5]);
        }
    }

    #[test]
    fn what_finds_no_room_comes_from_elsewhere_and_goes_back_there() {
        let heap = heap();
        // SAFETY: no size is zero, and each piece is used with its own layout until it is given back.
        unsafe {
            let pieces = SIZE / (LARGE / 2);
            let all: Vec<_> = (0..pieces).map(|_| heap.alloc(layout(LARGE / 2, 1))).collect();
            assert!(all.iter().all(|piece| heap.place(*piece).is_some()));
            let last = all[pieces - 1];
            let more = heap.alloc(layout(100, 8));
            assert_eq!(heap.place(more), None);
            more.write_bytes(9, 100);
            let more = heap.realloc(more, layout(100, 8), 10_000);
            assert_eq!(*more.add(99), 9);
            heap.dealloc(more, layout(10_000, 8));
            // A piece of the block outgrows the block.
            let grown = heap.realloc(last, layout(LARGE / 2, 1), LARGE / 2 + 1);
            assert_eq!(heap.place(grown), None);
            heap.dealloc(grown, layout(LARGE / 2 + 1, 1));
        }
    }

    #[test]
    fn what_is_large_takes_nothing_of_the_block() {
        let heap = heap();
        // SAFETY: no size is zero, and each piece is used with its own layout until it is given back.
        unsafe {
            let large = heap.alloc_zeroed(layout(LARGE, 8));
            assert!(std::slice::from_raw_parts(large, LARGE).iter().all(|byte| *byte == 0));
            heap.dealloc(large, layout(LARGE, 8));
            // A piece that grows to be large leaves its place in the block to the next piece.
            let small = heap.alloc(layout(100, 8));
            small.write_bytes(3, 100);
            let grown = heap.realloc(small, layout(100, 8), LARGE);
            assert_eq!((heap.place(large), heap.place(grown)), (None, None));
            assert_eq!(std::slice::from_raw_parts(grown, 100), [3; 100]);
            heap.dealloc(grown, layout(LARGE, 8));
            assert_eq!(heap.place(heap.alloc(layout(1, 1))), Some(0));
        }
    }

    #[test]
    fn threads_get_pieces_of_their_own() {
        let heap = heap();
        let of_one = |mark: u8| {
            (0..500usize)
                .map(|n| {
                    let size = 1 + n % 40;
                    // SAFETY: the size is not zero.
                    let piece = unsafe { heap.alloc(layout(size, 1)) };
                    // SAFETY: the piece has this size.
                    unsafe { piece.write_bytes(mark, size) };
                    (piece.addr(), size)
                })
                .collect::<Vec<_>>()
        };
        let mut pieces: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = [1, 2, 3].into_iter().map(|mark| scope.spawn(move || of_one(mark))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        pieces.sort_unstable();
        assert!(pieces.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
    }
}
