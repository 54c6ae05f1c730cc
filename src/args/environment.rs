//! The default directories of both programs, and their inputs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The user and the environment that the default directories depend on.
pub struct Environment {
    pub euid: u32,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<OsString>,
    /// Whether the user is root of a user namespace that an ordinary user made. `USER` then names another user, as
    /// below a rootless podman.
    pub borrowed_root: bool,
}

impl Environment {
    /// The environment of this process.
    pub fn current() -> Environment {
        let euid = nix::unistd::geteuid().as_raw();
        let other = || std::env::var_os("USER").is_none_or(|name| name != "root");
        Environment {
            euid,
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
            borrowed_root: euid == 0 && other() && !windlass_sys::probe::in_first_user_namespace(),
        }
    }

    /// The default of windlass for `--root`.
    pub fn root(&self) -> PathBuf {
        self.directory("windlass")
    }

    /// The default of windlass-shim for `--state-dir`.
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
