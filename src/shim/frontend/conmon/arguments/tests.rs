//! Argument lists as callers write them.

use super::*;

fn parse(line: &str) -> Result<Arguments, Error> {
    Arguments::parse(line.split(' ').filter(|word| !word.is_empty()).map(Into::into).collect())
}

fn words(list: &[OsString]) -> Vec<&str> {
    list.iter().map(|word| word.to_str().expect("text")).collect()
}

#[test]
fn values_follow_or_are_joined() {
    let all = parse("-b /b --cid=c --cuuid u --log-path=k8s-file:/l=1 -l none --exit-delay=300").expect("options");
    assert_eq!(all.bundle.as_deref(), Some("/b".as_ref()));
    assert_eq!(all.cid.as_deref(), Some("c".as_ref()));
    assert_eq!(all.cuuid.as_deref(), Some("u".as_ref()));
    assert_eq!(words(&all.log_path), ["k8s-file:/l=1", "none"]);
    assert_eq!(all.exit_delay, Some(300));
}

#[test]
fn a_value_may_begin_with_dashes_or_be_empty() {
    let words_of = |list: &[&str]| Arguments::parse(list.iter().map(Into::into).collect()).expect("options");
    let all = words_of(&["--runtime-arg", "--log", "--exit-command-arg", "--rm", "--exit-command-arg", "", "--cid="]);
    assert_eq!(words(&all.runtime_args), ["--log"]);
    assert_eq!(words(&all.exit_command_args), ["--rm", ""]);
    assert_eq!(all.cid.as_deref(), Some("".as_ref()));
}

#[test]
fn short_flags_may_be_grouped_with_one_that_takes_a_value() {
    let all = parse("-sit -eb /b").expect("options");
    assert!(all.systemd_cgroup && all.stdin && all.terminal && all.exec);
    assert_eq!(all.bundle.as_deref(), Some("/b".as_ref()));
    assert!(parse("-bc /b c").is_err(), "one value for two options");
    assert!(parse("-b/b").is_err(), "GLib takes no value behind the letter");
}

#[test]
fn words_of_no_option_are_let_pass() {
    let all = parse("--api-version 1 -c x - -- --no-such-option").expect("options");
    assert!(all.api_version);
    assert_eq!(all.cid.as_deref(), Some("x".as_ref()));
}

#[test]
fn mistakes_are_named() {
    for (line, part) in [
        ("--no-such", "--no-such"),
        ("-x", "-x"),
        ("--cid", "--cid"),
        ("--timeout soon", "soon"),
        ("--terminal=yes", "--terminal"),
        ("-\0", "\0"),
    ] {
        let text = parse(line).expect_err(line).to_string();
        assert!(text.contains(part), "{text:?}");
    }
}

#[test]
fn every_option_is_in_the_help_and_has_one_meaning() {
    let help = help();
    for (at, entry) in ENTRIES.iter().enumerate() {
        assert!(help.contains(&format!("--{} ", entry.long)), "{}", entry.long);
        let twice = ENTRIES[at + 1..]
            .iter()
            .any(|other| other.long == entry.long || (other.short == entry.short && entry.short != NONE));
        assert!(!twice, "{}", entry.long);
    }
}
