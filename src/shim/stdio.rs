//! The bytes of a process: from its pipes or its terminal to fifos, logs and attached clients.
//!
//! A fifo is lossless and holds the process back when its reader is slow. A log is written at
//! once; an error is counted and tried again, and never stops the reading. An attached client
//! that is slow holds the process back too, and is dropped when it has not read for two seconds.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Where input comes from.
#[derive(Debug, Default)]
pub enum Stdin {
    /// Nowhere: `/dev/null`.
    #[default]
    Null,
    /// A fifo. Held open for writing too until [`super::Request::CloseStdin`], so that an engine's
    /// death is no end of file.
    Fifo(PathBuf),
    /// Attached clients. With `leave_open`, their end is not the end of the input.
    Attach {
        /// Whether input stays open when the client closes its.
        leave_open: bool,
    },
    /// The shim's own standard input, handed on as it is.
    Inherit,
}

/// Where one stream of output goes, apart from logs and attached clients.
#[derive(Debug, Default)]
pub enum Output {
    /// Nowhere else. With no log either, it is `/dev/null`.
    #[default]
    None,
    /// Only to attached clients, and to logs if there are any.
    Attach,
    /// A fifo. A reader that is away is waited for; what is in it at the process's end can be
    /// read until the process is deleted.
    Fifo(PathBuf),
    /// A file to append to. Both streams may name the same.
    File(PathBuf),
    /// A pipe or socket of the front end's, for example to a logger.
    Fd(OwnedFd),
    /// The shim's own, handed on as it is.
    Inherit,
}

/// A log, which gets both streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// The lines of the CRI (`k8s-file`).
    K8s(LogFile),
    /// Docker's objects, one a line (`json-file`).
    Json(LogFile),
    /// The bytes as they are, both streams in one file.
    Raw(LogFile),
    /// systemd's journal.
    Journald(Journal),
}

/// A log's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFile {
    /// Its path.
    pub path: PathBuf,
    /// The directories below which it must be, links resolved; none: it may be anywhere.
    pub below: Vec<PathBuf>,
    /// Bytes after which it is rotated.
    pub max_size: Option<u64>,
    /// Rotated files kept beside it as `.1`, `.2`, ...; with none it is begun anew.
    pub max_files: u32,
    /// Bytes after which nothing more is logged at all.
    pub max_total: Option<u64>,
    /// Whether it is synced when the process has ended.
    pub sync: bool,
}

/// What each entry of the journal carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// `CONTAINER_ID_FULL`.
    pub id: String,
    /// `CONTAINER_NAME`.
    pub name: String,
    /// `CONTAINER_TAG` and `SYSLOG_IDENTIFIER`.
    pub tag: String,
    /// More fields, `KEY=value`.
    pub labels: Vec<String>,
    /// Whether a cut line is marked `CONTAINER_PARTIAL_MESSAGE=true`.
    pub partial: bool,
}

/// How an attached client's bytes are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// conmon's: SEQPACKET, one byte for the stream (2 output, 3 error) and at most 8192 of data
    /// to the client; raw input from it, an empty packet or its end closes the input.
    Packet,
    /// A stream of frames both ways: one byte (0 input, 1 output, 2 error), the length in four
    /// (big-endian), the data. An empty input frame closes the input.
    Stream,
}

/// The stdio of a process.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Whether it has a terminal: then `stderr` is not used.
    pub terminal: bool,
    /// Input.
    pub stdin: Stdin,
    /// Output.
    pub stdout: Output,
    /// Errors.
    pub stderr: Output,
    /// Logs.
    pub logs: Vec<Log>,
    /// Who owns the pipes, so that `/dev/stdout` can be opened by a user who is not root.
    pub owner: Option<(u32, u32)>,
    /// A directory in which the output's pipes are fifos, `NAME.stdout` and `NAME.stderr` with
    /// this name: another shim can go on reading them when this one has died. The process holds
    /// both ends, so that it gets no SIGPIPE meanwhile.
    pub fifos: Option<(PathBuf, String)>,
}
