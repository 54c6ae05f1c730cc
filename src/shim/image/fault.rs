//! What is wrong with an image.

use std::fmt;

use windlass_sys::SyscallError;

/// Why an image cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The command line names no descriptor that is open.
    NoImage,
    /// The file has no header of an image.
    NotAnImage,
    /// The body has another length than the header says. `bytes`: the length of the file.
    Cut { format: u32, bytes: usize },
    /// The body is not the one that was written.
    Checksum { format: u32 },
    /// The last field of this message ends early.
    CutFields(&'static str),
    /// A required field of this message is missing.
    MissingField(u32, &'static str),
    /// A field of this message is essential, and this version does not know it.
    UnknownField(u32, &'static str),
    /// A value of this type has no kind.
    MissingKind(&'static str),
    /// A value of this type has a kind that this version does not know.
    UnknownKind(u32, &'static str),
    /// The content is not what is expected here, such as "a number".
    Unexpected { content: String, expected: &'static str },
    /// A message of a front end's protocol is malformed.
    Malformed(&'static str),
    /// The content of `shim.json` is malformed, for this reason.
    Config(String),
    /// Two fields own the same descriptor.
    SharedDescriptor(u32),
    /// A system call has failed.
    Kernel(SyscallError),
}

impl From<SyscallError> for Fault {
    fn from(failed: SyscallError) -> Fault {
        Fault::Kernel(failed)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoImage => f.write_str("there is no image"),
            Fault::NotAnImage => f.write_str("not an image of a shim"),
            Fault::Cut { format, bytes } => write!(f, "the image of format {format} is cut: it has {bytes} bytes"),
            Fault::Checksum { format } => write!(f, "the checksum of the image of format {format} is wrong"),
            Fault::CutFields(name) => write!(f, "the fields of {name} are cut"),
            Fault::MissingField(number, name) => write!(f, "field {number} of {name} is missing"),
            Fault::UnknownField(number, name) => write!(f, "field {number} of {name} is unknown to this version"),
            Fault::MissingKind(name) => write!(f, "the kind of {name} is missing"),
            Fault::UnknownKind(kind, name) => write!(f, "there is no kind {kind} of {name}"),
            Fault::Unexpected { content, expected } => write!(f, "{content} is not {expected}"),
            Fault::Malformed(name) => write!(f, "{name} is malformed"),
            Fault::Config(why) => write!(f, "the content of shim.json: {why}"),
            Fault::SharedDescriptor(number) => write!(f, "descriptor {number} is there twice"),
            Fault::Kernel(failed) => failed.fmt(f),
        }
    }
}
