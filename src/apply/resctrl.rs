//! Intel RDT through the resctrl filesystem (config-linux.md, "IntelRdt").

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_base::spec::IntelRdt;
use windlass_sys::mount::points;

/// A resource control group that a container uses.
pub(crate) struct Group<'a> {
    rdt: &'a IntelRdt,
    id: &'a str,
    schemata: String,
    path: PathBuf,
    /// Whether the group does not exist yet: then it is made, and removed with the container.
    ours: bool,
}

/// Finds the mount point of resctrl.
fn mount_point() -> Result<PathBuf> {
    let mounts = std::fs::read("/proc/self/mountinfo").with_context(|| "cannot read /proc/self/mountinfo")?;
    let found = points(&mounts).into_iter().rev().find(|(_, kind)| *kind == b"resctrl");
    found.map(|(place, _)| place).ok_or_else(|| {
        Error::new(Kind::Unsupported, "intelRdt is specified, but no resctrl filesystem is mounted")
            .with_origin(Origin::config("/linux/intelRdt"))
            .with_hint("mount -t resctrl resctrl /sys/fs/resctrl, if the CPU has RDT")
    })
}

/// Finds the group of the container, which may have to be made. Makes nothing, so that the caller can first record
/// what [`Group::make`] will leave behind.
pub(crate) fn find<'a>(rdt: &'a IntelRdt, id: &'a str) -> Result<Group<'a>> {
    let schemata = schemata(rdt);
    let name = if rdt.clos_id.is_empty() { id } else { &rdt.clos_id };
    if name.contains('/') || matches!(name, "." | "..") {
        return Err(Error::config("/linux/intelRdt/closID", format!("invalid intelRdt.ClosID {name:?}")));
    }
    find_below(&mount_point()?, name, Group { rdt, id, schemata, path: PathBuf::new(), ours: false })
}

fn find_below<'a>(mount_point: &Path, name: &str, group: Group<'a>) -> Result<Group<'a>> {
    let path = mount_point.join(name);
    let group = Group { ours: !path.is_dir(), path, ..group };
    let (path, named) = (&group.path, !group.rdt.clos_id.is_empty());
    if group.ours && named && group.schemata.is_empty() {
        let msg = format!("the resource control group {path:?} does not exist, and there is no schema to make it with");
        return Err(Error::config("/linux/intelRdt/closID", msg));
    }
    if !group.ours && !named {
        return Err(Error::config("/linux/intelRdt", format!("the resource control group {path:?} is in use")));
    }
    if !group.ours && !already(path, &group.schemata) {
        // Others may use the group, so it is never changed (config-linux.md, "IntelRdt").
        let msg = format!("the resource control group {path:?} has another schema than the one asked for");
        return Err(Error::config("/linux/intelRdt/schemata", msg));
    }
    Ok(group)
}

