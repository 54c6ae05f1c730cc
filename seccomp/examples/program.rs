//! Prints the program of a profile: `cargo run --example program -- profile.json [ARCH]`.
//!
//! The file holds a `linux.seccomp` object, or a whole `config.json` with one. ARCH is the
//! native architecture, such as SCMP_ARCH_AARCH64; without it the one of this machine.

use std::process::ExitCode;

use windlass_seccomp::{Arch, Filter, Profile, compile, sock_filter};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: program PROFILE.json [ARCH]")?;
    let native = match arguments.next() {
        Some(name) => Arch::from_name(&name).ok_or(format!("{name}: unknown architecture"))?,
        None => Arch::native(),
    };
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?;
    let seccomp = json.pointer("/linux/seccomp").unwrap_or(&json).to_string();
    let profile: Profile<'_> = serde_json::from_str(&seccomp).map_err(|error| format!("{path}: {error}"))?;
    match compile(&profile, native) {
        Ok(filter) => print(&filter),
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            return Err(lines.join("\n"));
        }
    }
    Ok(())
}

fn print(filter: &Filter) {
    for warning in &filter.warnings {
        eprintln!("warning: {warning}");
    }
    for (at, instruction) in filter.program.instructions().iter().enumerate() {
        println!("{at:4}  {}", assembly(at, instruction));
    }
    println!("; {} instructions, flags {:#x}", filter.program.len(), filter.flags);
}

/// One instruction, with jump targets as absolute numbers.
fn assembly(at: usize, instruction: &sock_filter) -> String {
    let &sock_filter { code, jt, jf, k } = instruction;
    let to = |offset: usize| at + 1 + offset;
    let branch = |test| format!("{test} {k:#x} ? {} : {}", to(jt.into()), to(jf.into()));
    match code {
        0x20 => match k {
            0 => "ld nr".into(),
            4 => "ld arch".into(),
            8 | 12 => format!("ld ip+{}", k - 8),
            _ => format!("ld arg{}+{}", (k - 16) / 8, k % 8),
        },
        0x54 => format!("and {k:#x}"),
        0x05 => format!("ja {}", to(k as usize)),
        0x15 => branch("jeq"),
        0x25 => branch("jgt"),
        0x35 => branch("jge"),
        0x45 => branch("jset"),
        0x06 => format!("ret {k:#x}"),
        _ => format!("{code:#x} {jt} {jf} {k:#x}"),
    }
}
