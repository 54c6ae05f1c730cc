//! The file with a container's state: four lines, each a JSON document, then the configuration and the annotations.
//!
//! Create writes the whole file before anything is made. The second and third line are blank then; the process and the
//! exit are written over them later. The fourth line has the lengths of the last two parts, which may be large and are
//! read only when they are needed.
//!
//! A container is one file and not a directory: a new inode may take a quarter of a millisecond on a disk (ext4 without
//! a journal searches for one that was not freed lately), and `list` opens every container.
//!
//! Version 1 has no fourth line: the annotations are in its first, and the configuration goes to the end.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use windlass_sys::fd;

use super::state::{InitProcess, State, VERSION};
use windlass_base::exit_record::ExitRecord;

/// Bytes of the second line, which fits two numbers of 64 bits.
const INIT: usize = 64;
/// Bytes of the third line, which fits two numbers of 32 bits, a boolean and a date.
const EXIT: usize = 160;
/// Bytes of the fourth line, which fits two numbers of 64 bits and a boolean.
const LENGTHS: usize = 96;
/// Bytes of the second to the fourth line, which every command reads with the first.
pub(crate) const FIXED: usize = INIT + EXIT + LENGTHS;

/// The fourth line, which describes the parts after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lengths {
    /// Bytes of the configuration.
    pub config: usize,
    /// Bytes of the annotations, as JSON; 0 if there are none.
    pub annotations: usize,
    /// Whether the configuration has poststart or poststop hooks.
    #[serde(rename = "post")]
    pub has_post_hooks: bool,
}

/// The offsets of the parts of a file, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    first: usize,
    /// `None` in version 1.
    lengths: Option<Lengths>,
}

impl Layout {
    /// The offset of the line of the [`InitProcess`].
    pub(crate) fn init(self) -> usize {
        self.first
    }

    /// The offset of the line of the [`ExitRecord`].
    pub(crate) fn exit(self) -> usize {
        self.init() + INIT
    }

    /// The fourth line; `None` in version 1.
    pub(crate) fn lengths(self) -> Option<Lengths> {
        self.lengths
    }

    /// The offset of the configuration.
    pub(crate) fn config(self) -> usize {
        self.exit() + EXIT + if self.lengths.is_some() { LENGTHS } else { 0 }
    }

    /// The offset of the annotations, which go to the end.
    pub(crate) fn annotations(self) -> usize {
        // A damaged file may have any number here.
        self.config().saturating_add(self.lengths.map_or(0, |lengths| lengths.config))
    }
}

/// The lines before the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// The offsets of the parts of the file.
    pub layout: Layout,
    /// The first line.
    pub state: State,
    /// The second line.
    pub init: Option<InitProcess>,
    /// The third line.
    pub exit: Option<ExitRecord>,
}

/// A new file, without a process and an exit. `has_post_hooks`: see [`Lengths`].
pub(crate) fn compose(state: &State, config: &[u8], has_post_hooks: bool) -> (Vec<u8>, Layout) {
    let annotations = if state.annotations.is_empty() {
        Vec::new()
    } else {
        serde_json::to_vec(&state.annotations).expect("plain data")
    };
    let config = without_annotations(config, annotations.len());
    let mut text = first_line(state);
    let lengths =
        Lengths { config: config.iter().map(|part| part.len()).sum(), annotations: annotations.len(), has_post_hooks };
    let layout = Layout { first: text.len(), lengths: Some(lengths) };
    text.reserve(FIXED + lengths.config + lengths.annotations);
    text.extend_from_slice(&blank::<INIT>());
    text.extend_from_slice(&blank::<EXIT>());
    text.extend_from_slice(&line::<LENGTHS>(&lengths));
    config.iter().for_each(|part| text.extend_from_slice(part));
    text.extend_from_slice(&annotations);
    (text, layout)
}

/// Encodes the first line.
pub(crate) fn first_line(state: &State) -> Vec<u8> {
    let mut text = Vec::with_capacity(1024);
    serde_json::to_writer(&mut text, state).expect("plain data");
    text.push(b'\n');
    text
}

/// Shorter annotations, in bytes, stay in the configuration as well: to remove them would cost more than it saves.
const SHORT: usize = 4096;

