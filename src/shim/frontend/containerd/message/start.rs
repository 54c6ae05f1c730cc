//! The messages of the standard input and output of the actions `start`, `delete` and `-info`:
//! `containerd.runtime.bootstrap.v1` and `containerd.types`.

use super::Any;
use crate::frontend::containerd::wire::{Message, message};

message! {
    /// `BootstrapParams`, from containerd 2.3 on.
    Params {
        /// The container's id.
        1 instance_id: String,
        /// containerd's namespace.
        2 namespace: String,
        /// 0 is info, below is more.
        3 log_level: i32,
        /// Where events go.
        5 ttrpc_address: String,
        /// More settings.
        8 extensions: Vec<Extension>,
        /// Where sockets are to be.
        9 socket_dir: String,
    }
    /// `Extension`.
    Extension {
        /// For example the options of the runtime.
        1 value: Option<Any>,
    }
    /// `BootstrapResult`.
    Outcome {
        /// Of the task service.
        1 version: i32,
        /// Where it listens.
        2 address: String,
        /// `ttrpc`.
        3 protocol: String,
    }
    /// `RuntimeInfo`.
    Info {
        /// `io.containerd.NAME.vN`.
        1 name: String,
        /// The shim's.
        2 version: Option<Version>,
        /// What was asked with.
        3 options: Option<Any>,
        /// What `features` of the runtime printed.
        4 features: Option<Any>,
    }
    /// `RuntimeVersion`.
    Version {
        /// Number.
        1 version: String,
        /// Commit.
        2 revision: String,
    }
}

/// The standard input of `start`: options alone, or all parameters around them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Up to containerd 2.2; there may be none.
    Options(Option<Any>),
    /// Later.
    Bootstrap(Params),
}

impl Input {
    /// Tells which it is. The bytes of an `Any` also read as parameters, so these count only if
    /// they name the same container and namespace as the command line does.
    pub fn read(bytes: &[u8], id: &str, namespace: &str) -> Input {
        if let Ok(params) = Params::decode(bytes)
            && params.instance_id == id
            && params.namespace == namespace
        {
            return Input::Bootstrap(params);
        }
        Input::Options(Any::decode(bytes).ok().filter(|any| *any != Any::default()))
    }

    /// The options of the runtime, wherever they are.
    pub fn options(&self) -> Option<&Any> {
        match self {
            Input::Options(any) => any.as_ref(),
            Input::Bootstrap(params) => {
                let mut extensions = params.extensions.iter().filter_map(|extension| extension.value.as_ref());
                extensions.find(|any| super::options::Options::is(any))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_parameters_are_told_apart() {
        let options = Any { type_url: "containerd.runc.v1.Options".into(), value: b"\x32\x04runc".to_vec() };
        assert_eq!(Input::read(&options.encode(), "web", "default"), Input::Options(Some(options.clone())));
        assert_eq!(Input::read(b"", "web", "default"), Input::Options(None));
        assert_eq!(Input::read(b"\xff", "web", "default"), Input::Options(None));
        let params = Params {
            instance_id: "web".into(),
            namespace: "default".into(),
            log_level: -4,
            extensions: vec![Extension { value: Some(options.clone()) }],
            ..Params::default()
        };
        let read = Input::read(&params.encode(), "web", "default");
        assert_eq!(read.options(), Some(&options));
        assert_eq!(read, Input::Bootstrap(params.clone()));
        // Parameters for another container are no parameters.
        assert!(matches!(Input::read(&params.encode(), "db", "default"), Input::Options(_)));
    }
}
