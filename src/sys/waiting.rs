//! Descriptions of processes that should have ended or frozen, for error messages.

use std::fs::read_to_string;

use super::{fd, status};

/// The hint for a process in state D.
pub const HINT: &str =
    "a process in state D waits for the kernel and cannot be killed: /proc/PID/stack and the kernel log tell more";

/// A process in an error message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The state letter (proc_pid_stat(5)).
    pub state: char,
    /// Its id, name and state, and in state D the kernel function in which it waits.
    pub text: String,
}

/// Describes a process. Returns `None` if it has ended.
pub fn describe(pid: i32) -> Option<Description> {
    // The name need not be UTF-8.
    let stat = fd::read_small(fd::CWD, format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The line is `pid (comm) state …`, and comm may contain brackets.
    let (from, to) = (stat.find('(')?, stat.rfind(") ")?);
    let (name, state) = (&stat[from..=to], stat[to + 2..].chars().next()?);
    // The kernel shows "0" to a reader without the permission.
    let wchan = read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    let mut text = format!("process {pid} {name} in state {state}");
    if state == 'D' && !matches!(wchan.trim(), "" | "0") {
        text += &format!(", waiting in {}", wchan.trim());
    }
    Some(Description { state, text })
}

/// Whether the main thread of a process has ended while other threads run.
pub fn is_leaderless(pid: i32) -> bool {
    status::of(pid).is_some_and(|status| status.state.starts_with('Z') && status.threads > 1)
}

/// Most processes that an error message describes.
const SHOWN: usize = 5;

/// Describes processes that should have ended: first those in state D. A process that has ended meanwhile is named by
/// its id.
pub fn describe_all(pids: &[i32]) -> String {
    let ended = |pid: &i32| Description { state: 'X', text: format!("process {pid}") };
    let mut processes: Vec<Description> = pids.iter().map(|pid| describe(*pid).unwrap_or_else(|| ended(pid))).collect();
    processes.sort_by_key(|process| process.state != 'D');
    let more = processes.len().saturating_sub(SHOWN);
    processes.truncate(SHOWN);
    let texts = processes.into_iter().map(|process| process.text).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{texts} and {more} more") } else { texts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_described_by_its_name_and_state() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let pid = child.id() as i32;
        let described = describe(pid).expect("it is there").text;
        assert!(described.starts_with(&format!("process {pid} (")), "{described}");
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(describe(pid), None);
        assert_eq!(describe_all(&[pid]), format!("process {pid}"));
        assert!(describe_all(&[pid; 7]).ends_with(&format!("process {pid} and 2 more")));
    }
}
