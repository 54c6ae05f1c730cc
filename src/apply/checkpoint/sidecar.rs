//! The files that we write beside the images, for the restore.

use std::os::fd::BorrowedFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_sys::fd;

use super::elements::Stream;
use crate::restore::claims;

/// The file with what only we need.
const SIDECAR: &str = "windlass.json";
/// The file that runc writes and reads, too: the links of the standard streams.
const DESCRIPTORS: &str = "descriptors.json";
/// Most bytes of either file.
const LONGEST: usize = 4096;
/// The version of the sidecar.
const VERSION: u32 = 1;

/// The keys by which the images name descriptors 0, 1 and 2; an empty key means that CRIU opens the file itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sidecar {
    version: u32,
    /// The keys.
    pub stdio: [String; 3],
}

/// Writes both files.
pub(crate) fn write(images: BorrowedFd<'_>, streams: &[Stream; 3]) -> Result<()> {
    let links = serde_json::to_vec(&streams.each_ref().map(|stream| &stream.link)).expect("texts");
    let sidecar = Sidecar { version: VERSION, stdio: streams.each_ref().map(|stream| stream.key.clone()) };
    let sidecar = serde_json::to_vec(&sidecar).expect("texts");
    for (name, text) in [(DESCRIPTORS, links), (SIDECAR, sidecar)] {
        fd::replace(images, Path::new(name), 0o600, &text, fd::Durability::Cached)
            .with_context(|| format!("cannot write {name} beside the images"))?;
    }
    Ok(())
}

/// Reads the keys of the standard streams. Images of runc have only the links.
pub(crate) fn read(images: BorrowedFd<'_>) -> Result<[String; 3]> {
    let keys = match document::<Sidecar>(images, SIDECAR)? {
        Some(sidecar) if sidecar.version == VERSION => sidecar.stdio,
        Some(sidecar) => return Err(refuse(SIDECAR, &format!("is of the unknown version {}", sidecar.version))),
        None => document::<[String; 3]>(images, DESCRIPTORS)?.unwrap_or_default().map(|link| match is_pipe(&link) {
            true => link,
            false => String::new(),
        }),
    };
    match keys.iter().find(|key| !(key.is_empty() || is_pipe(key) || is_file(key))) {
        Some(key) => Err(refuse(SIDECAR, &format!("names something else than a pipe or a file: {key:?}"))),
        None => Ok(keys),
    }
}

fn document<T: serde::de::DeserializeOwned>(images: BorrowedFd<'_>, name: &str) -> Result<Option<T>> {
    let Some(text) = claims::bounded(images, name, LONGEST)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|error| refuse(name, &format!("is damaged: {error}")))
}

fn refuse(name: &str, why: &str) -> Error {
    Error::new(Kind::InvalidConfig, format!("{name} beside the images {why}"))
}

fn is_pipe(key: &str) -> bool {
    let inode = key.strip_prefix("pipe:[").and_then(|rest| rest.strip_suffix(']'));
    inode.is_some_and(|inode| !inode.is_empty() && inode.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_file(key: &str) -> bool {
    let inside = key.strip_prefix("file[").and_then(|rest| rest.strip_suffix(']'));
    let hex = |text: &str| !text.is_empty() && text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    inside.and_then(|inside| inside.split_once(':')).is_some_and(|(mount, inode)| hex(mount) && hex(inode))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::fcntl::OFlag;

    use super::*;

    fn directory() -> (std::path::PathBuf, std::os::fd::OwnedFd) {
        let number = std::process::id();
        let path = std::env::temp_dir().join(format!("windlass-sidecar-{number}-{:?}", std::thread::current().id()));
        std::fs::create_dir_all(&path).expect("a directory");
        let opened = fd::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).expect("it is there");
        (path, opened)
    }

    #[test]
    fn what_is_written_reads_back_and_what_is_odd_is_refused() {
        let (path, dir) = directory();
        let stream = |link: &str, key: &str| Stream { link: link.into(), key: key.into(), declared: false };
        let streams = [stream("/dev/null", "file[3f:a]"), stream("pipe:[7]", "pipe:[7]"), stream("/dev/pts/0", "")];
        write(dir.as_fd(), &streams).expect("written");
        assert_eq!(read(dir.as_fd()).expect("read"), ["file[3f:a]", "pipe:[7]", ""]);
        std::fs::remove_file(path.join(SIDECAR)).expect("removed");
        assert_eq!(read(dir.as_fd()).expect("as runc"), ["", "pipe:[7]", ""]);
        let odd = [
            r#"{"version":2,"stdio":["","",""]}"#,
            r#"{"version":1,"stdio":["socket:[7]","",""]}"#,
            r#"{"version":1,"stdio":["pipe:[7","",""]}"#,
            r#"{"version":1,"stdio":["extRootNetNS","",""]}"#,
            r#"{"version":1,"stdio":["file[1:2:3]","",""]}"#,
            r#"{"version":1,"stdio":["","","",""]}"#,
            "[]",
            "",
        ];
        for text in odd {
            std::fs::write(path.join(SIDECAR), text).expect("written");
            assert!(read(dir.as_fd()).is_err(), "{text}");
        }
        std::fs::write(path.join(SIDECAR), vec![b' '; LONGEST + 1]).expect("written");
        assert!(read(dir.as_fd()).is_err(), "too long");
        std::fs::remove_file(path.join(SIDECAR)).expect("removed");
        std::os::unix::fs::symlink("/dev/zero", path.join(SIDECAR)).expect("a link");
        assert!(read(dir.as_fd()).is_err(), "a link");
        std::fs::remove_dir_all(path).expect("removed");
    }
}
