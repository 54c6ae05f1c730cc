//! `events.log`: the numbered events, one JSON object per line, and the number up to which they are acknowledged.
//!
//! Events are kept in the file only; a subscriber is a cursor in it. The file survives the shim, and a shim that adopts
//! the container continues its numbers. It is not synced: only the exit record must survive a crash of the machine.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::Deserialize;

use windlass_sys::stream::{self, Moved};
use windlass_sys::{Called, Result, SyscallError, fd};

/// Size in bytes at which events that are not needed any more are removed.
const COMPACT: u64 = 256 * 1024;

/// Bytes read at once for a subscriber.
const PIECE: usize = 8 * 1024;

/// The open file.
#[derive(Debug)]
pub(super) struct EventLog {
    pub(super) path: PathBuf,
    pub(super) file: OwnedFd,
    pub(super) length: u64,
    pub(super) next: u64,
    pub(super) acknowledged: u64,
    pub(super) compact_at: u64,
    /// Changes when the file is rewritten, which invalidates the offsets of cursors.
    pub(super) generation: u32,
    /// The last event of [`EventLog::append_once`].
    pub(super) once: Option<(u64, String)>,
    /// Lines that are not written yet, because the disk is full.
    pub(super) unwritten: VecDeque<String>,
}

/// The position of a subscriber.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    pub(super) from: u64,
    pub(super) offset: u64,
    pub(super) generation: u32,
}

/// A line: an event or an acknowledgement.
#[derive(Deserialize)]
struct EventLine<'a> {
    event: Option<u64>,
    acknowledged: Option<u64>,
    #[serde(rename = "type")]
    kind: Option<&'a str>,
    exec: Option<&'a str>,
}

/// The last numbers of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// The number of the last event; 0 before the first.
    pub last: u64,
    /// The number of the last event that is acknowledged.
    pub acknowledged: u64,
    /// Length of the complete lines, in bytes.
    whole: usize,
}

impl Marks {
    /// Reads the marks of the file at `path`, which is not changed, because its shim may be writing. A file that does
    /// not exist counts as empty.
    pub(super) fn read(path: &Path) -> Result<Marks> {
        match fd::open(path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW) {
            Err(failed) if failed.errno == Errno::ENOENT => Ok(Marks::default()),
            file => Ok(Marks::of(&fd::read_all(file?, usize::MAX)?)),
        }
    }

    fn of(text: &[u8]) -> Marks {
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let (mut last, mut acknowledged) = (0, 0);
        for line in lines(&text[..whole]) {
            last = last.max(line.event.unwrap_or(0));
            acknowledged = acknowledged.max(line.acknowledged.unwrap_or(0));
        }
        Marks { last: last.max(acknowledged), acknowledged, whole }
    }
}

