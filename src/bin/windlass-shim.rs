//! The shim. Its `main` is `windlass_shim::frontend::main`.

#![forbid(unsafe_code)]

use windlass_sys::spare::Spare;

#[global_allocator]
static ALLOCATOR: Spare = Spare;

fn main() -> std::process::ExitCode {
    windlass_shim::frontend::main(std::env::args_os())
}
