//! The report of a payload, in a form that is equal if runtimes have done the same. Numbers that the kernel assigns
//! anew to each container are removed.

use crate::kit::machine;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Texts that are replaced by names.
pub struct Names<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The bundle.
    pub bundle: &'a Path,
    /// The sources of mounts.
    pub sources: &'a Path,
}

type Fields = BTreeMap<String, String>;

/// The fields of a report.
pub fn fields(report: &Map<String, Value>, names: &Names) -> Fields {
    let mut fields = Fields::new();
    for (key, value) in report {
        let text = value.as_str().unwrap_or_default();
        match key.split_once('/') {
            Some(("file", "self/mountinfo")) => mounts(text, names, &mut fields),
            Some(("file", "self/status")) => status(text, &mut fields),
            Some(("file", "self/limits")) => limits(text, &mut fields),
            Some(("file", "self/stat")) => stat(text, &mut fields),
            Some(("file", "self/net/dev")) => interfaces(text, &mut fields),
            Some(("file", "self/cgroup")) => put(&mut fields, "cgroup-path", text.replace(names.id, "ID").trim()),
            Some(("file", name)) => put(&mut fields, &name.replace("self/", "proc/"), text.trim_end()),
            Some(("ns", kind)) => put(&mut fields, key, &namespace(kind, text, names.sources)),
            Some(("fd", _)) => put(&mut fields, key, &descriptor(key, text)),
            Some(("attribute", "keyring")) => put(&mut fields, key, &keyring(text, names.id)),
            None if key == "environ" => environment(value, &mut fields),
            _ => put(&mut fields, key, text),
        }
    }
    signals(report, &mut fields);
    hidden(report, &mut fields);
    fields
}

/// The ignored signals, without those that the C library reserves, and with SIGPIPE as the program found it.
fn signals(report: &Map<String, Value>, fields: &mut Fields) {
    const OF_THE_LIBRARY: u64 = 0b11 << 31;
    const PIPE: u64 = 1 << (libc::SIGPIPE - 1);
    let ignored = fields.get("status/SigIgn").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    let at_start = report.get("attribute/sigpipe-at-start").and_then(Value::as_str);
    if let Some(mask) = ignored {
        let pipe = if at_start == Some("ignored") { PIPE } else { 0 };
        put(fields, "status/SigIgn", &format!("{:016x}", mask & !(OF_THE_LIBRARY | PIPE) | pipe));
    }
}

/// Removes the way in which a path is hidden or made read-only, because each runtime has its own. The content of the
/// path is a separate field, and so are the options of the mount of a read-only path.
fn hidden(report: &Map<String, Value>, fields: &mut Fields) {
    const PROPERTIES: &[&str] = &["root", "options", "propagation", "type", "source", "data", "parent"];
    for key in report.keys() {
        let Some(at) = key.find('/') else { continue };
        let (kind, path) = key.split_at(at);
        if !["masked", "readonly"].contains(&kind) {
            continue;
        }
        let name =
            |times: usize| format!("mount{path}{}", if times == 0 { String::new() } else { format!("#{times}") });
        let top = (0..).map(name).take_while(|name| fields.contains_key(&format!("{name} root"))).last();
        let Some(top) = top else { continue };
        for property in PROPERTIES.iter().filter(|property| kind == "masked" || **property != "options") {
            fields.remove(&format!("{top} {property}"));
        }
    }
}

/// The rights and the name of a keyring, whose end may be random.
fn keyring(text: &str, id: &str) -> String {
    let text = text.replace(id, "ID");
    match text.rsplit_once('.') {
        Some((name, end)) if end.len() == 16 && end.bytes().all(|byte| byte.is_ascii_hexdigit()) => name.to_owned(),
        _ => text,
    }
}

fn put(fields: &mut Fields, key: &str, value: &str) {
    fields.insert(key.to_owned(), value.to_owned());
}

