//! The images of CRIU, as far as their claims are compared with the configuration.
//!
//! An image begins with two numbers of 32 bits: one that all images have, and one for its kind. Entries follow, each
//! with its length before it. Images are not trusted: every length is checked, and sizes are bounded by the caller.

use windlass_base::protobuf::{Malformed, Message, message};

/// The number that all images begin with.
const COMMON: u32 = 0x5456_4319;

/// The kinds of images that are read here, by the magic number of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `inventory.img`.
    Inventory = 0x5831_3116,
    /// `pstree.img`.
    Tree = 0x5027_3030,
    /// `core-PID.img`.
    Core = 0x5505_3847,
    /// `mountpoints-N.img`.
    Mounts = 0x5556_3928,
    /// `userns-N.img`.
    UserNamespace = 0x5547_4906,
    /// `seccomp.img`.
    Seccomp = 0x6441_3049,
    /// `ids-PID.img`.
    Ids = 0x5443_2030,
    /// `pagemap-N.img`.
    PageMap = 0x5608_4025,
    /// `cgroup.img`.
    Cgroups = 0x5938_3330,
    /// `files.img`.
    Files = 0x5630_3138,
    /// `remap-fpath.img`.
    Remaps = 0x5913_3954,
    /// `ghost-file-N.img`, whose content follows its only entry.
    Ghost = 0x5258_3605,
    /// `mm-PID.img`.
    Memory = 0x5749_2820,
}

/// A message that is not decoded yet. Directories contain directories: a hostile image nests them deeper than the
/// stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Undecoded(pub Vec<u8>);