/// The configuration without its annotations, which are stored separately. The rest of the text is unchanged. `length`
/// is the number of bytes of the annotations.
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
    // The configuration was parsed more leniently before. If it does not parse here, it is kept unchanged.
    let Ok(found) = serde_json::from_slice::<Annotated<'_>>(config) else { return whole };
    let text = found.annotations.get();
    let from = text.as_ptr() as usize - config.as_ptr() as usize;
    [&config[..from], b"{}", &config[from + text.len()..]]
}

/// Decodes the annotations.
pub(crate) fn annotations(text: &[u8]) -> Result<BTreeMap<String, String>, Unreadable> {
    if text.is_empty() {
        Ok(BTreeMap::new())
    } else {
        serde_json::from_slice(text).map_err(|e| Unreadable::Damaged(e.to_string()))
    }
}

/// Encodes the second line.
pub(crate) fn init_line(init: &InitProcess) -> [u8; INIT] {
    line(init)
}

/// Encodes the third line.
pub(crate) fn exit_line(exit: &ExitRecord) -> [u8; EXIT] {
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

/// Writes the exit of the container whose init was `pid` into its file, over one that is there. A file with another
/// process or none is not changed.
pub fn write_exit(file: BorrowedFd<'_>, pid: i32, exit: &ExitRecord) -> windlass_sys::Result<()> {
    match parse(&fd::read_head(file, FIXED)?) {
        Ok(Some(head)) if head.init.is_some_and(|init| init.pid == pid) => {
            fd::write_at(file, &exit_line(exit), head.layout.exit())
        }
        _ => Ok(()),
    }
}

/// Decodes the first line and the [`FIXED`] bytes after it. Returns `None` if its create has not written them all.
pub(crate) fn parse(text: &[u8]) -> Result<Option<Head>, Unreadable> {
    // Not memchr, which first asks the processor for its features (CPUID): a virtual machine traps that.
    let Some(end) = text.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let mut layout = Layout { first: end + 1, lengths: None };
    if text.len() < layout.config() {
        return Ok(None);
    }
    let state = parse_state(&text[..layout.init()])?;
    if state.version > 1 {
        let at = layout.config();
        let Some(line) = text.get(at..at + LENGTHS) else { return Ok(None) };
        let lengths = serde_json::from_slice(line).map_err(|error| Unreadable::Damaged(error.to_string()))?;
        layout.lengths = Some(lengths);
    }
    let (init, exit) =
        (filled(&text[layout.init()..layout.exit()]), filled(&text[layout.exit()..layout.exit() + EXIT]));
    Ok(Some(Head { layout, state, init, exit }))
}

/// Decodes a first line.
fn parse_state(line: &[u8]) -> Result<State, Unreadable> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let state = serde_json::from_slice::<State>(line);
    // The fields of another version may be different ones.
    let version = match &state {
        Ok(state) => state.version,
        Err(_) => serde_json::from_slice::<Versioned>(line).map_err(|e| Unreadable::Damaged(e.to_string()))?.version,
    };
    if version > VERSION || version == 0 {
        return Err(Unreadable::Version(version));
    }
    state.map_err(|error| Unreadable::Damaged(error.to_string()))
}

/// Decodes the copy of the first line in the extended attribute. The line of the process follows it, if the container
/// has no cgroup.
pub(crate) fn parse_copy(text: &[u8]) -> Option<(State, Option<InitProcess>)> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = text.split_at(end + 1);
    Some((parse_state(line).ok()?, if rest.is_empty() { None } else { filled(rest) }))
}

/// Decodes the second or third line. Returns `None` for a blank or partly written line.
fn filled<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    if line[0] == b' ' { None } else { serde_json::from_slice(line).ok() }
}

/// Why a file cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Its content is damaged.
    Damaged(String),
    /// This runtime does not know its version.
    Version(u32),
}

/// The path of the cgroup in a part of a first line.
pub(crate) fn cgroup_in(text: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\"cgroup\":";
    let at = text.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    serde_json::Deserializer::from_slice(&text[at..]).into_iter().next()?.ok()
}

