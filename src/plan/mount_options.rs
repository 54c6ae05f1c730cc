//! Mount options: the meaning of each word of `mounts[].options`.
//!
//! One table serves the planner and `features`. A word that is not in it goes to the filesystem
//! (`size=64k`, `lowerdir=…`), which alone can judge it.

use windlass_base::mount::{MountAttributes, MsFlags, Propagation, PropagationChange};

/// The effect of one option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Sets attributes of the mount.
    Set(MountAttributes),
    /// Clears attributes of the mount.
    Clear(MountAttributes),
    /// Cancels what an earlier option set; the flags of a bind mount's source stay.
    Unset(MountAttributes),
    /// Asks for an access time policy of the mount.
    Atime(Policy),
    /// Cancels such a request.
    NoAtime(Policy),
    /// Sets attributes of the mount and all below it.
    SetAll(MountAttributes),
    /// Clears attributes of the mount and all below it.
    ClearAll(MountAttributes),
    /// Asks for an access time policy of the mount and all below it.
    AtimeAll(Policy),
    /// Changes the propagation type.
    Propagate(PropagationChange),
    /// Makes a bind mount.
    Bind(Extent),
    /// Sets an option of the superblock that fsconfig(2) knows by this name.
    Superblock(&'static str),
    /// Sets (`true`) or clears a flag that only mount(2) takes.
    Old(MsFlags, bool),
    /// Maps ids.
    Idmap(Extent),
    /// Copies what was at the destination into the new tmpfs.
    CopyUp,
    /// Has no effect, since it names the default.
    Nothing,
}

use Effect::*;

/// The mounts that an option is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// The mount alone.
    Mount,
    /// The mount and all below it: an option with `r`.
    Tree,
}

/// The access time policies, as flags of which a mount may be given several; see `policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Updated if older than the last change.
    Relative = 1,
    /// Never updated.
    Never = 2,
    /// Updated at each access.
    Strict = 4,
}

/// The options by name, sorted.
const TABLE: &[(&str, Effect)] = &[
    ("acl", Old(MsFlags::MS_POSIXACL, true)),
    ("async", Superblock("async")),
    ("atime", NoAtime(Policy::Never)),
    ("bind", Bind(Extent::Mount)),
    ("defaults", Nothing),
    ("dev", Clear(MountAttributes::NODEV)),
    ("diratime", Unset(MountAttributes::NODIRATIME)),
    ("dirsync", Superblock("dirsync")),
    ("exec", Clear(MountAttributes::NOEXEC)),
    ("idmap", Idmap(Extent::Mount)),
    ("iversion", Old(MsFlags::MS_I_VERSION, true)),
    ("lazytime", Superblock("lazytime")),
    ("loud", Old(MsFlags::MS_SILENT, false)),
    ("mand", Superblock("mand")),
    ("noacl", Old(MsFlags::MS_POSIXACL, false)),
    ("noatime", Atime(Policy::Never)),
    ("nodev", Set(MountAttributes::NODEV)),
    ("nodiratime", Set(MountAttributes::NODIRATIME)),
    ("noexec", Set(MountAttributes::NOEXEC)),
    ("noiversion", Old(MsFlags::MS_I_VERSION, false)),
    ("nolazytime", Superblock("nolazytime")),
    ("nomand", Superblock("nomand")),
    ("norelatime", NoAtime(Policy::Relative)),
    ("nostrictatime", NoAtime(Policy::Strict)),
    ("nosuid", Set(MountAttributes::NOSUID)),
    ("nosymfollow", Set(MountAttributes::NOSYMFOLLOW)),
    ("private", Propagate(PropagationChange::of_mount(Propagation::Private))),
    ("ratime", ClearAll(MountAttributes::NOATIME)),
    ("rbind", Bind(Extent::Tree)),
    ("rdev", ClearAll(MountAttributes::NODEV)),
    ("rdiratime", ClearAll(MountAttributes::NODIRATIME)),
    ("relatime", Atime(Policy::Relative)),
    ("rexec", ClearAll(MountAttributes::NOEXEC)),
    ("ridmap", Idmap(Extent::Tree)),
    ("rnoatime", AtimeAll(Policy::Never)),
    ("rnodev", SetAll(MountAttributes::NODEV)),
    ("rnodiratime", SetAll(MountAttributes::NODIRATIME)),
    ("rnoexec", SetAll(MountAttributes::NOEXEC)),
    ("rnorelatime", ClearAll(MountAttributes::empty())),
    ("rnostrictatime", ClearAll(MountAttributes::STRICTATIME)),
    ("rnosuid", SetAll(MountAttributes::NOSUID)),
    ("rnosymfollow", SetAll(MountAttributes::NOSYMFOLLOW)),
    ("ro", Set(MountAttributes::RDONLY)),
    ("rprivate", Propagate(PropagationChange::of_tree(Propagation::Private))),
    ("rrelatime", AtimeAll(Policy::Relative)),
    ("rro", SetAll(MountAttributes::RDONLY)),
    ("rrw", ClearAll(MountAttributes::RDONLY)),
    ("rshared", Propagate(PropagationChange::of_tree(Propagation::Shared))),
    ("rslave", Propagate(PropagationChange::of_tree(Propagation::Slave))),
    ("rstrictatime", AtimeAll(Policy::Strict)),
    ("rsuid", ClearAll(MountAttributes::NOSUID)),
    ("rsymfollow", ClearAll(MountAttributes::NOSYMFOLLOW)),
    ("runbindable", Propagate(PropagationChange::of_tree(Propagation::Unbindable))),
    ("rw", Clear(MountAttributes::RDONLY)),
    ("shared", Propagate(PropagationChange::of_mount(Propagation::Shared))),
    ("silent", Old(MsFlags::MS_SILENT, true)),
    ("slave", Propagate(PropagationChange::of_mount(Propagation::Slave))),
    ("strictatime", Atime(Policy::Strict)),
    ("suid", Clear(MountAttributes::NOSUID)),
    ("symfollow", Clear(MountAttributes::NOSYMFOLLOW)),
    ("sync", Superblock("sync")),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagate(PropagationChange::of_mount(Propagation::Unbindable))),
];

