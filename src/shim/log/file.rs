//! The file of a log: appending, rotation at a size limit, and reopening.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};

use crate::stdio::LogFile;
use windlass_sys::stream::{self, Moved};
use windlass_sys::{Called, Result, SyscallError, fd};

/// An open log file.
#[derive(Debug)]
pub(crate) struct FileLog {
    pub(crate) spec: LogFile,
    /// The directory of the file. Files are opened, renamed and removed relative to it.
    pub(crate) directory: OwnedFd,
    pub(crate) file: OwnedFd,
    pub(crate) size: u64,
    pub(crate) total: u64,
    pub(crate) dropped: u64,
}

impl FileLog {
    pub(crate) fn open(spec: &LogFile) -> Result<FileLog> {
        let directory = directory(spec)?;
        let file = open(&directory, name(spec)?)?;
        let size = size_of(&file);
        Ok(FileLog { spec: spec.clone(), directory, file, size, total: 0, dropped: 0 })
    }

    /// How many bytes may be appended before the file exceeds its size limit.
    pub(super) fn room(&self) -> u64 {
        self.spec.max_size.map_or(u64::MAX, |max| max.saturating_sub(self.size))
    }

    /// Whether the file is empty. An empty file takes a line of any length.
    pub(super) fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Appends whole lines, or in a raw log any bytes.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.spec.max_total.is_some_and(|max| self.total.saturating_add(bytes.len() as u64) > max) {
            self.dropped += bytes.len() as u64;
            return;
        }
        if bytes.len() as u64 > self.room() && !self.is_empty() {
            self.rotate();
        }
        let written = put(&self.file, bytes);
        self.size += written as u64;
        self.total += written as u64;
        self.dropped += (bytes.len() - written) as u64;
    }

    /// Opens the name again on request; the caller may have moved the file away.
    ///
    /// CRI-O then waits without a limit for an event that the file was created or changed (inotify(7)). A file that was
    /// not moved keeps its content, so it is truncated to its own size, which makes such an event.
    pub(super) fn reopen(&mut self) {
        let known = identity(&self.file);
        // The path may lead to another directory now, which must be an allowed one too.
        if let Ok(directory) = directory(&self.spec) {
            self.open_again(directory);
        }
        if identity(&self.file) == known
            && let Ok(stat) = fd::stat(self.file.as_fd())
        {
            // If this fails there is no event, but the log is intact.
            let _ = nix::unistd::ftruncate(&self.file, stat.st_size);
        }
    }

    /// Opens the name in this directory. If that fails, the log continues in the old file.
    fn open_again(&mut self, directory: OwnedFd) {
        if let Ok(file) = name(&self.spec).and_then(|name| open(&directory, name)) {
            self.size = size_of(&file);
            (self.directory, self.file) = (directory, file);
        }
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> Result<()> {
        nix::fcntl::renameat(&self.directory, from, &self.directory, to)
            .called(|| format!("renameat({from:?}, {to:?})"))
    }

    /// Rotates: begins a new file under the name. The numbers of the old files increase by one. If none are kept, the
    /// old file is replaced and not truncated, so that an open reader still reaches its end.
    pub(super) fn rotate(&mut self) {
        let Ok(name) = name(&self.spec).map(OsStr::to_os_string) else { return };
        let numbered = |suffix: &str| [&name, OsStr::new(suffix)].join(OsStr::new("."));
        if self.spec.max_files == 0 {
            let fresh = numbered("tmp");
            let _ = fd::unlinkat(self.directory.as_fd(), &fresh);
            if let Ok(file) = fd::openat(self.directory.as_fd(), &fresh, FLAGS | OFlag::O_EXCL, MODE) {
                match self.rename(&fresh, &name) {
                    Ok(()) => (self.file, self.size) = (file, 0),
                    Err(_) => drop(fd::unlinkat(self.directory.as_fd(), &fresh)),
                }
            }
            return;
        }
        // If another program has moved the file already, no number changes.
        let exists = fd::stat_at(self.directory.as_fd(), &name).is_ok();
        let first = if exists { 1 } else { self.spec.max_files };
        for n in (first..self.spec.max_files).rev() {
            let _ = self.rename(&numbered(&n.to_string()), &numbered(&(n + 1).to_string()));
        }
        let _ = self.rename(&name, &numbered("1"));
        if let Ok(directory) = fd::duplicate(self.directory.as_fd()) {
            self.open_again(directory);
        }
    }

    pub(super) fn to_sync(&self) -> Option<OwnedFd> {
        if self.spec.sync { fd::duplicate(self.file.as_fd()).ok() } else { None }
    }
}

/// O_NOFOLLOW, because other users may write to the directory. O_NONBLOCK, because opening a fifo would block.
const FLAGS: OFlag =
    OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_APPEND).union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK);
