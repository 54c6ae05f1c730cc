//! Runs tests, each in a process of its own, and reports them as libtest does: scripts count its lines.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

/// Before a test's name: the test runs in this process.
pub const ALONE: &str = "--alone";

/// Status of a program of libtest whose tests failed. cargo(1) takes any other for a program that died.
pub const FAILED: u8 = 101;

/// How long a test may run on a busy machine. It reports itself what it has waited for in vain for two minutes.
const LONGEST: Duration = Duration::from_secs(1800);

/// What the caller of the program wishes.
pub struct Wishes {
    /// Parts of names; with none, all tests run.
    words: Vec<String>,
    /// Whether the tests write to this program's output.
    nocapture: bool,
}

impl Wishes {
    pub fn of(words: Vec<String>) -> Wishes {
        let (options, words): (Vec<_>, Vec<_>) = words.into_iter().partition(|word| word.starts_with('-'));
        let nocapture = options.iter().any(|option| ["--nocapture", "--no-capture"].contains(&&**option));
        Wishes { words, nocapture }
    }

    fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(&**word))
    }
}

struct Running {
    name: &'static str,
    child: Child,
    /// Both streams of the child. A file never blocks the child, and keeps what it said whatever outlives it.
    output: Option<File>,
    deadline: Instant,
}

struct Failure {
    name: &'static str,
    output: String,
    why: String,
}

/// Runs the tests that are wished for, several at once because they wait for most of their time. Returns true if all
/// have passed.
pub fn run(names: &[&'static str], wishes: &Wishes) -> bool {
    let at_once = 4 * std::thread::available_parallelism().map_or(1, usize::from);
    let begun = Instant::now();
    let wanted: Vec<_> = names.iter().filter(|name| wishes.wants(name)).collect();
    println!("\nrunning {} test{}", wanted.len(), if wanted.len() == 1 { "" } else { "s" });
    let (mut running, mut failures) = (Vec::<Running>::new(), Vec::new());
    let mut waiting = wanted.iter();
    loop {
        while running.len() < at_once
            && let Some(name) = waiting.next()
        {
            running.push(Running::start(name, wishes.nocapture));
        }
        if running.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
        running.retain_mut(|test| {
            let Some(outcome) = test.outcome() else { return true };
            println!("test {} ... {}", test.name, if outcome.is_ok() { "ok" } else { "FAILED" });
            failures.extend(outcome.err().map(|why| Failure { name: test.name, output: test.said(), why }));
            false
        });
    }
    show(&failures);
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failures.is_empty() { "ok" } else { "FAILED" },
        wanted.len() - failures.len(),
        failures.len(),
        names.len() - wanted.len(),
        begun.elapsed().as_secs_f64()
    );
    failures.is_empty()
}

fn show(failures: &[Failure]) {
    if failures.is_empty() {
        return;
    }
    println!("\nfailures:\n");
    for Failure { name, output, why } in failures {
        println!("---- {name} stdout ----\n{}\n{why}\n", output.trim_end());
    }
    println!("\nfailures:");
    failures.iter().for_each(|failure| println!("    {}", failure.name));
}

impl Running {
    fn start(name: &'static str, nocapture: bool) -> Running {
        let program = std::env::current_exe().expect("our own program");
        let output = (!nocapture).then(|| File::from(memfd_create(c"output", MFdFlags::MFD_CLOEXEC).expect("a file")));
        let stream = || match &output {
            Some(file) => Stdio::from(file.try_clone().expect("a copy")),
            None => Stdio::inherit(),
        };
        let mut command = Command::new(&program);
        command.args([ALONE, name]).env("SHIM_CORE", &program).stdout(stream()).stderr(stream());
        let child = command.spawn().expect("started");
        Running { name, child, output, deadline: Instant::now() + LONGEST }
    }

    /// The outcome, with the reason if the test has failed. `None`: it still runs.
    fn outcome(&mut self) -> Option<Result<(), String>> {
        if let Some(status) = self.child.try_wait().expect("waited for") {
            return Some(if status.success() { Ok(()) } else { Err(status.to_string()) });
        }
        if Instant::now() < self.deadline {
            return None;
        }
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
        Some(Err(format!("it did not end in {} s", LONGEST.as_secs())))
    }

    /// What the test has said.
    fn said(&self) -> String {
        let Some(file) = &self.output else { return String::new() };
        let mut bytes = vec![0; file.metadata().expect("a length").len() as usize];
        // The offset is that of the writers, too.
        file.read_exact_at(&mut bytes, 0).expect("read");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
