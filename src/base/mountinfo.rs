//! The mounts of a mount namespace, from `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
//!
//! A process that may mount chooses the names, and they may have any byte. The crate procfs refuses the whole file for
//! one name that is no text, so a container could hide its mounts from us.

/// One mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounted {
    /// Its id.
    pub id: u32,
    /// The id of the mount that it is on.
    pub parent: u32,
    /// The device of its filesystem, as `MAJOR:MINOR`.
    pub device: String,
    /// The path in the filesystem that is mounted.
    pub root: String,
    /// The mount point, below the root of the process.
    pub point: String,
    /// Its flags: `rw,nosuid`.
    pub flags: String,
    /// Its peer group, if it is shared.
    pub shared: Option<u32>,
    /// The peer group that it receives from.
    pub master: Option<u32>,
    /// The type of the filesystem.
    pub kind: String,
}

/// One line of mountinfo. Paths are escaped: [`unescape`] returns their bytes.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The id of the mount.
    pub id: u32,
    /// The id of the mount that it is on.
    pub parent: u32,
    /// The device of its filesystem, as `MAJOR:MINOR`.
    pub device: &'a [u8],
    /// The path in the filesystem that is mounted.
    pub root: &'a [u8],
    /// The mount point.
    pub point: &'a [u8],
    /// Its flags.
    pub flags: &'a [u8],
    /// Its peer group, if it is shared.
    pub shared: Option<u32>,
    /// The peer group that it receives from.
    pub master: Option<u32>,
    /// The type of the filesystem.
    pub kind: &'a [u8],
    /// The options of the filesystem; empty if the line ends before them.
    pub options: &'a [u8],
}

/// The lines of mountinfo in their order. Malformed lines are left out.
pub fn lines(mountinfo: &[u8]) -> impl Iterator<Item = Line<'_>> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(line)
}

fn line(line: &[u8]) -> Option<Line<'_>> {
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse().ok();
    let mut fields = line.split(|byte| *byte == b' ');
    let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
    let (device, root, point, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let (mut shared, mut master) = (None, None);
    loop {
        match fields.next()? {
            b"-" => break,
            tag => {
                shared = tag.strip_prefix(b"shared:").map_or(shared, number);
                master = tag.strip_prefix(b"master:").map_or(master, number);
            }
        }
    }
    let kind = fields.next()?;
    // The source stands between type and options.
    let options = fields.nth(1).unwrap_or_default();
    Some(Line { id, parent, device, root, point, flags, shared, master, kind, options })
}

/// The mounts in their order. Malformed lines are left out. Bytes that are no UTF-8 become U+FFFD.
pub fn parse(mountinfo: &[u8]) -> Vec<Mounted> {
    let mounted = |line: Line<'_>| Mounted {
        id: line.id,
        parent: line.parent,
        device: text(line.device),
        root: text(line.root),
        point: text(line.point),
        flags: text(line.flags),
        shared: line.shared,
        master: line.master,
        kind: text(line.kind),
    };
    lines(mountinfo).map(mounted).collect()
}

/// A word of mountinfo as text. Bytes that are no UTF-8 become U+FFFD.
pub fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(word)).into_owned()
}

/// Decodes the three octal digits by which mountinfo writes space, tab, newline and backslash.
pub fn unescape(path: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(path.len()), path);
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_parts() {
        let text =
            b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\nnone\n";
        let expected = Mounted {
            id: 36,
            parent: 35,
            device: "98:0".into(),
            root: "/mnt1".into(),
            point: "/mnt 2".into(),
            flags: "rw,noatime".into(),
            shared: Some(7),
            master: Some(1),
            kind: "ext3".into(),
        };
        assert_eq!(parse(text), [expected]);
        assert_eq!(lines(text).map(|line| line.options).collect::<Vec<_>>(), [b"rw,errors=continue"]);
    }

    #[test]
    fn a_name_of_any_bytes_hides_no_other_mount() {
        let text =
            b"1 0 0:1 / / rw - tmpfs none rw\n2 1 0:2 / /\xff rw - tmpfs none rw\n3 1 0:3 / /x rw - proc proc rw\n";
        let points: Vec<_> = parse(text).into_iter().map(|mount| mount.point).collect();
        assert_eq!(points, ["/", "/\u{fffd}", "/x"]);
    }
}
