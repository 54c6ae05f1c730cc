//! The file that holds a container's state: four lines, each a JSON document, then the configuration and
//! the annotations.
//!
//! The first line is written before anything is made, together with two blank ones, which `init` and the
//! exit fill in their places. The fourth says how long the parts behind it are: these may be large, and only
//! who needs them reads them. One file and no directory, because a file system on a disk may take a quarter
//! of a millisecond for each new inode (ext4 without a journal looks for one that was not freed lately), and
//! because `list` opens each of them.
//!
//! Version 1 has no fourth line: the annotations are in its first, and the configuration goes to the end.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use windlass_sys::fd;

use super::state::{Init, State, VERSION};
use windlass_base::exit_record::ExitRecord;

/// Bytes of the second line: two numbers of 64 bits and their names fit.
const INIT: usize = 64;
/// Bytes of the third line: two numbers of 32 bits, a truth value and a date fit.
const EXIT: usize = 160;
/// Bytes of the fourth line: two numbers of 64 bits and a truth value fit.
const BULK: usize = 96;
/// Bytes after the first line that every command reads: the other three lines.
pub const FIXED: usize = INIT + EXIT + BULK;

/// The fourth line: how long the parts after it are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bulk {
    /// Bytes of the configuration.
    pub config: usize,
    /// Bytes of the annotations, as JSON; 0 where there are none.
    pub annotations: usize,
    /// Whether the configuration has hooks that run outside of create.
    pub post: bool,
}

/// Where the parts of a file begin, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    first: usize,
    /// `None` in version 1.
    bulk: Option<Bulk>,
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

    /// The fourth line; `None` in version 1.
    pub fn bulk(self) -> Option<Bulk> {
        self.bulk
    }

    /// The configuration.
    pub fn config(self) -> usize {
        self.exit() + EXIT + if self.bulk.is_some() { BULK } else { 0 }
    }

    /// The annotations, which go to the end.
    pub fn annotations(self) -> usize {
        self.config() + self.bulk.map_or(0, |bulk| bulk.config)
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

/// A new file: no process yet, and no exit. `post`: the configuration has hooks that run outside of create.
pub fn compose(state: &State, config: &[u8], post: bool) -> (Vec<u8>, Layout) {
    let annotations = if state.annotations.is_empty() {
        Vec::new()
    } else {
        serde_json::to_vec(&state.annotations).expect("plain data")
    };
    let config = without_annotations(config, annotations.len());
    let mut text = first_line(state);
    let bulk = Bulk { config: config.iter().map(|part| part.len()).sum(), annotations: annotations.len(), post };
    let layout = Layout { first: text.len(), bulk: Some(bulk) };
    text.reserve(FIXED + bulk.config + bulk.annotations);
    text.extend_from_slice(&blank::<INIT>());
    text.extend_from_slice(&blank::<EXIT>());
    text.extend_from_slice(&line::<BULK>(&bulk));
    config.iter().for_each(|part| text.extend_from_slice(part));
    text.extend_from_slice(&annotations);
    (text, layout)
}

/// The first line.
pub fn first_line(state: &State) -> Vec<u8> {
    let mut text = Vec::with_capacity(1024);
    serde_json::to_writer(&mut text, state).expect("plain data");
    text.push(b'\n');
    text
}

/// Annotations shorter than this stay in the configuration as well: removing them would cost more than it saves.
const SHORT: usize = 4096;

/// The configuration without its annotations, which have a place of their own. It is otherwise unchanged.
/// `length`: bytes of the annotations.
fn without_annotations(config: &[u8], length: usize) -> [&[u8]; 3] {
    #[derive(Deserialize)]
    struct Annotated<'a> {
        #[serde(borrow)]
        annotations: &'a serde_json::value::RawValue,
    }
    let whole = [config, b"", b""];
    if length < SHORT {
        return whole;
    }
    // A text that cannot be read here was read leniently before, and is kept as it is.
    let Ok(found) = serde_json::from_slice::<Annotated<'_>>(config) else { return whole };
    let text = found.annotations.get();
    let from = text.as_ptr() as usize - config.as_ptr() as usize;
    [&config[..from], b"{}", &config[from + text.len()..]]
}

