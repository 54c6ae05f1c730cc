//! The cgroups that images name, where CRIU is to make them. It makes directories and writes files by these names, as
//! root.

use std::os::fd::BorrowedFd;

use windlass_base::error::{Error, Result};
use windlass_base::namespaces::Namespaces;
use windlass_base::protobuf::Message;
use windlass_base::spec::IdMapping;
use windlass_criu::image::{Cgroups, Directory, Kind, Member, Permissions};
use windlass_plan::Topology;

use super::claims::{optional, refuse};

const NAME: &str = "cgroup.img";

/// Most bytes of a cgroup's path. CRIU assembles it in a buffer of 4096.
const LONGEST: usize = 1024;

/// Most first directories. CRIU compares each with all paths.
const TOPS: usize = 1024;

/// Refuses names that lead out of the container's cgroup, whose path is `own`, and owners that it does not have.
pub(crate) fn check(dir: BorrowedFd<'_>, own: &str, topology: &Topology) -> Result<()> {
    let mapped = |maps: &[IdMapping], id: u32| {
        let all = !topology.new.contains(Namespaces::USER);
        all || id == 0 || maps.iter().any(|map| id.checked_sub(map.host_id).is_some_and(|at| at < map.size))
    };
    let may_own = |it: &Permissions| mapped(&topology.uid_mappings, it.uid) && mapped(&topology.gid_mappings, it.gid);
    let judge = |cgroups: &Cgroups| judge(cgroups, own, &may_own);
    optional::<Cgroups>(dir, Kind::Cgroups, NAME)?.unwrap_or_default().iter().try_for_each(judge)
}

fn judge(cgroups: &Cgroups, own: &str, may_own: &dyn Fn(&Permissions) -> bool) -> Result<()> {
    let members: Vec<&Member> = cgroups.sets.iter().flat_map(|set| &set.members).collect();
    // CRIU makes the name of a hierarchy a part of a path, and the hierarchy of version 2 has none.
    let named = members.iter().any(|member| !member.controllers.is_empty());
    if named || cgroups.controllers.iter().any(|controller| controller.controllers != [""]) {
        return Err(refuse(NAME, "names a hierarchy other than that of version 2"));
    }
    let tops: Vec<&Directory> = cgroups.controllers.iter().flat_map(|controller| &controller.directories).collect();
    if cgroups.controllers.len() > 1 || tops.len() > TOPS {
        return Err(refuse(NAME, "has too many directories"));
    }
    let mut paths: Vec<(String, usize)> =
        members.iter().map(|member| (member.path.clone(), member.root as usize)).collect();
    if let Some((path, _)) = paths.iter().find(|(path, _)| !path.starts_with('/') || !is_plain(path)) {
        return Err(odd(path));
    }
    for top in tops {
        let Some(name) = renamed(&mut paths, &top.name, own) else { return Err(odd(&top.name)) };
        judge_directory(name.len(), top, may_own)?;
    }
    // A path that is below no first directory stays as it was.
    paths.iter().find(|(path, _)| !is_below(path, own)).map_or(Ok(()), |(path, _)| Err(odd(path)))
}

/// Repeats what CRIU does with the path of a first directory (`rewrite_cgsets`). CRIU replaces it by the container's
/// cgroup, in the directory itself and in the paths of the processes; beside each of these is the length of the root of
/// its cgroup namespace. CRIU compares strings and not path components, and renames the directory only if the path of a
/// process begins with it. Returns `None` if a path is not below the container's cgroup afterwards.
fn renamed(paths: &mut [(String, usize)], top: &str, own: &str) -> Option<String> {
    let mut renamed = None;
    for (path, root) in paths {
        if !path[1..].starts_with(top) {
            continue;
        }
        let (rest, name) = match *root {
            0 => (&path[1 + top.len()..], ""),
            root => (path.get(root..)?, top.get(root - 1..)?),
        };
        *path = Some(format!("{own}{rest}")).filter(|path| is_below(path, own))?;
        renamed.get_or_insert_with(|| format!("{own}{name}"));
        *root = if *root == 0 { 0 } else { own.len() };
    }
    renamed.filter(|name| is_below(name, own))
}

