//! conmon's contract on the built binary, with a runtime that is a shell script. No root needed.
//!
//! With `CONMON_BINARY=/usr/bin/conmon` the same calls go to another conmon; `docs/conmon.md` lists
//! the known differences.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use windlass_sys::socket;

const ID: &str = "0123456789abcdef";

/// A bundle, its directories and pipes, for a conmon that is started later.
struct Bench {
    dir: PathBuf,
    sync: File,
    unread: String,
    words: Vec<String>,
}

impl Bench {
    /// `process` is the script of the container's process.
    fn new(name: &str, process: &str) -> Bench {
        let dir = std::env::temp_dir().join(format!("windlass-conmon-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("exits")).expect("a directory");
        fs::create_dir_all(dir.join("persist")).expect("a directory");
        fs::write(dir.join("process"), process).expect("written");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/runtime.sh");
        fs::copy(script, dir.join("runtime")).expect("copied");
        let ours = || PathBuf::from(env!("CARGO_BIN_EXE_windlass-shim"));
        let binary = std::env::var_os("CONMON_BINARY").map_or_else(ours, PathBuf::from);
        symlink(binary, dir.join("conmon")).expect("a link");
        for pipe in ["sync", "start", "attachable"] {
            let made = Command::new("mkfifo").arg(dir.join(pipe)).status();
            assert!(made.expect("mkfifo").success());
        }
        let sync = open_now(&dir.join("sync"));
        let mut bench = Bench { dir, sync, unread: String::new(), words: Vec::new() };
        bench.add(&["--api-version", "-c", ID, "-u", ID, "-n", "web", "--full-attach", "--log-level", "error"]);
        bench.add_path("-r", "runtime");
        bench.add_path("-b", "");
        bench.add_path("-p", "pidfile");
        bench.add_path("--conmon-pidfile", "conmon.pid");
        bench.add_path("--exit-dir", "exits");
        bench
    }

    /// A bench with `log` as the container's log.
    fn logging(name: &str, process: &str) -> Bench {
        let mut bench = Bench::new(name, process);
        let log = format!("k8s-file:{}", bench.path("log").display());
        bench.add(&["-l", &log]);
        bench
    }

    /// A bench for an exec instead of a container.
    fn exec(name: &str, process: &str) -> Bench {
        let mut bench = Bench::new(name, "");
        fs::create_dir_all(bench.path("exec")).expect("a directory");
        fs::write(bench.path("exec/process"), process).expect("written");
        bench.add(&["-e", "-l", "none"]);
        bench.add_path("--exec-process-spec", "exec/process");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn add(&mut self, words: &[&str]) {
        self.words.extend(words.iter().map(|word| word.to_string()));
    }

    fn add_path(&mut self, option: &str, name: &str) {
        let path = self.path(name).display().to_string();
        self.add(&[option, &path]);
    }

    /// Starts conmon with the pipes at 3, 4 and 5 and further redirections of a shell.
    fn start_with(&self, pipes: &str, redirections: &str, variables: &[(&str, &str)]) -> Child {
        let script = format!("exec ./conmon \"$@\" {pipes} {redirections}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).args(&self.words).current_dir(&self.dir);
        command.envs(variables.iter().copied()).stdin(Stdio::null());
        command.spawn().expect("a shell")
    }

    /// Starts conmon with the sync pipe at a number and the fifo `start` where `redirections` say. Returns the bytes
    /// that the container's process writes to that fifo until it closes it.
    fn written_to_start(&mut self, sync: u32, redirections: &str) -> String {
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(self.path("start"));
        let mut reader = reader.expect("a reader");
        let variables = [("_OCI_SYNCPIPE", &*sync.to_string())];
        let begun = self.start_with(&format!("{sync}<>sync"), redirections, &variables).wait().expect("waited");
        assert!(begun.success(), "conmon ended with {begun}");
        let answer = self.answer();
        assert!(answer["data"].as_i64() > Some(0), "expected a pid, saw {answer}");
        let mut all = String::new();
        eventually("the end of the fifo", || {
            (reader.read_to_string(&mut all).is_ok() && !all.is_empty()).then_some(())
        });
        all
    }

    fn start(&self) {
        let status = self.start_with("3<>sync", "", &[("_OCI_SYNCPIPE", "3")]).wait().expect("waited");
        assert!(status.success(), "{status}");
    }

    /// The next answer on the sync pipe.
    fn answer(&mut self) -> serde_json::Value {
        let (sync, unread) = (&mut self.sync, &mut self.unread);
        let line = eventually("an answer", || {
            let mut buffer = [0; 65536];
            if let Ok(n) = sync.read(&mut buffer) {
                unread.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
            let end = unread.find('\n')?;
            Some(unread.drain(..=end).collect::<String>())
        });
        serde_json::from_str(&line).expect("JSON")
    }

    fn exit(&self) -> String {
        let file = self.path("exits").join(ID);
        eventually("the exit file", || fs::read_to_string(&file).ok())
    }

    /// The texts of the log's entries of one stream.
    fn logged(&self, stream: &str) -> String {
        let entries = self.text("log");
        let texts = entries.lines().filter_map(|line| {
            let mut words = line.splitn(4, ' ');
            let (_, from, tag, text) = (words.next()?, words.next()?, words.next()?, words.next()?);
            let end = if tag == "F" { "\n" } else { "" };
            (from == stream).then(|| format!("{text}{end}"))
        });
        texts.collect()
    }

    fn attach(&self) -> OwnedFd {
        let dir = File::open(&self.dir).expect("the bundle");
        eventually("the attach socket", || socket::connect_at(dir.as_fd(), "attach").ok())
    }

    fn conmon(&self) -> i32 {
        eventually("the pid file", || self.text("conmon.pid").parse().ok())
    }

    /// Waits for the end of the shim, which is not a child of this process.
    fn finish(&self) {
        let proc = format!("/proc/{}/comm", self.conmon());
        eventually("the end of conmon", || fs::read_to_string(&proc).is_err().then_some(()));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for file in ["pidfile", "conmon.pid"] {
            // The number of a process that was reaped may be another's.
            let is_ours = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == self.dir);
            if let Some(pid) = self.text(file).parse::<i32>().ok().filter(is_ours) {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn open_now(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).expect("a fifo")
}

fn eventually<V>(what: &str, mut done: impl FnMut() -> Option<V>) -> V {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        sleep(Duration::from_millis(2));
    }
}

/// All packets until the end, by the stream's byte.
fn packets(client: &OwnedFd) -> [Vec<u8>; 2] {
    let mut got = [Vec::new(), Vec::new()];
    let mut buffer = vec![0; 8193];
    loop {
        match socket::receive(client.as_fd(), &mut buffer) {
            Ok((0, _)) => return got,
            Ok((n, _)) => got[usize::from(buffer[0] == 3)].extend_from_slice(&buffer[1..n]),
            Err(failed) => panic!("{failed}"),
        }
    }
}

#[test]
fn a_container_from_its_pid_to_its_exit() {
    let mut bench = Bench::logging("life", "echo out; echo err >&2; printf last; sleep 0.1; exit 3");
    bench.add_path("--persist-dir", "persist");
    bench.start();
    let pid = bench.answer()["data"].as_i64().expect("a pid");
    assert_eq!(bench.text("pidfile"), pid.to_string());
    assert!(bench.conmon() > 0);
    assert_eq!(bench.exit(), "3");
    bench.finish();
    assert_eq!(bench.text("persist/exit"), "3");
    assert_eq!(bench.logged("stdout"), "out\nlast");
    assert_eq!(bench.logged("stderr"), "err\n");
    let call = format!("create --bundle {0}/ --pid-file {0}/pidfile {ID}\n", bench.dir.display());
    assert_eq!(bench.text("runtime.calls"), call);
    assert_eq!(fs::read_dir(bench.path("exits")).expect("read").count(), 1, "nothing temporary stays");
    assert!(!bench.path(".windlass-exit-files").exists(), "`windlass delete` would write them once more");
}

/// The exit command runs `windlass delete`, which writes what is listed: no less, and nothing a second time.
#[test]
fn what_could_not_be_written_stays_listed_and_nothing_else_does() {
    let mut bench = Bench::logging("unwritten", "exit 3");
    bench.add_path("--persist-dir", "persist");
    // Not a directory: nothing can be written there.
    fs::remove_dir(bench.path("persist")).expect("removed");
    fs::write(bench.path("persist"), "").expect("a file");
    let both = [bench.path("exits").join(ID), bench.path("persist/exit")];
    let listed = |bench: &Bench| serde_json::from_str::<Vec<PathBuf>>(&bench.text(".windlass-exit-files")).ok();
    bench.start();
    assert_eq!(bench.exit(), "3");
    eventually("a shorter list", || (listed(&bench).as_deref() == Some(&both[1..])).then_some(()));
    bench.finish();
    assert_eq!(listed(&bench).as_deref(), Some(&both[1..]));
    // With a place for both, nothing is listed in the end.
    for name in ["pidfile", "conmon.pid", "persist"] {
        fs::remove_file(bench.path(name)).expect("removed");
    }
    fs::create_dir(bench.path("persist")).expect("a directory");
    bench.start();
    eventually("the second file", || (bench.text("persist/exit") == "3").then_some(()));
    bench.finish();
    assert_eq!(listed(&bench), None);
}

#[test]
fn a_death_by_signal_is_128_and_the_signal() {
    let bench = Bench::logging("signal", "kill -9 $$");
    bench.start();
    assert_eq!(bench.exit(), "137");
}

#[test]
fn what_the_runtime_complains_of_is_told_however_long_it_is() {
    for (name, text) in [("short", "no \"such\" thing\n".to_string()), ("long", "x".repeat(200_000))] {
        let mut bench = Bench::logging(name, "");
        fs::write(bench.path("refuse"), &text).expect("written");
        bench.start();
        let answer = bench.answer();
        assert_eq!(answer["data"], -1);
        assert!(answer["message"].as_str().is_some_and(|message| message.starts_with(&text[..10])), "{answer}");
        bench.finish();
        assert!(!bench.path("exits").join(ID).exists(), "it never ran");
    }
}

#[test]
fn a_container_that_nobody_knows_of_is_killed() {
    let bench = Bench::logging("unknown", "sleep 60");
    // The read end of the sync pipe is closed before conmon starts, as after the caller's death.
    let begun = bench.start_with("", "9<>start 3>start 9<&-", &[("_OCI_SYNCPIPE", "3")]).wait().expect("waited");
    assert!(begun.success(), "conmon ended with {begun}");
    assert_eq!(bench.exit(), "137");
    bench.finish();
}

#[test]
fn clients_see_and_speak_until_the_input_ends() {
    let bench = {
        let mut bench = Bench::logging("attach", "read line; echo \"got $line\"; cat; echo bye >&2");
        bench.add(&["-i"]);
        bench
    };
    bench.start();
    let (client, witness) = (bench.attach(), bench.attach());
    socket::send(client.as_fd(), b"hello\nmore", &[]).expect("sent");
    socket::send(client.as_fd(), b"", &[]).expect("an empty packet ends the input");
    let expected = [b"got hello\nmore".to_vec(), b"bye\n".to_vec()];
    assert_eq!(packets(&client), expected);
    assert_eq!(packets(&witness), expected);
    assert_eq!(bench.exit(), "0");
    assert_eq!(bench.logged("stdout"), "got hello\nmore");
}

#[test]
fn input_may_stay_open_when_a_client_leaves() {
    let mut bench = Bench::logging("open", "cat; echo ended");
    bench.add(&["-i", "--leave-stdin-open"]);
    bench.start();
    for text in ["one\n", "two\n"] {
        let client = bench.attach();
        socket::send(client.as_fd(), text.as_bytes(), &[]).expect("sent");
        eventually("the echo", || bench.logged("stdout").ends_with(text).then_some(()));
    }
    let logged = bench.logged("stdout");
    assert!(!logged.contains("ended"), "{logged:?}");
}

#[test]
fn a_client_that_never_reads_does_not_stop_the_log() {
    // Five megabytes are more than all buffers hold.
    let bench = Bench::logging("stalled", "sleep 0.2; yes 0123456789 | head -n 500000; echo done");
    bench.start();
    let _stalled = bench.attach();
    assert_eq!(bench.exit(), "0");
    assert_eq!(bench.logged("stdout").lines().count(), 500_001);
}

#[test]
fn a_slow_client_loses_nothing() {
    let bench = Bench::logging("slow", "sleep 0.3; yes 0123456789 | head -n 200000");
    bench.start();
    let client = bench.attach();
    sleep(Duration::from_millis(1000));
    let [out, _] = packets(&client);
    assert_eq!(out.len(), 200_000 * 11);
    assert_eq!(bench.exit(), "0");
}

#[test]
fn an_exec_that_waits_for_a_client_needs_the_attach_pipe() {
    let mut bench = Bench::exec("pipeless", "true");
    bench.add(&["--exec-attach"]);
    let mut conmon = bench.start_with("3<>sync 4<>start", "", &[("_OCI_SYNCPIPE", "3"), ("_OCI_STARTPIPE", "4")]);
    assert_eq!(conmon.wait().expect("waited").code(), Some(1));
    assert!(!bench.path("runtime.calls").exists(), "nothing runs that nobody could attach to");
}

#[test]
fn the_only_reader_of_an_exec_may_take_its_time() {
    let mut bench = Bench::exec("patient", "yes 0123456789 | head -n 200000; exit 4");
    bench.add(&["--exec-attach"]);
    let variables = [("_OCI_SYNCPIPE", "3"), ("_OCI_STARTPIPE", "4"), ("_OCI_ATTACHPIPE", "5")];
    let mut start = open_now(&bench.path("start"));
    let mut attachable = open_now(&bench.path("attachable"));
    start.write_all(b"x").expect("written");
    let begun = bench.start_with("3<>sync 4<>start 5<>attachable", "", &variables).wait().expect("waited");
    assert!(begun.success(), "conmon ended with {begun}");
    let mut line = [0; 100];
    let n = eventually("the attach pipe", || attachable.read(&mut line).ok());
    assert_eq!(&line[..n], b"{\"data\": 0}\n");
    let client = bench.attach();
    assert!(!bench.path("runtime.calls").exists(), "nothing runs before we say so");
    start.write_all(b"x").expect("written");
    let pid = bench.answer()["data"].as_i64().expect("a pid");
    assert!(pid > 0, "expected a pid, saw {pid}");
    sleep(Duration::from_secs(3));
    let [out, _] = packets(&client);
    assert_eq!(out.len(), 200_000 * 11);
    assert_eq!(bench.answer()["data"], 4);
    assert_eq!(bench.exit(), "4", "on disk before it is told");
}

#[test]
fn execsync_by_the_old_interface() {
    let late = (-1, Some("command timed out"));
    for (name, process, seconds, expected) in [("ok", "exit 7", "60", (7, None)), ("late", "sleep 60", "1", late)] {
        let mut bench = Bench::exec(name, process);
        bench.words.retain(|word| word != "--api-version");
        bench.add(&["--sync", "-T", seconds]);
        let child = bench.start_with("3<>sync", "", &[("_OCI_SYNCPIPE", "3")]);
        let answer = bench.answer();
        assert_eq!((answer["exit_code"].as_i64(), answer["message"].as_str()), (Some(expected.0), expected.1));
        let status = child.wait_with_output().expect("waited").status;
        assert_eq!(status.code(), Some(if expected.0 < 0 { 255 } else { 7 }));
    }
}

#[test]
fn a_container_that_takes_too_long_is_killed() {
    let mut bench = Bench::logging("timeout", "sleep 61 & wait");
    bench.add(&["--timeout=1"]);
    bench.start();
    assert_eq!(bench.exit(), "-1");
    bench.finish();
    let group = Command::new("pgrep").args(["-f", "^sleep 61$"]).output().expect("pgrep");
    assert_eq!(String::from_utf8_lossy(&group.stdout), "", "its process group goes too");
}

#[test]
fn signals_are_the_processes() {
    let bench = Bench::logging("forward", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    bench.start();
    eventually("the trap", || (bench.logged("stdout") == "ready\n").then_some(()));
    let sent = Command::new("kill").arg(bench.conmon().to_string()).status().expect("kill");
    assert!(sent.success(), "kill ended with {sent}");
    assert_eq!(bench.exit(), "5");
}

#[test]
fn logs_are_opened_anew_when_asked() {
    let bench = Bench::logging("reopen", "while :; do echo tick; sleep 0.01; done");
    bench.start();
    eventually("a line", || (!bench.logged("stdout").is_empty()).then_some(()));
    fs::rename(bench.path("log"), bench.path("old")).expect("renamed");
    let control = OpenOptions::new().write(true).open(bench.path("ctl"));
    control.expect("the control fifo").write_all(b"2 0 0\n").expect("written");
    eventually("a new log", || (!bench.text("log").is_empty()).then_some(()));
}

#[test]
fn a_pipe_that_another_process_holds_does_not_hold_up_the_exit() {
    let bench = Bench::logging("held", "sleep 62 & echo $! >child; echo out; exit 3");
    let start = Instant::now();
    bench.start();
    assert_eq!(bench.exit(), "3");
    assert!(start.elapsed() < Duration::from_secs(55), "it took {:?}", start.elapsed());
    assert_eq!(bench.logged("stdout"), "out\n");
    let _ = Command::new("kill").arg(bench.text("child").trim()).status();
}

#[test]
fn the_exit_command_comes_last_and_after_its_delay() {
    let mut bench = Bench::logging("command", "exit 6");
    let seen = bench.path("seen").display().to_string();
    let exits = bench.path("exits").join(ID).display().to_string();
    let script = "cat \"$1\" >\"$2\"; ls /proc/self/fd >>\"$2\"";
    bench.add(&["--exit-command", "/bin/sh", "--exit-delay", "1"]);
    for word in ["-c", script, "", &exits, &seen] {
        bench.add(&["--exit-command-arg", word]);
    }
    let start = Instant::now();
    bench.start();
    assert_eq!(bench.exit(), "6");
    bench.finish();
    assert!(start.elapsed() >= Duration::from_secs(1), "it took {:?}", start.elapsed());
    assert_eq!(bench.text("seen"), "60\n1\n2\n3\n", "the exit file is there, and no descriptor of ours");
}

#[test]
fn reserved_descriptors_are_held_until_the_end_and_not_longer() {
    let mut bench = Bench::logging("ports", "while [ ! -e go ]; do sleep 0.01; done");
    bench.add(&["--exit-command", "/bin/sleep", "--exit-command-arg", "1"]);
    let port = open_now(&bench.path("start"));
    drop(port);
    // The write end of a fifo takes the place of the port: its reader sees when it is closed.
    let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(bench.path("start"));
    let mut reader = reader.expect("a reader");
    let begun = bench.start_with("3<>sync", "6>start", &[("_OCI_SYNCPIPE", "3")]).wait().expect("waited");
    assert!(begun.success(), "conmon ended with {begun}");
    let answer = bench.answer();
    assert!(answer["data"].as_i64() > Some(0), "expected a pid, saw {answer}");
    let mut byte = [0];
    let held = reader.read(&mut byte).map_err(|error| error.kind());
    assert_eq!(held, Err(std::io::ErrorKind::WouldBlock));
    fs::write(bench.path("go"), "").expect("written");
    assert_eq!(bench.exit(), "0");
    assert_eq!(reader.read(&mut byte).ok(), Some(0), "free before the end is told");
}

#[test]
fn preserved_descriptors_are_the_processes() {
    let mut bench = Bench::logging("preserved", "echo from the process >&3; exec 3>&-; sleep 60");
    bench.add(&["--runtime-opt", "--preserve-fds", "--runtime-opt", "1"]);
    assert_eq!(bench.written_to_start(4, "3>start"), "from the process\n");
}

#[test]
fn descriptors_above_a_gap_are_the_processes_too() {
    let mut bench = Bench::logging("gap", "ls /proc/self/fd; echo from the process >&5; exec 5>&-; sleep 60");
    bench.add(&["--runtime-opt", "--preserve-fds", "--runtime-opt", "3"]);
    assert_eq!(bench.written_to_start(6, "5>start"), "from the process\n");
    // The log may be written after the pipe. The fourth descriptor is the directory that ls reads; none is conmon's.
    eventually("the list in the log", || (bench.logged("stdout") == "0\n1\n2\n3\n5\n").then_some(()));
}

#[test]
fn the_exit_file_stays_where_the_link_to_the_bundle_was() {
    let mut bench = Bench::logging("same", "exit 3");
    bench.words.retain(|word| word != "--full-attach");
    bench.add_path("--socket-dir-path", "exits");
    bench.start();
    bench.finish();
    let exit = fs::read_to_string(bench.path("exits").join(ID));
    assert_eq!(exit.as_deref().ok(), Some("3"), "{exit:?}");
}

#[test]
fn passed_through_output_is_the_processes_alone() {
    let mut bench = Bench::new("through", "echo from the process; exit 3");
    bench.add(&["-l", "passthrough", "--exit-command", "/bin/echo", "--exit-command-arg", "not from the process"]);
    let output = bench.path("output").display().to_string();
    let redirections = format!(">{output} 2>&1");
    let begun = bench.start_with("3<>sync", &redirections, &[("_OCI_SYNCPIPE", "3")]).wait().expect("waited");
    assert!(begun.success(), "conmon ended with {begun}");
    let answer = bench.answer();
    assert!(answer["data"].as_i64() > Some(0), "expected a pid, saw {answer}");
    assert_eq!(bench.exit(), "3");
    bench.finish();
    assert_eq!(bench.text("output"), "from the process\n");
}

#[test]
fn passed_through_output_ends_with_the_process() {
    let mut bench = Bench::new("ends", "echo out; exec >&- 2>&-; sleep 63");
    bench.add(&["-l", "passthrough"]);
    assert_eq!(bench.written_to_start(3, ">start 2>&1"), "out\n");
}

#[test]
fn readiness_is_relayed_and_nothing_else() {
    let mut bench = Bench::logging("notify", "sleep 60");
    fs::create_dir(bench.path("notify")).expect("podman makes it");
    let host = UnixDatagram::bind(bench.path("host")).expect("a socket");
    host.set_read_timeout(Some(Duration::from_secs(120))).expect("a limit");
    bench.add_path("--sdnotify-socket", "host");
    bench.start();
    let container = UnixDatagram::unbound().expect("a socket");
    let inside = bench.path("notify/notify.sock");
    eventually("the container's socket", || container.send_to(b"MAINPID=1", &inside).ok());
    container.send_to(b"MAINPID=1\nREADY=1\nSTATUS=up", &inside).expect("sent");
    let mut buffer = [0; 100];
    let n = host.recv(&mut buffer).expect("relayed");
    assert_eq!(String::from_utf8_lossy(&buffer[..n]), "READY=1\nSTATUS=up\n");
}

#[test]
fn callers_learn_a_version_that_they_accept() {
    let bench = Bench::new("version", "");
    let output = Command::new(bench.path("conmon")).arg("--version").output().expect("run");
    let text = String::from_utf8(output.stdout).expect("text");
    let version = text.strip_prefix("conmon version ").and_then(|rest| rest.lines().next()).expect("podman's words");
    let numbers: Vec<u32> = version.split('.').map(|number| number.parse().expect("a number")).collect();
    assert!(numbers.len() == 3 && numbers > [2, 0, 1].to_vec(), "{text}");
    let help = Command::new(bench.path("conmon")).arg("--help").output().expect("run").stdout;
    assert!(String::from_utf8_lossy(&help).contains("--log-global-size-max"), "CRI-O looks for it");
}
