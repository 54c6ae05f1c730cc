//! Writing limits, and the errors for those that cannot be written.

use nix::errno::Errno;

use super::controllers::{self, SUBTREE_CONTROL, name_of};
use super::directory::Directory;
use super::hierarchy::Hierarchy;
use super::v2::Cgroup;
use windlass_base::error::{Error, Kind, Origin, Result, describe};
use windlass_plan::cgroup::{Absent, Write};
use windlass_sys::SyscallError;

impl Cgroup {
    /// Writes the limits, in their order.
    ///
    /// The kernel refuses a quota below the present burst. If a new burst follows, such a quota is written again after
    /// it.
    pub fn apply(&self, writes: &[Write]) -> Result<()> {
        in_order(writes, &|write| put(&self.directory, write))
            .map_err(|(write, unwritten)| explain(&self.directory, write, unwritten))
    }
}

/// Writes by `put`. The error has the write that failed.
fn in_order<'a>(
    writes: &'a [Write],
    put: &dyn Fn(&'a Write) -> std::result::Result<(), Unwritten<'a>>,
) -> std::result::Result<(), (&'a Write, Unwritten<'a>)> {
    let mut again = Vec::new();
    for (index, write) in writes.iter().enumerate() {
        match put(write) {
            Err(Unwritten { failed: SyscallError { errno: Errno::EINVAL, .. }, .. })
                if write.file == "cpu.max" && writes[index..].iter().any(|later| later.file == "cpu.max.burst") =>
            {
                again.push(write);
            }
            other => other.map_err(|unwritten| (write, unwritten))?,
        }
    }
    again.into_iter().try_for_each(|write| put(write).map_err(|unwritten| (write, unwritten)))
}

/// The write that failed: of [`Write::file`], or of the file in its place ([`Absent::Instead`]).
struct Unwritten<'a> {
    file: &'a str,
    value: &'a str,
    failed: SyscallError,
}

fn put<'a>(directory: &Directory, write: &'a Write) -> std::result::Result<(), Unwritten<'a>> {
    let (file, value, result) = match (directory.write(&write.file, &write.value), &write.absent) {
        (Err(SyscallError { errno: Errno::ENOENT, .. }), Absent::Harmless) => return Ok(()),
        (Err(SyscallError { errno: Errno::ENOENT, .. }), Absent::Instead { file, value }) => {
            (&**file, value, directory.write(file, value))
        }
        (result, _) => (&*write.file, &write.value, result),
    };
    result.map_err(|failed| Unwritten { file, value, failed })
}

fn explain(directory: &Directory, write: &Write, Unwritten { file, value, failed }: Unwritten<'_>) -> Error {
    let errno = failed.errno;
    if errno == Errno::ENOENT {
        return missing_file(directory, write, file).caused_by(failed);
    }
    let message = match write.pointer.starts_with("/linux/resources/unified/") {
        true => format!("unable to set unified resource {file:?}: {}", describe(errno)),
        false => format!("cannot set {file} to {value:?}: {}", describe(errno)),
    };
    let mut error =
        Error::new(Kind::Kernel, message).caused_by(failed).with_origin(Origin::config(write.pointer.clone()));
    for (name, number, hint) in HINTS {
        if file.starts_with(name) && *number == errno {
            error = error.with_hint(*hint);
        }
    }
    error
}

/// Hints by the beginning of the file's name and the errno. The first matching row counts.
const HINTS: &[(&str, Errno, &str)] = &[
    ("cpu.weight", Errno::EINVAL, "a cgroup with cpu.idle 1 has no weight"),
    ("cpu.max.burst", Errno::EINVAL, "the burst must not exceed the quota"),
    (
        "cpu.max",
        Errno::EINVAL,
        "quota and period are at least 1000 us, the period at most 1 s, the burst at most the quota",
    ),
    ("cpuset.", Errno::ENOSPC, "the cgroup would have processes, but no CPU or no memory node"),
    ("cpuset.", Errno::EINVAL, "a list like 0-3,5 of numbers that this machine has"),
    ("cpuset.", Errno::ERANGE, "a list like 0-3,5 of numbers that this machine has"),
    ("io.", Errno::ENODEV, "there is no block device with this number"),
    ("io.", Errno::EOPNOTSUPP, "the scheduler of this block device has no weights"),
    ("rdma.max", Errno::ENODEV, "there is no RDMA device with this name"),
];

fn missing_file(directory: &Directory, write: &Write, file: &str) -> Error {
    let controller = &*write.controller;
    let has = directory.read("cgroup.controllers").unwrap_or_default();
    let pointer = &write.pointer;
    if controller == "cgroup" || has.split_ascii_whitespace().any(|one| one == controller) {
        return Error::new(
            Kind::Unsupported,
            format!("cannot apply {}: no file {file:?}: {}", name_of(pointer), describe(Errno::ENOENT)),
        )
        .with_origin(Origin::config(pointer.clone()))
        .with_hint(format!("this kernel's {controller} has no such setting"));
    }
    // The search for version 1 reads mountinfo, so it is made on this error only.
    if let Ok(hierarchy) = Hierarchy::find()
        && hierarchy.v1_of(controller).is_some()
    {
        return controllers::unavailable(&hierarchy, controller, pointer);
    }
    let path = &directory.path;
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    Error::new(
        Kind::Unsupported,
        format!("cannot apply {}: controller \"{controller}\" not available in {path:?}", name_of(pointer)),
    )
    .with_origin(Origin::config(pointer.clone()))
    // A user's systemd can only delegate controllers that it has itself.
    .with_hint(match path.contains("/user@") {
        true => controllers::delegation_hint(controller),
        false => format!("it would be enabled by: echo +{controller} > {parent}/{SUBTREE_CONTROL}"),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A quota and a burst that follow each other as in the kernel, which refuses a quota below the burst.
    #[test]
    fn a_quota_and_a_burst_are_changed_in_either_direction() {
        let write = |file: &'static str, value: u64| Write {
            file: file.into(),
            value: value.to_string(),
            controller: "cpu".into(),
            pointer: "/linux/resources/cpu".into(),
            absent: Absent::Fails,
        };
        let (quota, burst) = (Cell::new(50), Cell::new(40));
        let failed = |errno| SyscallError { call: "write".into(), errno };
        let in_force = |writes: &[Write]| {
            let done = in_order(writes, &|write: &Write| {
                let number = write.value.parse().expect("a number");
                let (of, fits) = match &*write.file {
                    "cpu.max" => (&quota, number >= burst.get()),
                    _ => (&burst, number <= quota.get()),
                };
                if !fits {
                    let failed = failed(Errno::EINVAL);
                    return Err(Unwritten { file: &write.file, value: &write.value, failed });
                }
                of.set(number);
                Ok(())
            });
            (done.map_err(|(write, _)| write.file.to_string()), quota.get(), burst.get())
        };
        let both = |quota, burst| [write("cpu.max", quota), write("cpu.max.burst", burst)];
        assert_eq!(in_force(&both(20, 10)), (Ok(()), 20, 10), "the quota is written again after the burst");
        assert_eq!(in_force(&both(80, 60)), (Ok(()), 80, 60));
        assert_eq!(in_force(&both(80, 90)).0, Err("cpu.max.burst".into()), "a burst above the quota");
        assert_eq!(in_force(&both(20, 30)), (Err("cpu.max".into()), 80, 30), "a quota below the burst");
        assert_eq!(in_force(&[write("cpu.max", 5)]).0, Err("cpu.max".into()), "no burst follows");
    }
}
