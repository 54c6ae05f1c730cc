//! The runtime. Its `main` is `windlass::verb::run`.
#![no_main]
#![forbid(unsafe_code)]

use windlass_sys::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap::new();

windlass_sys::main!(windlass::verb::run);
