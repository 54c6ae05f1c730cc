//! Images in a directory, changed like an attacker's or like those of another dump.

use crate::fake_criu::{bytes_field, number_field};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A field of an entry.
#[derive(Clone)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

/// An entry: its fields with their numbers.
type Entry = Vec<(u64, Value)>;

/// Fields of a mount (CRIU, `images/mnt.proto`).
const MOUNT_ID: u64 = 2;
const PARENT_ID: u64 = 4;
const FLAGS: u64 = 5;
const ROOT: u64 = 6;
const POINT: u64 = 7;

/// `MS_RDONLY`.
const READ_ONLY: u64 = 1;

/// A flag of pages (CRIU, `images/pagemap.proto`): they are in the images of the parent dump.
const PAGE_FLAGS: u64 = 4;
const BEFORE: u64 = 1;

/// Adds a writable copy of the mount on `source`: the directory `below` its root, on `point`, as a child of the mount
/// on `parent`.
pub fn add_mount(images: &Path, source: &str, below: &str, point: &str, parent: &str) -> io::Result<()> {
    let lists = named(images, "mountpoints-")?;
    let list = lists.first().ok_or(io::ErrorKind::NotFound)?;
    change(list, |entries| with_copy(entries, source, below, point, parent))
}

/// What a field of a mount is set to.
#[derive(Clone, Copy)]
pub enum Set<'a> {
    Number(u64),
    Text(&'a str),
}

/// Fields of a mount beside those above.
pub const DEVICE: u64 = 3;
pub const SOURCE: u64 = 8;
pub const OPTIONS: u64 = 9;
pub const DELETED: u64 = 16;
pub const FILESYSTEM_FLAGS: u64 = 17;

