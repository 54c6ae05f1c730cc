use std::cell::Cell;
use std::path::PathBuf;

use super::*;

/// A directory that is removed with its content.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Temporary {
        let path = std::env::temp_dir().join(format!("windlass-tree-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory");
        Temporary(path)
    }

    fn open(&self) -> OwnedFd {
        fd::open(&self.0, DIRECTORY).expect("open")
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = remove(fd::CWD, &self.0, Files::Unlink);
    }
}

/// Makes `depth` directories of this name, one in the other, with a file in the last.
fn nest(top: BorrowedFd<'_>, name: &str, depth: usize) {
    let mut at = fd::duplicate(top).expect("dup");
    for _ in 0..depth {
        fd::mkdirat(at.as_fd(), name, 0o700).expect("mkdir");
        at = fd::openat(at.as_fd(), name, DIRECTORY, 0).expect("open");
    }
    fd::make_new(at.as_fd(), "file", 0o600).expect("a file");
}

#[test]
fn depth_is_bounded_by_neither_paths_nor_descriptors() {
    let long = "n".repeat(200);
    for (name, depth) in [("d", 3000), (long.as_str(), 300)] {
        let temporary = Temporary::new("deep");
        let top = temporary.open();
        nest(top.as_fd(), name, depth);
        let (mut count, mut deepest) = (0, 0);
        visit(top.as_fd(), |_, at| {
            count += 1;
            deepest = deepest.max(at);
            Ok(())
        })
        .expect("visited");
        assert_eq!((count, deepest), (depth + 1, depth));
        remove(top.as_fd(), name, Files::Unlink).expect("removed");
        assert_eq!(super::super::directory::names(top.as_fd()), Ok(Vec::new()));
    }
}

#[test]
fn what_is_deeper_than_is_remembered_is_removed_too() {
    let temporary = Temporary::new("deepest");
    let top = temporary.open();
    nest(top.as_fd(), "d", 47);
    remove_within(10, top.as_fd(), Path::new("d"), Files::Unlink, |dir, name, _| fd::rmdirat(dir, name))
        .expect("removed");
    assert_eq!(super::super::directory::names(top.as_fd()), Ok(Vec::new()));
}

#[test]
fn a_wide_tree_is_visited_and_removed_whole() {
    let temporary = Temporary::new("wide");
    let top = temporary.open();
    for outer in 0..30 {
        for inner in 0..30 {
            std::fs::create_dir_all(temporary.0.join(format!("t/{outer:0>100}/{inner:0>100}/x"))).expect("made");
            std::fs::write(temporary.0.join(format!("t/{outer:0>100}/{inner:0>100}/file")), "").expect("written");
        }
    }
    let mut depths = [0; 5];
    visit(top.as_fd(), |_, depth| {
        depths[depth] += 1;
        Ok(())
    })
    .expect("visited");
    assert_eq!(depths, [1, 1, 30, 900, 900]);
    remove(top.as_fd(), "t", Files::Unlink).expect("removed");
    assert_eq!(super::super::directory::names(top.as_fd()), Ok(Vec::new()));
}

#[test]
fn links_are_removed_and_not_followed() {
    let temporary = Temporary::new("links");
    let top = temporary.open();
    std::fs::create_dir_all(temporary.0.join("kept/inside")).expect("made");
    std::fs::create_dir(temporary.0.join("t")).expect("made");
    std::os::unix::fs::symlink("../kept", temporary.0.join("t/link")).expect("linked");
    remove(top.as_fd(), "t", Files::Unlink).expect("removed");
    std::os::unix::fs::symlink("kept", temporary.0.join("t")).expect("linked");
    let failed = remove(top.as_fd(), "t", Files::Unlink).expect_err("a link");
    assert!(matches!(failed.errno, Errno::ELOOP | Errno::ENOTDIR), "{failed}");
    assert!(temporary.0.join("kept/inside").exists());
    assert_eq!(remove(top.as_fd(), "nothing", Files::Unlink).expect_err("nothing").errno, Errno::ENOENT);
}

#[test]
fn a_directory_that_is_moved_out_meanwhile_does_not_lead_out() {
    let temporary = Temporary::new("moved");
    let top = temporary.open();
    std::fs::create_dir_all(temporary.0.join("t/a/b/c")).expect("made");
    std::fs::create_dir_all(temporary.0.join("outside/precious")).expect("made");
    // While the walk is in `b`, `b` is moved into another directory, as a process in the tree could.
    let moved = Cell::new(false);
    let failed = remove_with(top.as_fd(), "t", Files::Unlink, |dir, name, emptied| {
        if name == Path::new("c") && !moved.replace(true) {
            std::fs::rename(temporary.0.join("t/a/b"), temporary.0.join("outside/b")).expect("moved");
        }
        let _ = emptied;
        fd::rmdirat(dir, name)
    })
    .expect_err("the way back is lost");
    assert_eq!(failed.errno, Errno::ESTALE, "{failed}");
    assert!(temporary.0.join("outside/precious").exists());

    std::fs::create_dir_all(temporary.0.join("t/a/b/c")).expect("made");
    let failed = visit(top.as_fd(), |_, depth| {
        if depth == 3 && temporary.0.join("t/a/b").exists() {
            std::fs::rename(temporary.0.join("t/a/b"), temporary.0.join("outside/b2")).expect("moved");
        }
        Ok(())
    });
    assert_eq!(failed.expect_err("the way back is lost").errno, Errno::ESTALE);
}

#[test]
fn what_stays_busy_is_an_error_and_no_endless_walk() {
    let temporary = Temporary::new("busy");
    let top = temporary.open();
    std::fs::create_dir_all(temporary.0.join("t/busy/below")).expect("made");
    let mut calls = Vec::new();
    let failed = remove_with(top.as_fd(), "t", Files::Unlink, |dir, name, emptied| {
        calls.push((name.to_path_buf(), emptied));
        if name == Path::new("busy") {
            return Err(SyscallError { call: "rmdir".into(), errno: Errno::EBUSY });
        }
        fd::rmdirat(dir, name)
    });
    assert_eq!(failed.expect_err("busy").errno, Errno::EBUSY);
    let expected = [("busy", false), ("below", false), ("busy", true)];
    assert_eq!(calls, expected.map(|(name, emptied)| (PathBuf::from(name), emptied)));
}

#[test]
fn files_can_be_left_to_their_directory() {
    let temporary = Temporary::new("left");
    let top = temporary.open();
    std::fs::create_dir_all(temporary.0.join("t/a")).expect("made");
    std::fs::write(temporary.0.join("t/file"), "").expect("written");
    // The closure acts as the kernel does for a cgroup, whose files are no obstacle.
    remove_with(top.as_fd(), "t", Files::Leave, |dir, name, _| {
        if name == Path::new("t") {
            std::fs::remove_file(temporary.0.join("t/file")).expect("still there");
        }
        fd::rmdirat(dir, name)
    })
    .expect("removed");
    assert!(!temporary.0.join("t").exists());
}
