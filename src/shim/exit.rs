//! How a process ended, and its record, which outlives the shim.
//!
//! A child of the shim writes the record, because fsync(2) may take seconds on a busy disk and the loop goes on
//! meanwhile. The end is reported when that child has succeeded.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use super::ProcessId;
use windlass_base::exit_record::ExitRecord;
use windlass_sys::fd::{self, Durability};
use windlass_sys::process::{self, Child, Exit, Forked, SingleThreaded};
use windlass_sys::{Called, Result, descriptors};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// The exit code or the signal. `None`: it is not known. Engines expect 137 or 255 then.
    pub exit: Option<Exit>,
    /// Whether the kernel has killed processes of the cgroup for want of memory.
    pub oom_killed: bool,
    /// When it was reaped.
    pub at: SystemTime,
}

impl ExitStatus {
    /// The number that a shell would report; 255 if it is not known.
    pub fn code(&self) -> i32 {
        self.exit.map_or(255, Exit::status)
    }

    /// The exit as it is recorded.
    pub fn record(&self) -> ExitRecord {
        let (code, signal) = (self.exit.and_then(Exit::code), self.exit.and_then(Exit::signal));
        ExitRecord::new(code, signal, self.oom_killed, self.at)
    }
}

/// A file that records the end. It is written under another name, synced and renamed, and its directory is synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitFile {
    /// A `Record` as JSON.
    Record(PathBuf),
    /// conmon's file: the status as a decimal number without a newline.
    Decimal(PathBuf),
    /// The state of the container that `windlass state` reads. If the file does not exist, it is not written, because
    /// the runtime is another or has deleted the container.
    RuntimeState(PathBuf),
}

impl ExitFile {
    pub fn path(&self) -> &PathBuf {
        match self {
            ExitFile::Record(path) | ExitFile::Decimal(path) | ExitFile::RuntimeState(path) => path,
        }
    }
}

/// The version of [`Record`] that is written. Every version up to it is read.
pub(crate) const VERSION: u32 = 1;

/// The content of [`ExitFile::Record`]. It has the members of the exit record of windlass, and more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Version of this layout.
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// The exec's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<String>,
    /// The process id.
    pub pid: i32,
    /// How it ended. [`Record::read`] reads it by hand, because serde would copy every member to read a flattened one.
    #[serde(flatten, skip_deserializing)]
    pub exit: ExitRecord,
    /// [`ExitRecord::at`] in nanoseconds since 1970.
    pub at_nanoseconds: u64,
    /// Bytes of output that could not be written.
    #[serde(default)]
    pub dropped_bytes: u64,
    /// Bytes of output that had no reader when the process ended. They are kept until the process is deleted.
    #[serde(default)]
    pub unsent_bytes: u64,
}

impl Record {
    /// The record of a process. `dropped` and `unsent` count bytes of its output.
    pub(crate) fn of(process: &ProcessId, pid: i32, status: &ExitStatus, (dropped, unsent): (u64, u64)) -> Record {
        let since = status.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Record {
            version: VERSION,
            id: process.container.to_string(),
            exec: process.exec.as_deref().map(str::to_string),
            pid,
            exit: status.record(),
            at_nanoseconds: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            dropped_bytes: dropped,
            unsent_bytes: unsent,
        }
    }

    /// Reads a record. `None`: there is none, or a newer shim has written it.
    pub(crate) fn read(path: &Path) -> Option<Record> {
        let text = fd::open(path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW)
            .and_then(|file| fd::read_all(file, fd::DOCUMENT))
            .ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        let exit = serde_json::from_slice(&text).ok()?;
        (1..=VERSION).contains(&record.version).then_some(Record { exit, ..record })
    }

    /// Writes the record.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        put_record(path, &json(self), Durability::Synced)
    }

    /// How the process ended.
    pub(crate) fn status(&self) -> ExitStatus {
        let exit = self.exit.code.map(Exit::Code).or(self.exit.signal.map(Exit::Signal));
        let at = UNIX_EPOCH + Duration::from_nanos(self.at_nanoseconds);
        ExitStatus { exit, oom_killed: self.exit.oom_killed, at }
    }
}