/// Judges a first directory, whose path has this length, and those below it, which are nested as deep as the images
/// say.
fn judge_directory(length: usize, top: &Directory, may_own: &dyn Fn(&Permissions) -> bool) -> Result<()> {
    let mut left = vec![(length, top.clone())];
    while let Some((length, directory)) = left.pop() {
        if !is_plain(&directory.name) || length > LONGEST {
            return Err(odd(&directory.name));
        }
        let names = directory.properties.iter().map(|property| &property.name);
        if let Some(name) = names.into_iter().find(|name| name.contains('/') || !is_plain(name)) {
            return Err(odd(name));
        }
        let files = directory.properties.iter().map(|property| &property.permissions);
        let mut permissions = files.chain([&directory.permissions]).flatten();
        if permissions.any(|it| it.mode & 0o022 != 0 || !may_own(it)) {
            return Err(refuse(NAME, &format!("gives {:?} to others", directory.name)));
        }
        for inner in &directory.inner {
            let inner = Directory::decode(&inner.0).map_err(|_| refuse(NAME, "is damaged"))?;
            left.push((length + 1 + inner.name.len(), inner));
        }
    }
    Ok(())
}

fn odd(path: &str) -> Error {
    refuse(NAME, &format!("has the path {path:?}"))
}

/// Whether a path has no component that leads elsewhere than its name says.
fn is_plain(path: &str) -> bool {
    !path.split('/').any(|name| name == "..")
}

