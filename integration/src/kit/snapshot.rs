//! A directory tree as text, to detect changes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Everything below a directory: name, mode, owner, size and link target.
pub fn snapshot(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        lines.push(format!("{} {:o} {} {} {}", path.display(), meta.mode(), meta.uid(), meta.size(), meta.rdev()));
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    lines.sort();
    lines
}
