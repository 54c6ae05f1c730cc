//! The command line: converts words to one [`Command`], or to one error.
//!
//! [`table`] has all verbs and flags. This module reads the words by that table and makes the types of [`options`] of
//! them. It executes nothing.

pub mod checkpoint;
pub mod completions;
pub mod features;
pub mod man;
pub mod options;
pub mod output;
pub mod source;
pub mod spec;
pub mod table;
pub mod update;
pub mod values;

use std::ffi::{OsStr, OsString};
use std::path::Path;

pub use checkpoint::{Checkpoint, RestoreOptions};
pub use options::{CgroupManager, Command, Create, EXIT_EXEC, Exec, Explain, Format, Global, LogFormat, Restore, Run};
pub use source::Source;
pub use update::Update;
pub use values::SubCgroup;

use table::{GLOBAL, VERBS};
use windlass_args::{Environment, Matches, Operands, Verb, Words, count, help};
use windlass_base::error::Error;

/// Exit code of an unknown verb, the same as runc's.
pub const EXIT_UNKNOWN_VERB: u8 = 3;

/// A command line that was refused.
#[derive(Debug)]
pub struct Rejected {
    /// The global flags that were read before the error. They decide where the message goes.
    pub global: Global,
    pub error: Error,
    /// The exit code.
    pub exit: u8,
}

/// Reads a command line in the environment of this process. The first word is the program's name.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<(Global, Command), Box<Rejected>> {
    parse_in(args, &Environment::current())
}

/// Like [`parse`], with the defaults of another environment.
pub fn parse_in(
    mut args: impl Iterator<Item = OsString>,
    environment: &Environment,
) -> Result<(Global, Command), Box<Rejected>> {
    let name = program_name(args.next().as_deref());
    let mut global = Global::default_for(name, environment);
    match read(&mut Words::new(args), &mut global) {
        Ok(command) => Ok((global, command)),
        Err((error, exit)) => Err(Box::new(Rejected { global, error, exit })),
    }
}

/// `runc` if the program is called by that name, because callers look for it in the output.
fn program_name(word: Option<&OsStr>) -> &'static str {
    let runc = word.and_then(|word| Path::new(word).file_name()).is_some_and(|name| name == "runc");
    if runc { "runc" } else { "windlass" }
}

fn read(words: &mut Words, global: &mut Global) -> Result<Command, (Error, u8)> {
    let mut matches = Matches::default();
    let result = words.global(GLOBAL, &mut matches);
    global.read(&matches);
    result.map_err(|error| (error.with_hint(help::hint(global.name, None)), 1))?;
    if matches.switch("version") {
        return Ok(Command::Print(help::version(global.name)));
    }
    let Some(word) = matches.operands.first().filter(|_| !matches.switch("help")) else {
        return Ok(Command::Print(help::program(global.name, "An OCI container runtime.", VERBS, GLOBAL)));
    };
    if word == "help" {
        return help_topic(words, global);
    }
    let verb = word.to_str().and_then(table::verb).ok_or_else(|| unknown(word))?;
    read_verb(words, verb, global)
}

fn read_verb(words: &mut Words, verb: &'static Verb, global: &mut Global) -> Result<Command, (Error, u8)> {
    let mut matches = Matches::default();
    words
        .verb(verb.flags, verb.operands, &mut matches)
        .map_err(|error| (error.with_hint(help::hint(global.name, Some(verb))), 1))?;
    if matches.switch("help") {
        return Ok(Command::Print(help::verb(global.name, verb)));
    }
    if verb.flags.iter().any(|flag| flag.long == "debug") {
        global.read_debug(&matches);
    }
    count(verb, matches.operands.len(), global.name)
        .map_err(|error| (error.with_hint(help::hint(global.name, Some(verb))), 1))?;
    options::command(verb.name, &matches)
}

fn help_topic(words: &mut Words, global: &Global) -> Result<Command, (Error, u8)> {
    let mut matches = Matches::default();
    words.verb(&[], Operands::Count(0, 1), &mut matches).map_err(|error| (error, 1))?;
    let Some(topic) = matches.operands.first() else {
        return Ok(Command::Print(help::program(global.name, "An OCI container runtime.", VERBS, GLOBAL)));
    };
    let verb = topic.to_str().and_then(table::verb).ok_or_else(|| unknown(topic))?;
    Ok(Command::Print(help::verb(global.name, verb)))
}

fn unknown(word: &OsStr) -> (Error, u8) {
    (Error::usage(format!("No help topic for '{}'", word.to_string_lossy())), EXIT_UNKNOWN_VERB)
}
