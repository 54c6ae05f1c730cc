//! A supervisor of one container whose runtime is a shell script.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use windlass_shim::stdio::LogFile;
use windlass_shim::{
    Container, Event, ExitFile, Log, Making, NewProcess, Output, ProcessId, Refusal, Reply, Request, Runtime, Stdio,
    Supervisor, Timeouts, WaitToken,
};
use windlass_sys::process::Exit;
use windlass_sys::stream::{self, Moved};

/// The runtime's actions, unless a test gives a verb a script (`on-VERB`, which may end this script). Init runs `init`
/// when it is started, an exec its process file, both as scripts.
pub const RUNTIME: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in
    --pid-file) pid_file=$2; shift ;;
    --process) program=$2; shift ;;
    --console-socket) console=$2; shift ;;
    --bundle) shift ;;
    --all) all=yes ;;
    *) [ -n "$verb" ] || verb=$1 ;;
  esac
  shift
done
cd "${0%/*}" || exit 1
# The shim has reaped what is not its child any more, and another process may have the number.
is_ours() { read -r _ _ _ parent _ <"/proc/$1/stat" && [ "$parent" = "$PPID" ]; } 2>/dev/null
exec 3<&0
if [ -e "on-$verb" ]; then . "./on-$verb"; fi
case $verb in
  create) sh -c 'read -r word <go; . ./init' <&3 3<&- & echo $! >"$pid_file"; echo $! >init.is ;;
  start) echo now >go ;;
  exec)
    if [ -n "$console" ]; then "$SHIM_CORE" --terminal "$console" sh "$program" >"$pid_file"
    else "$SHIM_CORE" --detached "$pid_file" sh "$program" <&3 3<&-
    fi ;;
  kill) for pid in $(cat ${all:+./*.pid} ${all:-init.is}); do is_ours "$pid" && kill -9 "$pid"; done ;;
  delete) is_ours "$(cat init.is)" && kill -9 "$(cat init.is)"; : ;;
esac
"#;

/// The supervisor of one container, `c`, and a directory for it.
pub struct Rig {
    pub dir: PathBuf,
    pub core: Supervisor,
    /// All events so far.
    pub reported: Vec<Event>,
}

/// Longer than any step takes on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// Longer than any test.
pub const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// Of what a test does many times, it does one in this number.
pub fn sample() -> usize {
    std::env::var("WINDLASS_SAMPLE").map_or(1, |n| n.parse().expect("WINDLASS_SAMPLE is a number"))
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Container)) -> Rig {
        let dir = std::env::temp_dir().join(format!("windlass-core-{}", std::process::id()));
        // A test that failed has left its directory, and numbers of processes come again.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        let binary = dir.join("runtime");
        fs::write(&binary, RUNTIME).expect("a runtime");
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("executable");
        fifo(&dir.join("go"));
        let mut container = Container {
            id: "c".into(),
            bundle: dir.clone(),
            runtime: Runtime { binary, global: Vec::new(), log: None },
            timeouts: Timeouts { long: TIMEOUT, short: TIMEOUT / 2 },
            drain: Duration::from_secs(1),
            kill_on_exit: false,
            oom_files: Vec::new(),
            sync: false,
        };
        change(&mut container);
        let mut core = Supervisor::new().expect("a supervisor");
        core.open(container).expect("a container");
        Rig { dir, core, reported: Vec::new() }
    }

    pub fn script(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).expect("a script");
    }

    /// The description of a process, whose script is `text`.
    pub fn new_process(&self, exec: &str, text: &str, stdio: Stdio) -> NewProcess {
        let name = if exec.is_empty() { "init" } else { exec };
        self.script(name, text);
        NewProcess {
            id: ProcessId::of("c", exec),
            stdio,
            pid_file: self.dir.join(format!("{name}.pid")),
            process_file: (!exec.is_empty()).then(|| self.dir.join(name)),
            making: if exec.is_empty() { Making::Create } else { Making::Exec },
            arguments: Vec::new(),
            preserve_fds: Vec::new(),
            exit_files: vec![ExitFile::Decimal(self.dir.join(format!("{name}.exit")))],
        }
    }

    pub fn ask(&mut self, request: Request) -> WaitToken {
        match self.core.request(request).expect("accepted") {
            Reply::Pending(token) => token,
            other => panic!("answered at once: {other:?}"),
        }
    }

    /// Turns the loop until `wanted` was reported, even if that was before the call.
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + TIMEOUT;
        let mut seen = 0;
        loop {
            while let Some(event) = self.core.next_event() {
                self.reported.push(event);
            }
            if let Some(event) = self.reported[seen..].iter().find(|event| wanted(event)) {
                return event.clone();
            }
            seen = self.reported.len();
            assert!(Instant::now() < deadline, "no {what}; reported: {:#?}", self.reported);
            self.core.turn(Some(deadline)).expect("a turn");
        }
    }

    pub fn answer(&mut self, token: WaitToken) -> Result<Reply, Refusal> {
        let finished = self.until("answer", |event| matches!(event, Event::Finished { token: of, .. } if *of == token));
        let Event::Finished { result, .. } = finished else { unreachable!("it was matched") };
        result
    }

    /// Sends a request, and turns the loop until its answer.
    pub fn done(&mut self, request: Request) -> Result<Reply, Refusal> {
        match self.core.request(request)? {
            Reply::Pending(token) => self.answer(token),
            reply => Ok(reply),
        }
    }

    /// Creates and starts init.
    pub fn run(&mut self, text: &str, stdio: Stdio) {
        let new = self.new_process("", text, stdio);
        self.done(Request::Create(new)).expect("created");
        self.done(Request::Start(init())).expect("started");
    }

    /// Adds an exec and starts it.
    pub fn exec(&mut self, exec: &str, text: &str, stdio: Stdio) -> Result<Reply, Refusal> {
        let new = self.new_process(exec, text, stdio);
        self.done(Request::AddExec(new)).expect("added");
        self.done(Request::Start(ProcessId::of("c", exec)))
    }

    pub fn exit(&mut self, process: &ProcessId) -> Option<Exit> {
        let reported = self.until("exit", |event| matches!(event, Event::Exited { process: of, .. } if of == process));
        let Event::Exited { status, .. } = reported else { unreachable!("it was matched") };
        status.exit
    }

    /// Reads a fifo to its end while the loop turns. Returns true if it has ended.
    pub fn read_to_end(&mut self, path: &Path) -> (Vec<u8>, bool) {
        let file = windlass_sys::fd::open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).expect("a reader");
        self.read_on(&file)
    }

    /// Reads an open fifo like [`Rig::read_to_end`].
    pub fn read_on(&mut self, file: &OwnedFd) -> (Vec<u8>, bool) {
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        let end = Instant::now() + TIMEOUT;
        while Instant::now() < end {
            match stream::read(file.as_fd(), &mut buffer).expect("read") {
                Moved::Bytes(n) => text.extend_from_slice(&buffer[..n]),
                Moved::Later => drop(self.turns(Duration::from_millis(5))),
                Moved::End => return (text, true),
            }
        }
        (text, false)
    }

    /// Turns the loop until the condition holds.
    pub fn turns_until(&mut self, what: &str, mut is_so: impl FnMut(&mut Rig) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "no {what}; reported: {:#?}", self.reported);
            self.turns(Duration::from_millis(5));
        }
    }

    /// Turns the loop for this time. Returns the number of turns.
    pub fn turns(&mut self, time: Duration) -> usize {
        let end = Instant::now() + time;
        let mut n = 0;
        while Instant::now() < end {
            while let Some(event) = self.core.next_event() {
                self.reported.push(event);
            }
            self.core.turn(Some(end)).expect("a turn");
            n += 1;
        }
        n
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = &self.reported[self.reported.len().saturating_sub(20)..];
            eprintln!("what the loop reported last: {last:#?}");
        } else {
            // Through its pidfd, because the number of a process that was reaped may be another's.
            let _ = self.core.signal(&init(), libc::SIGKILL, false);
            // A process that is being killed may still make a file.
            for _ in 0..100 {
                if fs::remove_dir_all(&self.dir).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

pub fn init() -> ProcessId {
    ProcessId::init("c")
}

pub fn fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a fifo");
}

pub fn rig_with_fifo() -> (Rig, PathBuf) {
    let rig = Rig::new();
    let path = rig.dir.join("fifo");
    fifo(&path);
    (rig, path)
}

pub fn raw_log(path: &Path) -> Log {
    Log::Raw(LogFile { path: path.into(), ..LogFile::default() })
}

pub fn attached() -> Stdio {
    Stdio { stdout: Output::Attach, ..Stdio::default() }
}

/// Runs the test again in a shell that has done `first`. Returns true in the first process, after that run.
pub fn again_in_a_shell(first: &str) -> bool {
    const MARK: &str = "SHIM_CORE_AGAIN";
    if std::env::var_os(MARK).is_some() {
        return false;
    }
    let program = std::env::current_exe().expect("our own program");
    let script = format!("{first}; exec \"$@\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, "sh"]).arg(program).args(std::env::args().skip(1)).env(MARK, "1");
    assert!(shell.status().expect("a shell").success());
    true
}

/// Our children that have ended and are not reaped.
pub fn zombies() -> Vec<i32> {
    let ours = format!(" Z {} ", std::process::id());
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(&ours))).collect()
}

/// How many children we have.
pub fn children() -> usize {
    fs::read_to_string("/proc/thread-self/children").expect("children").split_whitespace().count()
}

/// Private memory of this process, in kB.
pub fn dirty() -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").expect("smaps_rollup");
    let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

pub fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc/self/fd").count()
}

/// The targets of this process's descriptors, without the one that lists them. The inodes of pipes and sockets are left
/// out.
pub fn open_files() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").expect("/proc/self/fd");
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let mut targets: Vec<_> = targets.map(|target| target.display().to_string()).collect();
    targets.retain(|target| !target.ends_with("/fd"));
    for target in &mut targets {
        if let Some((kind, _)) = target.split_once(":[") {
            *target = kind.to_owned();
        }
    }
    targets.sort();
    targets
}
