//! See the library.

fn main() -> std::process::ExitCode {
    integration::main()
}
