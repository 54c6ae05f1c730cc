use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::*;
use windlass_sys::tree::{self, Files};

const ALL: Top = Top { owner: true, mode: true };

/// A directory that is removed with its content.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Temporary {
        let path = std::env::temp_dir().join(format!("windlass-copy-up-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a directory");
        Temporary(path)
    }

    /// A directory in it.
    fn make(&self, name: &str) -> PathBuf {
        fs::create_dir_all(self.0.join(name)).expect("a directory");
        self.0.join(name)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = tree::remove(fd::CWD, &self.0, Files::Unlink);
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (fd::open(from, DIRECTORY)?, fd::open(to, DIRECTORY)?);
    copy_up(from.as_fd(), to.as_fd(), &ALL)
}

#[test]
fn holes_stay_holes() {
    let temporary = Temporary::new("holes");
    let (from, to) = (temporary.make("from"), temporary.make("to"));
    let size = 1 << 40;
    let files: [(&str, &[u64]); 4] =
        [("hole", &[]), ("ends", &[0, size - 5]), ("middle", &[size / 2]), ("last", &[size - 5])];
    for (name, data) in files {
        let file = File::create(from.join(name)).expect("a file");
        file.set_len(size).expect("its size");
        for at in data {
            std::os::unix::fs::FileExt::write_all_at(&file, b"words", *at).expect("written");
        }
    }
    copy(&from, &to).expect("copied");
    for (name, data) in files {
        let file = File::open(to.join(name)).expect("the copy");
        let seen = file.metadata().expect("its stat");
        assert_eq!(seen.size(), size, "{name}");
        // A few blocks of the filesystem for each piece of data.
        assert!(seen.blocks() <= 256, "{name} has {} blocks", seen.blocks());
        for at in data {
            let mut words = [0; 5];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut words, *at).expect("read");
            assert_eq!(&words, b"words", "{name}");
        }
    }
}

#[test]
fn content_modes_and_times_are_copied() {
    let temporary = Temporary::new("all");
    let (from, to) = (temporary.make("from"), temporary.make("to"));
    fs::create_dir(from.join("dir")).expect("mkdir");
    fs::write(from.join("dir/file"), "text").expect("write");
    symlink("/nowhere", from.join("link")).expect("symlink");
    fd::mknodat(fd::CWD, from.join("fifo"), libc::S_IFIFO | 0o640, 0).expect("mkfifo");
    for (name, mode) in [("dir/file", 0o4751), ("dir", 0o1750), ("", 0o711)] {
        fs::set_permissions(from.join(name), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let old = [TimeSpec::new(1, 2), TimeSpec::new(3, 4)];
    for name in ["dir/file", "dir", "fifo", "link"] {
        utimensat(AT_FDCWD, &from.join(name), &old[0], &old[1], UtimensatFlags::NoFollowSymlink).expect("times");
    }
    copy(&from, &to).expect("copied");
    assert_eq!(fs::read_to_string(to.join("dir/file")).expect("the file"), "text");
    assert_eq!(fs::read_link(to.join("link")).expect("the link"), Path::new("/nowhere"));
    for name in ["", "dir", "dir/file", "fifo", "link"] {
        let (one, other) = (from.join(name).symlink_metadata(), to.join(name).symlink_metadata());
        let (one, other) = (one.expect("the original"), other.expect("the copy"));
        assert_eq!(one.mode(), other.mode(), "the mode of {name:?}");
        if !name.is_empty() {
            assert_eq!((one.mtime(), one.mtime_nsec()), (other.mtime(), other.mtime_nsec()), "of {name:?}");
        }
    }
}

#[test]
fn the_depth_is_bounded_by_nothing() {
    let temporary = Temporary::new("deep");
    let (from, to) = (temporary.make("from"), temporary.make("to"));
    let depth = 1200;
    let mut at = fd::open(&from, DIRECTORY).expect("open");
    for _ in 0..depth {
        at = make_directory(at.as_fd(), "d".as_ref()).expect("mkdir");
    }
    fd::make_new(at.as_fd(), "file", 0o600).expect("a file");
    // So small a stack would not hold a frame for each level.
    let copied = std::thread::Builder::new().stack_size(256 << 10).spawn(move || copy(&from, &to)).expect("a thread");
    copied.join().expect("no overflow").expect("copied");
    let mut deepest = 0;
    let copy = fd::open(temporary.0.join("to"), DIRECTORY).expect("open");
    tree::visit(copy.as_fd(), |_, depth| {
        deepest = deepest.max(depth);
        Ok(())
    })
    .expect("visited");
    assert_eq!(deepest, depth);
}

#[test]
fn what_was_opened_is_looked_at_again() {
    let temporary = Temporary::new("opened");
    let dir = fd::open(temporary.make("dir"), DIRECTORY).expect("open");
    let name = OsStr::new("dir");
    assert!(opened(dir.as_fd(), name, libc::S_IFDIR).is_ok());
    let refused = opened(dir.as_fd(), name, libc::S_IFREG).map(drop).map_err(|failed| failed.errno);
    assert_eq!(refused, Err(Errno::ESTALE));
}

/// Exchanges `one` and `other` again and again while `during` runs.
fn exchanging(one: &Path, other: &Path, during: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).expect("renameat2");
            }
        });
        during();
        stop.store(true, Ordering::Relaxed);
    });
}

/// Everything in regular files below `dir`.
fn texts(dir: &Path) -> String {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let text = |path: PathBuf| match path.symlink_metadata() {
        Ok(stat) if stat.is_dir() => texts(&path),
        Ok(stat) if stat.is_file() => fs::read_to_string(&path).unwrap_or_default(),
        _ => String::new(),
    };
    entries.map(text).collect()
}

#[test]
fn an_entry_that_is_exchanged_meanwhile_leads_nowhere() {
    let temporary = Temporary::new("race");
    let outside = temporary.make("outside");
    fs::write(outside.join("file"), "secret").expect("write");
    let from = temporary.make("from");
    let others = temporary.make("others");
    for (name, target) in [("dir", outside.clone()), ("file", outside.join("file"))] {
        symlink(target, others.join(name)).expect("symlink");
    }
    fs::create_dir(from.join("dir")).expect("mkdir");
    fs::write(from.join("dir/file"), "text").expect("write");
    fs::write(from.join("file"), "text").expect("write");
    fs::write(from.join("pipe"), "text").expect("write");
    fd::mknodat(fd::CWD, others.join("pipe"), libc::S_IFIFO | 0o600, 0).expect("mkfifo");
    let mut whole = 0;
    for name in ["dir", "file", "pipe"] {
        exchanging(&from.join(name), &others.join(name), || {
            for round in 0..60 {
                let to = temporary.make(&format!("to-{name}-{round}"));
                whole += u32::from(copy(&from, &to).is_ok());
                let copied = texts(&to);
                assert!(!copied.contains("secret"), "round {round} with {name} copied what is outside: {copied}");
                tree::remove(fd::CWD, &to, Files::Unlink).expect("removed");
            }
        });
    }
    assert!(whole > 0, "no copy came to its end");
    assert_eq!(texts(&outside), "secret");
}