/// Each variable as a field, and their order.
fn environment(value: &Value, fields: &mut Fields) {
    let words: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for word in &words {
        let (name, value) = word.split_once('=').unwrap_or((word, "<no value>"));
        let times = words.iter().filter(|other| other.split('=').next() == Some(name)).count();
        put(fields, &format!("env/{name}"), &format!("{value}{}", if times > 1 { " <twice>" } else { "" }));
    }
    let names: Vec<&str> = words.iter().filter_map(|word| word.split('=').next()).collect();
    put(fields, "env-order", &names.join(" "));
}

/// The members of /proc/PID/status that do not depend on time and load.
fn status(text: &str, fields: &mut Fields) {
    const TOLD: &[&str] = &[
        "Umask",
        "TracerPid",
        "Uid",
        "Gid",
        "Groups",
        "SigPnd",
        "ShdPnd",
        "SigBlk",
        "SigIgn",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "Speculation_Store_Bypass",
        "SpeculationIndirectBranch",
        "Cpus_allowed_list",
        "Mems_allowed_list",
        "THP_enabled",
        "Threads",
    ];
    for name in TOLD {
        let value = machine::field(text, name);
        put(fields, &format!("status/{name}"), &value.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

fn limits(text: &str, fields: &mut Fields) {
    for line in text.lines().skip(1) {
        let (name, rest) = line.split_at(line.len().min(26));
        let words: Vec<&str> = rest.split_whitespace().take(2).collect();
        put(fields, &format!("limit/{}", name.trim()), &words.join(" "));
    }
}

/// The fields of proc_pid_stat(5): leader of session and group, terminal, scheduling.
fn stat(text: &str, fields: &mut Fields) {
    let pid = text.split(' ').next().unwrap_or_default();
    let words: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let word = |number: usize| words.get(number - 3).copied().unwrap_or_default();
    let leads = |number: usize| if word(number) == pid { "itself" } else { "another" };
    put(fields, "stat/group", leads(5));
    put(fields, "stat/session", leads(6));
    put(fields, "stat/terminal", word(7));
    put(fields, "stat/nice", word(19));
    put(fields, "stat/policy", word(41));
}

fn interfaces(text: &str, fields: &mut Fields) {
    let mut names: Vec<&str> =
        text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    names.sort_unstable();
    put(fields, "interfaces", &names.join(" "));
}

/// The namespace: this process's, one of those that are joined, or another.
fn namespace(kind: &str, link: &str, sources: &Path) -> String {
    let own = std::fs::read_link(format!("/proc/self/ns/{kind}"));
    if own.is_ok_and(|own| own == Path::new(link)) {
        return "the host's".to_owned();
    }
    let inode = link.trim_end_matches(']').rsplit('[').next().and_then(|number| number.parse().ok());
    let joined =
        std::fs::metadata(sources.join("ns").join(kind)).map(|found| std::os::unix::fs::MetadataExt::ino(&found));
    match (inode, joined) {
        (Some::<u64>(inode), Ok(joined)) if inode == joined => "the joined one".to_owned(),
        (None, _) => link.to_owned(),
        _ => "new".to_owned(),
    }
}

/// The kind of an open file, without the numbers of pipes.
fn descriptor(key: &str, text: &str) -> String {
    let kind = text.split([':', '[']).next().unwrap_or_default();
    let target = text.rsplit_once(' ').map_or(text, |(target, _)| target);
    match key {
        "fd/0" | "fd/1" | "fd/2" => target.split(':').next().unwrap_or_default().to_owned(),
        _ if ["pipe", "socket", "anon_inode"].contains(&kind) => kind.to_owned(),
        _ => target.to_owned(),
    }
}

/// A line of mountinfo, proc_pid_mountinfo(5).
struct Mount<'a> {
    id: &'a str,
    parent: &'a str,
    root: &'a str,
    point: &'a str,
    options: &'a str,
    peers: Vec<&'a str>,
    filesystem: Vec<&'a str>,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (left, right) = line.split_once(" - ")?;
        let mut words = left.split(' ');
        let (id, parent, _) = (words.next()?, words.next()?, words.next()?);
        let (root, point, options) = (words.next()?, words.next()?, words.next()?);
        // The kind of a peer group is kept, its number is not.
        let peers = words.filter_map(|word| word.split(':').next()).filter(|kind| *kind != "propagate_from").collect();
        Some(Mount { id, parent, root, point, options, peers, filesystem: right.split(' ').collect() })
    }
}

/// Each mount by its mount point, with its position among several on the same mount point.
fn mounts(text: &str, names: &Names, fields: &mut Fields) {
    let all: Vec<Mount> = text.lines().filter_map(Mount::parse).collect();
    let short = |text: &str| {
        let bundle = names.bundle.display().to_string();
        let text = text.replace(&bundle, "BUNDLE");
        let sources = names.sources.display().to_string();
        // The root of a mount is a path in its filesystem, the tmpfs at /run.
        let text = text.replace(&sources, "SOURCES");
        let text = text.replace(sources.strip_prefix("/run").unwrap_or(&sources), "SOURCES");
        text.replace(bundle.strip_prefix("/run").unwrap_or(&bundle), "BUNDLE").replace(names.id, "ID")
    };
    for (index, mount) in all.iter().enumerate() {
        let below = all[..index].iter().filter(|other| other.point == mount.point).count();
        let key = format!("mount{}{}", mount.point, if below == 0 { String::new() } else { format!("#{below}") });
        let parent = all.iter().find(|other| other.id == mount.parent).map_or("outside", |parent| parent.point);
        let kind = mount.filesystem.first().copied().unwrap_or_default();
        let source = short(mount.filesystem.get(1).copied().unwrap_or_default());
        put(fields, &format!("{key} root"), &short(mount.root));
        put(fields, &format!("{key} options"), mount.options);
        put(fields, &format!("{key} propagation"), &mount.peers.join(" "));
        put(fields, &format!("{key} type"), kind);
        put(fields, &format!("{key} source"), &source);
        put(fields, &format!("{key} data"), mount.filesystem.get(2).copied().unwrap_or_default());
        put(fields, &format!("{key} parent"), parent);
    }
}

#[cfg(test)]
mod tests {
    use super::{Names, fields};
    use serde_json::{Map, Value, json};
    use std::path::Path;

    fn seen(report: Value) -> super::Fields {
        let names = Names { id: "x1", bundle: Path::new("/run/w/bundle"), sources: Path::new("/run/w/sources") };
        let Value::Object(report) = report else { return fields(&Map::new(), &names) };
        fields(&report, &names)
    }

    #[test]
    fn mounts_are_told_by_their_point_and_their_place_in_a_pile() {
        let text = "9 1 0:5 / / rw master:3 - tmpfs t rw\n10 9 0:5 /w/sources/dir /mnt ro,nosuid shared:7 - tmpfs t rw\n\
                    11 10 0:6 / /mnt rw - proc proc rw";
        let fields = seen(json!({"file/self/mountinfo": text}));
        let field = |key: &str| fields.get(key).map(String::as_str);
        assert_eq!(field("mount/mnt root"), Some("SOURCES/dir"));
        assert_eq!(field("mount/mnt propagation"), Some("shared"));
        assert_eq!(field("mount/mnt#1 type"), Some("proc"));
        assert_eq!(field("mount/mnt#1 parent"), Some("/mnt"));
        assert_eq!(field("mount/ parent"), Some("outside"));
    }

    #[test]
    fn a_variable_that_stands_twice_is_told() {
        let fields = seen(json!({"environ": ["A=1", "B=", "A=2", "=x"]}));
        assert_eq!(fields.get("env/A").map(String::as_str), Some("2 <twice>"));
        assert_eq!(fields.get("env-order").map(String::as_str), Some("A B A "));
    }

    #[test]
    fn numbers_of_the_kernel_are_no_difference() {
        let one = seen(json!({"fd/3": "pipe:[77] 02", "file/self/cgroup": "0::/x1\n", "ns/net": "net:[1]"}));
        let other = seen(json!({"fd/3": "pipe:[78] 02", "file/self/cgroup": "0::/x1\n", "ns/net": "net:[2]"}));
        assert_eq!(one, other);
        assert_eq!(one.get("cgroup-path").map(String::as_str), Some("0::/ID"));
    }
}
