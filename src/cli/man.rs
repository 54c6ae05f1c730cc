//! Man pages, from the table. `examples/pages.rs` writes them; they are not linked into the runtime.

use std::fmt::Write;

use super::table::{GLOBAL, VERBS};
use windlass_args::{Flag, Verb, help};
use windlass_shim::frontend::neutral::table as shim;

/// All pages, by file name.
pub fn pages() -> impl Iterator<Item = (String, String)> {
    let verbs = VERBS.iter().filter(|verb| !verb.hidden);
    let of_verbs = verbs.map(|verb| (format!("windlass-{}.8", verb.name), page(Some(verb))));
    let programs = [("windlass.8".to_owned(), page(None)), ("windlass-shim.8".to_owned(), of_shim())];
    programs.into_iter().chain(of_verbs)
}

/// The man page of the program, or of one verb, in roff.
pub fn page(verb: Option<&Verb>) -> String {
    match verb {
        Some(verb) => of_verb(verb),
        None => of_program(),
    }
}

fn of_program() -> String {
    let mut out = head("windlass", "an OCI container runtime");
    out.push_str(".SH SYNOPSIS\n.B windlass\n[OPTION...] VERB [OPTION...] [CONTAINER]\n.SH DESCRIPTION\n");
    paragraph(
        &mut out,
        "windlass runs containers from bundles as the Open Container Initiative describes them. It takes the \
         same verbs, flags and files as runc and can be installed under that name. A bundle is a directory \
         with a config.json and usually a root filesystem.",
    );
    paragraph(
        &mut out,
        "An error message says what failed. Below it stand the element of config.json or the flag that asked \
         for it, the system call, and a hint if there is one. With --log-format json the log has these as keys: \
         kind, pointer or flag, step, call, errno, hint.",
    );
    out.push_str(".SH VERBS\n");
    for verb in VERBS.iter().filter(|verb| !verb.hidden) {
        item(&mut out, &format!("\\fBwindlass-{}\\fR(8)", escape(verb.name)), verb.summary);
    }
    out.push_str(".SH OPTIONS\n");
    options(&mut out, GLOBAL);
    out.push_str(".SH EXIT STATUS\n");
    item(&mut out, "0", "success");
    item(&mut out, "1", "failure");
    item(&mut out, "3", "unknown verb");
    item(&mut out, "255", "exec could not run the program");
    item(
        &mut out,
        "other",
        "run and exec without --detach: the exit code of the program, or 128 plus the number of the signal that killed it",
    );
    out.push_str(".SH FILES\n");
    item(&mut out, "/run/windlass", "state of the containers of root");
    item(&mut out, "$XDG_RUNTIME_DIR/windlass", "the same for other users");
    out
}

/// One page for all verbs of the shim.
fn of_shim() -> String {
    let mut out = head("windlass-shim", shim::SUMMARY);
    out.push_str(".SH SYNOPSIS\n.B windlass\\-shim\nVERB [OPTION...] [CONTAINER]\n.SH DESCRIPTION\n");
    shim::ABOUT.iter().for_each(|text| paragraph(&mut out, text));
    out.push_str(".SH VERBS\n");
    for verb in shim::VERBS {
        writeln!(out, ".SS {}", escape(&help::usage("windlass-shim", verb))).expect("a String takes everything");
        out.push_str(&sentence(verb.summary));
        out.push('\n');
        verb.about.iter().for_each(|text| paragraph(&mut out, text));
        let own: Vec<Flag> =
            verb.flags.iter().filter(|flag| !["help", "state-dir"].contains(&flag.long)).copied().collect();
        options(&mut out, &own);
    }
    out.push_str(".SH OPTIONS\nOf all verbs:\n");
    options(&mut out, shim::COMMON);
    out.push_str(".SH EXIT STATUS\n");
    item(&mut out, "0", "success");
    item(&mut out, "1", "failure");
    item(
        &mut out,
        "other",
        "attach and exec: the exit code of the process, or 128 plus the number of the signal that killed it",
    );
    out.push_str(".SH FILES\n");
    item(&mut out, "/run/windlass\\-shim", "directories of the containers of root");
    item(&mut out, "$XDG_RUNTIME_DIR/windlass\\-shim", "the same for other users");
    for (name, what) in shim::FILES {
        item(&mut out, &format!("STATE/CONTAINER/{}", escape(name)), what);
    }
    out.push_str(".SH SEE ALSO\n.BR windlass (8)\n");
    out
}

