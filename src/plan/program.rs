//! The program that a plan ends with.

/// The arguments and environment of that program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
}

impl Program {
    /// Keeps the last value of each variable: getenv(3) takes the first of several, and additions stand behind the
    /// configuration's.
    pub fn new(args: Vec<String>, mut env: Vec<String>) -> Program {
        let mut seen = std::collections::BTreeSet::new();
        env.reverse();
        env.retain(|variable| seen.insert(variable.split('=').next().unwrap_or_default().to_owned()));
        env.reverse();
        Program { args, env }
    }
}

/// The PATH of an environment without one.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
