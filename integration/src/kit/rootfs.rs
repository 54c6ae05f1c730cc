//! A root file system of one static program and symbolic links to it.

use super::stop::{Context, Verdict};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Where the runner keeps the copy that bundles link to.
pub const MASTER: &str = "/run/windlass-integration/busybox";

/// Programs that cases call.
const APPLETS: &[&str] = &[
    "[", "awk", "basename", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "dirname", "echo", "env",
    "false", "find", "grep", "head", "hostname", "id", "ip", "kill", "ln", "ls", "md5sum", "mkdir", "mkfifo", "mknod",
    "mount", "mv", "nproc", "od", "printf", "ps", "pwd", "readlink", "realpath", "rm", "rmdir", "sed", "seq",
    "setpriv", "setsid", "sh", "sleep", "sort", "stat", "stty", "sync", "tail", "test", "time", "timeout", "touch",
    "tr", "true", "tty", "umount", "uname", "uniq", "unshare", "usleep", "wc", "which", "whoami", "xargs", "yes",
];

/// Copies busybox to tmpfs once a run.
pub fn prepare() -> Verdict {
    let source = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let source = source.ok_or_else(|| super::Stop::Fail("busybox is not installed".to_owned()))?;
    fs::create_dir_all(Path::new(MASTER).with_file_name("")).context("work directory")?;
    fs::copy(source, MASTER).context(source)?;
    fs::set_permissions(MASTER, fs::Permissions::from_mode(0o755)).context(MASTER)
}

/// Builds a root file system at `root`, which must not exist.
pub fn build(root: &Path) -> Verdict {
    for dir in ["bin", "etc", "tmp", "root", "proc", "sys", "dev", "mnt", "var", "usr"] {
        fs::create_dir_all(root.join(dir)).context(dir)?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    fs::hard_link(MASTER, root.join("bin/busybox")).context("busybox")?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).context(applet)?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n")?;
    Ok(())
}