/// Sets fields of the mount on this point.
pub fn set_mount(images: &Path, point: &str, fields: &[(u64, Set<'_>)]) -> io::Result<()> {
    let lists = named(images, "mountpoints-")?;
    change(lists.first().ok_or(io::ErrorKind::NotFound)?, |entries| {
        let mount = entries.iter_mut().find(|entry| is_on(entry, point))?;
        for (field, set) in fields {
            mount.retain(|(number, _)| number != field);
            let value = match set {
                Set::Number(number) => Value::Number(*number),
                Set::Text(text) => Value::Bytes(text.as_bytes().to_vec()),
            };
            mount.push((*field, value));
        }
        Some(())
    })
}

/// Adds a child of init with this number to the images: a copy of init, or a process that has ended. `network` is the
/// number of its network namespace.
pub fn add_process(images: &Path, pid: u64, has_ended: bool, network: u64) -> io::Result<()> {
    let process = [(1, pid), (2, 1), (3, pid), (4, pid), (5, pid)];
    change(&images.join("pstree.img"), |entries| {
        entries.push(process.map(|(field, value)| (field, Value::Number(value))).to_vec());
        Some(())
    })?;
    for kind in ["core", "ids"] {
        fs::copy(images.join(format!("{kind}-1.img")), images.join(format!("{kind}-{pid}.img")))?;
    }
    change(&images.join(format!("core-{pid}.img")), |entries| {
        let zombie = (3, Value::Bytes(number_field(1, 6)));
        entries.first_mut()?.extend(has_ended.then_some(zombie));
        Some(())
    })?;
    change(&images.join(format!("ids-{pid}.img")), |entries| {
        entries.first_mut()?.push((6, Value::Number(network)));
        Some(())
    })
}

/// Moves init to a process group with this number.
pub fn regroup(images: &Path, group: u64) -> io::Result<()> {
    change(&images.join("pstree.img"), |entries| {
        entries.first_mut()?.push((3, Value::Number(group)));
        Some(())
    })
}

/// Makes the images those of a dump with `--parent-path`, since whose parent dump no page was written.
pub fn without_pages(images: &Path) -> io::Result<()> {
    named(images, "pages-")?.iter().try_for_each(|path| fs::write(path, ""))?;
    named(images, "pagemap-")?.iter().try_for_each(|path| {
        change(path, |entries| {
            for entry in entries.iter_mut().skip(1) {
                entry.retain(|(field, _)| *field != PAGE_FLAGS);
                entry.push((PAGE_FLAGS, Value::Number(BEFORE)));
            }
            Some(())
        })
    })
}

/// A file in the images (CRIU, `images/fdinfo.proto`).
pub enum File<'a> {
    /// A file with this path, which CRIU opens with these flags.
    Regular(&'a str, u64),
    /// A file with this path, whose signals this process gets.
    Owned(&'a str, u64),
    /// A unix socket with this name, relative to this directory.
    Socket(&'a str, &'a str),
    /// An inotify instance that watches a file by its handle.
    Watch,
    /// A fanotify group with these flags, which marks a whole filesystem.
    Group(u64),
}

/// Adds a file, and returns its number.
pub fn add_file(images: &Path, file: &File, mount: u64) -> io::Result<u64> {
    let (kind, pid) = if let File::Owned(_, pid) = file { (1, *pid) } else { (0, 0) };
    let owner = [(1, 0), (2, 0), (3, 0), (4, kind), (5, pid)].map(|(field, value)| number_field(field, value)).concat();
    let mut number = 0;
    change(&images.join("files.img"), |entries| {
        number = 0x1000 + entries.len() as u64;
        let (kind, part, fields) = match file {
            File::Regular(path, _) | File::Owned(path, _) => {
                let flags = if let File::Regular(_, flags) = file { *flags } else { 0 };
                let opened = [number_field(2, flags), number_field(3, 0), bytes_field(5, &owner)].concat();
                let named = [bytes_field(6, path.as_bytes()), number_field(7, mount << 1)].concat();
                (1, 3, [opened, named].concat())
            }
            File::Socket(name, dir) => {
                // A datagram socket.
                let numbers = [(2, number), (3, 2), (4, 7), (5, 2), (6, 0), (7, 0), (8, 0)];
                let numbers = numbers.map(|(field, value)| number_field(field, value)).concat();
                let options = [1, 2, 3, 4, 5, 6].map(|field| number_field(field, 0)).concat();
                let fields = [numbers, bytes_field(9, &owner), bytes_field(10, &options)];
                let named = [bytes_field(11, name.as_bytes()), bytes_field(14, dir.as_bytes())];
                let named = if dir.is_empty() { named[0].clone() } else { named.concat() };
                (5, 16, [fields.concat(), named].concat())
            }
            File::Watch => (8, 13, bytes_field(5, &[number_field(2, 2), bytes_field(7, &[])].concat())),
            File::Group(flags) => {
                let mark = [number_field(2, 2), number_field(3, 0x100)].concat();
                (12, 14, [number_field(4, *flags), bytes_field(6, &mark)].concat())
            }
        };
        let part = (part, Value::Bytes([number_field(1, number), fields].concat()));
        entries.push(vec![(1, Value::Number(kind)), (2, Value::Number(number)), part]);
        Some(())
    })?;
    Ok(number)
}

/// Has the first table of descriptors have an ordinary file of this number at `at`.
pub fn hold(images: &Path, number: u64, at: u64) -> io::Result<()> {
    hold_as(images, 1, number, at)
}

/// The same with a unix socket.
pub fn hold_socket(images: &Path, number: u64, at: u64) -> io::Result<()> {
    hold_as(images, 5, number, at)
}

fn hold_as(images: &Path, kind: u64, number: u64, at: u64) -> io::Result<()> {
    let tables = named(images, "fdinfo-")?;
    let table = tables.iter().min().ok_or(io::ErrorKind::NotFound)?;
    let fields = [(1, number), (2, 0), (3, kind), (4, at)];
    change(table, |entries| {
        entries.push(fields.map(|(field, value)| (field, Value::Number(value))).to_vec());
        Some(())
    })
}

/// Has the images have files without a name: one of these, and its content, by `kind`. 0 is another file, which CRIU
/// removes at the end; 1 is a ghost, which it makes and removes.
pub fn unlinked(images: &Path, file: u64, content: u64, kind: u64) -> io::Result<()> {
    let image = |magic: u32, entry: &[u8]| {
        let words = [0x5456_4319, magic, entry.len() as u32].map(u32::to_le_bytes).concat();
        [&words, entry].concat()
    };
    let remap = [(1, file), (2, content), (3, kind)].map(|(field, value)| number_field(field, value)).concat();
    fs::write(images.join("remap-fpath.img"), image(0x5913_3954, &remap))?;
    let ghost = [(1, 0), (2, 0), (3, 0o100_644)].map(|(field, value)| number_field(field, value)).concat();
    fs::write(images.join(format!("ghost-file-{content:x}.img")), image(0x5258_3605, &ghost))
}

/// The id of the mount on this point.
pub fn mount_on(images: &Path, point: &str) -> io::Result<u64> {
    let lists = named(images, "mountpoints-")?;
    let list = fs::read(lists.first().ok_or(io::ErrorKind::NotFound)?)?;
    let found = || {
        let (_, rest) = list.split_at_checked(8)?;
        let entries = entries(rest)?;
        number(entries.iter().find(|entry| is_on(entry, point))?, MOUNT_ID)
    };
    found().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The images whose names begin so.
fn named(images: &Path, name: &str) -> io::Result<Vec<PathBuf>> {
    let is_it = |path: &PathBuf| path.file_name().is_some_and(|it| it.to_string_lossy().starts_with(name));
    Ok(fs::read_dir(images)?.filter_map(|entry| Some(entry.ok()?.path())).filter(is_it).collect())
}

/// Changes the entries of an image.
fn change(path: &Path, change: impl FnOnce(&mut Vec<Entry>) -> Option<()>) -> io::Result<()> {
    let text = fs::read(path)?;
    let changed = || {
        let (head, rest) = text.split_at_checked(8)?;
        let mut entries = entries(rest)?;
        change(&mut entries)?;
        let lengthened = |entry: Vec<u8>| [&(entry.len() as u32).to_le_bytes(), &entry[..]].concat();
        let body = entries.iter().map(encoded).flat_map(lengthened);
        Some(head.iter().copied().chain(body).collect::<Vec<u8>>())
    };
    fs::write(path, changed().ok_or(io::ErrorKind::InvalidData)?)
}

fn with_copy(entries: &mut Vec<Entry>, source: &str, below: &str, point: &str, parent: &str) -> Option<()> {
    let on = |wanted: &str| entries.iter().find(|entry| is_on(entry, wanted));
    let parent = number(on(parent)?, MOUNT_ID)?;
    let mut copy = on(source)?.clone();
    for (field, value) in &mut copy {
        match (*field, value) {
            (MOUNT_ID, Value::Number(id)) => *id = 99_999,
            (PARENT_ID, Value::Number(id)) => *id = parent,
            (FLAGS, Value::Number(flags)) => *flags &= !READ_ONLY,
            (ROOT, Value::Bytes(root)) => root.extend_from_slice(below.as_bytes()),
            (POINT, Value::Bytes(at)) => *at = point.into(),
            _ => {}
        }
    }
    entries.insert(0, copy);
    Some(())
}

fn is_on(entry: &Entry, point: &str) -> bool {
    entry
        .iter()
        .any(|(field, value)| *field == POINT && matches!(value, Value::Bytes(bytes) if bytes == point.as_bytes()))
}

fn number(entry: &Entry, wanted: u64) -> Option<u64> {
    entry.iter().find_map(|(field, value)| match value {
        Value::Number(number) if *field == wanted => Some(*number),
        _ => None,
    })
}

fn entries(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (entry, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        entries.push(decoded(entry)?);
        bytes = rest;
    }
    Some(entries)
}

fn decoded(mut bytes: &[u8]) -> Option<Entry> {
    let mut entry = Entry::new();
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes)?;
        let number = take_varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Value::Number(number),
            2 => {
                let (value, rest) = bytes.split_at_checked(number as usize)?;
                bytes = rest;
                Value::Bytes(value.to_vec())
            }
            _ => return None,
        };
        entry.push((tag >> 3, value));
    }
    Some(entry)
}

fn encoded(entry: &Entry) -> Vec<u8> {
    let field = |(field, value): &(u64, Value)| match value {
        Value::Number(number) => number_field(*field, *number),
        Value::Bytes(bytes) => bytes_field(*field, bytes),
    };
    entry.iter().flat_map(field).collect()
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for at in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
