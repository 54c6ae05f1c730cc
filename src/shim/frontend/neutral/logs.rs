//! Reads a log that a shim writes, from its oldest file on; with `--follow` also later entries, across rotations. Only
//! the files are used, so the shim may be dead.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::log::{Entry, Stream, parse};
use crate::stdio::LogFile;
use crate::{Code, Log, Refusal};
use windlass_base::rfc3339;

/// The entries that are printed, and how.
#[derive(Clone, Debug, Default)]
pub(super) struct LogFilter {
    /// The oldest time, in RFC 3339 and UTC, as the log has it.
    pub since: Option<String>,
    /// Whether to print the time before each line.
    pub timestamps: bool,
}

#[derive(Clone, Copy)]
enum Format {
    K8s,
    Json,
    Raw,
}

/// A log that is being read.
pub(super) struct Reader {
    spec: LogFile,
    format: Format,
    wanted: LogFilter,
    file: Option<File>,
    inode: u64,
    /// The beginning of an incomplete entry.
    begun: Vec<u8>,
    /// For each stream, whether the last entry was a partial line.
    partial: [bool; 2],
}

impl Reader {
    /// A reader of the first log that is a file.
    pub(super) fn new(logs: &[Log], wanted: LogFilter) -> Result<Reader, Refusal> {
        let found = logs.iter().find_map(|log| match log {
            Log::K8s(file) => Some((Format::K8s, file)),
            Log::Json(file) => Some((Format::Json, file)),
            Log::Raw(file) => Some((Format::Raw, file)),
            Log::Journald(_) => None,
        });
        let (format, spec) =
            found.ok_or_else(|| Refusal::new(Code::Invalid, "the container's log is not a readable file"))?;
        if matches!(format, Format::Raw) && (wanted.since.is_some() || wanted.timestamps) {
            return Err(Refusal::new(Code::Invalid, "a raw log has no times"));
        }
        let spec = spec.clone();
        Ok(Reader { spec, format, wanted, file: None, inode: 0, begun: Vec::new(), partial: [false; 2] })
    }

