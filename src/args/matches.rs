//! The parser: converts words to flags and operands, by a table of flags.
//!
//! lexopt splits the words. This module adds what callers of Go programs expect: a long option may have one dash
//! (`-no-subreaper`), a switch may have a value (`-flag=false`), and the value of a flag is the next word, even if it
//! begins with a dash. The errors have the words of Go's flag package, because podman and CRI-O look for `flag needs an
//! argument`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use super::{Flag, Operands, Takes, Verb};
use windlass_base::error::{Error, Origin, Result};

/// The flags and operands of a command line.
#[derive(Debug, Default)]
pub struct Matches {
    flags: &'static [Flag],
    given: Vec<(&'static Flag, Given)>,
    /// The words that are neither flags nor values of flags.
    pub operands: Vec<OsString>,
}

/// The words of the command line that are not read yet.
pub struct Words {
    parser: lexopt::Parser,
    /// `--` was seen: no more options.
    ended: bool,
    /// The word that is being read. Messages name it.
    current: OsString,
}

/// The value of a flag on the command line.
#[derive(Debug)]
enum Given {
    Switch(bool),
    Value(OsString),
}

enum Word {
    Flag(&'static Flag, Given),
    Operand(OsString),
}

/// The point up to which words are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    End,
    FirstOperand,
}

impl Words {
    /// All words after the program's name.
    pub fn new(args: impl Iterator<Item = OsString>) -> Words {
        Words { parser: lexopt::Parser::from_args(args.collect::<Vec<_>>()), ended: false, current: OsString::new() }
    }

    /// Reads flags up to the first operand, and that operand.
    pub fn global(&mut self, flags: &'static [Flag], matches: &mut Matches) -> Result<()> {
        self.read(flags, Until::FirstOperand, matches)
    }

    /// Reads the flags and operands of a verb, to the end of the command line.
    pub fn verb(&mut self, flags: &'static [Flag], operands: Operands, matches: &mut Matches) -> Result<()> {
        if let Operands::Count(..) = operands {
            return self.read(flags, Until::End, matches);
        }
        self.read(flags, Until::FirstOperand, matches)?;
        if operands == Operands::Command && !self.ended {
            self.read(flags, Until::FirstOperand, matches)?;
        }
        let Some(mut rest) = self.parser.try_raw_args() else { return Ok(()) };
        if operands == Operands::Foreign && !self.ended {
            rest.next_if(|word| word == "--");
        }
        matches.operands.extend(rest);
        Ok(())
    }

