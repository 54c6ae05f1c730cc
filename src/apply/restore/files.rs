//! The files that images name. CRIU opens, makes and removes them as root, by paths, before the processes have their
//! own credentials.
//!
//! The processes of CRIU are in the container's root, so an ordinary path stays there. But they still have descriptors
//! of the host, to which the links of procfs lead. Files without a name are made, and removed again, by paths below the
//! mounts as CRIU sees them, which are in the host's root.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::fcntl::OFlag;

use windlass_base::capability::CapabilitySet;
use windlass_base::error::{Error, Result, WithContext};
use windlass_base::mount::MountAttributes;
use windlass_base::namespaces::Namespaces;
use windlass_criu::image::{self, Area, Fanotify, File, Ghost, Handle, Kind, Memory, Regular, Remap, Socket};
use windlass_plan::Plan;
use windlass_plan::restore::{ClaimedMount, Claims, bounding, may_mount};
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
    /// Whether they may mark packets.
    marks: bool,
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

/// Paths that CRIU follows as root once the mounts are ready.
#[derive(Default)]
pub(crate) struct Paths {
    /// Those of files without a name.
    nameless: Vec<Nameless>,
    /// Those of unix sockets, each with the number of its mount namespace.
    sockets: Vec<(usize, Vec<u8>)>,
    /// All mounts, if there are sockets.
    mounts: Vec<ClaimedMount>,
}

/// Most links that the kernel follows on a path.
const LINKS_FOLLOWED: usize = 40;

