//! The runtime. Everything is in the library; see `windlass::verb`.
#![no_main]
#![forbid(unsafe_code)]

use windlass_sys::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap::new();

windlass_sys::main!(windlass::verb::run);
