use nix::errno::Errno;

use super::*;

fn temporary(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("windlass-fd-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a directory");
    path
}

#[test]
fn a_file_without_an_end_is_not_read_for_ever() {
    let zero = open("/dev/zero", OFlag::O_RDONLY).expect("open");
    assert_eq!(read_all(zero, 1 << 20).expect_err("no end").errno, Errno::EFBIG);
}

#[test]
fn a_file_as_long_as_it_may_be_is_read_whole() {
    let path = temporary("limit").join("file");
    std::fs::write(&path, [b'x'; 1000]).expect("written");
    let read = |limit| read_all(open(&path, OFlag::O_RDONLY).expect("open"), limit);
    assert_eq!(read(1000).expect("fits").len(), 1000);
    assert_eq!(read(999).expect_err("one too many").errno, Errno::EFBIG);
    assert!(!read_all(open("/proc/self/maps", OFlag::O_RDONLY).expect("open"), 1 << 20).expect("read").is_empty());
    std::fs::remove_dir_all(path.parent().expect("has one")).expect("removed");
}

#[test]
fn what_is_written_whole_waits_for_room() {
    let (read_end, write_end) = crate::pipe::new().expect("pipe");
    crate::stream::never_block(write_end.as_fd()).expect("fcntl");
    let past = Deadline::after(std::time::Duration::from_millis(20));
    let failed = write_all(write_end.as_fd(), &[0; 1 << 20], past).expect_err("nobody reads");
    assert_eq!(failed.errno, Errno::ETIMEDOUT);
    let reader = std::thread::spawn(move || read_all(read_end, 1 << 24).expect("read").len());
    write_all(write_end.as_fd(), &[0; 1 << 20], Deadline::NEVER).expect("written");
    drop(write_end);
    assert!(reader.join().expect("joined") > 1 << 20);
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let dir = temporary("replace");
    let names = || {
        let open = open(&dir, OFlag::O_RDONLY).expect("open");
        let mut names = super::super::directory::names(open.as_fd()).expect("read");
        names.sort();
        names
    };
    let put = |name: &str, durability| replace(CWD, &dir.join(name), 0o600, b"new", durability);
    std::fs::write(dir.join("file"), "old").expect("written");
    // A process with our number left this file.
    std::fs::write(dir.join(format!(".file.{}", std::process::id())), "junk").expect("written");
    put("file", Durability::Cached).expect("replaced");
    assert_eq!(std::fs::read(dir.join("file")).expect("read"), b"new");
    // Another user keeps this name: not even root removes a directory by unlink(2).
    let kept = format!(".file.{}", std::process::id());
    std::fs::create_dir(dir.join(&kept)).expect("made");
    put("file", Durability::Cached).expect("replaced beside a name that is taken");
    assert_eq!(names(), [kept.as_str(), "file"]);
    std::fs::remove_dir(dir.join(&kept)).expect("removed");
    let long = "n".repeat(255);
    put(&long, Durability::Synced).expect("a name as long as any");
    assert_eq!(names(), ["file", long.as_str()]);
    // A file that cannot be renamed leaves nothing either.
    std::fs::create_dir(dir.join("taken")).expect("made");
    assert_eq!(put("taken", Durability::Cached).expect_err("a directory").errno, Errno::EISDIR);
    assert_eq!(names(), ["file", long.as_str(), "taken"]);
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn on_a_full_disk_nothing_temporary_stays() {
    // A limit on the size of files fails in the same place, with EFBIG.
    let dir = temporary("full");
    let script = "ulimit -f 1; trap '' XFSZ; exec \"$0\" --exact --ignored fd::tests::replace_a_large_file";
    // The output goes to a pipe: the limit holds for files.
    let inner = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().expect("this test"))
        .env("WINDLASS_TEST_DIR", &dir)
        .output()
        .expect("sh");
    // Of a name that no test has, none is run, and that is a success.
    let told = String::from_utf8_lossy(&inner.stdout);
    assert!(inner.status.success() && told.contains("1 passed"), "{told}");
    let open = open(&dir, OFlag::O_RDONLY).expect("open");
    assert_eq!(super::super::directory::names(open.as_fd()), Ok(Vec::new()));
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
#[ignore = "a part of on_a_full_disk_nothing_temporary_stays, which runs it below a limit"]
fn replace_a_large_file() {
    let dir = std::env::var_os("WINDLASS_TEST_DIR").expect("told");
    let failed = replace(CWD, &Path::new(&dir).join("file"), 0o600, &[0; 8192], Durability::Cached);
    assert_eq!(failed.expect_err("too large").errno, Errno::EFBIG);
    // A part of this can be written: the error names the reason for the rest.
    let file = memfd();
    assert_eq!(write_at(file.as_fd(), &[0; 8192], 0).expect_err("too large").errno, Errno::EFBIG);
}

fn memfd() -> OwnedFd {
    nix::sys::memfd::memfd_create(c"file", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).expect("a file")
}

/// A handler without SA_RESTART, as a program may have that uses this crate.
#[test]
fn a_write_that_a_signal_interrupts_goes_on() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, and no other test uses this signal.
    unsafe { sigaction(Signal::SIGUSR2, &action) }.expect("a handler");
    let (read_end, write_end) = crate::pipe::new().expect("a pipe");
    let (send, thread) = std::sync::mpsc::channel();
    let bytes = vec![7; 4 * crate::pipe::capacity(write_end.as_fd())];
    let all = bytes.len();
    let writer = std::thread::spawn(move || {
        // SAFETY: the call takes nothing and cannot fail.
        send.send(unsafe { libc::pthread_self() }).expect("it is waited for");
        write_all(write_end.as_fd(), &bytes, Deadline::NEVER)
    });
    let thread = thread.recv().expect("it begins");
    for _ in 0..50 {
        // SAFETY: the thread is not joined yet, so its number is its own.
        unsafe { libc::pthread_kill(thread, libc::SIGUSR2) };
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let mut read = std::io::Read::take(std::fs::File::from(read_end), all as u64);
    assert_eq!(std::io::copy(&mut read, &mut std::io::sink()).expect("read"), all as u64);
    assert_eq!(writer.join().expect("it ends"), Ok(()));
}

#[test]
fn a_pid_file_that_is_no_file_stays_what_it_is() {
    let dir = temporary("pid");
    let fifo = dir.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a fifo");
    assert_eq!(write_pid(&fifo, 1).expect_err("nobody reads").errno, Errno::ENXIO);
    let reader = open(&fifo, OFlag::O_RDONLY | OFlag::O_NONBLOCK).expect("a reader");
    write_pid(&fifo, 4711).expect("written");
    let mut bytes = [0; 16];
    let n = nix::unistd::read(&reader, &mut bytes).expect("read");
    assert_eq!(&bytes[..n], b"4711");
    assert_eq!(stat_at(CWD, &fifo).expect("it is there").st_mode & libc::S_IFMT, libc::S_IFIFO);
    let link = dir.join("link");
    std::os::unix::fs::symlink("fifo", &link).expect("a link");
    write_pid(&link, 815).expect("written");
    let n = nix::unistd::read(&reader, &mut bytes).expect("read");
    assert_eq!(&bytes[..n], b"815");
    assert_eq!(std::fs::read_link(&link).expect("still a link"), Path::new("fifo"));
    let file = dir.join("file");
    for pid in [12345, 7] {
        write_pid(&file, pid).expect("written");
        assert_eq!(std::fs::read_to_string(&file).expect("a file"), pid.to_string());
    }
    let opened = open(&file, OFlag::O_RDONLY).expect("a file");
    let standard_output = dir.join("standard output");
    let number = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened));
    std::os::unix::fs::symlink(&number, &standard_output).expect("a link");
    write_pid(&standard_output, 8).expect("written");
    write_pid(Path::new(&number), 9).expect("written");
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "789");
    assert_eq!(std::fs::read_link(&standard_output).expect("still a link"), Path::new(&number));
    std::fs::write(&file, "7").expect("written");
    let to_a_file = dir.join("to a file");
    std::os::unix::fs::symlink("file", &to_a_file).expect("a link");
    write_pid(&to_a_file, 1).expect("written");
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "7");
    assert!(std::fs::symlink_metadata(&to_a_file).expect("a file").is_file());
    std::fs::remove_dir_all(&dir).expect("removed");
}
