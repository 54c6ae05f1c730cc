//! The cgroups that images name, where CRIU is to make them. It makes directories and writes files by these names, as root.

use std::os::fd::BorrowedFd;

use windlass_base::error::Result;
use windlass_base::protobuf::Message;
use windlass_criu::image::{Cgroups, Directory, Kind};

use super::claims::{optional, refuse};

/// The file.
const NAME: &str = "cgroup.img";

/// Refuses names that lead out of the container's cgroup.
pub fn check(dir: BorrowedFd<'_>) -> Result<()> {
    let odd = |path: &str| refuse(NAME, &format!("has the path {path:?}"));
    for cgroups in optional::<Cgroups>(dir, Kind::Cgroups, NAME)?.unwrap_or_default() {
        let members = cgroups.sets.iter().flat_map(|set| &set.members);
        if let Some(member) = members.into_iter().find(|member| !is_plain(&member.path)) {
            return Err(odd(&member.path));
        }
        for controller in &cgroups.controllers {
            // Directories are in directories, as deep as the images say.
            let mut left = controller.directories.clone();
            while let Some(directory) = left.pop() {
                if !is_plain(&directory.name) {
                    return Err(odd(&directory.name));
                }
                let names = directory.properties.iter().map(|property| &property.name);
                if let Some(name) = names.into_iter().find(|name| name.contains('/') || !is_plain(name)) {
                    return Err(odd(name));
                }
                for inner in &directory.inner {
                    left.push(Directory::decode(&inner.0).map_err(|_| refuse(NAME, "is damaged"))?);
                }
            }
        }
    }
    Ok(())
}

/// Whether a path has no component that leads elsewhere than its name says.
fn is_plain(path: &str) -> bool {
    !path.split('/').any(|name| name == "..")
}
