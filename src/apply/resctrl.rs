//! Intel RDT through the resctrl filesystem (config-linux.md, "IntelRdt").

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::error::{Doing, Error, Kind, Origin, Result};
use crate::spec::IntelRdt;

/// A resource control group that this container uses.
pub struct Group {
    path: PathBuf,
    made: bool,
}

/// Where resctrl is mounted.
fn mount_point() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").doing(|| "cannot read /proc/self/mounts")?;
    let found = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "resctrl").then(|| PathBuf::from(place))
    });
    found.reduce(|_, last| last).ok_or_else(|| {
        Error::new(Kind::Unsupported, "intelRdt is specified, but no resctrl filesystem is mounted")
            .origin(Origin::config("/linux/intelRdt"))
            .hint("mount -t resctrl resctrl /sys/fs/resctrl, if the CPU has RDT")
    })
}

/// Prepares the group before init exists.
pub fn prepare(rdt: &IntelRdt, id: &str) -> Result<Group> {
    let schemata = schemata(rdt);
    let name = if rdt.clos_id.is_empty() { id } else { &rdt.clos_id };
    let pointer = |field: &'static str| Origin::config(field);
    if name.contains('/') || matches!(name, "." | "..") {
        return Err(Error::config("/linux/intelRdt/closID", format!("invalid intelRdt.ClosID {name:?}")));
    }
    let path = mount_point()?.join(name);
    if !rdt.clos_id.is_empty() && schemata.is_empty() && !path.is_dir() {
        let msg = format!("the resource control group {path:?} does not exist, and there is no schema to make it with");
        return Err(Error::config("/linux/intelRdt/closID", msg));
    }
    let made = match std::fs::create_dir(&path) {
        Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => false,
        other => other
            .map(|()| true)
            .doing(|| format!("cannot make the resource control group {path:?}"))
            .map_err(|error| error.origin(pointer("/linux/intelRdt")))?,
    };
    let group = Group { path, made };
    if !made && rdt.clos_id.is_empty() {
        return Err(Error::config("/linux/intelRdt", format!("the resource control group {:?} is in use", group.path)));
    }
    if !made && !already(&group.path, &schemata) {
        // It is somebody else's as well: never changed (config-linux.md, "IntelRdt").
        let msg = format!("the resource control group {:?} has another schema than the one asked for", group.path);
        return Err(Error::config("/linux/intelRdt/schemata", msg));
    }
    if !schemata.is_empty() && made {
        let written = std::fs::write(group.path.join("schemata"), &schemata)
            .doing(|| format!("cannot write the schemata of {:?}", group.path));
        written.map_err(|error| {
            group.remove();
            error.origin(pointer("/linux/intelRdt/schemata"))
        })?;
    }
    if rdt.enable_monitoring {
        match std::fs::create_dir(group.path.join("mon_groups").join(id)) {
            Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {}
            other => other.doing(|| "cannot make the monitoring group").map_err(|error| {
                group.remove();
                error.origin(pointer("/linux/intelRdt/enableMonitoring"))
            })?,
        }
    }
    Ok(group)
}

fn schemata(rdt: &IntelRdt) -> String {
    // Bandwidth among the lines for the cache does not count: it has a field of its own.
    let cache = rdt.l3_cache_schema.lines().filter(|line| !line.trim_start().starts_with("MB:"));
    let lines = cache.chain([rdt.mem_bw_schema.as_str()]).chain(rdt.schemata.iter().map(String::as_str));
    lines.filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

fn already(path: &Path, schemata: &str) -> bool {
    let text = std::fs::read_to_string(path.join("schemata")).unwrap_or_default();
    schemata.lines().all(|line| text.lines().any(|there| there.trim() == line.trim()))
}

impl Group {
    /// Moves a process in.
    pub fn join(&self, pid: i32, id: &str) -> Result<()> {
        let monitoring = self.path.join("mon_groups").join(id);
        for place in [Some(&self.path), monitoring.is_dir().then_some(&monitoring)].into_iter().flatten() {
            std::fs::write(place.join("tasks"), pid.to_string())
                .doing(|| format!("cannot move init into {place:?}"))
                .map_err(|error| error.origin(Origin::config("/linux/intelRdt")))?;
        }
        Ok(())
    }

    /// What delete removes: the group, if we made it.
    pub fn to_remove(&self, id: &str) -> Option<String> {
        let monitoring = self.path.join("mon_groups").join(id);
        let path = if self.made { Some(&self.path) } else { monitoring.is_dir().then_some(&monitoring) };
        path.map(|path| path.to_string_lossy().into_owned())
    }

    /// Its directory, for updates.
    pub fn path(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    fn remove(&self) {
        if self.made {
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// Removes a group that a container had; one that is gone is no error.
pub fn remove_resctrl(path: &str) -> Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
        other => other.doing(|| format!("cannot remove the resource control group {path:?}")),
    }
}

/// Writes lines of the schemata file of the group that a container is in.
pub fn update_resctrl(group: Option<&str>, lines: &[&str]) -> Result<()> {
    let none = || Error::new(Kind::Unsupported, "the container has no resource control group to update");
    let path = Path::new(group.ok_or_else(none)?).join("schemata");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, text).doing(|| format!("cannot write {path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_fields_and_the_new_make_one_schema() {
        let rdt = IntelRdt {
            l3_cache_schema: "L3:0=f\nMB:0=10".into(),
            mem_bw_schema: "MB:0=20".into(),
            schemata: vec!["L2:0=3".into()],
            ..IntelRdt::default()
        };
        assert_eq!(schemata(&rdt), "L3:0=f\nMB:0=20\nL2:0=3\n");
    }
}
