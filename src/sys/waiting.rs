//! What a process that does not do as it was told is waiting for.

use std::fs::read_to_string;

use super::fd;

/// What to do about one in state D.
pub const HINT: &str =
    "a process in state D waits for the kernel and cannot be killed: /proc/PID/stack and the kernel log tell more";

/// The state letter, the name, and in state D the kernel function it waits in.
///
/// A process that is gone is `None`.
pub fn describe(pid: i32) -> Option<String> {
    // A process may call itself anything.
    let stat = fd::read_small(fd::CWD, format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // pid (comm) state: comm may contain anything, also brackets.
    let (from, to) = (stat.find('(')?, stat.rfind(") ")?);
    let (name, state) = (&stat[from..=to], stat[to + 2..].chars().next()?);
    // "0" is what the kernel shows to those who may not know.
    let wchan = read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    match state {
        'D' if !matches!(wchan.trim(), "" | "0") => {
            Some(format!("process {pid} {name} in state D, waiting in {}", wchan.trim()))
        }
        _ => Some(format!("process {pid} {name} in state {state}")),
    }
}

/// More are not worth reading.
const SHOWN: usize = 5;

/// What is known of processes that should be gone: first those that wait for the kernel, and of
/// those that are gone meanwhile their numbers.
pub fn describe_all(pids: &[i32]) -> String {
    let mut words: Vec<String> =
        pids.iter().map(|pid| describe(*pid).unwrap_or_else(|| format!("process {pid}"))).collect();
    words.sort_by_key(|word| !word.contains(" in state D"));
    let more = words.len().saturating_sub(SHOWN);
    words.truncate(SHOWN);
    let words = words.join(", ");
    if more > 0 { format!("{words} and {more} more") } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_described_by_its_name_and_state() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let pid = child.id() as i32;
        let described = describe(pid).expect("it is there");
        assert!(described.starts_with(&format!("process {pid} (")), "{described}");
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(describe(pid), None);
        assert_eq!(describe_all(&[pid]), format!("process {pid}"));
        assert!(describe_all(&[pid; 7]).ends_with(&format!("process {pid} and 2 more")));
    }
}