/// Refuses files that are not in the container. `keys` name the descriptors that CRIU gets. Returns the paths that are
/// to be looked at once the mounts are ready.
pub(crate) fn check(dir: BorrowedFd<'_>, plan: &Plan, claims: &Claims, keys: &[String; 3]) -> Result<Paths> {
    let files: Vec<File> = all(dir, Kind::Files, NAME)?;
    let mut regular: BTreeMap<u32, &Regular> = BTreeMap::new();
    if files.iter().filter_map(|file| file.regular.as_ref()).any(|it| regular.insert(it.id, it).is_some()) {
        return Err(refuse(NAME, "has a file twice"));
    }
    let powerful = may_mount(plan) && !plan.topology.user_namespace();
    let marks = bounding(plan).intersects(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
    let mut known = Known { powerful, marks, claims, keys, ghosts: BTreeSet::new() };
    let mut paths = Paths::default();
    for remap in optional::<Remap>(dir, Kind::Remaps, REMAPS)?.unwrap_or_default() {
        paths.nameless.extend(known.remap(dir, &remap, &regular)?);
    }
    for file in &files {
        known.file(file)?;
        paths.sockets.extend(file.socket.as_ref().filter(|socket| named(&socket.name)).map(|socket| {
            let id = socket.mount.map(|id| signed(id as u32));
            let mount = claims.mounts.iter().find(|mount| id == Some(mount.id));
            (mount.map_or(0, |mount| mount.namespace), path_of(socket))
        }));
    }
    if !paths.sockets.is_empty() {
        paths.mounts.clone_from(&claims.mounts);
    }
    for name in directory::names(dir).with_context(|| "cannot list the images")? {
        let name = name.to_string_lossy();
        if name.starts_with("mm-") && name.ends_with(".img") {
            let memory: Vec<Memory> = all(dir, Kind::Memory, &name)?;
            let areas = || memory.iter().flat_map(|memory| &memory.areas);
            if areas().any(|area| area.flags & CHANGING != 0) {
                return Err(changes(&name));
            }
            // CRIU attaches it as root, by an id of the host's.
            let has_own = plan.topology.all().contains(Namespaces::IPC);
            if !has_own && areas().any(|area| area.status & Area::SHARED_MEMORY != 0) {
                return Err(refuse(&name, "has shared memory of the host"));
            }
        }
        // CRIU loads both into the host's kernel.
        if ["apparmor.img", "binfmt-misc.img"].contains(&&*name) {
            return Err(refuse(&name, "is for the kernel of the host"));
        }
        // CRIU sends what is in it to the kernel, for the network namespace.
        let is_netfilter = name.starts_with("netns-ct-") || name.starts_with("netns-exp-");
        if is_netfilter && plan.topology.joins(Namespaces::NET) && !head(dir, &name)?.is_empty() {
            return Err(refuse(&name, "is for a network namespace that the container joins"));
        }
    }
    Ok(paths)
}

/// Refuses files without a name whose path leads through a link, and sockets whose path leads into procfs. The mounts
/// are ready below a directory of CRIU in the host's root, each under its id, and nothing else is restored. `init` is
/// the process that has made them.
pub(crate) fn stay_below(paths: &Paths, init: BorrowedFd<'_>) -> Result<()> {
    if paths.nameless.is_empty() && paths.sockets.is_empty() {
        return Ok(());
    }
    let (root, mounts) = mounts::look(init)?;
    let find = |id: u32| mounts.iter().rfind(|it| it.point.ends_with(&format!("/mnt-{id:010}")));
    let open = |id: u32, path: &[u8], flags: OFlag| {
        let path = Path::new(OsStr::from_bytes(path));
        let context =
            || format!("the images are refused: a file without a name at {path:?}, or a socket, is not followed");
        let Some(found) = find(id) else {
            return Err(refuse(REMAPS, "has a file without a name, which cannot be followed in this mode of CRIU"));
        };
        let at = fd::openat(root.as_fd(), found.point.trim_start_matches('/'), OFlag::O_PATH, 0);
        let at = at.with_context(context)?;
        fd::openat2_if_exists(at.as_fd(), path, OFlag::O_PATH | flags, NO_LINKS).with_context(context)
    };
    for Nameless { mount, path } in &paths.nameless {
        open(*mount, path, OFlag::empty())?;
    }
    let followed = paths.mounts.iter().any(|mount| find(mount.id).is_some());
    for (namespace, path) in paths.sockets.iter().filter(|_| followed) {
        let mounts = paths.mounts.iter().filter(|mount| mount.namespace == *namespace).collect::<Vec<_>>();
        let link = |mount: &ClaimedMount, path: &[u8]| match open(mount.id, path, OFlag::O_NOFOLLOW)? {
            Some(file) if fd::stat(file.as_fd()).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFLNK) => {
                let link = fd::readlinkat(file.as_fd(), "").with_context(|| "cannot read a link")?;
                Ok(Some(link.into_vec()))
            }
            _ => Ok(None),
        };
        if enters_procfs(&mounts, path, &link)? {
            return Err(odd(NAME, path));
        }
    }
    Ok(())
}

/// Reads a link by its mount and its path below that; `None` for another file.
type ReadLink<'a> = &'a dyn Fn(&ClaimedMount, &[u8]) -> Result<Option<Vec<u8>>>;

/// Whether a path leads into procfs, from where it may go on to a descriptor of CRIU.
fn enters_procfs(mounts: &[&ClaimedMount], path: &[u8], link: ReadLink<'_>) -> Result<bool> {
    let reversed = |path: &[u8]| path.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (mut at, mut left, mut followed) = (Vec::new(), reversed(path), 0);
    while let Some(name) = left.pop() {
        let length = at.len();
        match &name[..] {
            b"" | b"." => continue,
            b".." => {
                up(&mut at);
                continue;
            }
            _ => at.extend([b"/", &name[..]].concat()),
        }
        let on = mounts.iter().filter_map(|mount| Some((*mount, below(mount, &at)?)));
        let Some((mount, rest)) = on.max_by_key(|(mount, _)| mount.point.len()) else { continue };
        // Of several mounts on one point, it is not known which hides the others.
        if mount.kind == "proc" || mounts.iter().filter(|other| other.point == mount.point).count() > 1 {
            return Ok(true);
        }
        let target = if rest.is_empty() { None } else { link(mount, &rest)? };
        if let Some(target) = target {
            followed += 1;
            if followed > LINKS_FOLLOWED {
                return Ok(true);
            }
            at.truncate(if target.starts_with(b"/") { 0 } else { length });
            left.extend(reversed(&target));
        }
    }
    Ok(false)
}

