//! The files that images name. CRIU opens, makes and removes them as root, by paths, before the processes have their
//! own credentials.
//!
//! The processes of CRIU are in the container's root, so an ordinary path stays there. But they still have descriptors
//! of the host, to which the links of procfs lead. Files without a name are made, and removed again, by paths below the
//! mounts as CRIU sees them, which are in the host's root.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::OFlag;

use windlass_base::error::{Error, Result, WithContext};
use windlass_base::mount::MountAttributes;
use windlass_criu::image::{self, Fanotify, File, Ghost, Handle, Kind, Memory, Regular, Remap, Socket};
use windlass_plan::Plan;
use windlass_plan::restore::{ClaimedMount, Claims, may_mount};
use windlass_sys::{directory, fd};

use super::claims::{all, head, optional, refuse};
use super::mounts;
use crate::resolve::NO_LINKS;

const NAME: &str = "files.img";
const REMAPS: &str = "remap-fpath.img";

/// Flags that make or empty a file. The kernel forgets them at open(2), so no dump has them.
const CHANGING: u32 = (libc::O_CREAT | libc::O_TRUNC) as u32;

/// Flags that make a descriptor of a link itself.
const NOT_FOLLOWED: u32 = (libc::O_PATH | libc::O_NOFOLLOW) as u32;

/// Links of procfs, and directories of procfs whose entries are such links.
const LINKS: [&[u8]; 3] = [b"exe", b"cwd", b"root"];
const FULL_OF_LINKS: [&[u8]; 3] = [b"fd", b"map_files", b"ns"];

/// How CRIU begins the names of files that it has given a name for a dump (`--link-remap`), and removes.
const LINK: &[u8] = b"link_remap.";

/// What follows is compared with this.
struct Known<'a> {
    /// Whether processes of the container may have CAP_SYS_ADMIN over the host.
    powerful: bool,
    claims: &'a Claims,
    /// The keys by which CRIU gets descriptors.
    keys: &'a [String; 3],
    /// Files without a name, by device and inode.
    ghosts: BTreeSet<(u32, u64)>,
}

/// A file without a name, which CRIU makes or removes.
pub(crate) struct Nameless {
    /// The id of its mount in the images.
    mount: u32,
    /// The path below that mount on which no link may be.
    path: Vec<u8>,
}

/// Refuses files that are not in the container. `keys` name the descriptors that CRIU gets. Returns the files without
/// a name.
pub(crate) fn check(dir: BorrowedFd<'_>, plan: &Plan, claims: &Claims, keys: &[String; 3]) -> Result<Vec<Nameless>> {
    let files: Vec<File> = all(dir, Kind::Files, NAME)?;
    let mut regular: BTreeMap<u32, &Regular> = BTreeMap::new();
    if files.iter().filter_map(|file| file.regular.as_ref()).any(|it| regular.insert(it.id, it).is_some()) {
        return Err(refuse(NAME, "has a file twice"));
    }
    let powerful = may_mount(plan) && !plan.topology.user_namespace();
    let mut known = Known { powerful, claims, keys, ghosts: BTreeSet::new() };
    let mut nameless = Vec::new();
    for remap in optional::<Remap>(dir, Kind::Remaps, REMAPS)?.unwrap_or_default() {
        nameless.extend(known.remap(dir, &remap, &regular)?);
    }
    files.iter().try_for_each(|file| known.file(file))?;
    for name in directory::names(dir).with_context(|| "cannot list the images")? {
        let name = name.to_string_lossy();
        if name.starts_with("mm-") && name.ends_with(".img") {
            let memory: Vec<Memory> = all(dir, Kind::Memory, &name)?;
            if memory.iter().flat_map(|memory| &memory.areas).any(|area| area.flags & CHANGING != 0) {
                return Err(changes(&name));
            }
        }
        // CRIU loads it into the host's kernel.
        if name == "apparmor.img" {
            return Err(refuse(&name, "has profiles of AppArmor"));
        }
    }
    Ok(nameless)
}

/// Refuses files without a name whose path leads through a link. The mounts are ready below a directory of CRIU in the
/// host's root, each under its id, and nothing else is restored. `init` is the process that has made them.
pub(crate) fn stay_below(nameless: &[Nameless], init: BorrowedFd<'_>) -> Result<()> {
    if nameless.is_empty() {
        return Ok(());
    }
    let (root, mounts) = mounts::look(init)?;
    for Nameless { mount, path } in nameless {
        let (name, path) = (format!("/mnt-{mount:010}"), Path::new(OsStr::from_bytes(path)));
        let Some(found) = mounts.iter().rfind(|it| it.point.ends_with(&name)) else {
            return Err(refuse(REMAPS, "has a file without a name, which cannot be followed in this mode of CRIU"));
        };
        let context = || format!("the images are refused: {REMAPS} has a file without a name at {path:?}");
        let at = fd::openat(root.as_fd(), found.point.trim_start_matches('/'), OFlag::O_PATH, 0);
        let at = at.with_context(context)?;
        fd::openat2_if_exists(at.as_fd(), path, OFlag::O_PATH, NO_LINKS).with_context(context)?;
    }
    Ok(())
}

