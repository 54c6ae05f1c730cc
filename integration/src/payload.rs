//! `/helper` inside a container: questions to the kernel that a shell cannot ask.

use crate::sys;
use nix::errno::Errno;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// `@payload WHAT [ARG…]`.
pub fn main(words: &[String]) -> ExitCode {
    let rest = words.get(1..).unwrap_or_default();
    let text = match words.first().map(String::as_str) {
        Some("syscalls") => rest.iter().map(|call| syscall(call)).collect::<Vec<_>>().join("\n"),
        Some("hold") => return hold(rest),
        Some("scheduler") => sys::sched_getattr().map_or_else(errno, |a| {
            format!(
                "policy={} nice={} priority={} flags={} runtime={} deadline={} period={}",
                a.policy, a.nice, a.priority, a.flags, a.runtime, a.deadline, a.period
            )
        }),
        Some("mempolicy") => {
            sys::get_mempolicy().map_or_else(errno, |(mode, nodes)| format!("mode={mode} nodes={nodes:#x}"))
        }
        Some("by-name") => by_name(rest).unwrap_or_else(|error| error.to_string()),
        Some("fds") => describe_fds(),
        Some("world") => crate::sweep::peers::probe::main(rest.first().map_or("", String::as_str)),
        Some("write") => return write_lines(rest),
        Some("leaderless") => return leaderless(),
        _ => return ExitCode::from(2),
    };
    println!("{text}");
    ExitCode::SUCCESS
}

/// Ends the main thread while another one runs on.
fn leaderless() -> ExitCode {
    std::thread::spawn(|| std::thread::sleep(Duration::from_secs(1000)));
    println!("leaderless {}", std::process::id());
    let _ = sys::syscall(libc::SYS_exit, [0; 6]);
    ExitCode::FAILURE
}

/// `MIB RATE`: waits for `/go`, writes numbered lines of 16 bytes, `RATE` MiB a second (0: as fast as possible), and
/// then writes to `/result` the number of bytes and the microseconds of the longest write.
fn write_lines(words: &[String]) -> ExitCode {
    const PIECE: u64 = 16 * 1024;
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    let (bytes, rate) = (number(0) << 20, number(1) << 20);
    while !std::path::Path::new("/go").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let (begin, mut longest, mut done) = (Instant::now(), Duration::ZERO, 0);
    while done < bytes {
        let lines: String = (done / 16..(done + PIECE) / 16).map(|n| format!("{n:015}\n")).collect();
        let at = Instant::now();
        if std::io::stdout().write_all(lines.as_bytes()).and_then(|()| std::io::stdout().flush()).is_err() {
            return ExitCode::FAILURE;
        }
        longest = longest.max(at.elapsed());
        done += PIECE;
        if let Some(due) = (done * 1_000_000).checked_div(rate).map(Duration::from_micros) {
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
        }
    }
    let result = std::fs::write("/result", format!("{done} {}\n", longest.as_micros()));
    ExitCode::from(u8::from(result.is_err()))
}

/// `WORD…`: makes calls one after the other, writes `/ready`, and keeps that state. A word is `NR[,ARG…]`, where an
/// argument is a number, `=N` for the result of the word N, `'TEXT`, or `#A:B` for a buffer that begins with these
/// numbers of 32 bits; `with-child`, which makes an idle child; or `in-child`, which leaves the rest to a child.
fn hold(words: &[String]) -> ExitCode {
    let mut results: Vec<i64> = Vec::new();
    let mut failed = String::new();
    for word in words {
        let result = match word.as_str() {
            fork @ ("with-child" | "in-child") => {
                let pid = sys::syscall(libc::SYS_clone, [i64::from(libc::SIGCHLD), 0, 0, 0, 0, 0]);
                if pid.is_ok_and(|pid| (pid == 0) == (fork == "with-child")) {
                    stay();
                }
                pid
            }
            call => {
                let mut args = call.split(',').map(|word| argument(word, &results));
                let number = args.next().unwrap_or(-1);
                let mut all = [0; 6];
                all.iter_mut().zip(args).for_each(|(arg, value)| *arg = value);
                sys::syscall(number, all)
            }
        };
        match result {
            Ok(result) => results.push(result),
            Err(error) => {
                failed = format!("{word}: {error:?}");
                break;
            }
        }
    }
    let _ = std::fs::write("/ready.new", failed).and_then(|()| std::fs::rename("/ready.new", "/ready"));
    stay()
}

fn argument(word: &str, results: &[i64]) -> i64 {
    let leaked = |bytes: Vec<u8>| Box::leak(bytes.into_boxed_slice()).as_ptr() as i64;
    match word.split_at_checked(1) {
        Some(("=", at)) => at.parse().ok().and_then(|at: usize| results.get(at)).copied().unwrap_or(-1),
        Some(("'", text)) => leaked([text.as_bytes(), &[0]].concat()),
        Some(("#", numbers)) => {
            let numbers = numbers.split(':').map(|number| number.parse::<u32>().unwrap_or(0));
            let mut bytes: Vec<u8> = numbers.flat_map(u32::to_ne_bytes).collect();
            bytes.resize(4096, 0);
            leaked(bytes)
        }
        _ => word.parse().unwrap_or(0),
    }
}

fn stay() -> ! {
    loop {
        nix::unistd::pause();
    }
}

/// `NR[,ARG…]` to `NR=VALUE` or `NR=ERRNO`.
fn syscall(call: &str) -> String {
    let mut numbers = call.split(',').map(|word| word.parse().unwrap_or(0));
    let number: i64 = numbers.next().unwrap_or(-1);
    let mut args = [0; 6];
    args.iter_mut().zip(numbers).for_each(|(arg, value)| *arg = value);
    let result = sys::syscall(number, args).map_or_else(errno, |value| value.to_string());
    format!("{number}={result}")
}

fn errno(error: Errno) -> String {
    format!("{error:?}")
}

/// `FD TARGET` of every descriptor except the one that lists them.
fn describe_fds() -> String {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let mut fds: Vec<(u32, String)> = entries
        .filter_map(|entry| {
            let target = std::fs::read_link(entry.path()).ok()?.display().to_string();
            Some((entry.file_name().to_str()?.parse().ok()?, target))
        })
        .filter(|(_, target)| !(target.starts_with("/proc/") && target.ends_with("/fd")))
        .collect();
    fds.sort();
    fds.iter().map(|(fd, target)| format!("{fd} {target}")).collect::<Vec<_>>().join("\n")
}

/// `WHAT ROOT`: examines an entry below a root and then uses it by its path, as a runtime must not do.
fn by_name(words: &[String]) -> std::io::Result<String> {
    let [what, root] = words else {
        return Ok("WHAT ROOT".to_owned());
    };
    let at = |name: &str| std::path::Path::new(root).join(name);
    let (dir, file, work) = (at("race/dir"), at("etc/passwd"), at("cwd/here"));
    if dir.symlink_metadata()?.is_dir() && file.symlink_metadata()?.is_file() && work.symlink_metadata()?.is_dir() {
        match what.as_str() {
            "write" => std::fs::write(dir.join("new"), "")?,
            "read" => drop(std::fs::read(file)?),
            "list" => drop(std::fs::read_dir(work)?),
            "chmod" => std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?,
            "chdir" => std::env::set_current_dir(work)?,
            _ => {
                nix::mount::mount(Some("tmpfs"), &dir, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)?;
                nix::mount::umount(&dir)?;
            }
        }
    }
    Ok("used".to_owned())
}
