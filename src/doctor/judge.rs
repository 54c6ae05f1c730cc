//! Derives findings from facts.

use serde::Serialize;

use super::facts::{Facts, Helper};

/// The result of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Nothing is missing.
    Ok,
    /// Something is missing that a default container does not need.
    Limited,
    /// Something is missing that a default container needs.
    Missing,
}

impl Level {
    /// The word in the text output.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Limited => "limited",
            Level::Missing => "missing",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The subject.
    pub name: &'static str,
    pub level: Level,
    /// The text of the finding.
    pub says: String,
    /// The remedy for what is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

fn ok(name: &'static str, says: impl Into<String>) -> Finding {
    Finding { name, level: Level::Ok, says: says.into(), remedy: None }
}

fn limited(name: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { name, level: Level::Limited, says: says.into(), remedy: Some(remedy.into()) }
}

fn missing(name: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { level: Level::Missing, ..limited(name, says, remedy) }
}

/// The findings, in the order in which they are shown.
pub(crate) fn judge(facts: &Facts) -> Vec<Finding> {
    let all: &[fn(&Facts) -> Option<Finding>] = &[
        kernel,
        namespaces,
        filesystems,
        user_namespaces,
        ids,
        state_root,
        cgroups,
        controllers,
        device_filter,
        exit_status,
        systemd,
        seccomp,
        apparmor,
        selinux,
    ];
    all.iter().filter_map(|judge| judge(facts)).collect()
}

fn kernel(facts: &Facts) -> Option<Finding> {
    let lacking = &facts.kernel.missing_calls;
    Some(match lacking.is_empty() {
        true => ok("kernel", "has every system call that is needed"),
        false => {
            let list: Vec<String> = lacking.iter().map(|(call, since)| format!("{call} (Linux {since})")).collect();
            let remedy = "a newer kernel; inside of a container, a seccomp filter that knows these calls";
            missing("kernel", format!("does not have {}", list.join(", ")), remedy)
        }
    })
}

fn namespaces(facts: &Facts) -> Option<Finding> {
    let lacking = &facts.kernel.missing_namespaces;
    // A default container has no time namespace, and a user namespace only if the user has no privileges.
    let needed = lacking.iter().any(|name| match *name {
        "time" => false,
        "user" => facts.user.rootless,
        _ => true,
    });
    Some(match lacking.is_empty() {
        true => ok("namespaces", "all eight kinds"),
        false => Finding {
            level: if needed { Level::Missing } else { Level::Limited },
            ..limited("namespaces", format!("no {}", lacking.join(", ")), "a kernel with CONFIG_*_NS=y for them")
        },
    })
}

fn filesystems(facts: &Facts) -> Option<Finding> {
    let lacking = &facts.kernel.missing_filesystems;
    Some(match lacking.is_empty() {
        true => ok("filesystems", "all that a default container mounts"),
        false => missing(
            "filesystems",
            format!("the kernel does not know {}", lacking.join(", ")),
            format!("`modprobe {}`, or a kernel that has them", lacking.join(" ")),
        ),
    })
}

fn user_namespaces(facts: &Facts) -> Option<Finding> {
    let found = &facts.user_namespaces;
    let Some(refused) = &found.refused else { return Some(ok("user namespaces", "can be made, and mounted in")) };
    let (why, remedy) = if found.max == Some(0) {
        ("user.max_user_namespaces is 0".to_owned(), "`sysctl -w user.max_user_namespaces=15000`")
    } else if found.debian_switch == Some(0) {
        ("kernel.unprivileged_userns_clone is 0".to_owned(), "`sysctl -w kernel.unprivileged_userns_clone=1`")
    } else if found.apparmor_switch == Some(1) {
        (
            format!("AppArmor keeps ordinary users from using them ({refused})"),
            "an AppArmor profile for windlass with \"userns,\", or `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
        )
    } else {
        (
            format!("one cannot be made and mounted in ({refused})"),
            "a limit (`sysctl user.max_user_namespaces`), a security module, or the seccomp filter of a container around us",
        )
    };
    let level = if facts.user.rootless && !facts.user.nested { Level::Missing } else { Level::Limited };
    Some(Finding { level, ..limited("user namespaces", why, remedy) })
}

/// Subordinate ids. A user with privileges can map any id and needs none.
fn ids(facts: &Facts) -> Option<Finding> {
    let user = &facts.user;
    if !user.rootless || user.nested {
        return None;
    }
    let finding = match (user.newuidmap, user.newgidmap) {
        (Helper::Absent, _) | (_, Helper::Absent) => limited(
            "subordinate ids",
            "newuidmap or newgidmap is not in PATH: only one's own two ids can be mapped",
            "install the package uidmap (Debian) or shadow-utils (Fedora)",
        ),
        (Helper::Powerless, _) | (_, Helper::Powerless) => limited(
            "subordinate ids",
            "newuidmap or newgidmap has neither set-user-id bit nor capability: only one's own two ids can be mapped",
            "`setcap cap_setuid=ep /usr/bin/newuidmap`, `setcap cap_setgid=ep /usr/bin/newgidmap`",
        ),
        _ if user.subordinate_uids == 0 || user.subordinate_gids == 0 => limited(
            "subordinate ids",
            format!("/etc/subuid or /etc/subgid has no line for {}: only one's own two ids can be mapped", user.name),
            format!("`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}`", user.name),
        ),
        _ => ok("subordinate ids", format!("{} users and {} groups", user.subordinate_uids, user.subordinate_gids)),
    };
    Some(finding)
}

fn state_root(facts: &Facts) -> Option<Finding> {
    let (path, writable) = &facts.state_root;
    Some(match (writable, facts.user.rootless && facts.systemd.runtime_dir.is_none()) {
        (true, _) => ok("state", format!("kept in {path}")),
        (false, true) => missing(
            "state",
            format!("{path} cannot be written, and XDG_RUNTIME_DIR is not set"),
            "log in (su and sudo do not set it), or say where with --root",
        ),
        (false, false) => {
            missing("state", format!("{path} cannot be written"), "say where with --root, or make the directory")
        }
    })
}

fn cgroups(facts: &Facts) -> Option<Finding> {
    let found = &facts.cgroups;
    Some(match &found.unified {
        None => limited(
            "cgroups",
            "no cgroup2 is mounted: containers run without limits, pause and kill of all processes",
            "boot with systemd.unified_cgroup_hierarchy=1, or `mount -t cgroup2 none /sys/fs/cgroup`",
        ),
        Some(mount) if found.usable => {
            let mode = if found.v1.is_empty() { "version 2" } else { "hybrid, version 2" };
            ok("cgroups", format!("{mode} at {mount}; one can be made from {}", found.own))
        }
        Some(_) if facts.user.rootless => limited(
            "cgroups",
            format!("none can be made from {}: containers run there, without limits", found.own),
            match facts.systemd.reached {
                Ok(_) => {
                    "--systemd-cgroup has systemd make one; or `systemd-run --user --scope -p Delegate=yes windlass ...`"
                }
                Err(_) if !facts.systemd.booted => "root can chown a cgroup and put the user's shell in it",
                Err(_) => {
                    "`loginctl enable-linger` starts a systemd for this user; by hand, root can chown a cgroup and put the user's shell in it"
                }
            },
        ),
        Some(mount) => missing(
            "cgroups",
            format!("no cgroup can be made below {mount}"),
            "it is mounted read-only or belongs to somebody else: `mount -o remount,rw`, or --rootless=true to do without",
        ),
    })
}

/// The controllers that engines use.
const USUAL: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

fn controllers(facts: &Facts) -> Option<Finding> {
    let found = &facts.cgroups;
    found.unified.as_ref()?;
    if !found.usable && facts.systemd.reached.is_err() {
        return None;
    }
    // If we cannot make a cgroup, systemd may.
    let (have, whose) = match found.usable {
        true => (&found.delegated, "here"),
        false => (&facts.systemd.controllers, "with --systemd-cgroup"),
    };
    let lacking = |have: &[String]| -> Vec<&str> {
        USUAL.into_iter().filter(|name| !have.iter().any(|other| other == name)).collect()
    };
    let here = lacking(have);
    if here.is_empty() {
        return Some(ok("controllers", format!("{} can be limited {whose}", USUAL.join(", "))));
    }
    let host = lacking(&found.all);
    let is_v1 = |name: &&str| found.v1.iter().any(|v1| v1 == name || (v1 == "blkio" && *name == "io"));
    let remedy = if host.iter().any(is_v1) {
        "they are mounted as version 1: boot with systemd.unified_cgroup_hierarchy=1 or cgroup_no_v1=all".to_owned()
    } else if host == here {
        format!("this kernel does not have {}", host.join(", "))
    } else if facts.user.rootless {
        let delegate: Vec<&str> = USUAL.into_iter().filter(|name| !host.contains(name)).collect();
        format!(
            "`systemctl edit user@.service`, there \"[Service]\" and \"Delegate={}\", then log in again",
            delegate.join(" ")
        )
    } else {
        "an ancestor does not delegate them: see cgroup.subtree_control there".to_owned()
    };
    Some(limited("controllers", format!("no limits of {} {whose}", here.join(", ")), remedy))
}

fn device_filter(facts: &Facts) -> Option<Finding> {
    if facts.user.rootless {
        return None;
    }
    Some(match &facts.kernel.device_filter {
        _ if facts.cgroups.unified.is_none() => match facts.cgroups.v1.iter().any(|name| name == "devices") {
            true => ok("device filter", "the devices controller of cgroup v1 takes its place"),
            false => missing(
                "device filter",
                "no cgroup file system is mounted that could judge the use of devices",
                "`mount -t cgroup2 none /sys/fs/cgroup`, or --cgroup-manager disabled to do without",
            ),
        },
        None => ok("device filter", "can be loaded"),
        Some(why) => missing(
            "device filter",
            format!("an eBPF program cannot be loaded: {why}"),
            "a kernel with CONFIG_CGROUP_BPF, and CAP_BPF or CAP_SYS_ADMIN outside of user namespaces",
        ),
    })
}

fn exit_status(facts: &Facts) -> Option<Finding> {
    Some(match &facts.kernel.exit_not_kept {
        None => ok("exit status", "the kernel keeps it until `delete`, whoever reaps the container"),
        Some(why) => limited(
            "exit status",
            format!("known only to the process that reaps the container ({why})"),
            match facts.user.rootless {
                true => "a shim, such as windlass-shim, records it",
                false => "Linux 6.15 or newer; a shim, such as windlass-shim, records it too",
            },
        ),
    })
}

fn systemd(facts: &Facts) -> Option<Finding> {
    let bus = &facts.systemd;
    let which = if facts.user.rootless { "this user's systemd" } else { "systemd" };
    Some(match &bus.reached {
        Ok(version) if facts.user.rootless && !bus.lingers => limited(
            "systemd",
            format!("{which} {version} can be asked, and ends with all its containers when the user logs out"),
            "`loginctl enable-linger`",
        ),
        Ok(version) => ok("systemd", format!("{which} {version} can be asked")),
        Err(_) if !bus.booted => {
            limited("systemd", "did not boot this host: no --systemd-cgroup", "nothing to mend: use cgroups without it")
        }
        Err(why) if facts.user.rootless => limited(
            "systemd",
            format!("no --systemd-cgroup: {why}"),
            "`loginctl enable-linger`, and XDG_RUNTIME_DIR=/run/user/UID in the environment; needs dbus-user-session where there is no login",
        ),
        Err(why) => limited("systemd", format!("no --systemd-cgroup: {why}"), "`systemctl status dbus`"),
    })
}

fn seccomp(facts: &Facts) -> Option<Finding> {
    Some(match (facts.kernel.seccomp, facts.kernel.seccomp_listener) {
        (true, true) => ok("seccomp", "filters, and listeners"),
        (true, false) => limited("seccomp", "filters, but no listeners (SCMP_ACT_NOTIFY)", "Linux 5.0 or newer"),
        (false, _) => limited(
            "seccomp",
            "the kernel takes no filters: containers of engines do not start, those without linux.seccomp do",
            "a kernel with CONFIG_SECCOMP_FILTER=y, or --security-opt seccomp=unconfined in the engine",
        ),
    })
}

fn apparmor(facts: &Facts) -> Option<Finding> {
    Some(ok(
        "AppArmor",
        if facts.security_modules.apparmor { "is enabled" } else { "is not enabled: apparmorProfile is an error" },
    ))
}

fn selinux(facts: &Facts) -> Option<Finding> {
    Some(ok(
        "SELinux",
        match facts.security_modules.selinux {
            Some(true) => "is enabled and enforces",
            Some(false) => "is enabled and only warns",
            None => "is not enabled: selinuxLabel is an error",
        },
    ))
}

#[cfg(test)]
mod tests;
