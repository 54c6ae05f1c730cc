//! The mounts of a mount namespace, from `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

/// One mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounted {
    /// Its id.
    pub id: u32,
    /// The id of the mount that it is on.
    pub parent: u32,
    /// The device of its filesystem, as `MAJOR:MINOR`.
    pub device: String,
    /// What of the filesystem is mounted.
    pub root: String,
    /// Where it is, below the root of the process.
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

/// The mounts in their order. A line that is not one is left out. Bytes that are no UTF-8 become U+FFFD.
pub fn parse(mountinfo: &[u8]) -> Vec<Mounted> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mounted> {
    let text = |word: &[u8]| String::from_utf8_lossy(&unescape(word)).into_owned();
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse().ok();
    let mut words = line.split(|byte| *byte == b' ');
    let mut mounted = Mounted {
        id: number(words.next()?)?,
        parent: number(words.next()?)?,
        device: text(words.next()?),
        root: text(words.next()?),
        point: text(words.next()?),
        flags: text(words.next()?),
        ..Mounted::default()
    };
    for word in words.by_ref().take_while(|word| *word != b"-") {
        if let Some(group) = word.strip_prefix(b"shared:") {
            mounted.shared = number(group);
        } else if let Some(group) = word.strip_prefix(b"master:") {
            mounted.master = number(group);
        }
    }
    mounted.kind = text(words.next()?);
    Some(mounted)
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
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
    }
}
