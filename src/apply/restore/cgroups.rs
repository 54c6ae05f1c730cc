//! The cgroups that images name, where CRIU is to make them. It makes directories and writes files by these names, as
//! root.

use std::os::fd::BorrowedFd;

use windlass_base::error::{Error, Result};
use windlass_base::protobuf::Message;
use windlass_criu::image::{Cgroups, Directory, Kind, Member};

use super::claims::{optional, refuse};

/// The file.
const NAME: &str = "cgroup.img";

/// Bytes of the path of a cgroup. CRIU puts it together in a buffer of 4096.
const LONGEST: usize = 1024;

/// Refuses names that lead out of the container's cgroup.
pub fn check(dir: BorrowedFd<'_>) -> Result<()> {
    optional::<Cgroups>(dir, Kind::Cgroups, NAME)?.unwrap_or_default().iter().try_for_each(judge)
}

fn judge(cgroups: &Cgroups) -> Result<()> {
    let members: Vec<&Member> = cgroups.sets.iter().flat_map(|set| &set.members).collect();
    // CRIU takes the name of a hierarchy for a part of a path, and that of version 2 has none.
    let named = members.iter().any(|member| !member.controllers.is_empty());
    if named || cgroups.controllers.iter().any(|controller| controller.controllers != [""]) {
        return Err(refuse(NAME, "names a hierarchy other than that of version 2"));
    }
    let tops: Vec<&Directory> = cgroups.controllers.iter().flat_map(|controller| &controller.directories).collect();
    // CRIU puts the container's cgroup where a first directory stands, there and in the paths of the processes in it.
    for member in &members {
        let top = tops.iter().find(|top| is_below(&member.path, &top.name));
        let begins = |top: &&&Directory| member.root == 0 || member.root as usize == top.name.len() + 1;
        if !is_plain(&member.path) || top.filter(begins).is_none() {
            return Err(odd(&member.path));
        }
    }
    for top in tops {
        if !members.iter().any(|member| is_below(&member.path, &top.name)) {
            return Err(odd(&top.name));
        }
        judge_directory(top)?;
    }
    Ok(())
}

/// A first directory, and those in it: they are in one another, as deep as the images say.
fn judge_directory(top: &Directory) -> Result<()> {
    let mut left = vec![(0, top.clone())];
    while let Some((above, directory)) = left.pop() {
        let length = above + 1 + directory.name.len();
        if !is_plain(&directory.name) || length > LONGEST {
            return Err(odd(&directory.name));
        }
        let names = directory.properties.iter().map(|property| &property.name);
        if let Some(name) = names.into_iter().find(|name| name.contains('/') || !is_plain(name)) {
            return Err(odd(name));
        }
        for inner in &directory.inner {
            left.push((length, Directory::decode(&inner.0).map_err(|_| refuse(NAME, "is damaged"))?));
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

/// Whether an absolute path is that of a directory, given without its first slash, or of something in it.
fn is_below(path: &str, directory: &str) -> bool {
    let rest = path.strip_prefix('/').and_then(|path| path.strip_prefix(directory));
    !directory.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use windlass_criu::image::{CgroupSet, Controller, Property, Undecoded};

    use super::*;

    fn directory(name: &str, inner: &[Directory], property: &str) -> Directory {
        Directory {
            name: name.into(),
            inner: inner.iter().map(|inner| Undecoded(inner.encode())).collect(),
            properties: vec![Property { name: property.into() }],
        }
    }

    fn member(path: &str) -> Member {
        Member { path: path.into(), ..Member::default() }
    }

    /// A container with a process in its cgroup and one in `inner`.
    fn cgroups() -> Cgroups {
        let members = vec![member("/a/box"), member("/a/box/inner")];
        let top = directory("a/box", &[directory("inner", &[], "pids.max")], "cgroup.procs");
        Cgroups {
            sets: members.into_iter().map(|member| CgroupSet { members: vec![member] }).collect(),
            controllers: vec![Controller { controllers: vec![String::new()], directories: vec![top] }],
        }
    }

    #[test]
    fn cgroups_stay_below_that_of_the_container() {
        type Change = fn(&mut Cgroups);
        judge(&cgroups()).expect("a container");
        let mut rooted = cgroups();
        rooted.sets[1].members[0].root = 6;
        judge(&rooted).expect("a cgroup namespace");
        let odd: &[Change] = &[
            |it| it.controllers[0].controllers = vec!["../../../../proc/sys".into()],
            |it| it.controllers[0].controllers = Vec::new(),
            |it| it.controllers[0].controllers.push("cpu".into()),
            |it| it.sets[0].members[0].controllers = "cpu".into(),
            |it| it.controllers[0].directories[0].name = "a/../box".into(),
            |it| it.controllers[0].directories[0].name = String::new(),
            |it| it.controllers[0].directories[0].properties[0].name = "../cgroup.kill".into(),
            |it| it.controllers[0].directories.push(directory("system.slice", &[], "cgroup.kill")),
            |it| it.controllers[0].directories[0].inner.push(Undecoded(directory("..", &[], "x").encode())),
            |it| {
                it.controllers[0].directories[0].inner.push(Undecoded(directory(&"x".repeat(2000), &[], "x").encode()))
            },
            |it| it.sets[1].members[0].path = "/a/box-2".into(),
            |it| it.sets[1].members[0].path = "/elsewhere".into(),
            |it| it.sets[1].members[0].path = "/a/box/../../other".into(),
            |it| it.sets[1].members[0].root = 3,
        ];
        for (number, change) in odd.iter().enumerate() {
            let mut changed = cgroups();
            change(&mut changed);
            assert!(judge(&changed).is_err(), "change {number}");
        }
    }

    #[test]
    fn directories_are_not_followed_for_ever() {
        let deep = (0..2000).fold(directory("x", &[], "p"), |inner, _| directory("x", &[inner], "p"));
        let mut changed = cgroups();
        changed.controllers[0].directories[0].inner.push(Undecoded(deep.encode()));
        assert!(judge(&changed).is_err());
    }
}
