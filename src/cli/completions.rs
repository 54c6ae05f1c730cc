//! Completion scripts for bash, zsh and fish, from the table.
//!
//! `examples/pages.rs` writes them; they are not linked into the runtime. Container ids are completed by
//! `windlass list --quiet`.

use std::fmt::Write;

use super::table::{GLOBAL, VERBS};
use windlass_args::{Flag, Operands, Takes, Verb};

/// All scripts, by the file names under which the shells look for them.
pub fn files() -> impl Iterator<Item = (String, String)> {
    [("windlass", bash()), ("_windlass", zsh()), ("windlass.fish", fish())]
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text))
}

fn shown(flags: &[Flag]) -> impl Iterator<Item = &Flag> {
    flags.iter().filter(|flag| !flag.hidden)
}

fn verbs() -> impl Iterator<Item = &'static Verb> {
    VERBS.iter().filter(|verb| !verb.hidden)
}

/// Whether the first operand is the id of an existing container.
fn wants_container(verb: &Verb) -> bool {
    verb.operands != Operands::Count(0, 0) && !["create", "run", "explain"].contains(&verb.name)
}

fn words(flags: &[Flag]) -> String {
    let mut out = Vec::new();
    for flag in shown(flags) {
        out.extend(flag.short.map(|letter| format!("-{letter}")));
        out.push(format!("--{}", flag.long));
    }
    out.join(" ")
}

/// The case arms that complete the value of the flag before the cursor.
fn bash_values(flags: &[Flag], indent: &str) -> String {
    let mut out = String::new();
    for flag in shown(flags).filter(|flag| flag.takes != Takes::Nothing) {
        let action = match flag.takes {
            Takes::File(_) => "-f".to_owned(),
            Takes::Dir(_) => "-d".to_owned(),
            Takes::Word(words) => format!("-W '{}'", words.join(" ")),
            Takes::Text(_) | Takes::Nothing => "-W ''".to_owned(),
        };
        let short = flag.short.map_or(String::new(), |letter| format!("|-{letter}"));
        writeln!(
            out,
            "{indent}--{}{short}) mapfile -t COMPREPLY < <(compgen {action} -- \"$cur\"); return ;;",
            flag.long
        )
        .expect("a String takes everything");
    }
    out
}

fn bash() -> String {
    let mut arms = String::new();
    for verb in verbs() {
        let ids = if wants_container(verb) { " $(windlass list --quiet 2>/dev/null)" } else { "" };
        write!(
            arms,
            "    {})\n      case $prev in\n{}      esac\n      words=\"{}{ids}\" ;;\n",
            verb.name,
            bash_values(verb.flags, "        "),
            words(verb.flags)
        )
        .expect("a String takes everything");
    }
    let names: Vec<_> = verbs().map(|verb| verb.name).collect();
    let names = names.join(" ");
    format!(
        "# bash completion for windlass
_windlass() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} verb= words= i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case \" {names} \" in *\" ${{COMP_WORDS[i]}} \"*) verb=${{COMP_WORDS[i]}}; break ;; esac
  done
  case $verb in
{arms}    *)
      case $prev in
{}      esac
      words=\"{} {names}\" ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")
}}
complete -F _windlass windlass
",
        bash_values(GLOBAL, "        "),
        words(GLOBAL)
    )
}

fn zsh_quoted(text: &str) -> String {
    text.replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:")
}

/// The arguments of zsh's `_arguments`, one on each line.
fn zsh_flags(flags: &[Flag]) -> String {
    let mut out = String::new();
    for flag in shown(flags) {
        let value = match flag.takes {
            Takes::Nothing => String::new(),
            Takes::Text(name) => format!(":{}: ", zsh_quoted(name)),
            Takes::File(name) => format!(":{}:_files", zsh_quoted(name)),
            Takes::Dir(name) => format!(":{}:_files -/", zsh_quoted(name)),
            Takes::Word(words) => format!(":{}:({})", flag.long, words.join(" ")),
        };
        let names = [flag.short.map(|letter| format!("-{letter}")), Some(format!("--{}", flag.long))];
        for name in names.into_iter().flatten() {
            let many = if flag.many { "*" } else { "" };
            writeln!(out, "        '{many}{name}[{}]{value}' \\", zsh_quoted(flag.help))
                .expect("a String takes everything");
        }
    }
    out
}

