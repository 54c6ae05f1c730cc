//! Compares our reading of `/proc/PID/stat` with the crate procfs.

use procfs::process::Process;
use windlass_store::process_stat;

/// Compares every field with the reading of procfs.
fn assert_same(pid: i32) {
    // Only the state may change between two reads.
    let ours = process_stat(pid).expect("readable").expect("it lives");
    let theirs = Process::new(pid).and_then(|process| process.stat()).expect("it lives");
    assert_eq!(ours.name, theirs.comm);
    assert_eq!(ours.start_time, theirs.starttime);
    assert_eq!(Some(ours.exit_code), theirs.exit_code);
    assert_eq!(ours.has_executed, theirs.flags & 0x40 == 0);
    // The threads of this process come and go with its tests.
    if pid != std::process::id() as i32 {
        assert_eq!(ours.threads, theirs.num_threads as u64);
    }
}

#[test]
fn a_process_is_read_as_procfs_reads_it() {
    assert_same(std::process::id() as i32);
    let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep(1)");
    let pid = child.id() as i32;
    assert_same(pid);
    child.kill().expect("ours");
    // The child is a zombie until it is waited for, and its exit status can be read.
    while process_stat(pid).expect("readable").expect("not reaped yet").state != 'Z' {
        std::thread::yield_now();
    }
    assert_same(pid);
    assert_eq!(process_stat(pid).expect("readable").expect("not reaped yet").exit_code, 9);
    child.wait().expect("ours");
    assert_eq!(process_stat(pid).expect("readable"), None);
}

#[test]
fn a_thread_with_a_name_made_to_confuse_is_read_as_procfs_reads_it() {
    for name in ["a b", ") R 1 (", "((((", "))))", "\n) Z 0", "é) S"] {
        let (started, wait) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                started.send(nix::unistd::gettid().as_raw()).expect("the test waits");
                let _ = ended.recv();
            })
            .expect("a thread");
        let tid = wait.recv().expect("it starts");
        let ours = process_stat(tid).expect("readable").expect("it lives");
        let theirs =
            Process::myself().and_then(|me| me.task_from_tid(tid)).and_then(|task| task.stat()).expect("it lives");
        assert_eq!((ours.name.as_str(), ours.start_time), (theirs.comm.as_str(), theirs.starttime));
        assert_eq!(ours.name, name);
        drop(end);
        thread.join().expect("it ends");
    }
}
