//! The stdio of a process, as a front end describes it.
//!
//! Output goes to fifos, logs and attached clients. A fifo loses nothing: a slow reader holds the process back, and
//! while there is no reader the output is kept. A log is written at once; bytes that cannot be written are counted, and
//! never stop the reading. A slow attached client holds the process back too, but it is dropped if it takes less than
//! 8 KiB, as its socket counts them, in two seconds while others wait for it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The source of the input.
#[derive(Debug, Default)]
pub enum Stdin {
    /// Nowhere: `/dev/null`.
    #[default]
    Null,
    /// A fifo. The shim holds it open for writing until [`super::Request::CloseStdin`], so that the process reads no
    /// end of file when an engine dies.
    Fifo(PathBuf),
    /// Attached clients.
    Attach {
        /// Whether the input stays open when a client closes its side.
        leave_open: bool,
    },
    /// The standard input of the shim itself.
    Inherit,
}

/// The target of one stream of output, apart from logs and attached clients.
#[derive(Debug, Default)]
pub enum Output {
    /// No target. If there is no log either, the process gets `/dev/null`.
    #[default]
    None,
    /// No target, but clients may attach.
    Attach,
    /// A fifo. If it has no reader, the shim keeps the output and waits for a reader; see [`Spooling`]. Output that is
    /// unread when the process ends can be read until the process is deleted.
    Fifo(PathBuf),
    /// A file to append to. Both streams may name the same.
    File(PathBuf),
    /// A pipe or socket of the front end, for example to a logger.
    Fd(OwnedFd),
    /// The shim's own stream of this number.
    Inherit,
}

/// How output is kept while its fifo has no reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spooling {
    /// Bytes of each stream that are kept in a file, besides those in memory (1 MiB). With 0 there is no file, and
    /// besides the 64 KiB in the fifo 64 KiB are kept.
    pub max: u64,
    /// The behaviour when there is no room.
    pub full: WhenFull,
    /// The directory of the file, which is unnamed.
    pub directory: PathBuf,
}

/// Parses a size in bytes with an optional `k`, `m` or `g`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// The behaviour when there is no room for more output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The process is held back.
    #[default]
    Block,
    /// The oldest output is dropped, and a line tells the reader how much.
    DropOldest,
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
    Journald(JournalFields),
}

/// A log's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFile {
    pub path: PathBuf,
    /// The directories below which the file must be, links resolved. If there are none, it may be anywhere.
    pub below: Vec<PathBuf>,
    /// Bytes after which the file is rotated.
    pub max_size: Option<u64>,
    /// Number of rotated files, `.1`, `.2`, ...; with 0 the file is begun anew.
    pub max_files: u32,
    /// Bytes after which nothing more is logged at all.
    pub max_total: Option<u64>,
    /// Whether the file is synced when the process has ended.
    pub sync: bool,
}

/// The fields of each entry in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalFields {
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

/// How messages are separated on the socket of an attached client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// conmon's: SEQPACKET, one byte for the stream (2 output, 3 error) and at most 8192 of data
    /// to the client; raw input from it, an empty packet or its end closes the input.
    Packet,
    /// A stream of frames both ways: one byte (0 input, 1 output, 2 error), the length in four
    /// (big-endian), the data. An empty input frame closes the input.
    Stream,
    /// A stream of frames, of which the last to the client (3, without data) reports the end of the output. A client
    /// that is disconnected because it does not read gets none.
    Marked,
}

/// The stdio of a process.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Whether the process has a terminal. `stderr` is not used then.
    pub terminal: bool,
    /// Input.
    pub stdin: Stdin,
    /// Output.
    pub stdout: Output,
    /// Errors.
    pub stderr: Output,
    /// How output is kept while its fifo has no reader.
    pub spooling: Spooling,
    /// Logs.
    pub logs: Vec<Log>,
    /// User and group that own the pipes, so that a user other than root can open `/dev/stdout`.
    pub owner: Option<(u32, u32)>,
    /// A directory and a name. The pipes of the output are then fifos in the directory, `NAME.stdout` and
    /// `NAME.stderr`, and another shim can go on reading them when this shim has died. The process holds both ends, so
    /// it gets no SIGPIPE meanwhile.
    pub fifos: Option<(PathBuf, String)>,
}
