//! Writes the man pages and the shell completions: `cargo run --example pages -- man DIR` or
//! `… completions DIR`.

use std::path::Path;
use std::process::ExitCode;

use windlass::cli::{completions, man};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let files: Vec<(String, String)> = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["man", _] => man::pages().collect(),
        ["completions", _] => completions::files().collect(),
        _ => {
            eprintln!("usage: pages man|completions DIR");
            return ExitCode::FAILURE;
        }
    };
    match write(Path::new(&args[1]), &files) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", args[1]);
            ExitCode::FAILURE
        }
    }
}

fn write(dir: &Path, files: &[(String, String)]) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    files.iter().try_for_each(|(name, text)| std::fs::write(dir.join(name), text))
}