const MODE: u32 = 0o600;

fn open(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd> {
    fd::openat(directory.as_fd(), name, FLAGS, MODE)
}

fn name(spec: &LogFile) -> Result<&OsStr> {
    let no_name = || SyscallError { call: format!("the log {:?} has no name", spec.path).into(), errno: Errno::EISDIR };
    spec.path.file_name().ok_or_else(no_name)
}

/// Opens the directory of the log. If it must be below an allowed directory, openat2(2) resolves it there, so that
/// changes of the path cannot lead elsewhere.
fn directory(spec: &LogFile) -> Result<OwnedFd> {
    const FLAGS: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY);
    let parent = spec.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if spec.below.is_empty() {
        return fd::open(parent, FLAGS);
    }
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let real = parent.canonicalize().called(|| format!("realpath({parent:?})"))?;
    let open_below = |allowed: &PathBuf| {
        let allowed = fd::open(allowed, FLAGS).ok()?;
        let below = real.strip_prefix(fd::readlinkat(fd::CWD, fd::proc_path(allowed.as_fd())).ok()?).ok()?;
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        fd::openat2(allowed.as_fd(), below, FLAGS, 0, beneath).ok()
    };
    spec.below.iter().find_map(open_below).ok_or_else(|| SyscallError {
        call: format!("the log {:?} is below none of the directories of --log-allowlist-dir", spec.path).into(),
        errno: Errno::EACCES,
    })
}

fn size_of(file: &OwnedFd) -> u64 {
    fd::stat(file.as_fd()).map_or(0, |stat| stat.st_size.max(0) as u64)
}

