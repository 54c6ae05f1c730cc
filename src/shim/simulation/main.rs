//! `simulate [SEED] [SECONDS]`: runs the shim on a simulated kernel, from one seed on, for that number of seconds.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    windlass_shim_simulated::simulation::main()
}