fn changes(image: &str) -> Error {
    refuse(image, "makes or empties a file")
}

impl Known<'_> {
    fn file(&self, file: &File) -> Result<()> {
        let opened = file.regular.iter().map(|it| it.flags).chain(file.terminal.iter().map(|it| it.flags));
        if opened.into_iter().any(|flags| flags & CHANGING != 0) {
            return Err(changes(NAME));
        }
        if let Some(Regular { name, flags, .. }) = &file.regular {
            let is_key = !name.is_empty() && self.keys.iter().any(|key| key.as_bytes() == name);
            // A link itself may be held.
            let followed =
                if flags & NOT_FOLLOWED == NOT_FOLLOWED { name.len() - basename(name).len() } else { name.len() };
            if !is_key && (!is_canonical(name) || self.leads_away(&name[..followed])) {
                return Err(odd(NAME, name));
            }
        }
        if let Some(Socket { name, directory }) = file.socket.as_ref().filter(|socket| named(&socket.name)) {
            let path = [directory.as_slice(), name.as_slice()].join(&b'/');
            let path = if name.starts_with(b"/") { name } else { &path };
            if self.leads_away(path) || !directory.is_empty() && !self.is_inside(directory) {
                return Err(odd(NAME, path));
            }
        }
        for watch in file.inotify.iter().flat_map(|inotify| &inotify.watches) {
            self.watched(watch.device, watch.inode, watch.handle.as_ref())?;
        }
        file.fanotify.iter().try_for_each(|group| self.group(group))
    }

    fn watched(&self, device: u32, inode: u64, handle: Option<&Handle>) -> Result<()> {
        match handle.map(|handle| &handle.path).filter(|path| !path.is_empty()) {
            Some(path) if !self.is_inside(path) => Err(odd(NAME, path)),
            Some(_) => Ok(()),
            // A handle names any file of a filesystem, also outside of what is mounted.
            None if !self.ghosts.contains(&(device, inode)) => Err(refuse(NAME, "watches a file without a path")),
            None => Ok(()),
        }
    }

    /// A process without CAP_SYS_ADMIN may only watch files, and gets no descriptors (fanotify_init(2)).
    fn group(&self, group: &Fanotify) -> Result<()> {
        const CLASSES_AND_LIMITS: u32 = 0x3c;
        const WITHOUT_DESCRIPTORS: u32 = 0xf00;
        const MORE_THAN_A_FILE: u32 = 0x110;
        let modest = group.flags & CLASSES_AND_LIMITS == 0 && group.flags & WITHOUT_DESCRIPTORS != 0;
        let beyond =
            group.marks.iter().any(|mark| mark.flags & MORE_THAN_A_FILE != 0 || mark.kind != 1 && !self.powerful);
        if beyond || !self.powerful && !modest {
            return Err(refuse(NAME, "has a fanotify group that takes CAP_SYS_ADMIN"));
        }
        for mark in &group.marks {
            if let Some(it) = &mark.inode {
                self.watched(mark.device, it.inode, it.handle.as_ref())?;
            }
        }
        Ok(())
    }

    /// Checks a file without a name. One of a process that has ended is made by nobody.
    fn remap(
        &mut self,
        dir: BorrowedFd<'_>,
        remap: &Remap,
        regular: &BTreeMap<u32, &Regular>,
    ) -> Result<Option<Nameless>> {
        const GHOST: u32 = 1 << 31;
        // Old versions have the kind in the number.
        let kind = remap.kind.unwrap_or(i32::from(remap.to & GHOST != 0));
        let number = if remap.kind.is_none() { remap.to & !GHOST } else { remap.to };
        let Some(file) = regular.get(&remap.from) else { return Err(refuse(REMAPS, "is of no file")) };
        match kind {
            0 => {
                let name = regular.get(&number).map(|it| it.name.as_slice()).unwrap_or_default();
                match basename(name).starts_with(LINK) {
                    true => self.nameless(file, name, false).map(Some),
                    false => Err(odd(REMAPS, name)),
                }
            }
            1 => {
                let name = format!("ghost-file-{number:x}.img");
                let ghost = image::first::<Ghost>(Kind::Ghost, &head(dir, &name)?);
                let Ghost { mode, device, inode } = ghost.ok_or_else(|| refuse(&name, "is damaged"))?;
                self.ghosts.insert((device, inode));
                match mode & libc::S_IFMT {
                    libc::S_IFLNK => Err(refuse(&name, "is a link")),
                    kind => self.nameless(file, &file.name, kind == libc::S_IFDIR).map(Some),
                }
            }
            _ => Ok(None),
        }
    }

    /// A file without a name at a path in the container. CRIU follows a link at the end of a directory's path.
    fn nameless(&self, file: &Regular, path: &[u8], whole: bool) -> Result<Nameless> {
        let id = (file.mount >> 1) ^ (file.mount & 1).wrapping_neg();
        let below = |mount: &ClaimedMount| {
            let rest = path.strip_prefix(mount.point.trim_end_matches('/').as_bytes());
            rest.and_then(|rest| rest.strip_prefix(b"/")).map(<[u8]>::to_vec)
        };
        let mounts = &self.claims.mounts;
        let mut of = mounts.iter().filter(|mount| mount.id == id);
        let (Some(mount), None) = (of.next(), of.next()) else {
            return Err(refuse(REMAPS, "is not of a file on one mount"));
        };
        let hidden = |other: &ClaimedMount| {
            !other.nested && !mount.nested && other.point.len() > mount.point.len() && below(other).is_some()
        };
        // CRIU makes a mount writable for a moment.
        if mount.flags.contains(MountAttributes::RDONLY) || mounts.iter().any(hidden) {
            return Err(refuse(REMAPS, "is of a file on a mount that is read-only or hidden"));
        }
        let Some(mut path) = below(mount) else { return Err(odd(REMAPS, path)) };
        if !whole {
            path.truncate(path.len() - basename(&path).len());
        }
        if path.is_empty() {
            path.push(b'.');
        }
        Ok(Nameless { mount: id, path })
    }

    /// Whether a path is that of a file in the container.
    fn is_inside(&self, path: &[u8]) -> bool {
        is_canonical(path) && !self.leads_away(path)
    }

    /// Whether a path leads through a link of procfs.
    fn leads_away(&self, path: &[u8]) -> bool {
        let mut at = Vec::new();
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => at.truncate(at.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
                _ if self.is_link(&at, name) => return true,
                _ => {
                    at.push(b'/');
                    at.extend_from_slice(name);
                }
            }
        }
        false
    }

    /// Whether the file of this name in a directory is a link of procfs.
    fn is_link(&self, directory: &[u8], name: &[u8]) -> bool {
        let links = |mount: &ClaimedMount| {
            let rest = directory.strip_prefix(mount.point.trim_end_matches('/').as_bytes());
            let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with(b"/")) else { return false };
            let inner = [mount.root.as_bytes(), rest].concat();
            LINKS.contains(&name) || FULL_OF_LINKS.contains(&basename(&inner))
        };
        self.claims.mounts.iter().filter(|mount| mount.kind == "proc").any(links)
    }
}

