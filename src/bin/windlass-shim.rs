//! The shim. Its `main` is `windlass_shim::frontend::main`.

#![forbid(unsafe_code)]

use windlass_sys::block_cache::BlockCache;

#[global_allocator]
static ALLOCATOR: BlockCache = BlockCache;

fn main() -> std::process::ExitCode {
    windlass_shim::frontend::main(std::env::args_os())
}
