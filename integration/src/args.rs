//! The command line, and the words in which it is passed to the runner.

use crate::cases;
use crate::without::{self, Without};
use std::path::{Path, PathBuf};

/// The output of `--help`.
pub const USAGE: &str = "\
usage: integration [OPTION…] [FILTER…]

Runs the cases whose name contains one of the FILTERs (all without one). Those of a sweep
(swap::, shortage::) run only if a FILTER begins with its name.

  --runtime PATH|NAME   the runtime under test; default: the windlass built beside this program
  --shim PATH           the shim under test; default: the one beside the runtime, or beside this program
  --compare PATH|NAME   run each case on this one too, and list the differences
  --harness host|uml    use only this harness; default: the host, User-Mode Linux where needed
  --long                races for 60 s, crash sweeps over every system call
  --without-calls-since VERSION
                        each system call that Linux has had only since VERSION (5.13) or later answers ENOSYS; flags,
                        ioctls and files of newer kernels stay
  --brief               a line a chapter, not one a case, and at the end what was skipped and why
  --list                print the names of the cases and stop

  --bench               measure instead, beside the runtime of --compare: run, lifecycle, verbs
  --growth              measure what grows: mounts, config, containers, processes, concurrent
  --rounds N            how often; default: 30

  --sweep MODE[,MODE…]  make every system call fail, or the last: calls, kills, self-test, all; FILTERs: VERB/BUNDLE
  --short               a sample of it: each call once, with one error, on three bundles
  --resume FILE         go on where the sweep that wrote FILE has stopped

  --sweep peers         random configurations beside runc and crun, or the runtime of --compare; for a minute with --short
  --seed N              the first of them; default: 1
  --count N             how many; default: 2000
";

/// A parsed command line.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// The runtime under test.
    pub runtime: PathBuf,
    /// The shim under test.
    pub shim: PathBuf,
    /// The peer to compare with.
    pub compare: Option<PathBuf>,
    /// `Some` when only one harness may be used.
    pub harness: Option<String>,
    /// Whether races and sweeps run at full length.
    pub long: bool,
    /// The system calls that are hidden.
    pub without: Option<Without>,
    /// Whether to show chapters in place of cases.
    pub brief: bool,
    /// Whether to print names only.
    pub list: bool,
    /// Whether to measure.
    pub bench: bool,
    /// Whether to measure how cost grows.
    pub growth: bool,
    /// How often each command is measured.
    pub rounds: usize,
    /// The kind of sweep.
    pub sweep: Option<String>,
    /// Whether to sweep a sample.
    pub short: bool,
    /// The file with the results of a sweep.
    pub resume: Option<PathBuf>,
    /// The first random configuration.
    pub seed: u64,
    /// The number of random configurations.
    pub count: u64,
    /// Parts of the names of the cases to run; empty means all.
    pub filters: Vec<String>,
    /// Exact names of the cases to run, used between our own processes.
    pub only: Vec<String>,
}

