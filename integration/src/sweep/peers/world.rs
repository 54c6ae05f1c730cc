//! The preparations for all runs: sources of mounts, namespaces to join, the payload's program.

use crate::kit::stop::{Context, Verdict};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directories of the sweep. One bundle serves all runtimes in turn, so that its path makes no difference.
pub struct World {
    /// The directory of all the others.
    pub dir: PathBuf,
    /// The bundle, made anew for each run.
    pub bundle: PathBuf,
    /// Sources of mounts, and the namespaces that are joined (`ns`).
    pub sources: PathBuf,
    /// Whether the payload's program needs libraries of the host.
    dynamic: bool,
}

impl World {
    /// Makes the directories in `dir`, on a tmpfs. `dir` must not exist.
    pub fn new(dir: &Path) -> Verdict<World> {
        let (bundle, sources) = (dir.join("bundle"), dir.join("sources"));
        fs::create_dir_all(&sources).context(sources.display())?;
        fs::create_dir_all(dir.join("out")).context("out")?;
        let program = dir.join("helper");
        fs::copy("/proc/self/exe", &program).context("a copy of this program")?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        make_sources(&sources)?;
        make_namespaces(&sources.join("ns"))?;
        let dynamic = is_dynamic(&fs::read(&program)?);
        Ok(World { dir: dir.to_owned(), bundle, sources, dynamic })
    }

    /// The mounts without which the payload cannot run.
    pub fn libraries(&self) -> Vec<&'static str> {
        let all = ["/lib", "/lib64", "/usr/lib"];
        all.into_iter().filter(|library| self.dynamic && Path::new(library).exists()).collect()
    }

    /// Makes the bundle anew, with a root filesystem that belongs to this user.
    pub fn fresh_bundle(&self, owner: u32) -> Verdict {
        if self.bundle.exists() {
            fs::remove_dir_all(&self.bundle).context("the bundle of the last run")?;
        }
        let root = self.bundle.join("rootfs");
        for dir in ["etc", "tmp", "root", "proc", "sys", "dev", "mnt", "usr/abs", "opt", "home"] {
            fs::create_dir_all(root.join(dir)).context(dir)?;
        }
        fs::hard_link(self.dir.join("helper"), root.join("helper")).context("helper")?;
        for (file, text) in
            [("etc/passwd", PASSWD), ("etc/group", GROUP), ("etc/hostname", "image\n"), ("file", "text\n")]
        {
            fs::write(root.join(file), text)?;
        }
        for (target, link) in [("mnt", "link"), ("/usr/abs", "abs"), ("../file", "etc/link"), ("file", "filelink")] {
            symlink(target, root.join(link)).context(link)?;
        }
        for (path, mode) in [
            ("tmp", 0o1777),
            ("root", 0o755),
            ("mnt", 0o750),
            ("etc", 0o755),
            ("usr", 0o755),
            ("", 0o755),
            ("file", 0o644),
        ] {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode))?;
        }
        if owner != 0 {
            give(&root, owner)?;
        }
        Ok(())
    }
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n";
const GROUP: &str = "root:x:0:\nuser:x:1000:\n";

/// Changes the owner of a tree, except for the payload's program.
fn give(path: &Path, owner: u32) -> Verdict {
    if path.ends_with("helper") {
        return Ok(());
    }
    lchown(path, Some(owner), Some(owner)).context(path.display())?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), owner)?;
        }
    }
    Ok(())
}

/// A directory with a filesystem below it, a file, and mounts with flags and peers of their own.
fn make_sources(sources: &Path) -> Verdict {
    for dir in ["dir/sub", "ro", "shared", "ns"] {
        fs::create_dir_all(sources.join(dir)).context(dir)?;
    }
    fs::write(sources.join("file"), "from the host\n")?;
    fs::write(sources.join("dir/inside"), "a file\n")?;
    let none = None::<&str>;
    let fs_at = |name: &str, flags: MsFlags| {
        mount(Some("source"), &sources.join(name), Some("tmpfs"), flags, Some("size=1m,mode=755")).context(name)
    };
    fs_at("dir/sub", MsFlags::empty())?;
    fs_at("ro", MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    fs_at("shared", MsFlags::MS_NOEXEC)?;
    mount(none, &sources.join("shared"), none, MsFlags::MS_SHARED, none).context("shared")
}

/// A network, a UTS and an IPC namespace, held by files.
fn make_namespaces(dir: &Path) -> Verdict {
    let mut command = Command::new("unshare");
    for kind in ["net", "uts", "ipc"] {
        let file = dir.join(kind);
        fs::write(&file, "").context(file.display())?;
        command.arg(format!("--{kind}={}", file.display()));
    }
    let status = command.args(["sh", "-c", "hostname joined; ip link set lo up"]).status().context("unshare")?;
    if status.success() { Ok(()) } else { crate::kit::stop::fail(format!("unshare: {status}")) }
}

/// Whether a program names an interpreter: PT_INTERP among the headers of a 64-bit ELF file (elf(5)).
fn is_dynamic(elf: &[u8]) -> bool {
    let number = |at: usize, size: usize| {
        elf.get(at..at + size)
            .map_or(0, |bytes| bytes.iter().rev().fold(0, |all, byte| (all << 8) | usize::from(*byte)))
    };
    let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|index| number(start + index * size, 4) == 3)
}

#[cfg(test)]
mod tests {
    use super::is_dynamic;

    #[test]
    fn a_program_with_an_interpreter_is_known() {
        let mut elf = vec![0; 64 + 2 * 56];
        (elf[32], elf[54], elf[56]) = (64, 56, 2);
        assert!(!is_dynamic(&elf));
        elf[64 + 56] = 3;
        assert!(is_dynamic(&elf));
        assert!(!is_dynamic(b"short"));
    }
}
