//! The output of `state`, `list` and `ps`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde::Serialize;

use super::options::Format;
use windlass_base::error::{Error, Kind, Result, WithContext};

/// A container as `state` and `list` print it, with runc's keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    pub oci_version: String,
    pub id: String,
    /// The process id of init in the caller's PID namespace; 0 if the container is stopped.
    pub pid: i32,
    /// creating, created, running, paused or stopped.
    pub status: String,
    /// Absolute path of its bundle.
    pub bundle: String,
    /// Absolute path of its root filesystem.
    pub rootfs: String,
    /// The time of its creation, in RFC 3339.
    pub created: String,
    /// Annotations of its config.json.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The name of the user who created it, or `#` and the id.
    pub owner: String,
    /// How it ended, if it is stopped and that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitState>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitState {
    /// The exit code, unless a signal killed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The name of the signal that killed it, such as `SIGKILL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Whether there was an OOM kill in its cgroup.
    pub oom_killed: bool,
    /// The time of the end, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// `state`: pretty JSON without a line feed at its end, as runc prints it.
pub fn state(container: &ContainerState) -> String {
    serde_json::to_string_pretty(container).expect("a struct of strings always serialises")
}

/// `list`.
pub fn list(containers: &[ContainerState], format: Format, quiet: bool) -> String {
    if quiet {
        return containers.iter().map(|container| format!("{}\n", container.id)).collect();
    }
    match format {
        // runc prints Go's nil slice so.
        Format::Json if containers.is_empty() => "null\n".into(),
        Format::Json => serde_json::to_string(containers).expect("structs of strings always serialise") + "\n",
        Format::Table => list_table(containers),
    }
}

fn list_table(containers: &[ContainerState]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(
        containers
            .iter()
            .map(|it| [&it.id, &it.pid.to_string(), &it.status, &it.bundle, &it.created, &it.owner].map(String::clone)),
    );
    columns(&rows)
}

/// Aligned columns, at least 12 wide and 3 spaces apart, as runc prints them.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    const MINIMUM: usize = 12;
    const APART: usize = 3;
    let widths: [usize; N] = std::array::from_fn(|column| {
        let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        (longest + APART).max(MINIMUM)
    });
    let mut out = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(widths).take(N - 1) {
            out.push_str(&format!("{cell:width$}"));
        }
        out.push_str(&row[N - 1]);
        out.push('\n');
    }
    out
}

/// `ps`: a JSON array of pids, or the table that ps(1) prints of them.
pub fn ps(pids: &[i32], format: Format, args: &[OsString]) -> Result<String> {
    if format == Format::Json {
        return Ok(serde_json::to_string(pids).expect("numbers always serialise") + "\n");
    }
    let default = [OsString::from("-ef")];
    let args = if args.is_empty() { &default[..] } else { args };
    let output = windlass_sys::spawn::command("ps").args(args).output().with_context(|| "cannot run ps")?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(Kind::Usage, format!("ps: {}: {}", output.status, stderr.trim())));
    }
    ps_table(&String::from_utf8_lossy(&output.stdout), pids)
}

/// The header of ps(1) and those of its lines whose PID is one of `pids`.
fn ps_table(output: &str, pids: &[i32]) -> Result<String> {
    let mut lines = output.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| Error::new(Kind::Usage, "couldn't find PID field in ps output"))?;
    let is_listed = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse::<i32>().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    Ok([header].into_iter().chain(lines.filter(is_listed)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str) -> ContainerState {
        ContainerState {
            oci_version: "1.3.0".into(),
            id: id.into(),
            pid: 42,
            status: "running".into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-11-24T02:34:45.5Z".into(),
            owner: "root".into(),
            ..ContainerState::default()
        }
    }

    #[test]
    fn a_state_reads_as_runc_writes_it() {
        assert_eq!(
            state(&container("c")),
            "{\n  \"ociVersion\": \"1.3.0\",\n  \"id\": \"c\",\n  \"pid\": 42,\n  \"status\": \"running\",\n  \
             \"bundle\": \"/b\",\n  \"rootfs\": \"/b/rootfs\",\n  \"created\": \"2026-11-24T02:34:45.5Z\",\n  \
             \"owner\": \"root\"\n}"
        );
    }

    #[test]
    fn a_stopped_container_tells_how_it_ended() {
        let exit = ExitState { signal: Some("SIGKILL".into()), oom_killed: true, ..ExitState::default() };
        let stopped = ContainerState { pid: 0, status: "stopped".into(), exit: Some(exit), ..container("c") };
        let value: serde_json::Value = serde_json::from_str(&state(&stopped)).expect("JSON");
        assert_eq!(value["pid"], 0);
        assert_eq!(value["exit"], serde_json::json!({"signal": "SIGKILL", "oomKilled": true}));
    }

    #[test]
    fn a_list_is_aligned_as_runc_aligns_it() {
        let long = "a-rather-long-container-id";
        let text = list(&[container("c"), container(long)], Format::Table, false);
        // The alignment that runc 1.1.5 printed for ids of these lengths.
        let expected = "\
ID                           PID         STATUS      BUNDLE      CREATED                  OWNER
c                            42          running     /b          2026-11-24T02:34:45.5Z   root
a-rather-long-container-id   42          running     /b          2026-11-24T02:34:45.5Z   root
";
        assert_eq!(text, expected);
        assert_eq!(
            list(&[], Format::Table, false),
            "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
        );
    }

    #[test]
    fn a_list_can_be_json_or_ids() {
        assert_eq!(list(&[], Format::Json, false), "null\n");
        let text = list(&[container("a"), container("b")], Format::Json, false);
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.starts_with("[{\"ociVersion\":\"1.3.0\",\"id\":\"a\","));
        assert_eq!(list(&[container("a"), container("b")], Format::Json, true), "a\nb\n");
        assert_eq!(list(&[], Format::Table, true), "");
    }

    #[test]
    fn ps_keeps_the_lines_of_the_containers_processes() {
        let output = "UID    PID  PPID CMD\nroot     1     0 init\nroot    42     1 sleep 43\nroot    43     1 sh 42\n";
        assert_eq!(ps_table(output, &[42]).expect("a PID column"), "UID    PID  PPID CMD\nroot    42     1 sleep 43\n");
        assert_eq!(ps_table(output, &[]).expect("a PID column"), "UID    PID  PPID CMD\n");
        assert!(ps_table("a b c\n1 2 3\n", &[2]).is_err());
        assert_eq!(ps(&[1, 2], Format::Json, &[]).expect("no process needed"), "[1,2]\n");
    }

    #[test]
    fn ps_runs_the_hosts_program() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let text = ps(&[own], Format::Table, &["-o".into(), "pid,comm".into(), "-A".into()]).expect("ps runs");
        assert_eq!(text.lines().count(), 2, "{text}");
        let error = ps(&[own], Format::Table, &["--no-such-option".into()]).expect_err("refused");
        assert!(error.message().starts_with("ps: exit status: 1"), "{error}");
    }
}
