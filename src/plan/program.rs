//! The program that a plan ends with.

/// The process that a plan ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
}

impl Program {
    /// With every variable once, for getenv(3) takes the first of several and what was added to
    /// the configuration's stands behind it.
    pub fn new(args: Vec<String>, mut env: Vec<String>) -> Program {
        let mut seen = std::collections::BTreeSet::new();
        env.reverse();
        env.retain(|variable| seen.insert(variable.split('=').next().unwrap_or_default().to_owned()));
        env.reverse();
        Program { args, env }
    }
}

/// PATH where the environment has none, as execvp(3) takes it.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
