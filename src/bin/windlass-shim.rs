//! The shim. Everything is in the library; see `windlass::shim`.

fn main() -> std::process::ExitCode {
    windlass::shim::frontend::main(std::env::args_os())
}