fn of_verb(verb: &Verb) -> String {
    let mut out = head(&format!("windlass-{}", verb.name), verb.summary);
    out.push_str(".SH SYNOPSIS\n");
    for usage in verb.usage.split(" | ") {
        let one = Verb { usage, ..*verb };
        writeln!(out, "{}\n.br", escape(&help::usage("windlass", &one))).expect("a String takes everything");
    }
    if !verb.about.is_empty() {
        out.push_str(".SH DESCRIPTION\n");
        verb.about.iter().for_each(|text| paragraph(&mut out, text));
    }
    out.push_str(".SH OPTIONS\n");
    options(&mut out, verb.flags);
    out.push_str(".SH SEE ALSO\n.BR windlass (8)\n");
    out
}

fn head(name: &str, what: &str) -> String {
    let title = name.to_uppercase();
    format!(
        ".TH {} 8 \"\" \"windlass {}\" \"Container runtime\"\n.SH NAME\n{} \\- {}\n",
        escape(&title),
        env!("CARGO_PKG_VERSION"),
        escape(name),
        escape(what)
    )
}

fn options(out: &mut String, flags: &[Flag]) {
    for flag in flags.iter().filter(|flag| !flag.hidden) {
        let short = flag.short.map_or(String::new(), |letter| format!("\\fB\\-{letter}\\fR, "));
        let value = match flag.value_name() {
            name if name.is_empty() => name,
            name => format!(" \\fI{}\\fR", escape(&name)),
        };
        item(out, &format!("{short}\\fB\\-\\-{}\\fR{value}", escape(flag.long)), flag.help);
    }
}

fn item(out: &mut String, term: &str, text: &str) {
    writeln!(out, ".TP\n{term}\n{}", sentence(text)).expect("a String takes everything");
}

fn paragraph(out: &mut String, text: &str) {
    writeln!(out, ".PP\n{}", escape(text)).expect("a String takes everything");
}

fn sentence(text: &str) -> String {
    let mut chars = escape(text);
    if let Some(first) = chars.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    chars + "."
}

/// Escapes a text for roff, so that a hyphen does not become a dash and no line begins with a control character.
fn escape(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shown_flag_and_verb_is_on_its_page() {
        for verb in VERBS.iter().filter(|verb| !verb.hidden) {
            let text = page(Some(verb));
            for flag in verb.flags.iter().filter(|flag| !flag.hidden) {
                assert!(text.contains(&format!("\\fB\\-\\-{}\\fR", escape(flag.long))), "{}: {}", verb.name, flag.long);
            }
            assert!(page(None).contains(&format!("windlass-{}", verb.name)), "{}", verb.name);
        }
    }

    #[test]
    fn every_verb_and_flag_of_the_shim_is_on_its_page() {
        let text = of_shim();
        for verb in shim::VERBS {
            assert!(text.contains(&format!("windlass\\-shim {}", escape(verb.name))), "{}", verb.name);
            for flag in verb.flags {
                assert!(text.contains(&format!("\\fB\\-\\-{}\\fR", escape(flag.long))), "{}: {}", verb.name, flag.long);
            }
        }
    }

    #[test]
    fn text_cannot_become_a_roff_request() {
        assert_eq!(escape(".so /etc/passwd"), "\\&.so /etc/passwd");
        assert_eq!(escape("a-b\\c"), "a\\-b\\ec");
    }
}