/// Whether a file begins like a state.
pub(crate) fn is_state(text: &[u8]) -> bool {
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
    fn each_line_is_written_in_its_place() {
        let (mut text, layout) = compose(&state(), b"{}", false);
        let head = parse(&text).expect("readable").expect("complete");
        assert_eq!((head.layout, head.init, head.exit), (layout, None, None));
        assert_eq!(&text[layout.config()..], b"{}");

        let init = InitProcess { pid: i32::MIN, start_time: u64::MAX };
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

    /// A shim writes the exit, even if the kernel keeps it.
    #[test]
    fn an_exit_is_written_for_the_process_that_it_is_of() {
        let path = std::env::temp_dir().join(format!("windlass-record-{}", std::process::id()));
        let file =
            fd::openat(fd::CWD, &path, nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CREAT, 0o600).expect("a file");
        let (mut text, layout) = compose(&state(), b"{}", false);
        let exit = ExitRecord { code: Some(3), ..ExitRecord::default() };
        let written = |text: &[u8], pid: i32| {
            std::fs::write(&path, text).expect("written");
            write_exit(std::os::fd::AsFd::as_fd(&file), pid, &exit).expect("written");
            parse(&std::fs::read(&path).expect("read")).expect("readable").expect("complete").exit
        };
        assert_eq!(written(&text, 7), None, "there is no process");
        text[layout.init()..layout.exit()].copy_from_slice(&init_line(&InitProcess { pid: 7, start_time: 1 }));
        assert_eq!(written(&text, 8), None, "another process");
        assert_eq!(written(&text, 7), Some(exit.clone()));
        std::fs::remove_file(&path).expect("removed");
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
        text[layout.init()..layout.init() + 10]
            .copy_from_slice(&init_line(&InitProcess { pid: 1, start_time: 2 })[..10]);
        assert_eq!(parse(&text).expect("readable").expect("complete").init, None);
    }

    #[test]
    fn a_damaged_line_and_another_version_are_errors() {
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
        text.extend_from_slice(&init_line(&InitProcess { pid: 7, start_time: 8 }));
        text.extend_from_slice(&blank::<EXIT>());
        text.extend_from_slice(b"{}");
        let head = parse(&text).expect("readable").expect("complete");
        assert_eq!(head.state.annotations["k"], "v");
        assert_eq!((head.init, head.exit), (Some(InitProcess { pid: 7, start_time: 8 }), None));
        assert_eq!((head.layout.lengths(), &text[head.layout.config()..]), (None, &b"{}"[..]));
        for end in 0..head.layout.config() {
            assert!(parse(&text[..end]).expect("not damaged").is_none(), "{end}");
        }
        assert!(parse(&text[..head.layout.config()]).expect("readable").is_some(), "the configuration may be empty");
    }

    #[test]
    fn annotations_are_in_the_file_once_and_after_the_lines() {
        let mut state = state();
        state.annotations.insert("large".into(), "x".repeat(2 * SHORT));
        let config = format!(r#"{{"a": 1, "annotations" : {{"large":"{}"}}, "b":2}}"#, "x".repeat(2 * SHORT));
        let (text, layout) = compose(&state, config.as_bytes(), true);
        assert_eq!(&text[layout.config()..layout.annotations()], br#"{"a": 1, "annotations" : {}, "b":2}"#);
        assert_eq!(annotations(&text[layout.annotations()..]), Ok(state.annotations.clone()));
        let head = parse(&text[..layout.config()]).expect("readable").expect("complete");
        assert!(head.layout.config() < 1024, "the lines are short");
        assert_eq!((head.layout, head.state.annotations.len()), (layout, 0));
        assert!(layout.lengths().is_some_and(|lengths| lengths.has_post_hooks));
    }

    #[test]
    fn only_long_annotations_leave_the_configuration() {
        let config = br#"{"annotations":{"a":"b"}}"#;
        assert_eq!(without_annotations(config, SHORT - 1).concat(), config);
        assert_eq!(without_annotations(config, SHORT).concat(), br#"{"annotations":{}}"#);
        assert_eq!(without_annotations(b"{}", SHORT).concat(), b"{}", "there are none to be left out");
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
        copy.extend_from_slice(&init_line(&InitProcess { pid: 1, start_time: 2 }));
        assert_eq!(parse_copy(&copy).expect("readable").1, Some(InitProcess { pid: 1, start_time: 2 }));
        assert!(parse_copy(&copy[..20]).is_none());
    }
}
