//! The messages between containerd and a shim, with the field numbers of containerd's `.proto` files. Fields that a
//! shim does not use are left out, and skipped when a message is read.

pub mod event;
pub mod options;
pub mod start;
pub mod task;

use std::time::{SystemTime, UNIX_EPOCH};

use windlass_base::protobuf::message;

message! {
    /// `google.protobuf.Any`: a message with its name.
    Any {
        /// The name of the message, often with the prefix `type.googleapis.com/`.
        1 type_url: String,
        /// The encoded message, or JSON if the type is not a message.
        2 value: Vec<u8>,
    }
    /// `google.protobuf.Timestamp`.
    Timestamp {
        /// Seconds since 1970.
        1 seconds: i64,
        /// Nanoseconds after that second.
        2 nanos: i32,
    }
    /// `google.protobuf.Empty`.
    Empty {}
    /// `google.rpc.Status`.
    Status {
        /// See [`super::ttrpc::code`].
        1 code: i32,
        /// The text of the error. Engines match phrases in it.
        2 message: String,
    }
    /// `containerd.types.Mount`.
    Mount {
        /// The filesystem's type, or `bind`.
        1 kind: String,
        /// The source of the mount.
        2 source: String,
        /// The directory below the root.
        3 target: String,
        /// As in fstab(5).
        4 options: Vec<String>,
    }
}

impl Any {
    /// The last part of the name.
    pub fn name(&self) -> &str {
        self.type_url.rsplit('/').next().unwrap_or_default()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        }
    }
}