/// The files and logs to be written.
#[derive(Debug)]
pub(super) struct Writing<'a> {
    pub(super) files: &'a [ExitFile],
    /// Whether another file of the process was written before.
    pub(super) is_told: bool,
    pub(super) oom_files: &'a [PathBuf],
    pub(super) record: &'a Record,
    pub(super) code: i32,
    pub(super) durability: Durability,
    /// Logs that are synced first.
    pub(super) logs: &'a [OwnedFd],
}

impl Writing<'_> {
    /// Whether every file is in the directory that the shim has entered, or names the process. Any other path may be
    /// that of a new container as soon as the shim is dead.
    fn is_of_this_container(&self) -> bool {
        let own = |file: &ExitFile| matches!(file, ExitFile::RuntimeState(_)) || file.path().is_relative();
        self.files.iter().all(own) && self.oom_files.is_empty()
    }
}

/// [`write`] returns what is not written as bits, which are the exit code of its child. This bit: everything.
const ALL: u8 = 1;

/// Another bit: the files of an OOM kill are not written.
const OOM: u8 = 1 << 7;

/// The bit of the exit file at this place of the list.
fn bit(place: usize) -> u8 {
    2 << place.min(5)
}

/// Leaves the files that are still to be written. One that was written may have been read and removed, and its name may
/// be that of the container's next life: it must not come again.
pub(super) fn keep_unwritten(files: &mut Vec<ExitFile>, unwritten: u8) {
    if unwritten & ALL == 0 {
        let mut place = 0..;
        files.retain(|_| place.next().is_some_and(|place| unwritten & bit(place) != 0));
    }
}

/// A message about the exit files that are still to be written. With none, it is a file of an OOM kill.
pub(super) fn describe_unwritten(files: &[ExitFile]) -> String {
    let paths: Vec<String> = files.iter().map(|file| format!("{:?}", file.path())).collect();
    match paths.is_empty() {
        true => "the file of an OOM kill is not written".into(),
        false => format!("the exit status is not written to {}", paths.join(", ")),
    }
}

/// Writes in a child, whose exit code is what [`write`] returns.
///
/// If the shim is killed, the child goes on only if its files cannot become another container's
/// ([`Writing::is_of_this_container`]). Otherwise it dies too, and the end stays as unknown as if it had not begun.
pub(super) fn write_in_child(writing: &Writing<'_>) -> Result<Child> {
    let proof = SingleThreaded::check()?;
    let shim = nix::unistd::getpid();
    match process::fork(CloneFlags::empty(), None, &proof)? {
        Forked::Parent(child) => Ok(child),
        Forked::Child => {
            let goes_on = writing.is_of_this_container()
                || (process::die_with_parent().is_ok() && nix::unistd::getppid() == shim);
            if !goes_on {
                process::exit_now(ALL.into());
            }
            // This takes a while on a slow disk. Descriptors that the shim closes meanwhile must be closed here too.
            let kept: Vec<_> = writing.logs.iter().map(AsFd::as_fd).collect();
            descriptors::close_all_but(0, &kept);
            process::exit_now(write(writing).into())
        }
    }
}

/// What a child that [`write_in_child`] made has not written.
pub(super) fn unwritten_by(ended: Result<Exit>) -> u8 {
    ended.ok().and_then(Exit::code).and_then(|code| u8::try_from(code).ok()).unwrap_or(ALL)
}

/// Writes in this process. Returns what could not be written, as bits: 0 if everything is on disk.
pub(super) fn write(writing: &Writing<'_>) -> u8 {
    let (mut unwritten, mut gone, mut is_told) = (0, 0, writing.is_told);
    for log in writing.logs {
        // An error here means an incomplete log, which does not make the record wrong.
        let _ = nix::unistd::fdatasync(log);
    }
    if writing.record.exit.oom_killed {
        for path in writing.oom_files {
            unwritten |= if put(path, b"", writing.durability).is_err() { OOM } else { 0 };
        }
    }
    for (place, file) in writing.files.iter().enumerate() {
        let done = match file {
            ExitFile::Record(path) => put_record(path, &json(writing.record), writing.durability),
            ExitFile::Decimal(path) => put(path, writing.code.to_string().as_bytes(), writing.durability),
            ExitFile::RuntimeState(path) => tell_runtime(path, writing.record, writing.durability),
        };
        // Each file has its own readers, so a file that cannot be written does not stop the others.
        match (done, file) {
            (Ok(()), _) => is_told = true,
            (Err(failed), ExitFile::Decimal(_)) if failed.errno == Errno::ENOENT => gone |= bit(place),
            (Err(_), _) => unwritten |= bit(place),
        }
    }
    // The engine removes the directory of a file of conmon's once it has learnt of the end from another one.
    if is_told { unwritten } else { unwritten | gone }
}