impl EventLog {
    /// Opens or creates the file, and removes an incomplete last line, which a killed shim has left. The caller must
    /// have the lock of the directory (`ContainerDir::lock`), so that no other process writes.
    pub(super) fn open(path: PathBuf) -> Result<EventLog> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOFOLLOW;
        let file = fd::openat(fd::CWD, &path, flags, 0o600)?;
        let text = fd::read_all(fd::duplicate(file.as_fd())?, usize::MAX)?;
        let marks = Marks::of(&text);
        nix::unistd::ftruncate(&file, marks.whole as i64).called(|| "ftruncate()".into())?;
        Ok(EventLog {
            path,
            file,
            length: marks.whole as u64,
            next: marks.last + 1,
            acknowledged: marks.acknowledged,
            compact_at: COMPACT,
            generation: 0,
            once: None,
            unwritten: VecDeque::new(),
        })
    }

    /// The number of the last event; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    /// The number of the last event that is acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether the log has an event of this kind for init.
    pub(super) fn has(&self, kind: &str) -> bool {
        self.text().is_ok_and(|text| lines(&text).any(|line| line.kind == Some(kind) && line.exec.is_none()))
    }

    /// Appends an event. `members` are its JSON members after the number.
    pub(super) fn append(&mut self, members: &str) {
        let line = format!("{{\"event\":{},{members}}}\n", self.next);
        self.next += 1;
        self.unwritten.push_back(line);
        self.write_pending();
    }

    /// Appends an event, unless it equals the last event and that is not acknowledged. So an event that a container can
    /// cause again and again does not fill the disk.
    pub(super) fn append_once(&mut self, members: &str) {
        let last = self.last();
        if self.once == Some((last, members.to_owned())) && self.acknowledged < last {
            return;
        }
        self.append(members);
        self.once = Some((self.last(), members.to_owned()));
    }

    /// Acknowledges all events up to `event`.
    pub(super) fn acknowledge(&mut self, event: u64) {
        let event = event.min(self.last());
        if event > self.acknowledged {
            self.acknowledged = event;
            self.unwritten.push_back(format!("{{\"acknowledged\":{event}}}\n"));
            self.write_pending();
        }
    }

    /// Writes the lines that could not be written before. Returns false if some remain.
    pub(super) fn write_pending(&mut self) -> bool {
        while let Some(line) = self.unwritten.front() {
            match stream::write(self.file.as_fd(), line.as_bytes()) {
                Ok(Moved::Bytes(n)) if n == line.len() => {
                    self.length += n as u64;
                    self.unwritten.pop_front();
                }
                _ => {
                    // Remove the written part of the line, which the next line would continue.
                    let _ = nix::unistd::ftruncate(&self.file, self.length as i64);
                    return false;
                }
            }
        }
        if self.length > self.compact_at {
            // If this fails, the file grows, and the next attempt is at twice the size.
            let _ = self.compact();
            self.compact_at = self.length * 2 + COMPACT;
        }
        true
    }

    fn text(&self) -> Result<Vec<u8>> {
        fd::read_all(fd::reopen(self.file.as_fd(), OFlag::O_RDONLY)?, usize::MAX)
    }

    /// Rewrites the file without acknowledged events and those of deleted execs.
    pub(super) fn compact(&mut self) -> Result<()> {
        let text = self.text()?;
        // For each name, the last event of a deleted exec: a later exec may have the same name.
        let mut deleted: HashMap<&str, u64> = HashMap::new();
        for line in lines(&text).filter(|line| line.kind == Some("deleted")) {
            if let (Some(exec), Some(event)) = (line.exec, line.event) {
                deleted.insert(exec, event);
            }
        }
        let mut kept = format!("{{\"acknowledged\":{}}}\n", self.acknowledged).into_bytes();
        for raw in text.split_inclusive(|&byte| byte == b'\n') {
            let line = parsed(raw);
            let wanted = line.is_some_and(|line| {
                let of_deleted = line.exec.and_then(|exec| deleted.get(exec)).copied().unwrap_or(0);
                line.event.is_some_and(|event| event > self.acknowledged && event > of_deleted)
            });
            if wanted {
                kept.extend_from_slice(raw);
            }
        }
        // Keep the last number, even if its event is removed.
        kept.extend_from_slice(
            format!("{{\"acknowledged\":{},\"event\":{}}}\n", self.acknowledged, self.last()).as_bytes(),
        );
        // The new file is already open. Opening it by its name could fail, and then events would go to the old file,
        // which has no name.
        let file = fd::replace_open(fd::CWD, &self.path, 0o600, &kept, fd::Durability::Cached)?;
        stream::always_append(file.as_fd())?;
        self.file = file;
        self.length = kept.len() as u64;
        self.generation += 1;
        Ok(())
    }

    /// A cursor at the event `from`, or by default at the first that is not acknowledged.
    pub(super) fn cursor(&self, from: Option<u64>) -> Cursor {
        Cursor { from: from.unwrap_or(self.acknowledged + 1), offset: 0, generation: self.generation }
    }

    /// Reads the next events as whole lines. Empty if there are no more.
    pub(super) fn read(&self, cursor: &mut Cursor) -> Result<Vec<u8>> {
        if cursor.generation != self.generation {
            (cursor.offset, cursor.generation) = (0, self.generation);
        }
        let mut found = Vec::new();
        let mut piece = vec![0; PIECE];
        while found.is_empty() && cursor.offset < self.length {
            let n = nix::sys::uio::pread(&self.file, &mut piece, cursor.offset as i64).called(|| "pread()".into())?;
            let Some(end) = piece[..n].iter().rposition(|&byte| byte == b'\n') else {
                return Err(SyscallError { call: "an event that is too long".into(), errno: Errno::EMSGSIZE });
            };
            cursor.offset += end as u64 + 1;
            for raw in piece[..=end].split_inclusive(|&byte| byte == b'\n') {
                let line = parsed(raw);
                let event = line.filter(|line| line.kind.is_some()).and_then(|line| line.event);
                if event.is_some_and(|event| event >= cursor.from) {
                    cursor.from = event.unwrap_or(0) + 1;
                    found.extend_from_slice(raw);
                }
            }
        }
        Ok(found)
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = EventLine<'_>> {
    text.split(|&byte| byte == b'\n').filter_map(parsed)
}

