//! What the defaults of both programs depend on.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What the defaults depend on.
pub struct Environment {
    /// Effective user id.
    pub euid: u32,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<OsString>,
    /// Whether root is that of a user namespace which an ordinary user made: `USER` still names
    /// somebody else, as podman leaves it.
    pub borrowed_root: bool,
}

impl Environment {
    /// That of this process.
    pub fn current() -> Environment {
        let euid = nix::unistd::geteuid().as_raw();
        let other = || std::env::var_os("USER").is_none_or(|name| name != "root");
        Environment {
            euid,
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
            borrowed_root: euid == 0 && other() && !windlass_sys::probe::in_first_user_namespace(),
        }
    }

    /// Where windlass keeps its containers.
    pub fn root(&self) -> PathBuf {
        self.directory("windlass")
    }

    /// Where the shim keeps its own.
    pub fn shims(&self) -> PathBuf {
        self.directory("windlass-shim")
    }

    fn directory(&self, name: &str) -> PathBuf {
        match &self.runtime_dir {
            Some(dir) if (self.euid != 0 || self.borrowed_root) && !dir.is_empty() => Path::new(dir).join(name),
            _ => Path::new("/run").join(name),
        }
    }
}
