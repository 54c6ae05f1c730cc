//! Help texts, made from the tables.

use std::fmt::Write;

use super::{Flag, Verb};

/// The width that help is laid out for.
pub const COLUMNS: usize = 80;

/// The output of `--version`. dockerd, podman and CRI-O read the last word of the line with `version`, and the line
/// with `commit:`.
pub fn version(name: &str) -> String {
    format!(
        "{name} version {}\ncommit: {}\nspec: 1.3.0\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("WINDLASS_COMMIT").unwrap_or("unknown")
    )
}

/// The hint below a usage error.
pub fn hint(name: &str, verb: Option<&Verb>) -> String {
    match verb {
        Some(verb) => format!("{name} {} --help shows what it takes", verb.name),
        None => format!("{name} --help shows what it takes"),
    }
}

/// Help of the whole program.
pub fn program(name: &str, what: &str, verbs: &[Verb], global: &[Flag]) -> String {
    let mut out = format!("Usage: {name} [OPTION...] VERB [OPTION...] [CONTAINER]\n{what}\n\n");
    let verbs: Vec<_> = verbs.iter().filter(|verb| !verb.hidden).collect();
    let width = verbs.iter().map(|verb| verb.name.len()).max().unwrap_or(0);
    let cell = |verb: &Verb| format!("  {:width$}  {}", verb.name, verb.brief);
    let (left, right) = verbs.split_at(verbs.len().div_ceil(2));
    for (row, verb) in left.iter().enumerate() {
        let right = right.get(row).map_or_else(String::new, |verb| cell(verb));
        line(&mut out, &format!("{:1$}{right}", cell(verb), COLUMNS / 2 - 1));
    }
    out.push('\n');
    flags(&mut out, global);
    out
}

/// Help of one verb.
pub fn verb(name: &str, verb: &Verb) -> String {
    let mut out = String::new();
    line(&mut out, &format!("Usage: {}", usage(name, verb)));
    line(&mut out, &capitalised(verb.summary));
    out.push('\n');
    flags(&mut out, verb.flags);
    out
}

/// `NAME VERB [OPTION...] OPERANDS`.
pub fn usage(name: &str, verb: &Verb) -> String {
    format!("{name} {} [OPTION...] {}", verb.name, verb.usage).trim_end().to_owned()
}

/// The names of a flag and its value: `-b, --bundle DIR`.
fn names(flag: &Flag) -> String {
    let short = flag.short.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
    format!("{short}--{} {}", flag.long, flag.value_name()).trim_end().to_owned()
}

fn flags(out: &mut String, flags: &[Flag]) {
    let shown: Vec<_> = flags.iter().filter(|flag| !flag.hidden).collect();
    let width = shown.iter().map(|flag| names(flag).len()).max().unwrap_or(0);
    for flag in shown {
        line(out, &format!("  {:width$}  {}", names(flag), flag.help));
    }
}

fn line(out: &mut String, text: &str) {
    let text = text.trim_end();
    writeln!(out, "{text}").expect("a String takes everything");
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
