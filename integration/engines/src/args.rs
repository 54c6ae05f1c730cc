//! The command line, and the words in which it is passed to the runner.

use crate::engine::Engine;
use std::path::{Path, PathBuf};

/// The output of `--help`.
pub const USAGE: &str = "\
usage: engines [OPTION…] [ENGINE…] [FILTER…]
       engines table RESULTS README

Runs the cases of the engines (docker, containerd, cri, podman, buildah; all without one) whose
name contains one of the FILTERs, on runc and on windlass, and lists the differences.

  --runtime PATH      the runtime under test; default: the windlass built beside this program
  --peer PATH|none    the runtime to compare with; default: runc
  --shim PATH|none    windlass-shim: run the engines on it as well, with both runtimes; default: none
  --harness host|uml  use only this harness; default: the host, User-Mode Linux where needed
  --again             the peer only for what fails, which is run once more beside it: what then fails on
                      ours alone makes the exit code 1
  --long              cases that take minutes, too
  --release NAME      the Debian release whose engines these are (run.sh enters a tree of it);
                      default: the one that this system is
  --results FILE      write the outcome there, over that of the same engines and release; with FILTERs, over that
                      of the same cases
  --list              print the names of the cases and stop

`engines table` writes the table of FILE into the README, between its markers.
";

/// A parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// The runtime under test.
    pub runtime: PathBuf,
    /// The one to compare with.
    pub peer: Option<PathBuf>,
    /// The shim to try.
    pub shim: Option<PathBuf>,
    /// `Some` when only one harness may be used.
    pub harness: Option<String>,
    /// Whether to run only the cases that failed without the peer, this time with it.
    pub again: bool,
    /// Whether cases may take minutes.
    pub long: bool,
    /// The Debian release of the engines.
    pub release: String,
    /// Where the outcome goes.
    pub results: Option<PathBuf>,
    /// Whether to print names only.
    pub list: bool,
    /// The engines to run; empty means all.
    pub engines: Vec<Engine>,
    /// Parts of the names of cases; empty means all.
    pub filters: Vec<String>,
}

impl Args {
    /// Parses `argv` (without the program's name). `Err` is the text to print.
    pub fn parse(argv: &[String]) -> Result<Args, String> {
        let mut args = Args { release: own_release(), ..Args::default() };
        let (mut runtime, mut peer) = (None, Some("runc".to_owned()));
        let mut words = argv.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--runtime" => runtime = Some(value()?),
                "--peer" => peer = Some(value()?).filter(|name| name != "none"),
                "--shim" => {
                    args.shim = Some(value()?).filter(|name| name != "none").map(|name| resolve(&name)).transpose()?
                }
                "--harness" => args.harness = Some(value()?),
                "--release" => args.release = value()?,
                "--results" => args.results = Some(value()?.into()),
                "--again" => args.again = true,
                "--long" => args.long = true,
                "--list" => args.list = true,
                "--help" | "-h" => return Err(USAGE.to_owned()),
                _ if word.starts_with('-') => return Err(format!("unknown option {word}\n\n{USAGE}")),
                _ => match Engine::named(word) {
                    Some(engine) => args.engines.push(engine),
                    None => args.filters.push(word.clone()),
                },
            }
        }
        if let Some(other) = args.harness.as_deref().filter(|name| !["host", "uml"].contains(name)) {
            return Err(format!("unknown harness {other}: host or uml"));
        }
        if !args.list {
            args.peer = peer.map(|name| resolve(&name)).transpose()?;
            args.runtime = match runtime {
                Some(name) => resolve(&name)?,
                None => built_beside_us()?,
            };
        }
        Ok(args)
    }

    /// Whether this engine was asked for.
    pub fn wants_engine(&self, engine: Engine) -> bool {
        self.engines.is_empty() || self.engines.contains(&engine)
    }

    /// Whether the case of this name was asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|part| name.contains(part.as_str()))
    }
}

/// The code name of this system.
fn own_release() -> String {
    let text = integration::kit::machine::text;
    code_name(&text("/etc/os-release"), &text("/etc/debian_version"))
}

/// The code name of the release, by os-release(5). On Debian's sid that is the next release's; debian_version shows it,
/// as `forky/sid`. Without a code name, nothing is known about the engines of a system.
fn code_name(os_release: &str, debian_version: &str) -> String {
    if os_release.lines().any(|line| line == "ID=debian") && debian_version.trim().ends_with("/sid") {
        return "sid".to_owned();
    }
    let name = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.map_or("unknown", |name| name.trim_matches('"')).to_owned()
}

/// A path as given, or a name that is looked up in Debian's directories for programs.
fn resolve(name: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return Path::new(name).canonicalize().map_err(|e| format!("{name}: {e}"));
    }
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].iter().map(|dir| Path::new(dir).join(name));
    found.into_iter().find(|path| path.is_file()).ok_or_else(|| format!("no program named {name} is installed"))
}

/// `windlass` in the directory of this program: cargo puts both there.
fn built_beside_us() -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
    let beside = me.with_file_name("windlass");
    if beside.is_file() { Ok(beside) } else { Err(format!("{} is not built; give --runtime", beside.display())) }
}

#[cfg(test)]
mod tests {
    use super::Args;
    use crate::engine::Engine;

    fn parse(words: &[&str]) -> Result<Args, String> {
        Args::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn engines_and_filters_are_told_apart() {
        let args = parse(&["--list", "podman", "exec"]).expect("a valid command line");
        assert_eq!(args.engines, [Engine::Podman]);
        assert!(args.wants("podman::exec::any") && !args.wants("podman::life::any"));
        assert!(args.wants_engine(Engine::Podman) && !args.wants_engine(Engine::Docker));
    }

    #[test]
    fn engines_are_those_of_this_system_unless_told() {
        assert_eq!(super::code_name("ID=debian\nVERSION_CODENAME=trixie\n", "13.2\n"), "trixie");
        assert_eq!(super::code_name("ID=debian\nVERSION_CODENAME=forky\n", "forky/sid\n"), "sid");
        assert_eq!(super::code_name("ID=ubuntu\nVERSION_CODENAME=\"noble\"\n", "trixie/sid\n"), "noble");
        assert_eq!(super::code_name("ID=other\n", ""), "unknown");
        assert_eq!(parse(&["--list", "--release", "sid"]).expect("a valid command line").release, "sid");
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse(&["--harness", "moon", "--list"]).is_err_and(|text| text.contains("moon")));
        assert!(parse(&["--shim"]).is_err_and(|text| text.contains("--shim")));
        assert!(parse(&["--shim", "/no/such/shim"]).is_err_and(|text| text.contains("/no/such/shim")));
        assert_eq!(
            parse(&["--list", "--shim", "/proc/self/exe", "--shim", "none"]).expect("the last counts").shim,
            None
        );
    }
}