impl Args {
    /// Parses `argv` (without the program's name). `Err` is the text to print.
    pub fn parse(argv: &[String]) -> Result<Args, String> {
        let mut args = Args { rounds: 30, seed: 1, count: 2000, ..Args::default() };
        let (mut runtime, mut shim) = (None, None);
        let mut words = argv.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--runtime" => runtime = Some(value()?),
                "--shim" => shim = Some(value()?),
                "--compare" => args.compare = Some(resolve(&value()?)?),
                "--harness" => args.harness = Some(value()?),
                "--only" => args.only.push(value()?),
                "--long" => args.long = true,
                without::OPTION => args.without = Some(Without::since(&value()?)?),
                "--brief" => args.brief = true,
                "--list" => args.list = true,
                "--bench" => args.bench = true,
                "--growth" => args.growth = true,
                "--sweep" => args.sweep = Some(value()?),
                "--short" => args.short = true,
                "--resume" => args.resume = Some(std::path::absolute(value()?).map_err(|e| e.to_string())?),
                "--seed" => args.seed = number(word, &value()?)?,
                "--count" => args.count = number(word, &value()?)?,
                "--rounds" => args.rounds = number(word, &value()?)?,
                "--help" | "-h" => return Err(USAGE.to_owned()),
                _ if word.starts_with('-') => {
                    return Err(format!("unknown option {word}\n\n{USAGE}"));
                }
                _ => args.filters.push(word.clone()),
            }
        }
        if let Some(other) = args.harness.as_deref().filter(|h| !["host", "uml"].contains(h)) {
            return Err(format!("unknown harness {other}: host or uml"));
        }
        let unknown = |mode: &&str| *mode != "all" && !crate::sweep::MODES.contains(mode);
        if let Some(other) = args.sweep.as_deref().and_then(|modes| modes.split(',').find(unknown)) {
            return Err(format!("unknown mode {other}: all, or {}", crate::sweep::MODES.join(", ")));
        }
        if !args.list {
            args.runtime = match runtime {
                Some(name) => resolve(&name)?,
                None => built_beside_us("windlass").or_else(|error| resolve("windlass").map_err(|_| error))?,
            };
            args.shim = match shim {
                Some(path) => resolve(&path)?,
                None => match args.runtime.with_file_name("windlass-shim") {
                    beside if beside.is_file() => beside,
                    _ => built_beside_us("windlass-shim")?,
                },
            };
        }
        Ok(args)
    }

    /// The request as words, for another process of this program.
    pub fn to_words(&self) -> Vec<String> {
        let mut words = vec!["--runtime".to_owned(), self.runtime.display().to_string()];
        words.extend(["--shim".to_owned(), self.shim.display().to_string()]);
        if let Some(peer) = &self.compare {
            words.extend(["--compare".to_owned(), peer.display().to_string()]);
        }
        words.extend(self.only.iter().flat_map(|name| ["--only".to_owned(), name.clone()]));
        words.extend(["--seed".to_owned(), self.seed.to_string(), "--count".to_owned(), self.count.to_string()]);
        words.extend(self.short.then(|| "--short".to_owned()));
        words.extend(self.long.then(|| "--long".to_owned()));
        if let Some(without) = &self.without {
            words.extend([without::OPTION.to_owned(), without.version()]);
        }
        words.extend(self.filters.iter().cloned());
        words
    }

    /// Whether the case of this name was asked for.
    pub fn wants(&self, name: &str) -> bool {
        if !self.only.is_empty() {
            return self.only.iter().any(|only| only == name);
        }
        let sweep = cases::SWEEPS.iter().find(|chapter| name.starts_with(*chapter));
        if let Some(chapter) = sweep {
            return self.filters.iter().any(|part| part.starts_with(chapter) && name.contains(part.as_str()));
        }
        self.filters.is_empty() || self.filters.iter().any(|part| name.contains(part.as_str()))
    }
}

/// The value of an option that takes a number.
fn number<T: std::str::FromStr>(option: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{option} needs a number"))
}

/// A path as given, or a name looked up in `PATH`.
fn resolve(name: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return Path::new(name).canonicalize().map_err(|e| format!("{name}: {e}"));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/sbin", "/sbin"]);
    dirs.map(|dir| Path::new(dir).join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| format!("no runtime named {name} in PATH"))
}

/// A program in the directory of this one: cargo puts them there.
fn built_beside_us(name: &str) -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
    let beside = me.with_file_name(name);
    if beside.is_file() { Ok(beside) } else { Err(format!("{} is not built; see --help", beside.display())) }
}

#[cfg(test)]
mod tests {
    use super::Args;
    use crate::without::Without;

    fn parse(words: &[&str]) -> Result<Args, String> {
        Args::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn filters_match_parts_of_names() {
        let args = parse(&["--list", "mounts::", "tmpfs"]).expect("a valid command line");
        assert!(args.wants("mounts::any") && args.wants("x::a_tmpfs") && !args.wants("hooks::any"));
    }

    #[test]
    fn sweeps_run_only_when_they_are_named() {
        assert!(!parse(&["--list"]).expect("a valid command line").wants("swap::any"));
        assert!(!parse(&["--list", "any"]).expect("a valid command line").wants("swap::any"));
        assert!(parse(&["--list", "swap::a"]).expect("a valid command line").wants("swap::any"));
    }

    #[test]
    fn the_version_of_hidden_calls_travels_to_the_runner() {
        let mut args = parse(&["--list", "--without-calls-since", "5.13"]).expect("a valid command line");
        args.only = vec!["a::b".to_owned()];
        let words = args.to_words();
        assert_eq!(Without::asked_for(&words), args.without);
        assert!(args.without.is_some());
        assert!(parse(&["--list", "--without-calls-since", "new"]).is_err_and(|text| text.contains("new")));
    }

    #[test]
    fn exact_names_win_over_filters() {
        let args = parse(&["--list", "--only", "a::b", "a"]).expect("a valid command line");
        assert!(args.wants("a::b") && !args.wants("a::bc"));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse(&["--harness", "moon", "--list"]).is_err_and(|text| text.contains("moon")));
        assert!(parse(&["--no-such"]).is_err_and(|text| text.contains("--no-such")));
        assert!(parse(&["--list", "--sweep", "calls,moons"]).is_err_and(|text| text.contains("moons")));
        assert!(parse(&["--runtime"]).is_err_and(|text| text.contains("--runtime")));
    }
}
