//! The shim. Everything is in the library; see `windlass_shim`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    windlass_shim::frontend::main(std::env::args_os())
}
