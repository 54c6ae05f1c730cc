//! Runtimes with a known fault. The sweep must find each, or an oracle that accepts everything would go unnoticed.

use super::plan::Extent;
use super::result::{self, Line};
use super::worker::Order;
use crate::harness;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A fault: the script that runs after the runtime has ended with `$code`, the scenario, and the sweep's name for it.
struct Known {
    name: &'static str,
    script: &'static str,
    scenario: &'static str,
    found_as: &'static str,
}

const KNOWN: &[Known] = &[
    Known {
        name: "a cgroup is left",
        script: "[ $code = 0 ] || mkdir /sys/fs/cgroup/sweep-left",
        scenario: "create/plain",
        found_as: "left after delete --force",
    },
    Known {
        name: "a process is left",
        script: "[ $code = 0 ] || setsid sleep 1000 >/dev/null 2>&1 </dev/null &",
        scenario: "create/plain",
        found_as: "left after delete --force",
    },
    Known {
        name: "a failure is called a success",
        script: "code=0",
        scenario: "pause/plain",
        found_as: "succeeds without its work",
    },
    Known {
        name: "a failure has no words",
        script: "words=no",
        scenario: "create/plain",
        found_as: "fails without a word",
    },
    Known {
        name: "a failure has other words",
        script: "[ $code = 0 ] || { words=no; echo it did not work >&2; }",
        scenario: "create/plain",
        found_as: "the error is not named",
    },
    Known {
        name: "a file of the caller's is given away",
        script: "[ $code = 0 ] || chown 1000 /proc/self/fd/1",
        scenario: "create/plain",
        found_as: "the caller's things are changed",
    },
    Known {
        name: "a failed verb has done its work",
        script: "[ $code = 0 ] || { echo 1 > /sys/fs/cgroup/$id/cgroup.freeze; }",
        scenario: "pause/plain",
        found_as: "fails and has done it",
    },
];

/// The injection that reveals all faults: the runtime, a child of the script, cannot read the state or the bundle.
const AT: &str = "main.1/openat#2 EMFILE";

/// The runtime under test with a fault added.
fn faulty(known: &Known, runtime: &Path, file: &Path) -> Result<(), String> {
    let script = format!(
        "#!/bin/sh\nfor id; do :; done\nwords=yes\n{} \"$@\" 2>/tmp/faulty.$$\ncode=$?\n\
         case \" $* \" in *\" --force \"*|*\" state \"*) ;; *) {} ;; esac\n\
         [ $words = no ] || cat /tmp/faulty.$$ >&2\nrm -f /tmp/faulty.$$\nexit $code\n",
        runtime.display(),
        known.script
    );
    let write = || {
        fs::write(file, script)?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o755))
    };
    write().map_err(|error| format!("{}: {error}", file.display()))
}

/// Whether the sweep finds all faults. Prints a line for each.
pub fn run(runtime: &Path, shim: &Path) -> bool {
    let dir = std::env::current_dir().unwrap_or_default().join("target");
    let found = |known: &Known| {
        let seen = sweep(known, runtime, shim, &dir);
        let is_it = |line: &Line| matches!(line, Line::Injected { outcome, .. } if outcome == known.found_as);
        match &seen {
            Ok(lines) if lines.iter().any(is_it) => println!("found  {}", known.name),
            other => println!("MISSED {}: {other:?}", known.name),
        }
        seen.is_ok_and(|lines| lines.iter().any(is_it))
    };
    // All run, even if one was missed.
    KNOWN.iter().filter(|known| found(known)).count() == KNOWN.len()
}

fn sweep(known: &Known, runtime: &Path, shim: &Path, dir: &Path) -> Result<Vec<Line>, String> {
    let file = dir.join("faulty-runtime");
    faulty(known, runtime, &file)?;
    let order = Order {
        runtime: file,
        shim: shim.to_owned(),
        scenario: known.scenario.to_owned(),
        extent: Extent { calls: true, kills: false, short: true },
        part: (0, 1),
        progress: dir.join("none"),
        only: AT.to_owned(),
        inner: Some(runtime.to_owned()),
    };
    let mut seen = Vec::new();
    let mut on_line = |line: &str| result::parse(line).map(|line| seen.push(line)).is_some();
    harness::run("host", &order.to_words(), &mut on_line)?;
    Ok(seen)
}
