//! The runtime. Everything is in the library; see `windlass::verb`.
#![no_main]

use windlass::sys::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap::new();

windlass::main!(windlass::verb::run);
