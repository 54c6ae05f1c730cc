//! `/proc/PID/stat` (proc_pid_stat(5)).

use crate::sys::fd;

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// Its name (field 2).
    pub name: String,
    /// Its state letter (field 3).
    pub state: char,
    /// Its start time in clock ticks since boot (field 22).
    pub start_time: u64,
    /// Its exit status as waitpid(2) gives it (field 52); 0 for those who may not know.
    pub exit_code: i32,
}

/// Reads `/proc/PID/stat`; `None` when there is no such process.
pub fn process_stat(pid: i32) -> Option<ProcessStat> {
    let text = fd::read_small(fd::CWD, format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&text))
}

fn parse_stat(text: &str) -> Option<ProcessStat> {
    // The name is in parentheses and may itself have any character.
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_string();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(ProcessStat {
        name,
        state: fields.first()?.chars().next()?,
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
        let text = format!("12 (a) R 1 (b) {}", fields.join(" "));
        let stat = parse_stat(&text).expect("well formed");
        assert_eq!(stat, ProcessStat { name: "a) R 1 (b".into(), state: 'Z', start_time: 777, exit_code: 256 });
        assert_eq!(parse_stat("nonsense"), None);
    }
}