fn zsh() -> String {
    let mut list = String::new();
    let mut arms = String::new();
    for verb in verbs() {
        writeln!(list, "    '{}:{}'", verb.name, zsh_quoted(verb.summary)).expect("a String takes everything");
        let operand = if wants_container(verb) { "'1:container:_windlass_containers'" } else { "'*: : '" };
        write!(arms, "    {})\n      _arguments -s \\\n{}        {operand} ;;\n", verb.name, zsh_flags(verb.flags))
            .expect("a String takes everything");
    }
    format!(
        "#compdef windlass
_windlass_containers() {{
  local -a ids
  ids=(${{(f)\"$(windlass list --quiet 2>/dev/null)\"}})
  compadd -a ids
}}
_windlass() {{
  local context state line
  typeset -A opt_args
  local -a verbs
  verbs=(
{list}  )
  _arguments -C -s \\
{}        '1:verb:->verb' '*::arguments:->arguments' && return
  case $state in
    verb) _describe verb verbs; return ;;
  esac
  case $line[1] in
{arms}  esac
}}
_windlass \"$@\"
",
        zsh_flags(GLOBAL)
    )
}

fn fish_quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

fn fish_flags(out: &mut String, condition: &str, flags: &[Flag]) {
    for flag in shown(flags) {
        let short = flag.short.map_or(String::new(), |letter| format!(" -s {letter}"));
        let value = match flag.takes {
            Takes::Nothing => String::new(),
            Takes::Text(_) => " -x".to_owned(),
            Takes::File(_) => " -r -F".to_owned(),
            Takes::Dir(_) => " -x -a '(__fish_complete_directories)'".to_owned(),
            Takes::Word(words) => format!(" -x -a '{}'", words.join(" ")),
        };
        writeln!(
            out,
            "complete -c windlass -n '{condition}'{short} -l {}{value} -d '{}'",
            flag.long,
            fish_quoted(flag.help)
        )
        .expect("a String takes everything");
    }
}

fn fish() -> String {
    let mut out = String::from("# fish completion for windlass\ncomplete -c windlass -f\n");
    fish_flags(&mut out, "__fish_use_subcommand", GLOBAL);
    for verb in verbs() {
        let text = fish_quoted(verb.summary);
        writeln!(out, "complete -c windlass -n __fish_use_subcommand -a {} -d '{text}'", verb.name)
            .expect("a String takes everything");
        let condition = format!("__fish_seen_subcommand_from {}", verb.name);
        fish_flags(&mut out, &condition, verb.flags);
        if wants_container(verb) {
            writeln!(out, "complete -c windlass -n '{condition}' -a '(windlass list --quiet 2>/dev/null)'")
                .expect("a String takes everything");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_every_flag_that_is_shown() {
        for (name, text) in files() {
            for flag in verbs().flat_map(|verb| shown(verb.flags)).chain(shown(GLOBAL)) {
                assert!(text.contains(flag.long), "{name}: {}", flag.long);
            }
        }
    }

    #[test]
    fn bash_accepts_the_script_and_completes_with_it() {
        let check = format!(
            "{}\nCOMP_WORDS=(windlass exec --det); COMP_CWORD=2; _windlass; echo \"${{COMPREPLY[*]}}\"
             COMP_WORDS=(windlass --log-format j); COMP_CWORD=2; _windlass; echo \"${{COMPREPLY[*]}}\"
             COMP_WORDS=(windlass --debug fea); COMP_CWORD=2; _windlass; echo \"${{COMPREPLY[*]}}\"",
            bash()
        );
        let output = std::process::Command::new("bash").args(["-c", &check]).output().expect("bash runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "--detach\njson\nfeatures\n");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}
