//! The properties of a command's caller, before and after the command.

use crate::kit::snapshot::snapshot;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::termios::tcgetattr;
use std::fs::{File, metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Descriptors that the command inherits, and trees that it must not change.
pub struct Witness {
    descriptors: Vec<(&'static str, File)>,
    trees: Vec<PathBuf>,
    before: Vec<String>,
}

impl Witness {
    /// Records the state before the command.
    pub fn new(descriptors: Vec<(&'static str, File)>, trees: Vec<PathBuf>) -> Witness {
        let mut witness = Witness { descriptors, trees, before: Vec::new() };
        witness.before = witness.look();
        witness
    }

    fn look(&self) -> Vec<String> {
        let mut lines = vec![file("/dev/null", Path::new("/dev/null"))];
        for (name, descriptor) in &self.descriptors {
            let flags = fcntl(descriptor.as_fd(), FcntlArg::F_GETFL).unwrap_or(-1);
            let owner = descriptor.metadata().map(|meta| (meta.uid(), meta.gid(), meta.mode()));
            lines.push(format!("{name}: flags {flags:o}, owner and mode {owner:?}"));
            if let Ok(t) = tcgetattr(descriptor.as_fd()) {
                let flags = (t.input_flags, t.output_flags, t.control_flags, t.local_flags);
                lines.push(format!("{name}: terminal {flags:?} {:?}", t.control_chars));
            }
        }
        lines.extend(self.trees.iter().flat_map(|tree| snapshot(tree)));
        lines
    }

    /// The changes since then.
    pub fn changed(&self) -> Vec<String> {
        let after = self.look();
        let new = after.iter().filter(|line| !self.before.contains(line)).cloned();
        let gone = self.before.iter().filter(|line| !after.contains(line)).map(|line| format!("no more: {line}"));
        new.chain(gone).collect()
    }
}

fn file(name: &str, path: &Path) -> String {
    match metadata(path) {
        Ok(meta) => format!("{name}: {} {} {:o} {}", meta.uid(), meta.gid(), meta.mode(), meta.rdev()),
        Err(error) => format!("{name}: {error}"),
    }
}
