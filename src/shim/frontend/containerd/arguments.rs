//! The command line, parsed as Go's package flag does: `-name value` or `--name=value`, then the action.

use std::ffi::OsString;

use super::error::Error;

/// The environment variable with the address of containerd's event service.
pub(super) const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

/// The action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// No action: serve. Only `start` executes the shim in this way.
    Serve,
    /// `start`: start a shim, or find the one of the pod, and print its address.
    Start,
    /// `delete`: remove the rest of a container whose shim is gone.
    Delete,
    /// `-info`: print a description of the runtime and the shim.
    Info,
    /// `-v`: print the version.
    Version,
}

/// The command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    /// The action.
    pub action: Action,
    /// containerd's namespace.
    pub namespace: String,
    /// The container's id.
    pub id: String,
    /// containerd's socket.
    pub address: String,
    /// The bundle, for [`Action::Delete`].
    pub bundle: String,
    /// The shim's socket, for [`Action::Serve`].
    pub socket: String,
}

impl Arguments {
    /// Parses the arguments.
    pub(super) fn parse(words: Vec<OsString>) -> Result<Arguments, Error> {
        let mut arguments = Arguments {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: String::new(),
            socket: String::new(),
        };
        let mut ignored = String::new();
        let mut words = words
            .into_iter()
            .map(|word| word.into_string().map_err(|word| Error::Invalid(format!("{word:?}: not UTF-8"))));
        while let Some(word) = words.next().transpose()? {
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                arguments.action = match word.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(Error::Invalid(format!("unknown command {word:?}"))),
                };
                // Arguments after the action are ignored.
                break;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            // These actions need no other flag.
            match name {
                "v" => return Ok(Arguments { action: Action::Version, ..arguments }),
                "info" => return Ok(Arguments { action: Action::Info, ..arguments }),
                "debug" => continue,
                _ => {}
            }
            let into = match name {
                "namespace" => &mut arguments.namespace,
                "id" => &mut arguments.id,
                "address" => &mut arguments.address,
                "bundle" => &mut arguments.bundle,
                // containerd sets these, but events go over ttrpc, and the shim chooses the name of the socket.
                "publish-binary" => &mut ignored,
                "socket" => &mut arguments.socket,
                _ => return Err(Error::Invalid(format!("flag provided but not defined: -{name}"))),
            };
            *into = match value {
                Some(value) => value,
                None => words
                    .next()
                    .transpose()?
                    .ok_or_else(|| Error::Invalid(format!("flag needs an argument: -{name}")))?,
            };
        }
        if arguments.namespace.is_empty() {
            return Err(Error::Invalid("shim namespace cannot be empty".into()));
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, Error> {
        Arguments::parse(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn the_words_of_containerd_1_6() {
        let words = "-namespace moby -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd \
                     -id web -debug start";
        let arguments = parse(&words.split_whitespace().collect::<Vec<_>>()).expect("parsed");
        assert_eq!(arguments.action, Action::Start);
        assert_eq!((arguments.namespace.as_str(), arguments.id.as_str()), ("moby", "web"));
        assert_eq!(arguments.address, "/run/containerd/containerd.sock");
        let words = "--namespace=moby -id=web -bundle /b -address= delete";
        let arguments = parse(&words.split_whitespace().collect::<Vec<_>>()).expect("parsed");
        assert_eq!((arguments.action, arguments.bundle.as_str()), (Action::Delete, "/b"));
    }

    #[test]
    fn what_prints_needs_nothing_else() {
        assert_eq!(parse(&["-info"]).map(|arguments| arguments.action).ok(), Some(Action::Info));
        assert_eq!(parse(&["-v"]).map(|arguments| arguments.action).ok(), Some(Action::Version));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse(&["-nosuch", "x"]).is_err_and(|error| error.to_string().contains("-nosuch")));
        assert!(parse(&["-id"]).is_err_and(|error| error.to_string().contains("-id")));
        assert!(parse(&["-namespace", "n", "stop"]).is_err_and(|error| error.to_string().contains("stop")));
        assert!(parse(&["start"]).is_err_and(|error| error.to_string().contains("namespace")));
    }
}
