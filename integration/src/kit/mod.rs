//! The toolkit of cases: bundles, containers, terminals, shims, and the context [`T`].

pub mod bundle;
pub mod canary;
pub mod cgroup;
pub mod console;
pub mod container;
pub mod containerd;
pub mod criu;
pub mod follow;
pub mod images;
pub mod inject;
pub mod machine;
pub mod notify;
pub mod page;
pub mod race;
pub mod ran;
pub mod reader;
pub mod rootfs;
pub mod runtime;
pub mod shim;
pub mod snapshot;
pub mod spec;
pub mod stop;
pub mod t;
pub mod traced;
pub mod wait;
pub mod workspace;

pub use bundle::Bundle;
pub use container::Container;
pub use ran::Ran;
pub use stop::{Stop, Verdict};
pub use t::T;
pub use workspace::Workspace;

use std::path::Path;

/// A case: a sentence about what a runtime must do, and the code that checks it.
#[derive(Clone, Copy)]
pub struct Case {
    /// `chapter::sentence`.
    pub name: &'static str,
    /// The case's needs from the machine beyond root.
    pub needs: &'static [Need],
    /// Runs it. `Ok` is a pass.
    pub run: fn(&T) -> Verdict,
}

/// Something that not every harness has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A cgroup v2 controller.
    Controller(&'static str),
    /// `CAP_SYS_RESOURCE` in the bounding set of the harness's root.
    SysResource,
    /// Time namespaces.
    TimeNamespace,
    /// Mandatory access control by AppArmor.
    AppArmor,
    /// SELinux that enforces the policy of `guests/selinux.cil`.
    SeLinux,
    /// The cgroup namespace is the first, from which alone a mount sets the options of cgroup2.
    FirstCgroupNamespace,
    /// The harness has its own kernel, because the case changes settings of the whole kernel.
    OwnKernel,
    /// The runtime is windlass, because the case is about a feature that only it has.
    Windlass,
    /// CRIU, and a kernel that it supports.
    Criu,
    /// The case takes longer than a second or two, and gets a longer limit.
    Slow,
}

impl Need {
    /// Why this machine does not meet the need.
    pub fn missing(self) -> Option<String> {
        let (there, reason) = match self {
            Need::Controller(name) => {
                let offered = machine::text("/sys/fs/cgroup/cgroup.controllers");
                let there = offered.split_whitespace().any(|controller| controller == name);
                (there, format!("no {name} controller in cgroup2"))
            }
            Need::SysResource => {
                let there = machine::bounding_capabilities().iter().any(|name| name == "CAP_SYS_RESOURCE");
                (there, "root has no CAP_SYS_RESOURCE".to_owned())
            }
            Need::TimeNamespace => (Path::new("/proc/self/ns/time").exists(), "no time namespaces".to_owned()),
            Need::AppArmor => {
                (machine::text("/sys/module/apparmor/parameters/enabled") == "Y", "AppArmor is not enabled".to_owned())
            }
            Need::SeLinux => {
                let enforces = machine::text("/sys/fs/selinux/enforce").trim() == "1";
                let label = machine::text("/proc/self/attr/current");
                let ours = label.trim_end_matches('\0').contains(":runtime_t:");
                (enforces && ours, "SELinux does not enforce the suite's policy".to_owned())
            }
            Need::FirstCgroupNamespace => {
                // The inode of the initial namespace is fixed (linux/proc_ns.h).
                let first = Path::new("cgroup:[4026531835]");
                let there = std::fs::read_link("/proc/self/ns/cgroup").is_ok_and(|link| link == first);
                (there, "the cgroup namespace is not the first".to_owned())
            }
            Need::OwnKernel => {
                let there = std::env::var_os(crate::harness::init::OWN_KERNEL).is_some();
                (there, "the kernel is not the harness's own".to_owned())
            }
            Need::Criu => return criu::missing(),
            Need::Windlass | Need::Slow => return None,
        };
        (!there).then_some(reason)
    }
}

/// Defines the cases of a chapter: a list of functions `fn(&T) -> Verdict`, each followed by its needs, if any.
#[macro_export]
macro_rules! chapter {
    ($name:literal: $($case:ident $([$($need:expr),*])?),* $(,)?) => {
        /// The cases of this chapter.
        pub const CASES: &[$crate::kit::Case] = &[$(
            $crate::kit::Case {
                name: concat!($name, "::", stringify!($case)),
                needs: &[$($($need),*)?],
                run: $case,
            }
        ),*];
    };
}

/// Fails the case with a message unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        let holds: bool = $condition;
        if !holds {
            return Err($crate::kit::Stop::Fail(format!($($message)+)));
        }
    };
}

/// Fails the case unless both sides are equal.
#[macro_export]
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($message:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    return Err($crate::kit::Stop::Fail(format!("{}: {left:?} is not {right:?}", format!($($message)+))));
                }
            }
        }
    };
}
