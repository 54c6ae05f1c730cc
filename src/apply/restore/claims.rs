//! Reads what the images claim. They may come from anybody: each file is opened below the descriptor of their
//! directory, which has been checked, and is read up to a bound.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use windlass_base::capability::CapabilitySet;
use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_base::mount::MountAttributes;
use windlass_base::namespaces::Namespaces;
use windlass_base::protobuf::Message;
use windlass_base::spec::IdMapping;
use windlass_criu::image::{self, Core, Credentials, Extent, Ids, Inventory, Process, Seccomp, UserNamespace};
use windlass_plan::restore::{ClaimedMount, Claims, Thread};
use windlass_sys::fd;

/// How the images of mounts are called in messages.
const MOUNTS: &str = "mountpoints.img";
/// Most bytes of an image that is read. The pages of memory are not.
const LARGEST: usize = 16 << 20;
/// Bytes of an image whose first entry alone is read. A path is shorter.
const HEAD: usize = 8 << 10;
/// Most mount namespaces.
const MOUNT_NAMESPACES: usize = 256;
/// Most tasks.
const TASKS: usize = 1 << 16;
/// Flags by which mount(2) does something else than to make a mount of a new filesystem, which CRIU would do at a path
/// of the images: they are for the mount at that path, or for the source.
const NOT_NEW: u64 = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_MOVE;
const PROPAGATION: u64 = libc::MS_SHARED | libc::MS_PRIVATE | libc::MS_SLAVE | libc::MS_UNBINDABLE;
/// The options of procfs that name nothing of the host. Others are paths of a namespace.
const OF_PROC: [&str; 4] = ["", "hidepid", "gid", "subset"];
/// Most filters of all tasks together. Tasks with the same filters count once.
const FILTERS: usize = 1 << 20;

/// Reads what the images claim. `dir` has been checked.
pub(crate) fn read(dir: BorrowedFd<'_>) -> Result<Claims> {
    let inventory = one::<Inventory>(dir, image::Kind::Inventory, "inventory.img")?;
    let own = inventory.own.unwrap_or_default();
    let tree = all::<Process>(dir, image::Kind::Tree, "pstree.img")?;
    if tree.len() > TASKS {
        return Err(refuse("pstree.img", "has too many tasks"));
    }
    let filters = optional::<Seccomp>(dir, image::Kind::Seccomp, "seccomp.img")?.unwrap_or_default();
    let mut filters = Filters::new(filters.into_iter().flat_map(|entry| entry.filters));
    let mut claims = Claims { processes: tree.len(), ..Claims::default() };
    let mut init: Option<Ids> = None;
    // Init's mount namespace is the first.
    let mut mount_namespaces: Vec<u32> = Vec::new();
    check_ids(&tree)?;
    let mut tids = BTreeSet::new();
    for process in &tree {
        let Some(ids) = namespaces_of(dir, process.pid)? else { continue };
        claims.namespaces.push(kinds(&ids, &own));
        if !mount_namespaces.contains(&ids.mount) {
            if mount_namespaces.len() == MOUNT_NAMESPACES {
                return Err(refuse("pstree.img", "has too many mount namespaces"));
            }
            mount_namespaces.push(ids.mount);
        }
        // CRIU fills it with what the images say, by programs that it runs as root of the host.
        if init.get_or_insert_with(|| ids.clone()).net != ids.net {
            return Err(refuse("pstree.img", "has a process in another network namespace than init"));
        }
        if claims.threads.len() + process.threads.len() > TASKS {
            return Err(refuse("pstree.img", "has too many tasks"));
        }
        if !process.threads.contains(&u64::from(process.pid)) {
            return Err(refuse("pstree.img", "has a process without its first task"));
        }
        for tid in &process.threads {
            if !tids.insert(*tid) {
                return Err(refuse("pstree.img", "names a task twice"));
            }
            let name = format!("core-{tid}.img");
            let core = one::<Core>(dir, image::Kind::Core, &name)?;
            claims.threads.push(thread(*tid, core, &mut filters, &name)?);
        }
    }
    let init = init.ok_or_else(|| refuse("pstree.img", "has no process that runs"))?;
    for (at, namespace) in mount_namespaces.iter().enumerate() {
        let mounts = all::<image::Mount>(dir, image::Kind::Mounts, &format!("mountpoints-{namespace}.img"))?;
        for it in mounts {
            claims.mounts.push(ClaimedMount { namespace: at, ..mount(it)? });
        }
    }
    if init.user != own.user {
        let maps = one::<UserNamespace>(dir, image::Kind::UserNamespace, &format!("userns-{}.img", init.user))?;
        claims.maps = Some([mappings(maps.uids), mappings(maps.gids)]);
    }
    Ok(claims)
}

