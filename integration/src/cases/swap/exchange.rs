//! The exchanges: which entry is replaced, by what, and at which lookups.

use crate::kit::canary::{self, Canary};
use crate::kit::follow::Lookup;
use crate::kit::race::exchange;
use crate::kit::{T, Verdict};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An entry of the root file system or of a volume, below the bundle's directory.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The path.
    pub path: &'static str,
    /// Other names by which a lookup may reach it.
    pub aliases: &'static [&'static str],
    /// Whether the entry is (part of) the source of a bind mount. Links in a source are followed, so their targets may
    /// be opened and mounted, but nothing more.
    pub is_source: bool,
}

const fn target(path: &'static str) -> Target {
    Target { path, aliases: &[], is_source: false }
}

const fn source(path: &'static str) -> Target {
    Target { path, aliases: &[], is_source: true }
}

/// A directory of the image with entries of all names, which the container mounts over others.
pub const COVER: &str = "/cover";

/// A file of the image that the container mounts over others.
const COVER_FILE: &str = "/etc/group";

/// A copy of busybox over which nothing is mounted.
pub const BUSYBOX: &str = "/busybox";

/// All targets. Some do not exist until the runtime makes them.
pub const TARGETS: &[Target] = &[
    Target { path: "rootfs/race", aliases: &["link"], is_source: false },
    target("rootfs/link"),
    target("rootfs/race/dir"),
    target("rootfs/race/dir/new"),
    target("rootfs/race/file"),
    target("rootfs/race/through"),
    target("rootfs/copied"),
    target("rootfs/copied/sub"),
    target("rootfs/copied/plain"),
    target("rootfs/devices"),
    target("rootfs/devices/under"),
    target("rootfs/devices/under/node"),
    target("rootfs/dev"),
    target("rootfs/dev/null"),
    target("rootfs/dev/extra"),
    target("rootfs/dev/pts"),
    target("rootfs/dev/ptmx"),
    target("rootfs/dev/fd"),
    target("rootfs/proc"),
    target("rootfs/sys"),
    target("rootfs/etc"),
    target("rootfs/etc/passwd"),
    target("rootfs/etc/masked"),
    target("rootfs/etc/readonly"),
    target("rootfs/cwd"),
    target("rootfs/cwd/here"),
    target("rootfs/bin"),
    target("rootfs/bin/sleep"),
    target("rootfs/bin/busybox"),
    target("rootfs/volume"),
    target("rootfs/taken"),
    target("volume/dir"),
    target("volume/dir/secret"),
    target("volume/dir/hidden"),
    target("volume/dir/kept"),
    target("volume/a"),
    target("volume/a/b"),
    source("volume/src"),
    source("volume/src/sub"),
];

/// The names that a canary needs, so that a lookup that was led there continues.
pub fn names() -> Vec<&'static str> {
    let last = |target: &Target| target.path.rsplit('/').next().unwrap_or_default();
    let mut names: Vec<_> = TARGETS.iter().map(last).chain(["new", "deep", "null", "zero", "shm"]).collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl Target {
    /// Whether a lookup may pass this entry: one of its components has its name, or leads upwards.
    pub fn is_on(&self, lookup: &Lookup, bundle: &Path) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let named = |part: &str| part == name || part == ".." || self.aliases.contains(&part);
        // Absolute paths that the runtime looks up are the host's, except those of the bundle.
        let of_the_host =
            |path: &str| lookup.process == 0 && path.starts_with('/') && !Path::new(path).starts_with(bundle);
        lookup.paths.iter().any(|path| !of_the_host(path) && path.split('/').any(named))
    }
}

/// The replacement of an entry.
#[derive(Clone, Copy, Debug)]
pub enum Replacement {
    /// A link to a file of the canary.
    LinkToFile,
    /// A link to a directory of directories.
    LinkToDirectories,
    /// A link, by way of `..`, to a directory of files.
    LinkUpToFiles,
    /// A link to a descriptor of the process that follows it.
    LinkToDescriptor,
    /// A FIFO, which blocks a process that opens it without `O_NONBLOCK`.
    Fifo,
    /// An empty directory; the entry itself moves to another place of the same file system.
    MovedAway,
}