/// The file beside a record that keeps room on the disk for it.
pub(super) fn reserve_of(record: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(record.file_name().unwrap_or_default());
    name.push(".reserve");
    record.with_file_name(name)
}

/// Writes a record. On a full disk it frees the reserved room and tries again.
fn put_record(path: &Path, text: &[u8], durability: Durability) -> Result<()> {
    match put(path, text, durability) {
        Err(failed) if matches!(failed.errno, Errno::ENOSPC | Errno::EDQUOT) => {
            std::fs::remove_file(reserve_of(path)).map_err(|_| failed)?;
            put(path, text, durability)
        }
        other => other,
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

fn tell_runtime(path: &Path, record: &Record, durability: Durability) -> Result<()> {
    let file = match fd::open(path, OFlag::O_RDWR | OFlag::O_NOFOLLOW) {
        // The file does not exist, or is a directory, link or socket of another runtime.
        Err(failed) if matches!(failed.errno, Errno::ENOENT | Errno::EISDIR | Errno::ELOOP | Errno::ENXIO) => {
            return Ok(());
        }
        other => other?,
    };
    windlass_store::write_exit(file.as_fd(), record.pid, &record.exit)?;
    match durability {
        Durability::Cached => Ok(()),
        Durability::Synced => nix::unistd::fdatasync(&file).called(|| format!("fdatasync({path:?})")),
    }
}

/// Replaces a file as a whole.
pub(crate) fn put(path: &Path, text: &[u8], durability: Durability) -> Result<()> {
    // Engines watch the directory for names that they know, and ignore names with a leading dot.
    fd::replace(fd::CWD, path, 0o644, text, durability)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> ExitStatus {
        ExitStatus {
            exit: Some(Exit::Signal(9)),
            oom_killed: true,
            at: UNIX_EPOCH + Duration::from_nanos(1_500_000_001),
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was() {
        let dir = std::env::temp_dir().join(format!("windlass-exit-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let record = Record::of(&ProcessId::of("web", "probe"), 7, &status(), (3, 4));
        put(&dir.join("exit.json"), &json(&record), Durability::Synced).expect("written");
        let read = Record::read(&dir.join("exit.json")).expect("read");
        assert_eq!(read, record);
        let text = r#"{"version":1,"id":"web","exec":"probe","pid":7,"signal":9,"oomKilled":true,"at":"1970-01-01T00:00:01.500000001Z","atNanoseconds":1500000001,"droppedBytes":3,"unsentBytes":4}"#;
        assert_eq!(String::from_utf8_lossy(&json(&record)), text, "engines read it");
        assert_eq!(read.status(), status());
        assert_eq!(std::fs::read_dir(&dir).expect("read").count(), 1, "nothing temporary stays");
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn what_was_written_is_not_written_again() {
        let dir = std::env::temp_dir().join(format!("windlass-again-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("exits")).expect("a directory");
        std::fs::write(dir.join("file"), "").expect("a file");
        let decimal = |name: &str| ExitFile::Decimal(dir.join(name));
        let mut files = vec![decimal("exits/web"), decimal("file/exit"), decimal("gone/exit"), decimal("exits/other")];
        let record = Record::of(&ProcessId::init("web"), 7, &status(), (0, 0));
        let unwritten = |files: &[ExitFile]| {
            write(&Writing {
                files,
                is_told: false,
                oom_files: &[],
                record: &record,
                code: 137,
                durability: Durability::Synced,
                logs: &[],
            })
        };
        let left = unwritten(&files);
        assert_eq!(std::fs::read_to_string(dir.join("exits/web")).expect("written"), "137");
        keep_unwritten(&mut files, left);
        assert_eq!(files, [decimal("file/exit")], "nobody reads what is to be in a directory that is gone");
        std::fs::remove_file(dir.join("file")).expect("removed");
        std::fs::create_dir(dir.join("file")).expect("a directory");
        assert_eq!(unwritten(&files), 0);
        keep_unwritten(&mut files, unwritten_by(Ok(Exit::Signal(9))));
        assert_eq!(files.len(), 1, "a child that was killed has told nothing");
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn a_directory_that_is_gone_is_forgiven_if_the_engine_knows_the_status() {
        let dir = std::env::temp_dir().join(format!("windlass-gone-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("exits")).expect("a directory");
        let decimal = |name: &str| ExitFile::Decimal(dir.join(name));
        let record = Record::of(&ProcessId::init("web"), 7, &status(), (0, 0));
        let unwritten = |files: &[ExitFile], is_told: bool| {
            let (durability, logs, oom_files) = (Durability::Cached, &[][..], &[][..]);
            write(&Writing { files, is_told, oom_files, record: &record, code: 137, durability, logs })
        };
        for files in [["gone/exit", "exits/web"], ["exits/web", "gone/exit"]] {
            assert_eq!(unwritten(&files.map(decimal), false), 0, "{files:?}");
        }
        let only = [decimal("gone/exit")];
        assert_eq!((unwritten(&only, false), unwritten(&only, true)), (bit(0), 0));
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn the_file_of_a_kill_is_written_for_a_kill_and_tried_again() {
        let dir = std::env::temp_dir().join(format!("windlass-oom-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join("later"), "").expect("a file");
        let oom_files = [dir.join("later/oom"), dir.join("oom")];
        let unwritten = |oom_killed: bool| {
            let record = Record::of(&ProcessId::init("web"), 7, &ExitStatus { oom_killed, ..status() }, (0, 0));
            let (files, durability) = (&[][..], Durability::Cached);
            write(&Writing {
                files,
                is_told: false,
                oom_files: &oom_files,
                record: &record,
                code: 137,
                durability,
                logs: &[],
            })
        };
        assert_eq!((unwritten(false), dir.join("oom").exists()), (0, false), "nothing was killed for want of memory");
        assert_eq!((unwritten(true), dir.join("oom").exists()), (OOM, true));
        std::fs::remove_file(dir.join("later")).expect("removed");
        std::fs::create_dir(dir.join("later")).expect("a directory");
        assert_eq!((unwritten(true), oom_files[0].exists()), (0, true));
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    /// A child writes on after the end of its shim only what no other container can have.
    #[test]
    fn what_names_no_other_container_is_told_from_what_may() {
        let record = Record::of(&ProcessId::init("web"), 7, &status(), (0, 0));
        let is_own = |files: &[ExitFile], oom_files: &[PathBuf]| {
            let (durability, logs) = (Durability::Synced, &[][..]);
            Writing { files, is_told: false, oom_files, record: &record, code: 137, durability, logs }
                .is_of_this_container()
        };
        let own = [ExitFile::Record("exit.json".into()), ExitFile::RuntimeState("/run/windlass/web".into())];
        assert!(is_own(&own, &[]));
        for other in [ExitFile::Decimal("/exits/web".into()), ExitFile::Record("/run/web/exit.json".into())] {
            assert!(!is_own(&[&own[..], &[other]].concat(), &[]));
        }
        assert!(!is_own(&own, &["/run/web/oom".into()]));
    }

    #[test]
    fn windlass_reads_the_record_too() {
        let record = Record::of(&ProcessId::init("web"), 7, &status(), (0, 0));
        let read: ExitRecord = serde_json::from_slice(&json(&record)).expect("a superset");
        assert_eq!(read, record.exit);
    }

    #[test]
    fn a_record_of_the_future_is_not_guessed_at() {
        let path = std::env::temp_dir().join(format!("windlass-future-{}", std::process::id()));
        let mut record = Record::of(&ProcessId::init("web"), 7, &status(), (0, 0));
        record.version = VERSION + 1;
        put(&path, &json(&record), Durability::Cached).expect("written");
        assert_eq!(Record::read(&path), None);
        std::fs::remove_file(&path).expect("removed");
    }
}