fn schemata(rdt: &IntelRdt) -> String {
    // A bandwidth line in the cache schema is ignored: bandwidth has a field of its own.
    let cache = rdt.l3_cache_schema.lines().filter(|line| !line.trim_start().starts_with("MB:"));
    let lines = cache.chain([rdt.mem_bw_schema.as_str()]).chain(rdt.schemata.iter().map(String::as_str));
    lines.filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

fn already(path: &Path, schemata: &str) -> bool {
    let text = std::fs::read_to_string(path.join("schemata")).unwrap_or_default();
    schemata.lines().all(|line| text.lines().any(|there| there.trim() == line.trim()))
}

impl Group<'_> {
    fn monitoring(&self) -> PathBuf {
        self.path.join("mon_groups").join(self.id)
    }

    /// Makes the group and its monitoring group, unless they exist.
    pub(crate) fn make(self) -> Result<NewGroup> {
        // EEXIST is an error too: somebody else has made the group meanwhile.
        if self.ours {
            std::fs::create_dir(&self.path)
                .with_context(|| format!("cannot make the resource control group {:?}", self.path))
                .map_err(|error| error.with_origin(Origin::config("/linux/intelRdt")))?;
        }
        let monitoring = self.rdt.enable_monitoring.then(|| self.monitoring());
        let made = NewGroup { to_remove: self.to_remove(), monitoring, path: self.path.clone() };
        self.fill().map(|()| made)
    }

    fn fill(&self) -> Result<()> {
        let origin = |field| move |error: Error| error.with_origin(Origin::config(field));
        if self.ours && !self.schemata.is_empty() {
            std::fs::write(self.path.join("schemata"), &self.schemata)
                .with_context(|| format!("cannot write the schemata of {:?}", self.path))
                .map_err(origin("/linux/intelRdt/schemata"))?;
        }
        if self.rdt.enable_monitoring {
            match std::fs::create_dir(self.monitoring()) {
                Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {}
                other => other
                    .with_context(|| "cannot make the monitoring group")
                    .map_err(origin("/linux/intelRdt/enableMonitoring"))?,
            }
        }
        Ok(())
    }

    /// The directory for `delete` to remove: the group, if it is ours, else its monitoring group.
    pub(crate) fn to_remove(&self) -> Option<String> {
        let path =
            if self.ours { Some(self.path.clone()) } else { self.rdt.enable_monitoring.then(|| self.monitoring()) };
        path.map(|path| path.to_string_lossy().into_owned())
    }

    /// Its directory, for updates.
    pub(crate) fn path(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
}

/// A group that exists. Dropping it removes what was made for it, unless it is kept.
pub(crate) struct NewGroup {
    path: PathBuf,
    monitoring: Option<PathBuf>,
    to_remove: Option<String>,
}

impl NewGroup {
    /// Moves a process into the group.
    pub(crate) fn add_process(&self, pid: i32) -> Result<()> {
        for place in [Some(&self.path), self.monitoring.as_ref()].into_iter().flatten() {
            std::fs::write(place.join("tasks"), pid.to_string())
                .with_context(|| format!("cannot move init into {place:?}"))
                .map_err(|error| error.with_origin(Origin::config("/linux/intelRdt")))?;
        }
        Ok(())
    }

    /// Keeps the group: from here on `delete` removes it.
    pub(crate) fn keep(mut self) {
        self.to_remove = None;
    }
}

impl Drop for NewGroup {
    fn drop(&mut self) {
        if let Some(path) = &self.to_remove {
            let _ = std::fs::remove_dir(path);
        }
    }
}

/// Removes a group that a container had. Succeeds if it does not exist any more.
pub(crate) fn remove_resctrl(path: &str) -> Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
        other => other.with_context(|| format!("cannot remove the resource control group {path:?}")),
    }
}

/// Writes lines of the schemata file of the group that a container is in.
pub fn update_resctrl(group: Option<&str>, lines: &[&str]) -> Result<()> {
    let none = || Error::new(Kind::Unsupported, "the container has no resource control group to update");
    let path = Path::new(group.ok_or_else(none)?).join("schemata");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, text).with_context(|| format!("cannot write {path:?}"))
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

    #[test]
    fn a_group_is_found_before_it_is_made_and_goes_when_create_fails() {
        let top = std::env::temp_dir().join(format!("windlass-resctrl-{}", std::process::id()));
        std::fs::create_dir_all(top.join("theirs")).expect("a directory");
        std::fs::write(top.join("theirs/schemata"), "L3:0=f\n").expect("a file");
        let found = |rdt: &IntelRdt| {
            let (name, schemata) = (if rdt.clos_id.is_empty() { "c" } else { rdt.clos_id.as_str() }, schemata(rdt));
            find_below(&top, name, Group { rdt, id: "c", schemata, path: PathBuf::new(), ours: false })
                .map(|group| (group.ours, group.to_remove()))
                .map_err(|error| error.to_string())
        };
        let at = |name: &str| top.join(name).to_string_lossy().into_owned();
        let rdt = |clos_id: &str, schema: &str| IntelRdt {
            clos_id: clos_id.into(),
            l3_cache_schema: schema.into(),
            ..IntelRdt::default()
        };

        assert_eq!(found(&rdt("", "L3:0=3")), Ok((true, Some(at("c")))));
        assert_eq!(found(&rdt("theirs", "L3:0=f")), Ok((false, None)));
        assert!(found(&rdt("theirs", "L3:0=1")).unwrap_err().contains("another schema"));
        assert!(found(&rdt("nobody", "")).unwrap_err().contains("does not exist"));
        let watched = IntelRdt { enable_monitoring: true, ..rdt("theirs", "") };
        assert_eq!(found(&watched), Ok((false, Some(at("theirs/mon_groups/c")))));
        assert!(!top.join("c").exists(), "nothing was made by looking");

        let own = rdt("", "");
        let group = || Group { rdt: &own, id: "c", schemata: String::new(), path: top.join("c"), ours: true };
        let made = group().make().expect("made");
        assert!(found(&own).unwrap_err().contains("in use"));
        assert!(group().make().is_err(), "one that is there meanwhile is another's");
        drop(made);
        assert!(!top.join("c").exists(), "create failed");
        group().make().expect("made").keep();
        assert!(top.join("c").exists(), "create succeeded");
        std::fs::remove_dir_all(top).expect("removed");
    }
}