/// All of them.
pub const KINDS: [Replacement; 6] = [
    Replacement::LinkToFile,
    Replacement::LinkToDirectories,
    Replacement::LinkUpToFiles,
    Replacement::LinkToDescriptor,
    Replacement::Fifo,
    Replacement::MovedAway,
];

/// When the exchange is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Never. The run only lists the lookups.
    Never,
    /// Before the command begins.
    Always,
    /// The exchange begins at this lookup: the process, and the number of the lookup in it.
    From(usize, usize),
    /// During this lookup only.
    During(usize, usize),
    /// The entry changes at each lookup. It starts in place (1) or not in place (0).
    Flip(usize),
}

/// An exchange that can be made and undone.
pub struct Exchange {
    at: PathBuf,
    with: PathBuf,
    /// A process of the container in whose mount namespace the entry is mounted over instead.
    mounted_by: Option<Pid>,
    /// While the exchange is in place: whether the entry existed before.
    stands: Option<bool>,
    /// How often it was made.
    pub made: u32,
}

impl Exchange {
    /// Prepares it in a bundle's directory.
    pub fn new(t: &T, bundle: &Path, target: &Target, kind: Replacement, canary: &Canary) -> Verdict<Exchange> {
        let with = bundle.join("instead");
        let up = |name: &str| {
            let ups = Path::new("../../../../../../../../../../../..");
            ups.join(canary.dir.join(name).strip_prefix("/").unwrap_or(&canary.dir))
        };
        match kind {
            Replacement::LinkToFile => symlink(canary.dir.join(canary::FILE), &with)?,
            Replacement::LinkToDirectories => symlink(canary.dir.join(canary::DIRECTORIES), &with)?,
            Replacement::LinkUpToFiles => symlink(up(canary::FILES), &with)?,
            Replacement::LinkToDescriptor => symlink(format!("/proc/self/fd/{}", 3 + t.number() % 6), &with)?,
            Replacement::Fifo => nix::unistd::mkfifo(&with, Mode::from_bits_truncate(0o666))?,
            Replacement::MovedAway => fs::create_dir(&with)?,
        }
        Ok(Exchange { at: bundle.join(target.path), with, mounted_by: None, stands: None, made: 0 })
    }

    /// A mount over the entry, made by the container: [`COVER`], or a file.
    pub fn mount(target: &Target, container: Pid) -> Option<Exchange> {
        let at = Path::new("/").join(target.path.strip_prefix("rootfs/")?);
        Some(Exchange { at, with: PathBuf::new(), mounted_by: Some(container), stands: None, made: 0 })
    }

    /// Runs a script in the container, even if its programs are mounted over. Returns whether it succeeded.
    fn inside(&self, container: Pid, script: &str) -> bool {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &container.to_string(), "-m", BUSYBOX, "sh", "-c", script, "sh"])
            .arg(&self.at)
            .arg(BUSYBOX);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Makes it.
    pub fn there(&mut self) {
        if self.stands.is_some() {
            return;
        }
        if let Some(container) = self.mounted_by {
            let script = format!("$2 mount --bind {COVER} $1 2>/dev/null || $2 mount --bind {COVER_FILE} $1");
            self.stands = self.inside(container, &script).then_some(true);
        } else if exchange(&self.at, &self.with) {
            self.stands = Some(true);
        } else if !self.at.is_symlink() && !self.at.exists() && fs::rename(&self.with, &self.at).is_ok() {
            self.stands = Some(false);
        }
        self.made += u32::from(self.stands.is_some());
    }

    /// Undoes it.
    pub fn back(&mut self) {
        match self.stands.take() {
            Some(_) if self.mounted_by.is_some() => {
                let _ = self.mounted_by.map(|container| self.inside(container, "$2 umount -l $1"));
            }
            Some(true) => drop(exchange(&self.at, &self.with)),
            Some(false) => drop(fs::rename(&self.at, &self.with)),
            None => {}
        }
    }

    /// Undoes or makes it.
    pub fn flip(&mut self) {
        if self.stands.is_some() { self.back() } else { self.there() }
    }
}