/// The effect of the option `name`; `None` if it is an option of the filesystem.
pub fn effect(name: &str) -> Option<Effect> {
    TABLE.binary_search_by_key(&name, |row| row.0).ok().map(|at| TABLE[at].1)
}

/// Every option that the runtime knows itself, for `features`.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|row| row.0)
}

/// The change of the propagation type that a mount option or `linux.rootfsPropagation` asks for.
pub fn propagation(word: &str) -> Option<PropagationChange> {
    match effect(word) {
        Some(Propagate(change)) => Some(change),
        _ => None,
    }
}

/// The flags of a bind mount's source that stay only if no option is about flags, or if `ro` is asked for.
///
/// A bind mount is a copy, flags included. runc and crun change it by mount(2) with MS_REMOUNT|MS_BIND if an option is
/// about flags, and that call sets them all: flags that the options do not name are cleared. With `ro` runc does the
/// same, while crun adds to the flags of the source, which is safer.
const FLAGS: MountAttributes = MountAttributes::RDONLY
    .union(MountAttributes::NOSUID)
    .union(MountAttributes::NODEV)
    .union(MountAttributes::NOEXEC)
    .union(MountAttributes::NOSYMFOLLOW);

/// The combined options of one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Attributes of the mount to set.
    pub set: MountAttributes,
    /// Attributes of the mount to clear.
    pub clear: MountAttributes,
    /// Attributes that a bind mount takes over from its source, unless an option is about other attributes: see
    /// `FLAGS`.
    pub reset: MountAttributes,
    /// Attributes to set on the mount and all below.
    pub set_all: MountAttributes,
    /// Attributes to clear on the mount and all below.
    pub clear_all: MountAttributes,
    /// Changes of the propagation type, in order.
    pub propagation: Vec<PropagationChange>,
    /// What a bind mount takes from its source; `None` for another mount.
    pub bind: Option<Extent>,
    /// What an idmapped mount maps the ids of; `None` for another mount.
    pub idmap: Option<Extent>,
    /// Whether a tmpfs starts with the content of its destination.
    pub copy_up: bool,
    /// Flags for mount(2).
    pub old_flags: MsFlags,
    /// Options for the filesystem: key and value.
    pub data: Vec<(String, Option<String>)>,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        let none = MountAttributes::empty();
        MountOptions {
            set: none,
            clear: none,
            reset: none,
            set_all: none,
            clear_all: none,
            propagation: Vec::new(),
            bind: None,
            idmap: None,
            copy_up: false,
            old_flags: MsFlags::empty(),
            data: Vec::new(),
        }
    }
}