    /// Prints all entries that were not read yet.
    pub(super) fn read(&mut self, stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<()> {
        loop {
            if self.file.is_none() && !self.open_next()? {
                break;
            }
            self.read_file(stdout, stderr)?;
            // Compared after reading, so that entries from before a rotation are not lost.
            if !self.is_rotated() {
                break;
            }
            self.read_file(stdout, stderr)?;
            self.file = None;
        }
        stdout.flush()?;
        stderr.flush()
    }

    /// The paths of the log's files, oldest first.
    fn files(&self) -> Vec<PathBuf> {
        let numbered = |n: u32| {
            let mut name = self.spec.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        (1..=self.spec.max_files).rev().map(numbered).chain([self.spec.path.clone()]).collect()
    }

    /// Opens the file after the one that was read last, or the oldest.
    fn open_next(&mut self) -> io::Result<bool> {
        let files: Vec<(PathBuf, u64)> =
            self.files().into_iter().filter_map(|path| inode(&path).map(|inode| (path, inode))).collect();
        let after = files.iter().position(|(_, inode)| *inode == self.inode).map_or(0, |at| at + 1);
        let Some((path, _)) = files.get(after) else { return Ok(false) };
        // The name may be gone by now, or be a link that another user has made.
        let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
        let file = match opened {
            Err(error) if error.raw_os_error().is_some_and(|raw| [libc::ENOENT, libc::ELOOP].contains(&raw)) => {
                return Ok(false);
            }
            other => other?,
        };
        self.inode = file.metadata()?.ino();
        self.file = Some(file);
        Ok(true)
    }

    fn is_rotated(&self) -> bool {
        inode(&self.spec.path).is_some_and(|inode| inode != self.inode)
    }

    fn read_file(&mut self, stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let mut piece = vec![0; 64 * 1024];
        loop {
            let n = file.read(&mut piece)?;
            if n == 0 {
                break;
            }
            if matches!(self.format, Format::Raw) {
                stdout.write_all(&piece[..n])?;
                continue;
            }
            self.begun.extend_from_slice(&piece[..n]);
            let text = std::mem::take(&mut self.begun);
            let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            for entry in text[..end].split_inclusive(|&byte| byte == b'\n') {
                self.entry(&entry[..entry.len() - 1], stdout, stderr)?;
            }
            self.begun = text[end..].to_vec();
        }
        self.file = Some(file);
        Ok(())
    }

    fn entry(&mut self, entry: &[u8], stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<()> {
        match self.format {
            Format::K8s => {
                let Some(line) = parse(entry) else { return Ok(()) };
                let end: &[u8] = if line.partial { b"" } else { b"\n" };
                self.line(line.time, line.stream, &[line.text, end].concat(), stdout, stderr)
            }
            _ => {
                let Ok(line) = serde_json::from_slice::<Entry>(entry) else { return Ok(()) };
                let stream = if line.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
                self.line(&line.time, stream, line.log.as_bytes(), stdout, stderr)
            }
        }
    }

    fn line(
        &mut self,
        time: &str,
        stream: Stream,
        text: &[u8],
        stdout: &mut impl Write,
        stderr: &mut impl Write,
    ) -> io::Result<()> {
        // Times of the same zone sort as text, and so do fractions without trailing zeros.
        if self.wanted.since.as_deref().is_some_and(|since| rfc3339::is_before(time, since)) {
            return Ok(());
        }
        let out: &mut dyn Write = if stream == Stream::Stderr { stderr } else { stdout };
        let continues = std::mem::replace(&mut self.partial[stream as usize], !text.ends_with(b"\n"));
        if self.wanted.timestamps && !continues {
            write!(out, "{time} ")?;
        }
        out.write_all(text)
    }
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file).map(|file| file.ino())
}

/// Parses `--since`: RFC 3339 in UTC, or seconds before now.
pub(super) fn since(text: &str, now: SystemTime) -> Result<String, Refusal> {
    if let Ok(seconds) = text.parse::<f64>() {
        let ago = Duration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|ago| now.checked_sub(ago))
            .ok_or_else(|| Refusal::new(Code::Invalid, format!("{text:?} is not a number of seconds")))?;
        return Ok(rfc3339::nanoseconds(ago));
    }
    let digits = |at: std::ops::Range<usize>| text.get(at).is_some_and(|part| part.bytes().all(|b| b.is_ascii_digit()));
    let shaped = digits(0..4) && digits(5..7) && digits(8..10) && digits(11..13) && digits(14..16) && digits(17..19);
    if shaped && text.is_ascii() && &text[10..11] == "T" && (text.ends_with('Z') || text.ends_with("+00:00")) {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(Code::Invalid, format!("{text:?} is not a time in UTC like 2026-01-31T12:00:00Z")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reader: &mut Reader) -> String {
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        reader.read(&mut out, &mut errors).expect("read");
        out.extend(errors);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_log_is_followed_over_rotations() {
        let dir = std::env::temp_dir().join(format!("windlass-follow-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("made");
        let path = dir.join("log");
        let spec = LogFile { path: path.clone(), max_files: 2, ..LogFile::default() };
        let line = |second: u32, text: &str| format!("2026-01-01T00:00:{second:02}.5+00:00 stdout F {text}\n");
        std::fs::write(dir.join("log.1"), line(1, "one")).expect("written");
        std::fs::write(&path, line(2, "two")).expect("written");
        let mut reader = Reader::new(&[Log::K8s(spec.clone())], LogFilter::default()).expect("a log");
        assert_eq!(read(&mut reader), "one\ntwo\n");
        // After two rotations, the reader continues in the old file and then reads the newer ones.
        let mut old = std::fs::OpenOptions::new().append(true).open(&path).expect("opened");
        old.write_all(line(3, "three").as_bytes()).expect("written");
        std::fs::rename(&path, dir.join("log.2")).expect("renamed");
        std::fs::write(dir.join("log.1"), line(4, "four")).expect("written");
        std::fs::write(&path, line(5, "five")).expect("written");
        assert_eq!(read(&mut reader), "three\nfour\nfive\n");
        assert_eq!(read(&mut reader), "");
        let wanted = LogFilter { since: Some("2026-01-01T00:00:04.500Z".into()), timestamps: true };
        let mut late = Reader::new(&[Log::K8s(spec)], wanted).expect("a log");
        assert_eq!(read(&mut late), "2026-01-01T00:00:04.5+00:00 four\n2026-01-01T00:00:05.5+00:00 five\n");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn a_time_is_absolute_or_ago() {
        let now = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(since("100", now).as_deref(), Ok("2023-11-14T22:11:40Z"));
        assert!(since("2026-01-31T12:00:00.5Z", now).is_ok());
        for bad in ["yesterday", "-1", "2026-01-31", "2026-01-31T12:00:00+02:00"] {
            assert!(since(bad, now).is_err(), "{bad}");
        }
    }
}
