//! The targets of stdio that containerd gives: paths of fifos, and URIs with the schemes `fifo`, `file`, `binary` and
//! `binary-v2`.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::error::Error;
use crate::{Output, Spooling, Stdin, Stdio};

/// A target of stdio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The null device.
    None,
    Fifo(PathBuf),
    /// A file, to which output is appended.
    File(PathBuf),
    /// A logger.
    Program(Program),
}

/// The program of a logger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
    /// Whether the logger writes a byte when it is ready (`binary-v2`). Otherwise it closes the descriptor.
    pub speaks: bool,
}

impl Target {
    /// Parses a path or URI.
    pub(super) fn parse(text: &str) -> Result<Target, Error> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(if text.is_empty() { Target::None } else { Target::Fifo(text.into()) });
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path: PathBuf = decoded(path, false)?.into();
        if !path.is_absolute() {
            return Err(Error::Invalid(format!("stdio {text:?}: the path must be absolute")));
        }
        Ok(match scheme {
            "fifo" => Target::Fifo(path),
            "file" => Target::File(path),
            "binary" | "binary-v2" => {
                let mut arguments = Vec::new();
                for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    arguments.push(decoded(key, true)?);
                    arguments.extend(Some(decoded(value, true)?).filter(|value| !value.is_empty()));
                }
                Target::Program(Program { path, arguments, speaks: scheme == "binary-v2" })
            }
            _ => return Err(Error::Invalid(format!("stdio {text:?}: unknown scheme {scheme:?}"))),
        })
    }

    fn output(&self) -> Output {
        match self {
            Target::None | Target::Program(_) => Output::None,
            Target::Fifo(path) => Output::Fifo(path.clone()),
            Target::File(path) => Output::File(path.clone()),
        }
    }
}

/// Decodes URL encoding: `%41` is `A`, and in a query `+` is a space.
fn decoded(text: &str, query: bool) -> Result<String, Error> {
    let wrong = || Error::Invalid(format!("stdio: {text:?} is not URL-encoded"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' if query => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| (digit as char).to_digit(16));
                let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
                (high << 4 | low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// Parses the targets of a process. If the output goes to a logger, its program is returned, and [`into_pipes`] sets
/// the output.
pub(super) fn stdio(
    terminal: bool,
    (stdin, stdout, stderr): (&str, &str, &str),
    owner: (u32, u32),
) -> Result<(Stdio, Option<Program>), Error> {
    let input = match Target::parse(stdin)? {
        Target::None => Stdin::Null,
        Target::Fifo(path) => Stdin::Fifo(path),
        Target::File(_) | Target::Program(_) => return Err(Error::Invalid(format!("stdin {stdin:?} is not a fifo"))),
    };
    let out = Target::parse(stdout)?;
    // A file or a logger takes both streams, and the target of the second is ignored.
    let err = match &out {
        Target::File(_) | Target::Program(_) => out.clone(),
        _ => Target::parse(stderr)?,
    };
    let stdio = Stdio {
        terminal,
        stdin: input,
        stdout: out.output(),
        stderr: err.output(),
        spooling: Spooling::default(),
        logs: Vec::new(),
        owner: Some(owner),
        fifos: None,
    };
    match (out, err) {
        (Target::Program(program), _) => Ok((stdio, Some(program))),
        (_, Target::Program(_)) => {
            Err(Error::Invalid(format!("stderr {stderr:?}: a program takes both streams or none")))
        }
        (Target::File(path), _) => {
            let parent = path.parent().unwrap_or(&path);
            std::fs::create_dir_all(parent).map_err(|error| Error::Io(format!("mkdir {}", parent.display()), error))?;
            Ok((stdio, None))
        }
        _ => Ok((stdio, None)),
    }
}

/// Sets the output to the pipes of a logger.
pub(super) fn into_pipes(stdio: &mut Stdio, [out, err]: [OwnedFd; 2]) {
    stdio.stdout = Output::Fd(out);
    stdio.stderr = Output::Fd(err);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_uris() {
        assert_eq!(Target::parse("").ok(), Some(Target::None));
        assert_eq!(Target::parse("/run/x y").ok(), Some(Target::Fifo("/run/x y".into())));
        assert_eq!(Target::parse("fifo:///run/x").ok(), Some(Target::Fifo("/run/x".into())));
        assert_eq!(Target::parse("file:///var/log/a%20b").ok(), Some(Target::File("/var/log/a b".into())));
        let program = |speaks| Program {
            path: "/bin/logger".into(),
            arguments: vec!["tag".into(), "a b".into(), "flag".into()],
            speaks,
        };
        let uri = "binary:///bin/logger?tag=a+b&flag";
        assert_eq!(Target::parse(uri).ok(), Some(Target::Program(program(false))));
        let uri = "binary-v2:///bin/logger?tag=a%20b&flag=";
        assert_eq!(Target::parse(uri).ok(), Some(Target::Program(program(true))));
        for bad in ["npipe:////x", "ttrpc+unix:///s?streaming_id=1", "file://log", "fifo:///a%4", "fifo:///%ff"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_takes_both_streams() {
        let dir = std::env::temp_dir().join(format!("windlass-uri-{}", std::process::id()));
        let uri = format!("file://{}/below/log", dir.display());
        let (stdio, program) = stdio(false, ("", &uri, ""), (0, 0)).expect("parsed");
        assert!(matches!((&stdio.stdout, &stdio.stderr), (Output::File(a), Output::File(b)) if a == b));
        assert_eq!(program, None);
        assert!(dir.join("below").is_dir());
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn what_can_not_be_is_said() {
        assert!(super::stdio(false, ("file:///x", "", ""), (0, 0)).is_err());
        assert!(super::stdio(false, ("", "/fifo", "binary:///x"), (0, 0)).is_err());
    }
}