/// Whether a path is one as the kernel reports paths.
fn is_canonical(path: &[u8]) -> bool {
    let odd = |name: &[u8]| matches!(name, b"" | b"." | b"..") || name.contains(&0);
    let names = path.strip_prefix(b"/").unwrap_or(b"/");
    names.is_empty() || !names.split(|byte| *byte == b'/').any(odd)
}

/// The last name of a path.
fn basename(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Whether a unix socket has a path.
fn named(name: &[u8]) -> bool {
    name.first().is_some_and(|first| *first != 0)
}

fn odd(image: &str, path: &[u8]) -> Error {
    refuse(image, &format!("names the file {:?}", String::from_utf8_lossy(path)))
}

#[cfg(test)]
mod tests {
    use windlass_criu::image::{Mark, Terminal, Watch};

    use super::*;

    /// Whether a file is refused in a container with a procfs on `/proc` and one of its directories on `/bound`.
    fn refused(file: &File) -> bool {
        let mount = |id, point: &str, kind: &str, root: &str, flags| ClaimedMount {
            id,
            point: point.into(),
            kind: kind.into(),
            root: root.into(),
            flags,
            ..ClaimedMount::default()
        };
        let none = MountAttributes::empty();
        let mounts = vec![
            mount(1, "/", "ext4", "/b", none),
            mount(2, "/proc", "proc", "/", none),
            mount(3, "/bound", "proc", "/1/fd", none),
            mount(4, "/ro", "ext4", "/v", MountAttributes::RDONLY),
        ];
        let claims = Claims { mounts, ..Claims::default() };
        let keys = ["file[3f:a]".into(), String::new(), String::new()];
        Known { powerful: false, claims: &claims, keys: &keys, ghosts: [(5, 7)].into() }.file(file).is_err()
    }

    fn regular(name: &[u8]) -> File {
        File { regular: Some(Regular { name: name.into(), ..Regular::default() }), ..File::default() }
    }

    #[test]
    fn no_path_leads_through_a_link_of_procfs() {
        let inside: &[&[u8]] = &[
            b"/",
            b"/etc/passwd",
            b"/exe",
            b"/fd/7",
            b"/proc/1/fd",
            b"/proc/1/ns",
            b"/proc/sys/kernel/osrelease",
            b"/bound",
            b"/procfs/1/exe",
            b"/caf\xe9",
            b"file[3f:a]",
        ];
        for path in inside {
            assert!(!refused(&regular(path)), "{}", String::from_utf8_lossy(path));
        }
        let odd: &[&[u8]] = &[
            b"",
            b"etc",
            b"//etc",
            b"/etc/",
            b"/./etc",
            b"/../etc",
            b"/etc/..",
            b"/etc\0",
            b"file[3f:b]",
            b"/proc/1/exe",
            b"/proc/self/cwd",
            b"/proc/1/root/etc",
            b"/proc/1/fd/7",
            b"/proc/1/task/2/fd/7/..",
            b"/proc/1/map_files/a-b",
            b"/proc/1/ns/mnt",
            b"/bound/7",
        ];
        for path in odd {
            assert!(refused(&regular(path)), "{}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn a_link_itself_may_be_held() {
        let held = |name: &[u8], flags| {
            let file = Regular { name: name.into(), flags: flags as u32, ..Regular::default() };
            File { regular: Some(file), ..File::default() }
        };
        assert!(!refused(&held(b"/proc/1/exe", libc::O_PATH | libc::O_NOFOLLOW)));
        assert!(refused(&held(b"/proc/1/exe", libc::O_PATH)));
        assert!(refused(&held(b"/proc/1/exe", libc::O_NOFOLLOW)));
        assert!(refused(&held(b"/proc/1/root/proc/1/exe", libc::O_PATH | libc::O_NOFOLLOW)));
    }

    #[test]
    fn a_socket_may_have_any_path_of_the_container() {
        let socket = |name: &[u8], directory: &[u8]| File {
            socket: Some(Socket { name: name.into(), directory: directory.into() }),
            ..File::default()
        };
        let inside: &[(&[u8], &[u8])] =
            &[(b"", b""), (b"\0/proc/self/exe", b""), (b"/run/../tmp/./s", b""), (b"../s", b"/run/a"), (b"s", b"/")];
        for (name, directory) in inside {
            assert!(!refused(&socket(name, directory)), "{}", String::from_utf8_lossy(name));
        }
        let odd: &[(&[u8], &[u8])] = &[
            (b"/proc/1/cwd/s", b""),
            (b"/tmp/../proc/./1/fd//7/s", b""),
            (b"s", b"/proc/1/root"),
            (b"s", b"run"),
            (b"../proc/1/cwd/s", b"/run"),
            (b"/s", b"/proc/1/fd/7"),
        ];
        for (name, directory) in odd {
            assert!(refused(&socket(name, directory)), "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn nothing_is_made_or_emptied_by_opening_it() {
        for flag in [libc::O_CREAT, libc::O_TRUNC] {
            let flags = flag as u32 | libc::O_WRONLY as u32;
            let file = Regular { name: b"/etc/passwd".into(), flags, ..Regular::default() };
            assert!(refused(&File { regular: Some(file), ..File::default() }));
            assert!(refused(&File { terminal: Some(Terminal { flags }), ..File::default() }));
        }
        // An unnamed file, which is a ghost.
        let file = Regular { name: b"/tmp".into(), flags: libc::O_TMPFILE as u32, ..Regular::default() };
        assert!(!refused(&File { regular: Some(file), ..File::default() }));
    }

    #[test]
    fn a_watch_has_a_path_or_is_of_a_file_of_the_images() {
        let watch = |path: &[u8], inode| {
            let watch = Watch { inode, device: 5, handle: Some(Handle { path: path.into() }) };
            File { inotify: Some(image::Inotify { watches: vec![watch] }), ..File::default() }
        };
        assert!(!refused(&watch(b"/etc", 8)) && !refused(&watch(b"", 7)));
        assert!(refused(&watch(b"", 8)) && refused(&watch(b"/proc/1/root", 7)));
    }

    #[test]
    fn a_fanotify_group_is_one_that_the_container_could_make() {
        let group = |flags, kind, mark| {
            let mark = Mark { kind, flags: mark, ..Mark::default() };
            File { fanotify: Some(Fanotify { flags, marks: vec![mark] }), ..File::default() }
        };
        for (flags, kind, mark, is_refused) in [
            (0x200, 1, 0, false),
            (0, 1, 0, true),
            (0x204, 1, 0, true),
            (0x200, 2, 0, true),
            (0x200, 1, 0x100, true),
            (0x200, 1, 0x10, true),
        ] {
            assert_eq!(refused(&group(flags, kind, mark)), is_refused, "{flags:#x} {kind} {mark:#x}");
        }
    }
}
