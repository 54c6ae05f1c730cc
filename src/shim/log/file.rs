//! A log's file: appended to, kept below a size, opened again.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::OFlag;

use crate::shim::stdio::LogFile;
use crate::sys::stream::{self, Moved};
use crate::sys::{Result, fd};

/// An open log file.
#[derive(Debug)]
pub(in crate::shim) struct FileLog {
    spec: LogFile,
    file: Option<OwnedFd>,
    size: u64,
    total: u64,
    pub(super) dropped: u64,
}

impl FileLog {
    pub(in crate::shim) fn open(spec: &LogFile) -> Result<FileLog> {
        let file = open(spec)?;
        let size = size_of(&file);
        Ok(FileLog { spec: spec.clone(), file: Some(file), size, total: 0, dropped: 0 })
    }

    /// How many bytes may be appended before the file is over its size.
    pub(super) fn room(&self) -> u64 {
        self.spec.max_size.map_or(u64::MAX, |max| max.saturating_sub(self.size))
    }

    /// Whether there is anything in the file: an empty one takes a line of any length.
    pub(super) fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Appends whole lines (or, in a raw log, whatever there is).
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
        if self.file.is_none() {
            self.open_again();
        }
        let written = self.file.as_ref().map_or(0, |file| put(file, bytes));
        self.size += written as u64;
        self.total += written as u64;
        self.dropped += (bytes.len() - written) as u64;
    }

    /// Opens the name again on request; the caller may have moved the file away.
    ///
    /// CRI-O then waits without a limit for an event that the file was created or changed (inotify(7)). A file that
    /// was not moved keeps its content, so it is truncated to the size that it has, which makes such an event.
    pub(super) fn reopen(&mut self) {
        let known = self.file.as_ref().and_then(identity);
        self.open_again();
        if let Some(file) = self.file.as_ref().filter(|file| identity(file) == known)
            && let Ok(stat) = fd::stat(file.as_fd())
        {
            // If that fails there is no event, but the log works all the same.
            let _ = nix::unistd::ftruncate(file, stat.st_size);
        }
    }

    /// Opens the name again. If that fails, the old file is written further.
    fn open_again(&mut self) {
        if let Ok(file) = open(&self.spec) {
            self.size = size_of(&file);
            self.file = Some(file);
        }
    }

    /// Begins a new file under the name: the old ones move on by one number, or, where none are
    /// kept, the old one is replaced, so that whoever has it open still reads to its end.
    pub(super) fn rotate(&mut self) {
        if self.spec.max_files == 0 {
            let fresh = self.numbered("tmp");
            let _ = std::fs::remove_file(&fresh);
            let made = open(&LogFile { path: fresh.clone(), ..LogFile::default() });
            if let Ok(file) = made {
                if std::fs::rename(&fresh, &self.spec.path).is_ok() {
                    self.file = Some(file);
                    self.size = 0;
                    return;
                }
                let _ = std::fs::remove_file(&fresh);
            }
            return;
        }
        // Where somebody has moved it away already, nothing moves on.
        let first = if self.spec.path.exists() { 1 } else { self.spec.max_files };
        for n in (first..self.spec.max_files).rev() {
            let _ = std::fs::rename(self.numbered(&n.to_string()), self.numbered(&(n + 1).to_string()));
        }
        let _ = std::fs::rename(&self.spec.path, self.numbered("1"));
        self.open_again();
    }

    fn numbered(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(&self.spec.path);
        name.push(".");
        name.push(suffix);
        name.into()
    }

    pub(super) fn to_sync(&self) -> Option<OwnedFd> {
        self.file.as_ref().filter(|_| self.spec.sync).and_then(|file| fd::duplicate(file.as_fd()).ok())
    }
}

fn open(spec: &LogFile) -> Result<OwnedFd> {
    // Not through a link: the directory may be one that others write to. Without O_NONBLOCK a fifo
    // of that name would be waited for.
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    fd::openat(fd::CWD, &spec.path, flags, 0o600)
}

fn size_of(file: &OwnedFd) -> u64 {
    fd::stat(file.as_fd()).map_or(0, |stat| stat.st_size.max(0) as u64)
}

/// Device and inode.
fn identity(file: &OwnedFd) -> Option<(u64, u64)> {
    fd::stat(file.as_fd()).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Writes all, or all up to the end of a line: a line that was cut by a full disk is taken back,
/// so that the next one begins where a reader expects it. Gives how much stays.
fn put(file: &OwnedFd, bytes: &[u8]) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        match stream::write(file.as_fd(), &bytes[done..]) {
            Ok(Moved::Bytes(n)) => done += n,
            // A regular file is never "later", and an error will be one the next time too.
            Ok(Moved::Later | Moved::End) | Err(_) => break,
        }
    }
    if done == bytes.len() || done == 0 {
        return done;
    }
    let whole = bytes[..done].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    // Where the last write ended: somebody may have emptied the file since we looked.
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