impl MountOptions {
    /// Combines the options. The later of an option and its opposite wins. `rbind` and `bind` are no opposites, and
    /// neither are the access time policies: they are flags, as for mount(2), and do not cancel each other.
    pub fn read<'a>(words: impl IntoIterator<Item = &'a str>) -> MountOptions {
        let mut out = MountOptions::default();
        let (mut atime, mut atime_all) = (0, 0);
        let mut about_flags = false;
        for word in words {
            let effect = effect(word);
            about_flags |= matches!(effect, Some(Set(_) | Clear(_) | Unset(_) | Atime(_) | NoAtime(_)));
            match effect {
                Some(Atime(flag)) => atime |= flag as u8,
                Some(NoAtime(flag)) => atime &= !(flag as u8),
                Some(AtimeAll(flag)) => atime_all |= flag as u8,
                Some(effect) => out.add(effect),
                None => out.data.extend(split(word).map(|(key, value)| (key.to_string(), value.map(str::to_string)))),
            }
        }
        for (flags, set, clear) in
            [(atime, &mut out.set, &mut out.clear), (atime_all, &mut out.set_all, &mut out.clear_all)]
        {
            *set |= policy(flags).unwrap_or_default();
            // mount_setattr(2) accepts a policy only if the whole field is cleared in the same call.
            if policy(flags).is_some() || clear.intersects(MountAttributes::ATIME) {
                *clear |= MountAttributes::ATIME;
            }
        }
        if about_flags && !out.set.contains(MountAttributes::RDONLY) {
            out.reset |= FLAGS;
        }
        // The access times are one group for mount(2): an option about one of them replaces them all.
        if out.set.contains(MountAttributes::NODIRATIME) || policy(atime).is_some() {
            out.clear |= MountAttributes::ATIME | MountAttributes::NODIRATIME & !out.set;
        }
        out.reset &= !(out.set | out.clear);
        out
    }

    fn add(&mut self, effect: Effect) {
        let change =
            |set: &mut MountAttributes, clear: &mut MountAttributes, on: MountAttributes, off: MountAttributes| {
                *set = *set & !off | on;
                *clear = *clear & !on | off;
            };
        let none = MountAttributes::empty();
        match effect {
            Set(bits) => change(&mut self.set, &mut self.clear, bits, none),
            Clear(bits) => change(&mut self.set, &mut self.clear, none, bits),
            SetAll(bits) => change(&mut self.set_all, &mut self.clear_all, bits, none),
            ClearAll(bits) => change(&mut self.set_all, &mut self.clear_all, none, bits),
            Unset(bits) => self.set &= !bits,
            Propagate(change) => self.propagation.push(change),
            Bind(extent) => self.bind = self.bind.max(Some(extent)),
            Superblock(name) => self.data.push((name.into(), None)),
            Old(flag, true) => self.old_flags |= flag,
            Old(flag, false) => self.old_flags &= !flag,
            Idmap(extent) => self.idmap = Some(extent),
            CopyUp => self.copy_up = true,
            Nothing | Atime(_) | NoAtime(_) | AtimeAll(_) => {}
        }
    }
}

/// The keys of one option of a configuration.
pub fn keys(option: &str) -> impl Iterator<Item = &str> {
    let known = effect(option).map(|effect| if let Superblock(name) = effect { name } else { option });
    known.into_iter().chain(split(option).filter(move |_| known.is_none()).map(|(key, _)| key))
}

/// The policy among several, chosen as mount(2) does.
fn policy(flags: u8) -> Option<MountAttributes> {
    [
        (Policy::Strict, MountAttributes::STRICTATIME),
        (Policy::Never, MountAttributes::NOATIME),
        (Policy::Relative, MountAttributes::empty()),
    ]
    .into_iter()
    .find_map(|(flag, set)| (flags & flag as u8 != 0).then_some(set))
}

