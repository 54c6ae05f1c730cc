//! `delete`: removes the rest of a container whose shim is gone, and prints its exit status.
//!
//! containerd calls it after each normal end too, and again for a container that is already removed. Then there is
//! nothing to do, and the action succeeds. The answer is the exit record if there is one, otherwise the runtime's
//! report of the end. The status is 137 only for a container that was alive and that this action has killed.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::arguments::Arguments;
use super::error::Error;
use super::message::task::Deleted;
use super::{bundle, io, mounts, start};
use crate::command;
use crate::exit::Record;
use crate::frontend::control;
use crate::gone;
use crate::runtime_state::RuntimeState;
use crate::{ExitStatus, Runtime};
use windlass_base::protobuf::Message;
use windlass_sys::poll::Deadline;
use windlass_sys::{clock, fd};

/// How long all calls of the runtime may take together. containerd waits for five seconds.
const TIMEOUT: Duration = Duration::from_secs(4);

/// The exit status of a container that was killed here, and of a container whose exit is not known.
const KILLED: u32 = 137;
const LOST: u32 = 255;

/// Runs the action.
pub(super) fn main(arguments: &Arguments) -> Result<(), Error> {
    let bundle = match arguments.bundle.as_str() {
        "" => std::env::current_dir().map_err(|error| Error::Io("the working directory".into(), error))?,
        path => path.into(),
    };
    let record = record(&bundle, &arguments.id);
    let until = Deadline::after(TIMEOUT);
    let deleted = bundle::remembered(&bundle, &arguments.namespace)
        .and_then(|runtime| delete(&runtime, &arguments.id, record.is_some(), until));
    let unmounted = mounts::unmount_all(&bundle::rootfs(&bundle));
    remove_socket(&bundle, until);
    control::sweep_all();
    let found = deleted?;
    unmounted?;
    let pid = pid(&bundle);
    let exited = |status: ExitStatus| Deleted {
        pid,
        exit_status: u32::try_from(status.code()).unwrap_or(LOST),
        exited_at: Some(status.at.into()),
    };
    let unknown = |exit_status| Deleted { pid, exit_status, exited_at: Some(clock::wall().into()) };
    let answer = match (record, found) {
        (Some(record), _) => exited(record.status()),
        (None, Found::Ended(status)) => exited(status),
        (None, Found::Alive) => unknown(KILLED),
        (None, Found::Nothing) => unknown(LOST),
    };
    io::print(&answer.encode())
}

/// The runtime's report about the container before it was deleted.
enum Found {
    /// The container was alive.
    Alive,
    /// The container had ended, and the runtime knew how.
    Ended(ExitStatus),
    /// The runtime knew nothing that can be used.
    Nothing,
}

/// Deletes the container by the runtime.
fn delete(runtime: &Runtime, id: &str, ended: bool, until: Deadline) -> Result<Found, Error> {
    let found = match ended {
        true => None,
        false => RuntimeState::parse(&run(runtime, &["state".into(), id.into()], until)?.1),
    };
    let found = match found {
        Some(state) if state.is_alive() => Found::Alive,
        Some(state) => state.end().map_or(Found::Nothing, Found::Ended),
        None => Found::Nothing,
    };
    let (success, output) = run(runtime, &["delete".into(), "--force".into(), id.into()], until)?;
    let output = String::from_utf8_lossy(&output);
    // If the container does not exist, it is deleted too.
    if success || gone::is_container_or_file(&output) {
        return Ok(found);
    }
    Err(Error::Program(format!("{}: {}", runtime.binary.display(), output.trim())))
}

/// Runs the runtime. Returns whether it succeeded, and its output.
fn run(runtime: &Runtime, words: &[OsString], until: Deadline) -> Result<(bool, Vec<u8>), Error> {
    let words: Vec<OsString> = runtime.global.iter().chain(words).cloned().collect();
    let finished = command::run(&runtime.binary, &words, until).map_err(|refusal| Error::Program(refusal.message))?;
    let success = finished.success();
    Ok((success, if finished.stdout.is_empty() { finished.stderr } else { finished.stdout }))
}

/// The exit record of the container. A record with another process id belongs to an earlier container, whose bundle had
/// the same path: its shim may have written it after that bundle was removed.
pub(super) fn record(bundle: &Path, id: &str) -> Option<Record> {
    let of_it = |record: &Record| record.id == id && u32::try_from(record.pid) == Ok(pid(bundle));
    Record::read(&bundle::exit_file(bundle)).filter(of_it)
}

fn pid(bundle: &Path) -> u32 {
    let text = fd::document(bundle::pid_file(bundle)).unwrap_or_default();
    String::from_utf8_lossy(&text).trim().parse().unwrap_or_default()
}

/// Removes the shim's socket, unless a shim listens.
fn remove_socket(bundle: &Path, until: Deadline) {
    let address = fd::document(bundle.join("address")).unwrap_or_default();
    let address = String::from_utf8_lossy(&address);
    if let Some(path) = address.trim().strip_prefix("unix://") {
        start::remove_dead(Path::new(path), until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_another_container_at_the_same_path_is_not_this_one_s() {
        let bundle = std::env::temp_dir().join(format!("windlass-delete-{}", std::process::id()));
        std::fs::create_dir_all(&bundle).expect("a directory");
        let text = r#"{"version":1,"id":"web","pid":7,"code":3,"at":"2026-01-01T00:00:00Z","atNanoseconds":0}"#;
        std::fs::write(bundle::exit_file(&bundle), text).expect("written");
        assert!(record(&bundle, "web").is_none(), "nothing has run in this bundle");
        std::fs::write(bundle::pid_file(&bundle), "8").expect("written");
        assert!(record(&bundle, "web").is_none(), "another process");
        std::fs::write(bundle::pid_file(&bundle), "7").expect("written");
        assert_eq!(record(&bundle, "web").and_then(|record| record.exit.code), Some(3));
        assert!(record(&bundle, "db").is_none());
        std::fs::remove_dir_all(&bundle).expect("removed");
    }
}
