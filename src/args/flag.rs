//! Flags and verbs as data: the parser, help, man pages and completions read the same tables.

/// What follows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing, or `=true` / `=false`.
    Nothing,
    /// Any text; the string is its name in help.
    Text(&'static str),
    /// A file.
    File(&'static str),
    /// A directory.
    Dir(&'static str),
    /// One of a closed set of words.
    Word(&'static [&'static str]),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Name without dashes.
    pub long: &'static str,
    /// One-letter name.
    pub short: Option<char>,
    /// Its value.
    pub takes: Takes,
    /// One line.
    pub help: &'static str,
    /// Accepted, but not shown.
    pub hidden: bool,
    /// May be given several times; otherwise the last one counts.
    pub many: bool,
}

impl Flag {
    /// With a one-letter name.
    pub const fn short(mut self, letter: char) -> Flag {
        self.short = Some(letter);
        self
    }

    /// Accepted, but not shown.
    pub const fn hidden(mut self) -> Flag {
        self.hidden = true;
        self
    }

    /// May be given several times.
    pub const fn many(mut self) -> Flag {
        self.many = true;
        self
    }

    /// Name of the value in help, empty for a switch.
    pub fn value_name(&self) -> String {
        match self.takes {
            Takes::Nothing => String::new(),
            Takes::Text(name) | Takes::File(name) | Takes::Dir(name) => name.to_owned(),
            Takes::Word(words) => words.join("|"),
        }
    }
}

/// A flag that is shown and whose last value counts.
pub const fn flag(long: &'static str, takes: Takes, help: &'static str) -> Flag {
    Flag { long, short: None, takes, help, hidden: false, many: false }
}

/// What stands beside the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// So many, at least and at most.
    Count(usize, usize),
    /// A container id, then a command: its first word ends the options.
    Command,
    /// A container id, which ends the options: all that follows is another program's.
    Foreign,
}

/// One verb.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// What stands beside the flags, for the usage line.
    pub usage: &'static str,
    /// The same, for the parser.
    pub operands: Operands,
    /// A few words for the list of verbs.
    pub brief: &'static str,
    /// One line for its own help.
    pub summary: &'static str,
    /// Paragraphs for the man page.
    pub about: &'static [&'static str],
    /// Its flags.
    pub flags: &'static [Flag],
    /// Accepted, but not shown.
    pub hidden: bool,
}

/// `--help`, which every verb has.
pub const HELP: Flag = flag("help", Takes::Nothing, "show this help").short('h');

/// How usage lines call a container.
pub const ID: &str = "CONTAINER";
/// One operand.
pub const ONE: Operands = Operands::Count(1, 1);
