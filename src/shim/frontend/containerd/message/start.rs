//! The messages of the standard input and output of the actions `start`, `delete` and `-info`:
//! `containerd.runtime.bootstrap.v1` and `containerd.types`.

use super::Any;
use windlass_base::protobuf::{Message, message};

message! {
    /// `BootstrapParams`, from containerd 2.3 on.
    Params {
        1 instance_id: String,
        /// containerd's namespace.
        2 namespace: String,
        /// The log level: 0 is info, lower levels log more.
        3 log_level: i32,
        /// The address of containerd's event service.
        5 ttrpc_address: String,
        /// Additional parameters.
        8 extensions: Vec<Extension>,
        /// The directory for sockets.
        9 socket_dir: String,
    }
    /// `Extension`.
    Extension {
        /// For example the options of the runtime.
        1 value: Option<Any>,
    }
    /// `BootstrapResult`.
    Outcome {
        /// The version of the task service.
        1 version: i32,
        /// The address of the service's socket.
        2 address: String,
        /// `ttrpc`.
        3 protocol: String,
    }
    /// `RuntimeInfo`.
    Info {
        /// `io.containerd.NAME.vN`.
        1 name: String,
        2 version: Option<Version>,
        /// The options of the request.
        3 options: Option<Any>,
        /// The output of the runtime's `features`.
        4 features: Option<Any>,
    }
    /// `RuntimeVersion`.
    Version {
        1 version: String,
        2 revision: String,
    }
}

/// The standard input of `start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartInput {
    /// Up to containerd 2.2: the options of the runtime, if there are any.
    Options(Option<Any>),
    /// From containerd 2.3 on: all parameters, which may include the options.
    Bootstrap(Params),
}

impl StartInput {
    /// Decodes either form. An `Any` also decodes as parameters, so parameters are accepted only if they name the
    /// container and the namespace of the command line.
    pub fn read(bytes: &[u8], id: &str, namespace: &str) -> StartInput {
        if let Ok(params) = Params::decode(bytes)
            && params.instance_id == id
            && params.namespace == namespace
        {
            return StartInput::Bootstrap(params);
        }
        StartInput::Options(Any::decode(bytes).ok().filter(|any| *any != Any::default()))
    }

    /// The options of the runtime, in either form.
    pub fn options(&self) -> Option<&Any> {
        match self {
            StartInput::Options(any) => any.as_ref(),
            StartInput::Bootstrap(params) => {
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
        assert_eq!(StartInput::read(&options.encode(), "web", "default"), StartInput::Options(Some(options.clone())));
        assert_eq!(StartInput::read(b"", "web", "default"), StartInput::Options(None));
        assert_eq!(StartInput::read(b"\xff", "web", "default"), StartInput::Options(None));
        let params = Params {
            instance_id: "web".into(),
            namespace: "default".into(),
            log_level: -4,
            extensions: vec![Extension { value: Some(options.clone()) }],
            ..Params::default()
        };
        let read = StartInput::read(&params.encode(), "web", "default");
        assert_eq!(read.options(), Some(&options));
        assert_eq!(read, StartInput::Bootstrap(params.clone()));
        // Parameters for another container are not accepted.
        assert!(matches!(StartInput::read(&params.encode(), "db", "default"), StartInput::Options(_)));
    }
}
