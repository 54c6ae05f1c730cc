//! The file that holds a container's state: three lines, each a JSON document, and then the
//! configuration that create saw, as it was.
//!
//! The first line is written before anything is made, together with two blank ones, which `init`
//! and the exit fill in their places. One file and no directory, because a file system on a disk
//! may take a quarter of a millisecond for each new inode (ext4 without a journal looks for one
//! that was not freed lately), and because `list` opens each of them.

use std::os::fd::BorrowedFd;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys::fd;

use super::state::{ExitRecord, Init, State, VERSION};

/// Bytes of the second line: two numbers of 64 bits and their names fit.
const INIT: usize = 64;
/// Bytes of the third line: two numbers of 32 bits, a truth value and a date fit.
const EXIT: usize = 160;

/// Where the parts of a file begin, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    first: usize,
}

impl Layout {
    /// The line that [`Init`] fills.
    pub fn init(self) -> usize {
        self.first
    }

    /// The line that [`ExitRecord`] fills.
    pub fn exit(self) -> usize {
        self.init() + INIT
    }

    /// The configuration, which goes to the end.
    pub fn config(self) -> usize {
        self.exit() + EXIT
    }
}

/// What is before the configuration.
#[derive(Clone, Debug)]
pub struct Head {
    /// Where everything is.
    pub layout: Layout,
    /// The first line.
    pub state: State,
    /// The second.
    pub init: Option<Init>,
    /// The third.
    pub exit: Option<ExitRecord>,
}

/// A new file: no process yet, and no exit.
pub fn compose(state: &State, config: &[u8]) -> (Vec<u8>, Layout) {
    let mut text = Vec::with_capacity(1024 + config.len());
    serde_json::to_writer(&mut text, state).expect("plain data");
    text.push(b'\n');
    let layout = Layout { first: text.len() };
    text.extend_from_slice(&blank::<INIT>());
    text.extend_from_slice(&blank::<EXIT>());
    text.extend_from_slice(config);
    (text, layout)
}

/// The line for a process.
pub fn init_line(init: &Init) -> [u8; INIT] {
    line(init)
}

/// The line for an exit.
pub fn exit_line(exit: &ExitRecord) -> [u8; EXIT] {
    line(exit)
}

fn blank<const N: usize>() -> [u8; N] {
    let mut line = [b' '; N];
    line[N - 1] = b'\n';
    line
}

fn line<const N: usize>(what: &impl Serialize) -> [u8; N] {
    let mut line = blank::<N>();
    let mut room = &mut line[..N - 1];
    serde_json::to_writer(&mut room, what).expect("lines are as long as what they are for can be");
    line
}

/// Writes down how the container whose process was `pid` ended, in its file. What is another's, or was
/// never written, is left as it is.
pub fn write_exit(file: BorrowedFd<'_>, pid: i32, exit: &ExitRecord) -> crate::sys::Result<()> {
    match parse(&fd::read_head(file, is_complete)?) {
        Ok(Some(head)) if head.init.is_some_and(|init| init.pid == pid) => {
            fd::write_at(file, &exit_line(exit), head.layout.exit())
        }
        _ => Ok(()),
    }
}

/// Whether the beginning of a file has all that is before the configuration.
pub fn is_complete(text: &[u8]) -> bool {
    layout(text).is_some_and(|layout| text.len() >= layout.config())
}

fn layout(text: &[u8]) -> Option<Layout> {
    // Not by a library, which would ask the processor for its features: a trap in a virtual machine.
    text.iter().position(|byte| *byte == b'\n').map(|end| Layout { first: end + 1 })
}

/// Reads the beginning of a file; `None` where its create has not come so far. `Err` says what is
/// wrong with it.
pub fn parse(text: &[u8]) -> Result<Option<Head>, Unreadable> {
    let Some(layout) = layout(text).filter(|_| is_complete(text)) else { return Ok(None) };
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let first = &text[..layout.init()];
    let state = serde_json::from_slice::<State>(first);
    // A state of another version need not be one of ours at all.
    let version = match &state {
        Ok(state) => state.version,
        Err(_) => serde_json::from_slice::<Versioned>(first).map_err(|e| Unreadable::Damaged(e.to_string()))?.version,
    };
    if version > VERSION || version == 0 {
        return Err(Unreadable::Version(version));
    }
    let state = state.map_err(|error| Unreadable::Damaged(error.to_string()))?;
    let (init, exit) = (filled(&text[layout.init()..layout.exit()]), filled(&text[layout.exit()..layout.config()]));
    Ok(Some(Head { layout, state, init, exit }))
}

/// A line that is being written is one that has not been.
fn filled<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    if line[0] == b' ' { None } else { serde_json::from_slice(line).ok() }
}

/// Why a state cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is not what was written.
    Damaged(String),
    /// Its layout has a version that is not known here.
    Version(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        serde_json::from_str(
            r#"{"version":1,"id":"a","ociVersion":"1.2.0","bundle":"/b","rootfs":"/b/r","owner":"root","created":"now"}"#,
        )
        .expect("valid")
    }

    #[test]
    fn lines_are_filled_in_their_places() {
        let (mut text, layout) = compose(&state(), b"{}");
        let head = parse(&text).expect("readable").expect("complete");
        assert_eq!((head.layout, head.init, head.exit), (layout, None, None));
        assert_eq!(&text[layout.config()..], b"{}");

        let init = Init { pid: i32::MIN, start_time: u64::MAX };
        let exit = ExitRecord {
            code: Some(i32::MIN),
            signal: Some(i32::MIN),
            oom_killed: false,
            at: crate::rfc3339::nanoseconds(std::time::SystemTime::now()),
        };
        text[layout.init()..layout.exit()].copy_from_slice(&init_line(&init));
        text[layout.exit()..layout.config()].copy_from_slice(&exit_line(&exit));
        let head = parse(&text).expect("readable").expect("complete");
        assert_eq!((head.init, head.exit), (Some(init), Some(exit)), "the longest fit");
        assert_eq!(&text[layout.config()..], b"{}");
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 3);
    }

    #[test]
    fn a_file_that_was_cut_off_is_not_written_yet() {
        let (text, layout) = compose(&state(), b"{}");
        for end in 0..layout.config() {
            assert!(parse(&text[..end]).expect("not damaged").is_none(), "{end}");
        }
        assert!(parse(&text[..layout.config()]).expect("readable").is_some());
    }

    #[test]
    fn a_half_written_line_is_blank() {
        let (mut text, layout) = compose(&state(), b"{}");
        text[layout.init()..layout.init() + 10].copy_from_slice(&init_line(&Init { pid: 1, start_time: 2 })[..10]);
        assert_eq!(parse(&text).expect("readable").expect("complete").init, None);
    }

    #[test]
    fn what_is_not_ours_is_said_to_be_so() {
        let pad = " ".repeat(INIT + EXIT);
        let parsed = |first: &str| parse(format!("{first}\n{pad}").as_bytes()).map(|head| head.is_some());
        assert!(matches!(parsed("nonsense"), Err(Unreadable::Damaged(_))));
        assert_eq!(parsed(r#"{"version":99}"#), Err(Unreadable::Version(99)));
        assert_eq!(parsed(r#"{"version":0}"#), Err(Unreadable::Version(0)));
        assert!(matches!(parsed(r#"{"version":1}"#), Err(Unreadable::Damaged(_))));
    }
}