pub(crate) fn refuse(name: &str, why: &str) -> Error {
    Error::new(Kind::InvalidConfig, format!("the images are refused: {name} {why}"))
}

/// The content of an image, or `None` if it does not exist.
pub(crate) fn content(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    bounded(dir, name, LARGEST)
}

/// The content of an image of at most `limit` bytes. Even of images that are trusted, only a file is opened: to open a
/// device may be enough to start it.
pub(crate) fn bounded(dir: BorrowedFd<'_>, name: &str, limit: usize) -> Result<Option<Vec<u8>>> {
    let Some(file) = open(dir, name)? else { return Ok(None) };
    fd::read_all(file, limit).map(Some).with_context(|| format!("cannot read {name} in the images"))
}

/// The beginning of an image; empty if it does not exist.
pub(crate) fn head(dir: BorrowedFd<'_>, name: &str) -> Result<Vec<u8>> {
    let Some(file) = open(dir, name)? else { return Ok(Vec::new()) };
    fd::read_part(file.as_fd(), 0, HEAD).with_context(|| format!("cannot read {name} in the images"))
}

fn open(dir: BorrowedFd<'_>, name: &str) -> Result<Option<OwnedFd>> {
    match fd::stat_at(dir, name) {
        Err(failed) if failed.errno == Errno::ENOENT => return Ok(None),
        Ok(stat) if stat.st_mode & libc::S_IFMT != libc::S_IFREG => {
            return Err(refuse(name, "is not an ordinary file"));
        }
        other => other.with_context(|| format!("cannot look at {name} in the images"))?,
    };
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    match fd::openat(dir, name, flags, 0) {
        Err(failed) if failed.errno == Errno::ENOENT => Ok(None),
        other => other.with_context(|| format!("cannot open {name} in the images")).map(Some),
    }
}

pub(crate) fn optional<M: Message>(dir: BorrowedFd<'_>, kind: image::Kind, name: &str) -> Result<Option<Vec<M>>> {
    let Some(content) = content(dir, name)? else { return Ok(None) };
    image::entries(kind, &content).map(Some).ok_or_else(|| refuse(name, "is damaged"))
}

pub(crate) fn all<M: Message>(dir: BorrowedFd<'_>, kind: image::Kind, name: &str) -> Result<Vec<M>> {
    optional(dir, kind, name)?.ok_or_else(|| refuse(name, "is missing"))
}

fn one<M: Message>(dir: BorrowedFd<'_>, kind: image::Kind, name: &str) -> Result<M> {
    let mut entries = all(dir, kind, name)?;
    match (entries.pop(), entries.is_empty()) {
        (Some(entry), true) => Ok(entry),
        _ => Err(refuse(name, "has not one entry")),
    }
}

/// The namespaces of a process that are not CRIU's own.
fn kinds(ids: &Ids, own: &Ids) -> Namespaces {
    let pairs = [
        (ids.pid, own.pid, Namespaces::PID),
        (ids.net, own.net, Namespaces::NET),
        (ids.ipc, own.ipc, Namespaces::IPC),
        (ids.uts, own.uts, Namespaces::UTS),
        (ids.mount, own.mount, Namespaces::MOUNT),
        (ids.user, own.user, Namespaces::USER),
        (ids.cgroup, own.cgroup, Namespaces::CGROUP),
        (ids.time, own.time, Namespaces::TIME),
    ];
    pairs.into_iter().filter(|(theirs, own, _)| theirs != own).map(|(_, _, kind)| kind).collect()
}

/// All filters of the images, and the list of each task's filters once it was built.
struct Filters {
    programs: Vec<Rc<[u8]>>,
    before: Vec<Option<usize>>,
    /// Lists of filters that were built, by their last filter.
    known: BTreeMap<usize, Rc<Vec<Rc<[u8]>>>>,
    /// How many more filters `known` may hold.
    room: usize,
}

impl Filters {
    fn new(filters: impl Iterator<Item = image::Filter>) -> Filters {
        let before = |filter: &image::Filter| filter.before.and_then(|before| usize::try_from(before).ok());
        let (before, programs) = filters.map(|filter| (before(&filter), filter.program.into())).unzip();
        Filters { programs, before, known: BTreeMap::new(), room: FILTERS }
    }

