//! The device rules of a host without cgroup2: a cgroup in the devices hierarchy of version 1.

use nix::errno::Errno;

use super::Cgroups;
use crate::directory::Directory;
use crate::hierarchy::Hierarchy;
use crate::{create, remove};
use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_plan::device_rules::v1::{DevicesWrite, Rules};

/// The container's cgroup in the devices hierarchy, and its rules.
#[derive(Debug)]
pub struct Devices {
    /// The mount point of the hierarchy.
    mount: String,
    /// The path below it, without a slash at either end.
    path: String,
    rules: Rules,
}

impl Devices {
    /// Finds the devices hierarchy. Returns `None` if it is not mounted.
    pub fn find(hierarchy: &Hierarchy, path: &str, rules: Rules) -> Option<Devices> {
        let mount = hierarchy.v1_of("devices")?.mount.clone();
        Some(Devices { mount, path: path.trim_matches('/').to_owned(), rules })
    }

    /// The path of the cgroup in the file system.
    pub fn full_path(&self) -> String {
        format!("{}/{}", self.mount, self.path)
    }

    /// Refuses a cgroup that has processes, which are not the container's, or that is frozen.
    pub fn refuse_in_use(&self) -> Result<()> {
        super::refuse_in_use(&[self.full_path()])
    }

    /// Makes the cgroup and writes the rules. If that fails, what was made is removed again.
    pub fn make(&self) -> Result<Cgroups> {
        let root =
            Directory::open(&self.mount).with_context(|| format!("cannot open the cgroup root {:?}", self.mount))?;
        let mut made = Vec::new();
        let result = create::make(&root, &self.path, &mut made).and_then(|()| {
            let directory =
                root.open_below(&self.path).with_context(|| format!("cannot open cgroup {:?}", self.full_path()))?;
            write(&directory, &self.rules.fresh(), self.rules.asked)?;
            Ok(Cgroups { directories: vec![directory] })
        });
        if result.is_err() {
            // Best effort: the first error is the one to report.
            made.iter().rev().for_each(|path| drop(remove::remove_empty(path)));
        }
        result
    }
}

impl Cgroups {
    /// Replaces the device rules; `None` allows all devices.
    pub fn change_devices(&self, rules: Option<&Rules>) -> Result<()> {
        let list = "devices.list";
        let found = self.directories.iter().find_map(|directory| Some((directory, directory.read_all(list).ok()?)));
        let Some((directory, list)) = found else {
            return Err(Error::new(Kind::Unsupported, "the container has no cgroup that judges the use of devices")
                .with_origin(asked())
                .with_hint("it was made where everything was allowed, or without cgroups"));
        };
        let Some(rules) = rules else {
            return write(directory, &[DevicesWrite { file: "devices.allow", value: "a".into() }], true);
        };
        let Some(lines) = rules.change(&list) else {
            let msg = "cannot change to device rules that allow everything but some devices: on cgroup v1 everything \
                       would be allowed for a moment";
            return Err(Error::new(Kind::Unsupported, msg)
                .with_origin(asked())
                .with_hint("name the devices that are allowed"));
        };
        write(directory, &lines, true)
    }
}

fn asked() -> Origin {
    Origin::config("/linux/resources/devices")
}

fn origin(is_asked: bool) -> Origin {
    match is_asked {
        true => asked(),
        false => Origin::Default("only the default devices may be used without device rules".into()),
    }
}

fn write(directory: &Directory, lines: &[DevicesWrite], is_asked: bool) -> Result<()> {
    for line in lines {
        directory.write(line.file, &line.value).map_err(|failed| {
            let errno = failed.errno;
            let what = format!("cannot apply the device rule {:?} in cgroup v1", line.value);
            let error = failed.context(what).with_origin(origin(is_asked));
            match errno {
                Errno::EPERM => error.with_hint(format!(
                    "the cgroup above {:?} does not allow this itself (see devices.list there), or this process lacks CAP_SYS_ADMIN in the initial user namespace",
                    directory.path
                )),
                Errno::EINVAL => error.with_hint(format!("the default of {:?} cannot change while cgroups are below it", directory.path)),
                _ => error,
            }
        })?;
    }
    Ok(())
}

/// The error for a host on which neither version of cgroups can enforce device rules.
pub fn unavailable(is_asked: bool) -> Error {
    let msg = "cannot apply the device rules: neither cgroup2 nor the devices controller of cgroup v1 is mounted";
    Error::new(Kind::Unsupported, msg).with_origin(origin(is_asked)).with_hint(format!(
        "{}; or --cgroup-manager disabled runs the container without any cgroup",
        crate::controllers::MOUNT
    ))
}
