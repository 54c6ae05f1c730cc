//! The shim. Its `main` is `windlass_shim::frontend::main`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    windlass_shim::frontend::main(std::env::args_os())
}
