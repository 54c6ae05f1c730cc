//! Prints the plan of a configuration, as root of the host would run it, or all that is wrong with it. Needs no
//! privileges: `cargo run -p windlass-plan --example plan -- BUNDLE/config.json`.

use std::process::ExitCode;

use windlass_plan::error::{Diagnostic, Error};
use windlass_plan::{CapabilitySet, Host, Options, check, create, spec};

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: plan config.json");
        return ExitCode::FAILURE;
    };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match explain(&text, &path) {
        Ok(plan) => {
            print!("{plan}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            listed("error", &error.into_faults());
            ExitCode::FAILURE
        }
    }
}

fn explain(text: &[u8], path: &str) -> Result<String, Error> {
    let spec = spec::parse(text, path)?;
    let host = Host { capabilities: CapabilitySet::all(), ..Host::default() };
    let options = Options { host, ..Options::default() };
    listed("warning", &check(&spec, &options).warnings);
    let program = spec.process.as_ref().map_or(&[][..], |process| &process.args);
    Ok(create("container", &spec, &options)?.text(program))
}

fn listed(word: &str, faults: &[Diagnostic]) {
    for fault in faults {
        eprintln!("{word}: {}: {}", fault.pointer, fault.msg);
    }
}
