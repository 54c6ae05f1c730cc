//! The runtime. Everything is in the library; see `windlass::verb`.

fn main() -> std::process::ExitCode {
    windlass::verb::run(std::env::args_os())
}