impl Message for Undecoded {
    fn merge(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

message! {
    /// `cgroup_entry`.
    Cgroups {
        /// The cgroups that processes are in.
        1 sets: Vec<CgroupSet>,
        /// The directories of each hierarchy.
        2 controllers: Vec<Controller>,
    }
    /// `cg_set_entry`.
    CgroupSet {
        /// One member for each hierarchy.
        2 members: Vec<Member>,
    }
    /// `cg_member_entry`.
    Member {
        /// The controllers of its hierarchy; empty for version 2.
        1 controllers: String,
        /// The path of the cgroup.
        2 path: String,
        /// How many bytes of the path are the root of its cgroup namespace.
        3 root: u32,
    }
    /// `cg_controller_entry`.
    Controller {
        /// The controllers of its hierarchy; for version 2 one without a name.
        1 controllers: Vec<String>,
        /// The directories to be made.
        2 directories: Vec<Directory>,
    }
    /// `cgroup_dir_entry`.
    Directory {
        /// Its name; for a first directory its path.
        1 name: String,
        /// The directories in it, of the same type.
        2 inner: Vec<Undecoded>,
        /// The files in it that are to be written.
        3 properties: Vec<Property>,
        /// Its owner, group and mode.
        4 permissions: Option<Permissions>,
    }
    /// `cgroup_prop_entry`.
    Property {
        /// The name of the file.
        1 name: String,
        /// Its owner, group and mode.
        3 permissions: Option<Permissions>,
    }
    /// `cgroup_perms`, as the host has them.
    Permissions {
        /// The mode, with the type of the file.
        1 mode: u32,
        /// The owner.
        2 uid: u32,
        /// The group.
        3 gid: u32,
    }
    /// `pagemap_head`, which comes first, and `pagemap_entry`.
    PageMap {
        /// The number of the file with the pages; in an entry the address.
        1 pages: u64,
        /// How many pages.
        2 count: u32,
        /// Whether the pages are in the images of the parent dump. Only old versions write this field.
        3 in_parent: bool,
        /// 1: the pages are in the images of the parent dump; 2: they can be fetched later; 4: they are in the file.
        4 flags: u32,
        /// How many pages, since version 4.1.
        5 long_count: u64,
    }
    /// `file_entry`, of which only one part counts.
    File {
        /// A file with a path.
        3 regular: Option<Regular>,
        /// A socket of IPv4 or IPv6.
        4 internet: Option<Internet>,
        /// An inotify instance.
        13 inotify: Option<Inotify>,
        /// A fanotify group.
        14 fanotify: Option<Fanotify>,
        /// A unix socket.
        16 socket: Option<Socket>,
        /// A terminal. Its path is that of a file.
        19 terminal: Option<Terminal>,
    }
    /// `reg_file_entry`.
    Regular {
        /// Its number, by which other images name it.
        1 id: u32,
        /// The flags by which CRIU opens it.
        2 flags: u32,
        /// Its path, or the key of a descriptor.
        6 name: Vec<u8>,
        /// The id of its mount, encoded with its sign in the last bit.
        7 mount: u32,
    }
    /// `inet_sk_entry`.
    Internet {
        /// Its options.
        14 options: Option<SocketOptions>,
    }
    /// `sk_opts_entry`.
    SocketOptions {
        /// The mark of its packets.
        10 mark: u32,
    }
    /// `tty_file_entry`.
    Terminal {
        /// The flags by which CRIU opens it.
        3 flags: u32,
    }
    /// `unix_sk_entry`.
    Socket {
        /// The path that it is bound to; abstract with a NUL first.
        11 name: Vec<u8>,
        /// The directory of a relative path.
        14 directory: Vec<u8>,
        /// The id of its mount, encoded with its sign in the last bit.
        17 mount: Option<i32>,
    }
    /// `inotify_file_entry`.
    Inotify {
        /// Its watches.
        5 watches: Vec<Watch>,
    }
    /// `inotify_wd_entry`.
    Watch {
        /// The inode.
        2 inode: u64,
        /// The device of its filesystem.
        5 device: u32,
        /// The file.
        7 handle: Option<Handle>,
    }
    /// `fh_entry`. Without a path, CRIU opens the file by its handle.
    Handle {
        /// The path.
        4 path: Vec<u8>,
    }
    /// `fanotify_file_entry`.
    Fanotify {
        /// The flags of fanotify_init(2).
        4 flags: u32,
        /// Its marks.
        6 marks: Vec<Mark>,
    }
    /// `fanotify_mark_entry`.
    Mark {
        /// 1 for an inode, 2 for a mount.
        2 kind: i32,
        /// The flags of fanotify_mark(2).
        3 flags: u32,
        /// The device of the filesystem.
        6 device: u32,
        /// The inode.
        7 inode: Option<MarkedInode>,
    }
    /// `fanotify_inode_mark_entry`.
    MarkedInode {
        /// The inode.
        1 inode: u64,
        /// The file.
        2 handle: Option<Handle>,
    }
    /// `remap_file_path_entry`: a file that has no name any more.
    Remap {
        /// The file.
        1 from: u32,
        /// The file that has its content, or the number of its ghost.
        2 to: u32,
        /// 0 for a link, 1 for a ghost, 2 for a process.
        3 kind: Option<i32>,
    }
    /// `ghost_file_entry`.
    Ghost {
        /// Its mode, with the type of the file.
        3 mode: u32,
        /// The device that it was on.
        4 device: u32,
        /// The inode that it had.
        5 inode: u64,
    }
    /// `mm_entry`.
    Memory {
        /// The mappings.
        14 areas: Vec<Area>,
    }
    /// `vma_entry`.
    Area {
        /// What it is: [`Area::SHARED_MEMORY`].
        7 status: u32,
        /// The flags by which CRIU opens the mapped file.
        10 flags: u32,
    }
    /// `inventory_entry`.
    Inventory {
        /// The version of the format.
        1 version: i32,
        /// The namespaces of CRIU itself.
        3 own: Option<Ids>,
        /// The security module: 1 for SELinux, 2 for AppArmor.
        6 lsm: i32,
    }
    /// `pstree_entry`.
    Process {
        /// Its process id in the container.
        1 pid: u32,
        /// Its parent's process id.
        2 parent: u32,
        /// Its process group.
        3 group: u32,
        /// Its session.
        4 session: u32,
        /// Its threads, including itself.
        5 threads: Vec<u64>,
    }
    /// `core_entry`, of a thread.
    Core {
        /// The part that all threads of a process share.
        3 task: Option<Task>,
        /// Its namespaces.
        4 ids: Option<Ids>,
        /// The part of the thread alone.
        5 thread: Option<Thread>,
    }
    /// `task_core_entry`.
    Task {
        /// Whether it has ended: [`Task::has_ended`].
        1 state: u32,
        /// Its seccomp mode, in images of old versions.
        11 old_seccomp_mode: i32,
    }
    /// `task_kobj_ids_entry`: which namespaces a process is in, by numbers of the images.
    Ids {
        5 pid: u32,
        6 net: u32,
        7 ipc: u32,
        8 uts: u32,
        9 mount: u32,
        10 user: u32,
        11 cgroup: u32,
        12 time: u32,
    }
    /// `thread_core_entry`.
    Thread {
        /// Its ids, capabilities and label.
        10 credentials: Option<Credentials>,
        /// 2 with a filter.
        11 seccomp_mode: i32,
        /// The last of its filters.
        12 seccomp_filter: u32,
    }
    /// `creds_entry`. Sets of capabilities are two numbers of 32 bits.
    Credentials {
        /// User id.
        1 uid: u32,
        /// Group id.
        2 gid: u32,
        /// Effective user id.
        3 euid: u32,
        /// Effective group id.
        4 egid: u32,
        /// Saved user id.
        5 suid: u32,
        /// Saved group id.
        6 sgid: u32,
        /// User id for files.
        7 fsuid: u32,
        /// Group id for files.
        8 fsgid: u32,
        /// Inheritable set.
        9 inheritable: Vec<u64>,
        /// Permitted set.
        10 permitted: Vec<u64>,
        /// Effective set.
        11 effective: Vec<u64>,
        /// Bounding set.
        12 bounding: Vec<u64>,
        /// Label of the security module.
        15 lsm_profile: String,
        /// `no_new_privs`.
        18 no_new_privileges: u32,
        /// Ambient set.
        19 ambient: Vec<u64>,
    }
    /// `mnt_entry`.
    Mount {
        /// The type of its filesystem, see [`FILESYSTEMS`].
        1 filesystem: u32,
        /// Its id.
        2 id: u32,
        /// The device of its filesystem.
        3 device: u32,
        /// The id of the mount that it is on.
        4 parent: u32,
        /// Its flags.
        5 flags: u32,
        /// The path in the filesystem that is mounted.
        6 root: String,
        /// Its mount point, with a dot before the slash.
        7 point: String,
        /// Its source, such as a device.
        8 source: String,
        /// The options of the filesystem.
        9 options: String,
        /// Whether a plugin makes it.
        12 plugin: bool,
        /// Whether it is external, in images of old versions.
        13 external: bool,
        /// The type by its name, if it has no number.
        14 name: String,
        /// Whether the path in the filesystem does not exist any more, so that CRIU makes it.
        16 deleted: bool,
        /// The flags of mount(2) for the filesystem; old images have them in `flags`.
        17 filesystem_flags: Option<i32>,
        /// The name of an external mount.
        18 external_name: String,
    }
    /// `userns_entry`.
    UserNamespace {
        /// User ids.
        1 uids: Vec<Extent>,
        /// Group ids.
        2 gids: Vec<Extent>,
    }
    /// `uid_gid_extent`.
    Extent {
        /// The first id inside.
        1 inside: u32,
        /// The first id outside.
        2 outside: u32,
        /// The number of ids.
        3 count: u32,
    }
    /// `seccomp_entry`.
    Seccomp {
        /// All filters.
        1 filters: Vec<Filter>,
    }
    /// `seccomp_filter`.
    Filter {
        /// Instructions of BPF.
        1 program: Vec<u8>,
        /// The filter that was installed before it.
        2 before: Option<i32>,
        /// The flags of seccomp(2).
        3 flags: u32,
    }
}

/// The number of the types that have a name instead.
const BY_NAME: u32 = 16;

/// The types of filesystems that have a number, by that number.
pub const FILESYSTEMS: &[(u32, &str)] = &[
    (1, "proc"),
    (2, "sysfs"),
    (3, "devtmpfs"),
    (5, "tmpfs"),
    (6, "devpts"),
    (12, "cgroup"),
    (14, "mqueue"),
    (17, "overlay"),
    (23, "cgroup2"),
];

impl Area {
    /// The flag of [`Area::status`] for a segment of System V, which has an id in its IPC namespace.
    pub const SHARED_MEMORY: u32 = 1 << 10;
}

impl Task {
    /// Whether the process is a zombie or has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 2 | 6)
    }
}

impl Mount {
    /// The type of its filesystem as CRIU reads it; empty if it is not in [`FILESYSTEMS`]. Images have a name beside
    /// every number, but CRIU reads it only for [`BY_NAME`].
    pub fn kind(&self) -> &str {
        let numbered =
            || FILESYSTEMS.iter().find(|(number, _)| *number == self.filesystem).map_or("", |(_, name)| name);
        if self.filesystem == BY_NAME { &self.name } else { numbered() }
    }