    /// The filters of the tasks whose last filter this is.
    fn of(&mut self, last: usize) -> Result<Rc<Vec<Rc<[u8]>>>> {
        if let Some(known) = self.known.get(&last) {
            return Ok(Rc::clone(known));
        }
        let mut chain = Vec::new();
        let mut at = Some(last);
        while let Some(next) = at {
            let Some(program) = self.programs.get(next) else {
                return Err(refuse("seccomp.img", "has not the filters of all tasks"));
            };
            // A filter that precedes itself would make the list endless.
            self.room = self.room.checked_sub(1).ok_or_else(|| refuse("seccomp.img", "has too many filters"))?;
            chain.push(Rc::clone(program));
            at = self.before[next];
        }
        Ok(Rc::clone(self.known.entry(last).or_insert(Rc::new(chain))))
    }
}

fn thread(tid: u64, core: Core, filters: &mut Filters, name: &str) -> Result<Thread> {
    let thread = core.thread.unwrap_or_default();
    let Some(credentials) = thread.credentials else { return Err(refuse(name, "has no credentials")) };
    let Credentials { inheritable, permitted, effective, bounding, ambient, .. } = &credentials;
    let sets = [inheritable, permitted, effective, bounding, ambient];
    let capabilities = sets.iter().fold(0, |all, set| all | image::capabilities(set));
    let filtered = thread.seccomp_mode == 2;
    let filters = if filtered { filters.of(thread.seccomp_filter as usize)? } else { Rc::default() };
    Ok(Thread {
        filtered,
        tid: u32::try_from(tid).map_err(|_| refuse(name, "is of no task"))?,
        uids: [credentials.uid, credentials.euid, credentials.suid, credentials.fsuid],
        gids: [credentials.gid, credentials.egid, credentials.sgid, credentials.fsgid],
        capabilities: CapabilitySet::from_bits_retain(capabilities),
        no_new_privileges: credentials.no_new_privileges != 0,
        filters,
    })
}

/// Refuses processes that are named twice, and ids for which CRIU would raise the limit of the host.
fn check_ids(tree: &[Process]) -> Result<()> {
    let highest = highest_pid()?;
    let mut pids = BTreeSet::new();
    for process in tree {
        if !pids.insert(process.pid) {
            return Err(refuse("pstree.img", "names a process twice"));
        }
        if let Some(id) = [process.pid, process.group, process.session].into_iter().find(|id| *id > highest) {
            let why = format!("has the id {id}, and this host's kernel.pid_max is {highest}");
            return Err(refuse("pstree.img", &why));
        }
    }
    Ok(())
}

/// The namespaces of a process, or `None` if it has ended.
fn namespaces_of(dir: BorrowedFd<'_>, pid: u32) -> Result<Option<Ids>> {
    let core = one::<Core>(dir, image::Kind::Core, &format!("core-{pid}.img"))?;
    let name = format!("ids-{pid}.img");
    match core.task.as_ref().is_some_and(image::Task::has_ended) {
        // CRIU makes the namespaces of every process that has such an image.
        true if content(dir, &name)?.is_some() => Err(refuse(&name, "is of a process that has ended")),
        true => Ok(None),
        false => one::<Ids>(dir, image::Kind::Ids, &name).map(Some),
    }
}

/// The highest process id, process group and session of this host.
fn highest_pid() -> Result<u32> {
    let text = fd::read_small(fd::CWD, "/proc/sys/kernel/pid_max").with_context(|| "cannot read kernel.pid_max")?;
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| Error::new(Kind::Kernel, "kernel.pid_max is not a number"))
}

fn mount(mount: image::Mount) -> Result<ClaimedMount> {
    let (own, both) = (u64::from(mount.flags) & NOT_NEW, NOT_NEW | PROPAGATION);
    if mount.filesystem_flags.map_or(own, |flags| flags as u64 & both) != 0 {
        return Err(refuse(MOUNTS, &format!("has flags for {} that do not make a mount", mount.place())));
    }
    if mount.deleted {
        return Err(refuse(MOUNTS, &format!("has a source that was removed for {}", mount.place())));
    }
    let mut keys = mount.options.split(',').map(|option| option.split('=').next().unwrap_or_default());
    if mount.kind() == "proc" && keys.any(|key| !OF_PROC.contains(&key)) {
        return Err(refuse(MOUNTS, &format!("has the options {:?} for {}", mount.options, mount.place())));
    }
    Ok(ClaimedMount {
        id: mount.id,
        point: mount.place().to_owned(),
        kind: mount.kind().to_owned(),
        device: mount.device,
        flags: MountAttributes::from_bits_retain(mount.flags.into()),
        external: mount.is_external().then(|| mount.external_name.clone()),
        plugin: mount.plugin,
        root: mount.root,
        options: mount.options,
        namespace: 0,
    })
}

fn mappings(extents: Vec<Extent>) -> Vec<IdMapping> {
    let mapping = |it: Extent| IdMapping { container_id: it.inside, host_id: it.outside, size: it.count };
    extents.into_iter().map(mapping).collect()
}