/// The annotations, from their place in the file.
pub fn annotations(text: &[u8]) -> Result<BTreeMap<String, String>, Unreadable> {
    if text.is_empty() {
        Ok(BTreeMap::new())
    } else {
        serde_json::from_slice(text).map_err(|e| Unreadable::Damaged(e.to_string()))
    }
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
pub fn write_exit(file: BorrowedFd<'_>, pid: i32, exit: &ExitRecord) -> windlass_sys::Result<()> {
    match parse(&fd::read_head(file, FIXED)?) {
        Ok(Some(head)) if head.init.is_some_and(|init| init.pid == pid) => {
            fd::write_at(file, &exit_line(exit), head.layout.exit())
        }
        _ => Ok(()),
    }
}

/// Reads the beginning of a file: its first line and [`FIXED`] bytes, or all there is. `None` where its create
/// has not come so far. `Err` says what is wrong with it.
pub fn parse(text: &[u8]) -> Result<Option<Head>, Unreadable> {
    // Not by a library, which would ask the processor for its features: a trap in a virtual machine.
    let Some(end) = text.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let mut layout = Layout { first: end + 1, bulk: None };
    if text.len() < layout.config() {
        return Ok(None);
    }
    let state = parse_state(&text[..layout.init()])?;
    if state.version > 1 {
        let at = layout.config();
        let Some(line) = text.get(at..at + BULK) else { return Ok(None) };
        let bulk = serde_json::from_slice(line).map_err(|error| Unreadable::Damaged(error.to_string()))?;
        layout.bulk = Some(bulk);
    }
    let (init, exit) =
        (filled(&text[layout.init()..layout.exit()]), filled(&text[layout.exit()..layout.exit() + EXIT]));
    Ok(Some(Head { layout, state, init, exit }))
}

/// Reads a first line.
fn parse_state(line: &[u8]) -> Result<State, Unreadable> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let state = serde_json::from_slice::<State>(line);
    // A state of another version need not be one of ours at all.
    let version = match &state {
        Ok(state) => state.version,
        Err(_) => serde_json::from_slice::<Versioned>(line).map_err(|e| Unreadable::Damaged(e.to_string()))?.version,
    };
    if version > VERSION || version == 0 {
        return Err(Unreadable::Version(version));
    }
    state.map_err(|error| Unreadable::Damaged(error.to_string()))
}

/// Reads the copy of the first line that is kept as an extended attribute. The line of the process follows it, if
/// the process is known.
pub fn parse_copy(text: &[u8]) -> Option<(State, Option<Init>)> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = text.split_at(end + 1);
    Some((parse_state(line).ok()?, if rest.is_empty() { None } else { filled(rest) }))
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

/// The path of the cgroup, from what is left of a first line.
pub fn cgroup_in(text: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\"cgroup\":";
    let at = text.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    serde_json::Deserializer::from_slice(&text[at..]).into_iter().next()?.ok()
}