/// Whether a path is the container's cgroup or below it. Without a cgroup, `own` is empty and no path is.
fn is_below(path: &str, own: &str) -> bool {
    !own.is_empty() && path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use windlass_criu::image::{CgroupSet, Controller, Property, Undecoded};

    use super::*;

    /// The container's cgroup now.
    const OWN: &str = "/system.slice/now";

    fn directory(name: &str, inner: &[Directory], property: &str) -> Directory {
        Directory {
            name: name.into(),
            inner: inner.iter().map(|inner| Undecoded(inner.encode())).collect(),
            properties: vec![Property { name: property.into(), permissions: permissions(0o100_644, 0) }],
            permissions: permissions(0o40_755, 0),
        }
    }

    fn permissions(mode: u32, uid: u32) -> Option<Permissions> {
        Some(Permissions { mode, uid, gid: 0 })
    }

    /// Processes in cgroups, with the length of the root of their namespace.
    fn sets(members: &[(&str, u32)]) -> Vec<CgroupSet> {
        let member = |(path, root): &(&str, u32)| Member { path: (*path).into(), root: *root, ..Member::default() };
        members.iter().map(|it| CgroupSet { members: vec![member(it)] }).collect()
    }

    /// A container with a process in its cgroup and one in `inner`.
    fn cgroups() -> Cgroups {
        let top = directory("a/box", &[directory("inner", &[], "pids.max")], "cgroup.procs");
        Cgroups {
            sets: sets(&[("/a/box", 0), ("/a/box/inner", 0)]),
            controllers: vec![Controller { controllers: vec![String::new()], directories: vec![top] }],
        }
    }

    /// A container with these cgroups, and processes in them.
    fn with(tops: &[&str], members: &[(&str, u32)]) -> Cgroups {
        let mut changed = cgroups();
        changed.sets = sets(members);
        changed.controllers[0].directories = tops.iter().map(|top| directory(top, &[], "pids.max")).collect();
        changed
    }

    fn judged(cgroups: &Cgroups) -> Result<()> {
        judge(cgroups, OWN, &|it| it.uid < 2)
    }

    #[test]
    fn cgroups_stay_below_that_of_the_container() {
        type Change = fn(&mut Cgroups);
        judged(&cgroups()).expect("a container");
        let odd: &[Change] = &[
            |it| it.controllers[0].controllers = vec!["../../../../proc/sys".into()],
            |it| it.controllers[0].controllers = Vec::new(),
            |it| it.controllers[0].controllers.push("cpu".into()),
            |it| it.controllers.push(it.controllers[0].clone()),
            |it| it.sets[0].members[0].controllers = "cpu".into(),
            |it| it.controllers[0].directories[0].name = "a/../box".into(),
            |it| it.controllers[0].directories[0].name = String::new(),
            |it| it.controllers[0].directories[0].properties[0].name = "../cgroup.kill".into(),
            |it| it.controllers[0].directories.push(directory("user.slice", &[], "cgroup.kill")),
            |it| it.controllers[0].directories[0].inner.push(Undecoded(directory("..", &[], "x").encode())),
            |it| it.controllers[0].directories[0].inner.push(Undecoded(directory("..\0", &[], "x").encode())),
            |it| {
                it.controllers[0].directories[0].inner.push(Undecoded(directory(&"x".repeat(2000), &[], "x").encode()))
            },
            |it| it.sets[1].members[0].path = "/a/box-2".into(),
            |it| it.sets[1].members[0].path = "/elsewhere".into(),
            |it| it.sets[1].members[0].path = "/a/box/../../other".into(),
            |it| it.sets[1].members[0].path = String::new(),
            |it| it.sets[1].members[0].root = 3,
            |it| it.sets[1].members[0].root = 100,
        ];
        for (number, change) in odd.iter().enumerate() {
            let mut changed = cgroups();
            change(&mut changed);
            assert!(judged(&changed).is_err(), "change {number}");
        }
        assert!(judge(&cgroups(), "", &|_| true).is_err(), "without a cgroup");
    }

    #[test]
    fn each_first_directory_is_renamed_as_criu_renames_it() {
        let good = [
            with(&["a/box"], &[("/a/box", 6), ("/a/box/inner", 6)]),
            // A cgroup namespace whose root has no processes.
            with(&["a/box/x", "a/box/y"], &[("/a/box/x", 6), ("/a/box/y", 6)]),
            with(&["a", "b"], &[("/a", 0), ("/b/inner", 0)]),
            with(&[""], &[("/", 0)]),
        ];
        for (number, cgroups) in good.iter().enumerate() {
            judged(cgroups).unwrap_or_else(|error| panic!("{number}: {error}"));
        }
        let odd = [
            // The first takes the only process, so the second stays where it is on the host.
            with(&["a", "a/b"], &[("/a/b/c", 0)]),
            // The first name is a prefix of the second.
            with(&["s", "system.slice"], &[("/s", 0), ("/system.slice", 0)]),
            // The second name is a prefix of the container's cgroup.
            with(&["a", "s"], &[("/a", 0), ("/s", 0)]),
            with(&["a/box/x", "system"], &[("/a/box/x", 6), ("/system", 3)]),
        ];
        for (number, cgroups) in odd.iter().enumerate() {
            assert!(judged(cgroups).is_err(), "{number}");
        }
    }

    #[test]
    fn nothing_is_given_to_others() {
        type Change = fn(&mut Directory);
        let odd: &[Change] = &[
            |it| it.permissions = permissions(0o40_777, 0),
            |it| it.permissions = permissions(0o40_775, 1),
            |it| it.permissions = permissions(0o40_755, 2),
            |it| it.properties[0].permissions = permissions(0o100_646, 0),
            |it| it.inner.push(Undecoded(Directory { permissions: permissions(0o40_755, 7), ..it.clone() }.encode())),
        ];
        for (number, change) in odd.iter().enumerate() {
            let mut changed = cgroups();
            change(&mut changed.controllers[0].directories[0]);
            assert!(judged(&changed).is_err(), "change {number}");
        }
        let mut changed = cgroups();
        changed.controllers[0].directories[0].permissions = permissions(0o40_755, 1);
        judged(&changed).expect("that of the container's root");
    }

    #[test]
    fn directories_are_not_followed_for_ever() {
        let deep = (0..2000).fold(directory("x", &[], "p"), |inner, _| directory("x", &[inner], "p"));
        let mut changed = cgroups();
        changed.controllers[0].directories[0].inner.push(Undecoded(deep.encode()));
        assert!(judged(&changed).is_err());
    }
}