/// Device and inode.
fn identity(file: &OwnedFd) -> Option<(u64, u64)> {
    fd::stat(file.as_fd()).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Writes all bytes, or on a full disk all whole lines: a line that was cut is removed again. Returns the number of
/// bytes that were written.
fn put(file: &OwnedFd, bytes: &[u8]) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        match stream::write(file.as_fd(), &bytes[done..]) {
            Ok(Moved::Bytes(n)) => done += n,
            // A regular file never blocks, and trying again would fail again.
            Ok(Moved::Later | Moved::End) | Err(_) => break,
        }
    }
    if done == bytes.len() || done == 0 {
        return done;
    }
    let whole = bytes[..done].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    // The end of the last write: another program may have truncated the file.
    let end = nix::unistd::lseek(file, 0, nix::unistd::Whence::SeekCur);
    match end.and_then(|end| nix::unistd::ftruncate(file, end - (done - whole) as i64)) {
        Ok(()) => whole,
        Err(_) => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str, max_files: u32) -> (PathBuf, FileLog) {
        let dir = std::env::temp_dir().join(format!("windlass-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let spec = LogFile { path: dir.join("log"), max_size: Some(10), max_files, ..LogFile::default() };
        let log = FileLog::open(&spec).expect("a log");
        (dir, log)
    }

    fn text(path: PathBuf) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn rotation_keeps_the_number_asked_for() {
        let (dir, mut log) = log("rotate", 2);
        for line in ["aaaaaaa\n", "bbbbbbb\n", "ccccccc\n", "ddddddd\n"] {
            log.append(line.as_bytes());
        }
        assert_eq!(text(dir.join("log")), "ddddddd\n");
        assert_eq!(text(dir.join("log.1")), "ccccccc\n");
        assert_eq!(text(dir.join("log.2")), "bbbbbbb\n");
        assert!(!dir.join("log.3").exists());
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn the_oldest_log_is_the_one_that_a_rotation_removes() {
        let (dir, mut log) = log("oldest", 3);
        for line in ["aaaaaaa\n", "bbbbbbb\n", "ccccccc\n", "ddddddd\n", "eeeeeee\n"] {
            log.append(line.as_bytes());
        }
        let texts = ["log", "log.1", "log.2", "log.3", "log.4"].map(|name| text(dir.join(name)));
        assert_eq!(texts, ["eeeeeee\n", "ddddddd\n", "ccccccc\n", "bbbbbbb\n", ""]);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn without_rotation_the_log_begins_anew() {
        let (dir, mut log) = log("anew", 0);
        log.append(b"aaaaaaa\n");
        log.append(b"bbbbbbb\n");
        assert_eq!(text(dir.join("log")), "bbbbbbb\n");
        assert_eq!(std::fs::read_dir(&dir).expect("read").count(), 1);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn a_log_that_was_moved_away_is_opened_again_by_its_name() {
        let (dir, mut log) = log("reopen", 0);
        log.append(b"a\n");
        std::fs::rename(dir.join("log"), dir.join("old")).expect("renamed");
        log.reopen();
        log.append(b"b\n");
        assert_eq!((text(dir.join("old")), text(dir.join("log"))), ("a\n".into(), "b\n".into()));
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn who_waits_for_a_reopened_log_sees_an_event_although_it_was_not_moved() {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
        let (dir, mut log) = log("event", 0);
        log.append(b"a\n");
        let watch = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
        watch.add_watch(&dir, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MODIFY).expect("watched");
        log.reopen();
        let events = watch.read_events().expect("an event");
        assert!(events.iter().all(|event| event.name.as_deref() == Some("log".as_ref())), "{events:?}");
        log.append(b"b\n");
        assert_eq!(text(dir.join("log")), "a\nb\n", "nothing is lost");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn what_is_over_the_limit_of_all_output_is_read_and_not_written() {
        let (dir, _) = log("total", 0);
        let spec = LogFile { path: dir.join("all"), max_total: Some(16), ..LogFile::default() };
        let mut log = FileLog::open(&spec).expect("a log");
        for line in ["aaaaaaa\n", "bbbbbbb\n", "c\n", "ddddddd\n"] {
            log.append(line.as_bytes());
        }
        assert_eq!((text(dir.join("all")), log.dropped), ("aaaaaaa\nbbbbbbb\n".into(), 10));
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn a_full_log_that_was_moved_away_moves_no_other() {
        let (dir, mut log) = log("moved", 2);
        log.append(b"aaaaaaa\n");
        std::fs::write(dir.join("log.1"), "older").expect("written");
        std::fs::rename(dir.join("log"), dir.join("moved")).expect("renamed");
        for line in ["bbbbbbb\n", "ccccccc\n"] {
            log.append(line.as_bytes());
        }
        assert_eq!(text(dir.join("log")), "ccccccc\n");
        assert_eq!((text(dir.join("log.1")), text(dir.join("log.2"))), ("bbbbbbb\n".into(), "older".into()));
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn a_log_must_be_below_an_allowed_directory_whenever_it_is_opened() {
        let (dir, _) = log("allow", 0);
        std::fs::create_dir_all(dir.join("in/sub")).expect("a directory");
        std::fs::create_dir_all(dir.join("out")).expect("a directory");
        std::os::unix::fs::symlink(dir.join("out"), dir.join("in/link")).expect("a link");
        let allowed = |path: &str| {
            let below = vec![dir.join("nowhere"), dir.join("in")];
            FileLog::open(&LogFile { path: dir.join(path), below, ..LogFile::default() })
        };
        for refused in ["log", "in/../log", "in/link/log", "in/none/log", "in/sub/.."] {
            assert!(allowed(refused).is_err(), "{refused}");
        }
        assert!(allowed("in/log").is_ok());
        let mut log = allowed("in/sub/log").expect("below");
        log.append(b"a\n");
        // The directory is not allowed any more.
        std::fs::rename(dir.join("in/sub"), dir.join("in/old")).expect("renamed");
        std::os::unix::fs::symlink(dir.join("out"), dir.join("in/sub")).expect("a link");
        log.reopen();
        log.append(b"b\n");
        log.rotate();
        log.append(b"c\n");
        assert_eq!(std::fs::read_dir(dir.join("out")).expect("read").count(), 0);
        assert_eq!(text(dir.join("in/old/log")), "c\n");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn the_file_of_a_rotation_is_always_a_new_one() {
        let (dir, mut log) = log("fresh", 0);
        std::fs::write(dir.join("other"), "theirs").expect("written");
        std::os::unix::fs::symlink(dir.join("other"), dir.join("log.tmp")).expect("a link");
        for line in ["aaaaaaa\n", "bbbbbbb\n"] {
            log.append(line.as_bytes());
        }
        assert_eq!((text(dir.join("log")), text(dir.join("other"))), ("bbbbbbb\n".into(), "theirs".into()));
        // A file that cannot be removed is not used.
        std::fs::create_dir_all(dir.join("log.tmp/x")).expect("a directory");
        log.append(b"ccccccc\n");
        assert_eq!(text(dir.join("log")), "bbbbbbb\nccccccc\n", "nothing is lost");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn a_link_is_not_followed() {
        let (dir, _) = log("link", 0);
        std::os::unix::fs::symlink("/dev/null", dir.join("link")).expect("a link");
        let spec = LogFile { path: dir.join("link"), ..LogFile::default() };
        assert_eq!(FileLog::open(&spec).expect_err("refused").errno, nix::errno::Errno::ELOOP);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn what_a_full_device_does_not_take_is_counted() {
        let spec = LogFile { path: "/dev/full".into(), ..LogFile::default() };
        let mut log = FileLog::open(&spec).expect("opened");
        log.append(b"12345\n");
        assert_eq!(log.dropped, 6);
    }
}