/// A line. `None` if it is damaged, or has a number too large to continue from.
fn parsed(line: &[u8]) -> Option<EventLine<'_>> {
    // The largest integer that every JSON reader can hold.
    const LARGEST: u64 = 1 << 53;
    let line: EventLine<'_> = serde_json::from_slice(line).ok()?;
    line.event.max(line.acknowledged).is_none_or(|number| number < LARGEST).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event_log(name: &str) -> (PathBuf, EventLog) {
        let path = std::env::temp_dir().join(format!("windlass-events-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        (path.clone(), EventLog::open(path).expect("opened"))
    }

    fn read(log: &EventLog, cursor: &mut Cursor) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            let text = log.read(cursor).expect("read");
            if text.is_empty() {
                return numbers;
            }
            numbers.extend(lines(&text).filter_map(|line| line.event));
        }
    }

    #[test]
    fn a_successor_goes_on_numbering_and_repeats_what_was_not_acknowledged() {
        let (path, mut log) = event_log("successor");
        for _ in 0..3 {
            log.append("\"type\":\"started\"");
        }
        log.acknowledge(2);
        drop(log);
        // A shim was killed in the middle of a line.
        let cut = [&std::fs::read(&path).expect("read")[..], b"{\"event\":4,\"ty"].concat();
        std::fs::write(&path, &cut).expect("written");
        // A reader does not change the file: a shim may be writing that line.
        let marks = Marks::read(&path).expect("read");
        assert_eq!((marks.last, marks.acknowledged), (3, 2));
        assert_eq!(std::fs::read(&path).expect("read"), cut);
        let mut log = EventLog::open(path.clone()).expect("opened");
        log.append("\"type\":\"exited\"");
        assert_eq!(read(&log, &mut log.cursor(None)), [3, 4]);
        assert_eq!(read(&log, &mut log.cursor(Some(1))), [1, 2, 3, 4]);
        assert!(log.has("exited") && !log.has("created"));
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn an_exec_with_the_name_of_a_deleted_one_keeps_its_events() {
        let (path, mut log) = event_log("again");
        for kind in ["started", "exited", "deleted", "started", "exited"] {
            log.append(&format!("\"type\":\"{kind}\",\"exec\":\"probe\""));
        }
        log.compact().expect("compacted");
        assert_eq!(read(&log, &mut log.cursor(None)), [4, 5]);
        // A number never comes again, not even that of an event which was left out.
        log.append("\"type\":\"deleted\",\"exec\":\"probe\"");
        log.compact().expect("compacted");
        drop(log);
        assert_eq!(EventLog::open(path.clone()).expect("opened").last(), 6);
        std::fs::remove_file(path).expect("removed");
    }

    /// In a process of its own, since its files may only have 512 bytes, as on a full disk.
    #[test]
    fn events_without_room_come_whole_when_there_is_some() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        const INNER: &str = "WINDLASS_TEST_FULL_DISK";
        if std::env::var_os(INNER).is_none() {
            let name = "frontend::neutral::event_log::tests::events_without_room_come_whole_when_there_is_some";
            let inner = std::process::Command::new("sh")
                .args(["-c", "trap '' XFSZ; ulimit -S -f 1; exec \"$@\"", "sh"])
                .arg(std::env::current_exe().expect("a program"))
                .args(["--exact", name, "--test-threads=1", "--nocapture"])
                .env(INNER, "1")
                .output()
                .expect("started");
            let told = String::from_utf8_lossy(&inner.stdout);
            assert!(inner.status.success() && told.contains("1 passed"), "{told}");
            return;
        }
        let (path, mut log) = event_log("full");
        for _ in 0..20 {
            log.append("\"type\":\"started\",\"exec\":\"e\"");
        }
        assert!(!log.write_pending(), "there is no room");
        let some = read(&log, &mut log.cursor(None));
        assert!(!some.is_empty() && some.len() < 20, "{some:?}");
        let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).expect("the limit");
        setrlimit(Resource::RLIMIT_FSIZE, most, most).expect("lifted");
        assert!(log.write_pending());
        assert_eq!(read(&log, &mut log.cursor(None)), (1..=20).collect::<Vec<u64>>());
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(text.lines().all(|line| parsed(line.as_bytes()).is_some()), "{text}");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn what_is_repeated_is_told_once_until_it_is_acknowledged() {
        let (path, mut log) = event_log("once");
        let oom = "\"type\":\"oom\"";
        for _ in 0..1000 {
            log.append_once(oom);
        }
        assert_eq!(log.last(), 1);
        log.acknowledge(1);
        (0..3).for_each(|_| log.append_once(oom));
        assert_eq!(log.last(), 2, "it happened again after it was known");
        log.append("\"type\":\"exited\",\"exec\":\"e\"");
        (0..3).for_each(|_| log.append_once(oom));
        assert_eq!(log.last(), 4, "and after something else");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn events_after_a_compaction_are_in_the_file_that_has_the_name() {
        let (path, mut log) = event_log("name");
        log.append("\"type\":\"created\"");
        log.compact().expect("compacted");
        for kind in ["started", "exited"] {
            log.append(&format!("\"type\":\"{kind}\""));
        }
        assert_eq!(read(&log, &mut log.cursor(None)), [1, 2, 3]);
        drop(log);
        let log = EventLog::open(path.clone()).expect("opened");
        assert_eq!(read(&log, &mut log.cursor(None)), [1, 2, 3]);
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn what_nobody_needs_is_left_out_and_subscribers_miss_nothing() {
        let (path, mut log) = event_log("compact");
        let mut cursor = log.cursor(None);
        let mut seen = Vec::new();
        for n in 0..20_000u64 {
            log.append(&format!("\"type\":\"exited\",\"exec\":\"e{n}\""));
            if n % 100 == 0 {
                seen.extend(read(&log, &mut cursor));
                log.acknowledge(n.saturating_sub(50));
            }
        }
        seen.extend(read(&log, &mut cursor));
        assert_eq!(seen, (1..=20_000).collect::<Vec<u64>>());
        assert!(std::fs::metadata(&path).expect("there").len() < 3 * COMPACT);
        // The number continues even if all events were acknowledged and removed.
        log.acknowledge(20_000);
        log.compact().expect("compacted");
        drop(log);
        let log = EventLog::open(path.clone()).expect("opened");
        assert_eq!((log.last(), log.acknowledged()), (20_000, 20_000));
        std::fs::remove_file(path).expect("removed");
    }
}