/// Splits `a,b=c` at the commas that are outside quotes and not escaped, as mount(8) does.
fn split(word: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (i, c) in word.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&word[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&word[start..]);
    parts.into_iter().filter(|part| !part.is_empty()).map(|part| match part.split_once('=') {
        Some((key, value)) => (key, Some(value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value))),
        None => (part, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.is_sorted_by_key(|row| row.0));
    }

    #[test]
    fn a_later_option_wins() {
        let options = MountOptions::read(["ro", "nosuid", "rw"]);
        assert_eq!((options.set, options.clear), (MountAttributes::NOSUID, MountAttributes::RDONLY));
    }

    #[test]
    fn a_later_bind_does_not_switch_recursion_off() {
        for words in [["rbind", "bind"], ["bind", "rbind"]] {
            assert_eq!(MountOptions::read(words).bind, Some(Extent::Tree), "{words:?}");
        }
        assert_eq!(MountOptions::read(["bind", "bind"]).bind, Some(Extent::Mount));
    }

    #[test]
    fn the_strongest_access_time_policy_counts_in_any_order() {
        for (words, set) in [
            (["noatime", "strictatime"], MountAttributes::STRICTATIME),
            (["strictatime", "noatime"], MountAttributes::STRICTATIME),
            (["noatime", "relatime"], MountAttributes::NOATIME),
            (["relatime", "noatime"], MountAttributes::NOATIME),
        ] {
            let options = MountOptions::read(words);
            assert_eq!(
                (options.set, options.clear),
                (set, MountAttributes::ATIME | MountAttributes::NODIRATIME),
                "{words:?}"
            );
            let all: Vec<String> = words.iter().map(|word| format!("r{word}")).collect();
            let options = MountOptions::read(all.iter().map(String::as_str));
            assert_eq!((options.set_all, options.clear_all), (set, MountAttributes::ATIME), "{all:?}");
        }
        assert_eq!(MountOptions::read(["relatime"]).clear, MountAttributes::ATIME | MountAttributes::NODIRATIME);
    }

    #[test]
    fn words_that_undo_a_policy_leave_the_sources_own() {
        for words in [["atime", "diratime"], ["norelatime", "nostrictatime"]] {
            let options = MountOptions::read(words);
            assert_eq!(
                (options.set, options.clear, options.reset),
                (MountAttributes::empty(), MountAttributes::empty(), FLAGS),
                "{words:?}"
            );
        }
        let options = MountOptions::read(["noatime", "nodiratime", "atime", "diratime"]);
        assert_eq!(options, MountOptions { reset: FLAGS, ..MountOptions::default() });
    }

    #[test]
    fn an_option_about_flags_takes_the_sources_others_away_unless_it_is_read_only() {
        for words in [&["bind"][..], &["rbind", "rprivate"], &["bind", "ro"], &["ro", "nosuid", "exec"], &["rro"]] {
            assert!(!MountOptions::read(words.iter().copied()).reset.intersects(FLAGS), "{words:?}");
        }
        for (words, stays) in [
            (&["rw"][..], MountAttributes::RDONLY),
            (&["bind", "dev"], MountAttributes::NODEV),
            (&["nosuid", "nodev"], MountAttributes::NOSUID | MountAttributes::NODEV),
            (&["ro", "rw"], MountAttributes::RDONLY),
            (&["symfollow"], MountAttributes::NOSYMFOLLOW),
            (&["relatime"], MountAttributes::empty()),
        ] {
            let options = MountOptions::read(words.iter().copied());
            assert_eq!(options.reset & FLAGS, FLAGS & !stays, "{words:?}");
        }
    }

    #[test]
    fn an_option_about_access_times_replaces_all_that_the_source_has() {
        let times = MountAttributes::ATIME | MountAttributes::NODIRATIME;
        for (words, clear) in [
            (&["nodiratime"][..], MountAttributes::ATIME),
            (&["noatime"], times),
            (&["strictatime", "ro"], times),
            (&["nodiratime", "strictatime"], MountAttributes::ATIME),
            (&["rw"], MountAttributes::empty()),
            (&["rnoatime"], MountAttributes::empty()),
        ] {
            assert_eq!(MountOptions::read(words.iter().copied()).clear & times, clear, "{words:?}");
        }
    }

    #[test]
    fn what_is_not_known_goes_to_the_filesystem() {
        let options =
            MountOptions::read(["size=1k,mode=755", "lowerdir=/a\\,b:/c", "context=\"u:r:t:s0:c1,c2\"", "volatile"]);
        let data: Vec<_> = options.data.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
        assert_eq!(
            data,
            [
                ("size", Some("1k")),
                ("mode", Some("755")),
                ("lowerdir", Some("/a\\,b:/c")),
                ("context", Some("u:r:t:s0:c1,c2")),
                ("volatile", None)
            ]
        );
    }

    #[test]
    fn every_must_option_of_the_specification_is_known() {
        // runtime-spec config.md, "Linux mount options", the rows marked MUST.
        let must = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime \
                    noexec noiversion nolazytime norelatime nostrictatime nosuid private ratime rbind rdev rdiratime \
                    relatime rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid ro rprivate rrelatime \
                    rro rrw rshared rslave rstrictatime rsuid runbindable rw shared silent slave strictatime suid sync \
                    unbindable mand nomand symfollow nosymfollow rnosymfollow rsymfollow tmpcopyup idmap ridmap";
        for word in must.split_whitespace() {
            assert!(effect(word).is_some(), "{word}");
        }
    }
}