    /// Its mount point, as an absolute path in the container.
    pub fn place(&self) -> &str {
        match self.point.strip_prefix('.').unwrap_or(&self.point) {
            "" => "/",
            place => place,
        }
    }

    /// Whether CRIU gets the mount from outside.
    pub fn is_external(&self) -> bool {
        self.external || !self.external_name.is_empty()
    }
}

/// A set of capabilities of [`Credentials`], as bits.
pub fn capabilities(words: &[u64]) -> u64 {
    words.iter().take(2).enumerate().fold(0, |set, (at, word)| set | (word & 0xffff_ffff) << (32 * at))
}

/// Most entries of an image: each takes more memory than bytes of it.
const ENTRIES: usize = 1 << 17;

/// The first entry of an image that begins so.
pub fn first<M: Message>(kind: Kind, image: &[u8]) -> Option<M> {
    let length = u32::from_le_bytes(*image.get(8..)?.first_chunk()?) as usize;
    entries(kind, image.get(..length.checked_add(12)?)?)?.pop()
}

/// The entries of an image. Returns `None` if it is no image of this kind, if an entry is cut off, or if there are too
/// many.
pub fn entries<M: Message>(kind: Kind, image: &[u8]) -> Option<Vec<M>> {
    let mut rest = image;
    let mut number = || -> Option<u32> {
        let (number, after) = rest.split_first_chunk()?;
        rest = after;
        Some(u32::from_le_bytes(*number))
    };
    if kind != Kind::Inventory || image.starts_with(&COMMON.to_le_bytes()) {
        (number()? == COMMON).then_some(())?;
    }
    (number()? == kind as u32).then_some(())?;
    let mut out = Vec::new();
    while !rest.is_empty() {
        (out.len() < ENTRIES).then_some(())?;
        let (length, after) = rest.split_first_chunk()?;
        let (entry, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        out.push(M::decode(entry).ok()?);
        rest = after;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(kind: Kind, entries: &[Vec<u8>]) -> Vec<u8> {
        let mut out = [COMMON.to_le_bytes(), (kind as u32).to_le_bytes()].concat();
        for entry in entries {
            out.extend((entry.len() as u32).to_le_bytes());
            out.extend(entry);
        }
        out
    }

    #[test]
    fn an_image_has_its_entries_and_nothing_is_read_beyond_it() {
        let one = Process { pid: 1, threads: vec![1, 9], ..Process::default() };
        let whole = image(Kind::Tree, &[one.encode(), one.encode()]);
        assert_eq!(entries(Kind::Tree, &whole), Some(vec![one.clone(), one.clone()]));
        assert_eq!(entries::<Process>(Kind::Core, &whole), None);
        let read = |length: usize| entries::<Process>(Kind::Tree, &whole[..length]);
        let ends = [8, 8 + 4 + one.encode().len(), whole.len()];
        for length in 0..=whole.len() {
            assert_eq!(read(length).is_some(), ends.contains(&length), "{length}");
        }
        let mut long = whole;
        long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(entries::<Process>(Kind::Tree, &long), None);
    }

    #[test]
    fn mounts_and_capabilities_are_told_as_the_configuration_tells_them() {
        let mount = Mount { filesystem: 5, point: "./dev".into(), ..Mount::default() };
        assert_eq!((mount.kind(), mount.place(), mount.is_external()), ("tmpfs", "/dev", false));
        let root = Mount { filesystem: 16, point: "./".into(), name: "erofs".into(), ..Mount::default() };
        assert_eq!((root.kind(), root.place()), ("erofs", "/"));
        // 4 is binfmt_misc, whatever it is called.
        let other = Mount { filesystem: 4, name: "tmpfs".into(), ..Mount::default() };
        assert_eq!(other.kind(), "");
        assert_eq!(capabilities(&[0xffff_ffff, 0x1ff]), 0x1ff_ffff_ffff);
        assert_eq!(capabilities(&[1]), 1);
        assert_eq!(capabilities(&[1, 1, 1]), 1 | 1 << 32);
    }
}