/// The path below a mount; empty for its mount point, `None` elsewhere.
fn below(mount: &ClaimedMount, path: &[u8]) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(mount.point.trim_end_matches('/').as_bytes())?;
    if rest.is_empty() { Some(Vec::new()) } else { rest.strip_prefix(b"/").map(<[u8]>::to_vec) }
}

/// Removes the last name of a path.
fn up(path: &mut Vec<u8>) {
    path.truncate(path.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
}

/// Decodes a number that has its sign in the last bit.
fn signed(number: u32) -> u32 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// The path of a socket, absolute in the container.
fn path_of(socket: &Socket) -> Vec<u8> {
    match socket.name.starts_with(b"/") {
        true => socket.name.clone(),
        false => [socket.directory.as_slice(), socket.name.as_slice()].join(&b'/'),
    }
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
        if let Some(socket) = file.socket.as_ref().filter(|socket| named(&socket.name)) {
            let path = path_of(socket);
            if self.leads_away(&path) || !socket.directory.is_empty() && !self.is_inside(&socket.directory) {
                return Err(odd(NAME, &path));
            }
        }
        let options = file.internet.iter().flat_map(|internet| &internet.options);
        if !self.marks && options.into_iter().any(|options| options.mark != 0) {
            return Err(refuse(NAME, "has a socket with a mark (SO_MARK), which takes CAP_NET_ADMIN"));
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
        let id = signed(file.mount);
        let below = |mount: &ClaimedMount| below(mount, path).filter(|_| path != mount.point.as_bytes());
        let mounts = &self.claims.mounts;
        let mut of = mounts.iter().filter(|mount| mount.id == id);
        let (Some(mount), None) = (of.next(), of.next()) else {
            return Err(refuse(REMAPS, "is not of a file on one mount"));
        };
        let hidden = |other: &ClaimedMount| {
            other.namespace == mount.namespace && other.point.len() > mount.point.len() && below(other).is_some()
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
                b".." => up(&mut at),
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
        Known { powerful: false, marks: false, claims: &claims, keys: &keys, ghosts: [(5, 7)].into() }
            .file(file)
            .is_err()
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
            socket: Some(Socket { name: name.into(), directory: directory.into(), mount: None }),
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
    fn a_link_that_leads_into_procfs_is_found_wherever_it_is() {
        let mount = |point: &str, kind: &str| ClaimedMount {
            point: point.into(),
            kind: kind.into(),
            ..ClaimedMount::default()
        };
        let mounts = [mount("/", "ext4"), mount("/proc", "proc"), mount("/run", "tmpfs"), mount("/two", "tmpfs")];
        let twice = mount("/two", "ext4");
        let mounts: Vec<&ClaimedMount> = mounts.iter().chain([&twice]).collect();
        let link = |mount: &ClaimedMount, path: &[u8]| {
            let links = [
                ("/", "away", "/proc/self/fd"),
                ("/", "var/run", "../run"),
                ("/run", "fd", "inner/../../proc/self"),
                ("/run", "again", "/away/1"),
                ("/", "loop", "loop"),
            ];
            let found = links.iter().find(|(point, at, _)| mount.point == *point && at.as_bytes() == path);
            Ok(found.map(|(_, _, target)| target.as_bytes().to_vec()))
        };
        let enters = |path: &str| enters_procfs(&mounts, path.as_bytes(), &link).expect("links");
        for path in ["/", "/run/s", "/var/run/s", "/away/../../run/../etc/s", "/procfs/s", "s", "/var/run/inner/s"] {
            assert_eq!(enters(path), path.starts_with("/away"), "{path}");
        }
        for path in
            ["/proc/s", "/away/s", "/run/fd/s", "/var/run/again/s", "/run/../var/./run//fd/s", "/loop", "/two/s"]
        {
            assert!(enters(path), "{path}");
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