/// Whether a file begins as a state does.
pub fn is_state(text: &[u8]) -> bool {
    const START: &[u8] = b"{\"version\":";
    !text.is_empty() && text.starts_with(&START[..START.len().min(text.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        serde_json::from_str(
            r#"{"version":2,"id":"a","ociVersion":"1.2.0","bundle":"/b","rootfs":"/b/r","owner":"root","created":"now"}"#,
        )
        .expect("valid")
    }

    #[test]
    fn lines_are_filled_in_their_places() {
        let (mut text, layout) = compose(&state(), b"{}", false);
        let head = parse(&text).expect("readable").expect("complete");
        assert_eq!((head.layout, head.init, head.exit), (layout, None, None));
        assert_eq!(&text[layout.config()..], b"{}");

        let init = Init { pid: i32::MIN, start_time: u64::MAX };
        let exit = ExitRecord {
            code: Some(i32::MIN),
            signal: Some(i32::MIN),
            oom_killed: false,
            at: windlass_base::rfc3339::nanoseconds(std::time::SystemTime::now()),
        };
        text[layout.init()..layout.exit()].copy_from_slice(&init_line(&init));
        text[layout.exit()..layout.exit() + EXIT].copy_from_slice(&exit_line(&exit));
        let head = parse(&text).expect("readable").expect("complete");
        assert_eq!((head.init, head.exit), (Some(init), Some(exit)), "the longest fit");
        assert_eq!(&text[layout.config()..], b"{}");
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 4);
    }

    #[test]
    fn a_file_that_was_cut_off_is_not_written_yet() {
        let (text, layout) = compose(&state(), b"{}", false);
        for end in 0..layout.config() {
            assert!(parse(&text[..end]).expect("not damaged").is_none(), "{end}");
        }
        assert!(parse(&text[..layout.config()]).expect("readable").is_some());
    }

    #[test]
    fn a_half_written_line_is_blank() {
        let (mut text, layout) = compose(&state(), b"{}", false);
        text[layout.init()..layout.init() + 10].copy_from_slice(&init_line(&Init { pid: 1, start_time: 2 })[..10]);
        assert_eq!(parse(&text).expect("readable").expect("complete").init, None);
    }

    #[test]
    fn what_is_not_ours_is_said_to_be_so() {
        let pad = " ".repeat(FIXED);
        let parsed = |first: &str| parse(format!("{first}\n{pad}").as_bytes()).map(|head| head.is_some());
        assert!(matches!(parsed("nonsense"), Err(Unreadable::Damaged(_))));
        assert_eq!(parsed(r#"{"version":99}"#), Err(Unreadable::Version(99)));
        assert_eq!(parsed(r#"{"version":0}"#), Err(Unreadable::Version(0)));
        assert!(matches!(parsed(r#"{"version":1}"#), Err(Unreadable::Damaged(_))));
    }

    #[test]
    fn version_1_is_read_as_it_was_written() {
        let first = r#"{"version":1,"id":"a","ociVersion":"1.2.0","bundle":"/b","rootfs":"/b/r","annotations":{"k":"v"},"owner":"root","created":"now"}"#;
        let mut text = format!("{first}\n").into_bytes();
        text.extend_from_slice(&init_line(&Init { pid: 7, start_time: 8 }));
        text.extend_from_slice(&blank::<EXIT>());
        text.extend_from_slice(b"{}");
        let head = parse(&text).expect("readable").expect("complete");
        assert_eq!(head.state.annotations["k"], "v");
        assert_eq!((head.init, head.exit), (Some(Init { pid: 7, start_time: 8 }), None));
        assert_eq!((head.layout.bulk(), &text[head.layout.config()..]), (None, &b"{}"[..]));
    }

    #[test]
    fn what_is_large_is_behind_the_lines_and_there_once() {
        let mut state = state();
        state.annotations.insert("large".into(), "x".repeat(2 * SHORT));
        let config = format!(r#"{{"a": 1, "annotations" : {{"large":"{}"}}, "b":2}}"#, "x".repeat(2 * SHORT));
        let (text, layout) = compose(&state, config.as_bytes(), true);
        assert_eq!(&text[layout.config()..layout.annotations()], br#"{"a": 1, "annotations" : {}, "b":2}"#);
        assert_eq!(annotations(&text[layout.annotations()..]), Ok(state.annotations.clone()));
        let head = parse(&text[..layout.config()]).expect("readable").expect("complete");
        assert!(head.layout.config() < 1024, "the lines are short");
        assert_eq!((head.layout, head.state.annotations.len()), (layout, 0));
        assert!(layout.bulk().is_some_and(|bulk| bulk.post));
    }

    #[test]
    fn the_cgroup_is_found_in_what_is_left() {
        let mut state = state();
        state.cgroup = Some("/sys/fs/cgroup/a\"b".into());
        let line = first_line(&state);
        assert_eq!(cgroup_in(&line[..60]).as_deref(), Some("/sys/fs/cgroup/a\"b"));
        assert_eq!(cgroup_in(&line[..45]), None, "half a path is none");
        assert!((1..line.len()).all(|end| is_state(&line[..end])));
        assert!(!is_state(b"") && !is_state(b"nonsense"));
    }

    #[test]
    fn the_copy_of_the_first_line_may_have_the_process() {
        let mut copy = first_line(&state());
        let (read, init) = parse_copy(&copy).expect("readable");
        assert_eq!((read.id.as_str(), init), ("a", None));
        copy.extend_from_slice(&init_line(&Init { pid: 1, start_time: 2 }));
        assert_eq!(parse_copy(&copy).expect("readable").1, Some(Init { pid: 1, start_time: 2 }));
        assert!(parse_copy(&copy[..20]).is_none());
    }
}