    fn read(&mut self, flags: &'static [Flag], until: Until, matches: &mut Matches) -> Result<()> {
        matches.flags = flags;
        while let Some(word) = self.next(flags)? {
            match word {
                Word::Flag(flag, given) => matches.given.push((flag, given)),
                Word::Operand(word) => {
                    matches.operands.push(word);
                    if until == Until::FirstOperand {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn next(&mut self, flags: &'static [Flag]) -> Result<Option<Word>> {
        if let Some(mut raw) = self.parser.try_raw_args() {
            let Some(word) = raw.peek().map(OsStr::to_owned) else { return Ok(None) };
            if self.ended {
                return Ok(raw.next().map(Word::Operand));
            }
            if word == "--" {
                raw.next();
                self.ended = true;
                return self.next(flags);
            }
            if let Some((flag, value)) = single_dash(&word, flags) {
                raw.next();
                let value = match (value, flag.takes) {
                    (Some(value), _) => Some(value),
                    (None, Takes::Nothing) => None,
                    (None, _) => raw.next(),
                };
                return accept(flag, value).map(Some);
            }
            self.current = word;
        }
        self.next_of_lexopt(flags)
    }

    fn next_of_lexopt(&mut self, flags: &'static [Flag]) -> Result<Option<Word>> {
        let current = || self.current.to_string_lossy().trim_start_matches('-').to_owned();
        let (flag, joined) = match self.parser.next().map_err(|error| Error::usage(error.to_string()))? {
            None => return Ok(None),
            Some(lexopt::Arg::Value(word)) => return Ok(Some(Word::Operand(word))),
            Some(lexopt::Arg::Long(name)) => {
                (flags.iter().find(|flag| flag.long == name).ok_or_else(|| undefined(name))?, true)
            }
            Some(lexopt::Arg::Short(letter)) => {
                (flags.iter().find(|flag| flag.short == Some(letter)).ok_or_else(|| undefined(&current()))?, false)
            }
        };
        let value = match flag.takes {
            // `-dt` is two switches, `--tty=false` one.
            Takes::Nothing if joined => self.parser.optional_value(),
            Takes::Nothing => None,
            _ => self.parser.value().ok(),
        };
        accept(flag, value).map(Some)
    }
}

/// The flag in `-name`, `-name=value` or `-n=value`, as callers of Go programs write it.
fn single_dash(word: &OsStr, flags: &'static [Flag]) -> Option<(&'static Flag, Option<OsString>)> {
    let body = word.as_bytes().strip_prefix(b"-")?;
    let equals = body.iter().position(|byte| *byte == b'=');
    let (name, value) = match equals {
        Some(at) => (&body[..at], Some(OsString::from_vec(body[at + 1..].to_vec()))),
        None => (body, None),
    };
    let name = std::str::from_utf8(name).ok()?;
    let mut letters = name.chars();
    let letter = letters.next().filter(|_| letters.next().is_none() && value.is_some());
    let flag = flags.iter().find(|flag| flag.long == name || (letter.is_some() && flag.short == letter))?;
    Some((flag, value))
}

fn accept(flag: &'static Flag, value: Option<OsString>) -> Result<Word> {
    let given = match (flag.takes, value) {
        (Takes::Nothing, None) => Given::Switch(true),
        (Takes::Nothing, Some(text)) => Given::Switch(boolean(&text).ok_or_else(|| {
            let text = text.to_string_lossy();
            usage_error(flag, format!("invalid boolean value {text:?} for -{}: parse error", flag.long))
        })?),
        (_, None) => return Err(usage_error(flag, format!("flag needs an argument: -{}", flag.long))),
        (Takes::Word(words), Some(value)) if !words.iter().any(|word| *word == value) => {
            let (value, words) = (value.to_string_lossy(), words.join(", "));
            let message = format!("invalid value {value:?} for flag -{}: not one of {words}", flag.long);
            return Err(usage_error(flag, message));
        }
        (_, Some(value)) => Given::Value(value),
    };
    Ok(Word::Flag(flag, given))
}

fn undefined(name: &str) -> Error {
    Error::usage(format!("flag provided but not defined: -{name}"))
}

/// A usage error that names its flag.
fn usage_error(flag: &Flag, message: String) -> Error {
    Error::usage(message).with_origin(Origin::Flag(format!("--{}", flag.long).into()))
}

/// A boolean, in the words that Go accepts.
fn boolean(word: &OsStr) -> Option<bool> {
    match word.to_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Given {
    fn value(&self) -> Option<&OsStr> {
        match self {
            Given::Switch(_) => None,
            Given::Value(value) => Some(value),
        }
    }
}

impl Matches {
    /// The last value of a flag, if it was given. The flag must be in the table.
    fn last(&self, long: &str) -> Option<&Given> {
        debug_assert!(self.flags.is_empty() || self.flags.iter().any(|flag| flag.long == long), "no flag --{long}");
        self.given.iter().rev().find(|(flag, _)| flag.long == long).map(|(_, given)| given)
    }

    /// The last value of a flag.
    fn value(&self, long: &str) -> Option<&OsStr> {
        self.last(long).and_then(Given::value)
    }

    /// Whether a switch is on, by its last occurrence; `None` if it was not given.
    pub fn maybe_switch(&self, long: &str) -> Option<bool> {
        match self.last(long) {
            Some(Given::Switch(on)) => Some(*on),
            _ => None,
        }
    }

    /// Whether a switch is on.
    pub fn switch(&self, long: &str) -> bool {
        self.maybe_switch(long).unwrap_or(false)
    }

    /// Whether `word` is the last value of a flag.
    pub fn is(&self, long: &str, word: &str) -> bool {
        self.value(long).is_some_and(|value| value == word)
    }

    /// The path of a flag. An empty path counts as not given.
    pub fn path(&self, long: &str) -> Option<PathBuf> {
        self.value(long).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// The text of a flag. An empty text counts as not given.
    pub fn text(&self, long: &str) -> Result<Option<String>> {
        self.value(long).filter(|text| !text.is_empty()).map(|text| utf8(long, text)).transpose()
    }

    /// All values of a flag.
    pub fn texts(&self, long: &str) -> Result<Vec<String>> {
        let given = self.given.iter().filter(|(flag, _)| flag.long == long);
        given.filter_map(|(_, given)| given.value()).map(|text| utf8(long, text)).collect()
    }

    /// The value of a flag, converted by `read`. An empty value counts as not given.
    pub fn parsed<T>(&self, long: &str, read: impl FnOnce(&str) -> Result<T>) -> Result<Option<T>> {
        let origin = || Origin::Flag(format!("--{long}").into());
        self.text(long)?.map(|text| read(&text).map_err(|error| error.with_origin(origin()))).transpose()
    }

    /// The number of a flag.
    pub fn number<T: FromStr>(&self, long: &str) -> Result<Option<T>> {
        self.parsed(long, |text| number(long, text))
    }

    /// All values of a flag, which are numbers.
    pub fn numbers<T: FromStr>(&self, long: &str) -> Result<Vec<T>> {
        self.texts(long)?.iter().map(|text| number(long, text)).collect()
    }
}

fn number<T: FromStr>(long: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| {
        Error::usage(format!("invalid value {text:?} for flag -{long}: parse error"))
            .with_origin(Origin::Flag(format!("--{long}").into()))
    })
}

fn utf8(long: &str, text: &OsStr) -> Result<String> {
    text.to_str().map(str::to_owned).ok_or_else(|| {
        Error::usage(format!("invalid value {:?} for flag -{long}: not UTF-8", text.to_string_lossy()))
            .with_origin(Origin::Flag(format!("--{long}").into()))
    })
}

/// Checks the number of operands. The errors have runc's words.
pub fn count(verb: &Verb, given: usize, name: &str) -> Result<(), Error> {
    let (least, most) = match verb.operands {
        Operands::Count(least, most) => (least, most),
        Operands::Command | Operands::Foreign => (1, usize::MAX),
    };
    if (least..=most).contains(&given) {
        return Ok(());
    }
    let (bound, number) = match (least == most, given < least) {
        (true, _) => ("exactly", least),
        (false, true) => ("a minimum of", least),
        (false, false) => ("a maximum of", most),
    };
    Err(Error::usage(format!("{name}: {:?} requires {bound} {number} argument(s)", verb.name)))
}
