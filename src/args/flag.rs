//! The types of the tables of flags and verbs, which the parser, help, man pages and completions read.

/// The value of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// The flag is a switch. `=true` and `=false` may follow.
    Nothing,
    /// Any text. The string is its name in help.
    Text(&'static str),
    /// The path of a file.
    File(&'static str),
    /// The path of a directory.
    Dir(&'static str),
    /// One of these words.
    Word(&'static [&'static str]),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its name without dashes.
    pub long: &'static str,
    /// Its one-letter name.
    pub short: Option<char>,
    pub takes: Takes,
    /// Its line in help.
    pub help: &'static str,
    /// Whether help leaves it out.
    pub hidden: bool,
    /// Whether all its values count. Otherwise the last one does.
    pub many: bool,
}

impl Flag {
    /// Gives the flag a one-letter name.
    pub const fn short(mut self, letter: char) -> Flag {
        self.short = Some(letter);
        self
    }

    /// Leaves the flag out of help.
    pub const fn hidden(mut self) -> Flag {
        self.hidden = true;
        self
    }

    /// Lets all values of the flag count.
    pub const fn many(mut self) -> Flag {
        self.many = true;
        self
    }

    /// The name of its value in help; empty for a switch.
    pub fn value_name(&self) -> String {
        match self.takes {
            Takes::Nothing => String::new(),
            Takes::Text(name) | Takes::File(name) | Takes::Dir(name) => name.to_owned(),
            Takes::Word(words) => words.join("|"),
        }
    }
}

/// A flag that help shows and whose last value counts.
pub const fn flag(long: &'static str, takes: Takes, help: &'static str) -> Flag {
    Flag { long, short: None, takes, help, hidden: false, many: false }
}

/// The words of a verb that are not flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// Their number: the minimum and the maximum.
    Count(usize, usize),
    /// A container id, then a command, whose first word ends the options.
    Command,
    /// A container id, which ends the options. The words after it belong to another program.
    Foreign,
}

/// One verb.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    pub name: &'static str,
    /// The operands in the usage line.
    pub usage: &'static str,
    /// The operands for the parser.
    pub operands: Operands,
    /// Its description in the list of verbs.
    pub brief: &'static str,
    /// Its description in its own help.
    pub summary: &'static str,
    /// The paragraphs of its man page.
    pub about: &'static [&'static str],
    pub flags: &'static [Flag],
    /// Whether help leaves it out.
    pub hidden: bool,
}

/// `--help`, which every verb has.
pub const HELP: Flag = flag("help", Takes::Nothing, "show this help").short('h');

/// The name of a container in usage lines.
pub const ID: &str = "CONTAINER";
/// Exactly one operand.
pub const ONE: Operands = Operands::Count(1, 1);
