//! `/proc/PID/stat` (proc_pid_stat(5)).

use nix::errno::Errno;

use windlass_sys::{Result, fd, probe};

/// Fields of `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// Its name (field 2).
    pub name: String,
    /// Its state letter (field 3).
    pub state: char,
    /// Whether it has executed a program since it was forked (field 9, `PF_FORKNOEXEC`).
    pub has_executed: bool,
    /// How many threads it has (field 20). A main thread that has ended while others run is a zombie.
    pub threads: u64,
    /// Its start time in clock ticks since boot (field 22), by the clock of the reader's time namespace.
    pub start_time: u64,
    /// Its exit status as of waitpid(2) (field 52); 0 without the permission to read it.
    pub exit_code: i32,
}

/// Reads `/proc/PID/stat`. Returns `None` if there is no such process. Any other failure is an error, because a process
/// that cannot be examined may be alive.
pub fn process_stat(pid: i32) -> Result<Option<ProcessStat>> {
    match fd::read_small(fd::CWD, format!("/proc/{pid}/stat")) {
        Ok(text) => Ok(parse_stat(&String::from_utf8_lossy(&text))),
        // ESRCH: it was reaped between the open and the read.
        Err(failed) if matches!(failed.errno, Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(failed) => Err(failed),
    }
}

/// `PF_FORKNOEXEC` (include/linux/sched.h): forked, and nothing executed since.
const FORK_NO_EXEC: u64 = 0x40;

/// Whether `pid`, whose end of a socket is closed, has ended before it executed a program. The execution closes the
/// socket too. Returns false if the process was reaped already, so that it is not known.
pub fn ended_unexecuted(pid: i32) -> bool {
    // When a process ends, the kernel removes its program before it closes the descriptors.
    let program = fd::readlinkat(fd::CWD, format!("/proc/{pid}/exe"));
    program.is_err_and(|failed| failed.errno == Errno::ENOENT)
        && matches!(process_stat(pid), Ok(Some(stat)) if !stat.has_executed)
}

impl ProcessStat {
    /// Whether the process has ended, with all its threads.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }

    /// Its start time in clock ticks since the host's boot. In another time namespace than the initial one, it may
    /// differ by one tick, since the kernel adds the namespace's offset before it rounds.
    pub fn started(&self) -> Result<u64> {
        if probe::in_first_time_namespace() {
            return Ok(self.start_time);
        }
        let offsets = fd::read_small(fd::CWD, "/proc/self/timens_offsets")?;
        Ok(self.start_time.saturating_add_signed(-boot_offset(&String::from_utf8_lossy(&offsets))))
    }

    /// Whether the process started at that time, as returned by [`ProcessStat::started`].
    pub fn is_from(&self, started: u64) -> Result<bool> {
        Ok(self.start_time == started || self.started()?.abs_diff(started) <= 1)
    }
}

/// The offset of the boot clock in a /proc/PID/timens_offsets (time_namespaces(7)), in clock ticks. These are 1/100 s
/// on every architecture that windlass is built for (`USER_HZ`).
fn boot_offset(offsets: &str) -> i64 {
    let line = offsets.lines().find_map(|line| line.strip_prefix("boottime"));
    let mut numbers = line.unwrap_or_default().split_whitespace().map_while(|word| word.parse::<i64>().ok());
    let (seconds, nanoseconds) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    seconds.saturating_mul(100).saturating_add(nanoseconds / 10_000_000)
}

pub(super) fn parse_stat(text: &str) -> Option<ProcessStat> {
    // The name is in parentheses and may contain any character.
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_string();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(ProcessStat {
        name,
        state: fields.first()?.chars().next()?,
        has_executed: fields.get(6)?.parse::<u64>().ok()? & FORK_NO_EXEC == 0,
        threads: fields.get(17)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
        exit_code: fields.get(49).and_then(|field| field.parse().ok()).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_look_like_the_rest_of_the_line() {
        let mut fields = vec!["0"; 50];
        fields[0] = "Z";
        fields[19] = "777";
        fields[49] = "256";
        fields[6] = "4194380";
        let text = format!("12 (a) R 1 (b) {}", fields.join(" "));
        let stat = parse_stat(&text).expect("well formed");
        let (name, has_executed) = ("a) R 1 (b".into(), false);
        assert_eq!(stat, ProcessStat { name, state: 'Z', has_executed, threads: 0, start_time: 777, exit_code: 256 });
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn a_process_ends_with_its_last_thread() {
        let ended = |state, threads| {
            let (name, has_executed, start_time, exit_code) = (String::new(), true, 1, 0);
            ProcessStat { name, state, has_executed, threads, start_time, exit_code }.has_ended()
        };
        assert!(ended('Z', 1) && ended('X', 0));
        assert!(!ended('Z', 2) && !ended('S', 1) && !ended('R', 7));
    }

    #[test]
    fn the_boot_clock_of_a_time_namespace_is_read_in_ticks() {
        let offsets = |boot: &str| format!("monotonic      7000    9\nboottime {boot}\n");
        assert_eq!(boot_offset(&offsets("      2000         0")), 200_000);
        assert_eq!(boot_offset(&offsets("       -86 999000000")), -8_600 + 99);
        assert_eq!(boot_offset("monotonic 1 0\n"), 0);
        assert_eq!(boot_offset(""), 0);
    }
}
