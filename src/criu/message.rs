//! The messages, by the numbers of `rpc.proto`. The comments give the meaning of the numbers, not what CRIU does.

use windlass_base::protobuf::message;

/// The subject of a [`Request`] and its [`Response`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Write the images of a tree of processes.
    Dump = 1,
    /// Make processes from images.
    Restore = 2,
    /// A step of a dump or a restore, or the answer to it.
    Notify = 6,
    /// Ask for the features.
    FeatureCheck = 9,
    /// Ask for the version.
    Version = 10,
    /// Write the memory of processes once, which go on.
    SinglePreDump = 13,
}

/// `manage_cgroups_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupMode {
    /// Leave cgroups alone.
    Ignore = 0,
    /// Restore cgroups, and the properties of those that CRIU has made.
    Soft = 3,
    /// Restore all cgroups and properties.
    Full = 4,
    /// Restore all cgroups and properties; a cgroup that exists is an error.
    Strict = 5,
}

/// `network_lock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkLock {
    /// Lock by iptables(8).
    Iptables = 1,
    /// Lock by nftables.
    Nftables = 2,
    /// Do not lock.
    Skip = 3,
}

message! {
    /// `criu_req`.
    Request {
        /// A [`Type`].
        1 kind: Option<i32>,
        /// The options of the request.
        2 options: Option<Options>,
        /// The answer to a notification: whether to go on.
        3 go_on: Option<bool>,
        /// Whether further requests follow.
        4 keep_open: Option<bool>,
        /// The features that are asked about.
        5 features: Option<Features>,
    }
    /// `criu_opts`.
    Options {
        /// The directory of the images, as a descriptor of the asking process.
        1 images_dir_fd: Option<i32>,
        /// The first process of the tree.
        2 pid: Option<i32>,
        /// Whether the processes go on after the dump.
        3 leave_running: Option<bool>,
        /// Whether sockets may be connected to processes outside.
        4 ext_unix_sk: Option<bool>,
        /// Whether open TCP connections are dumped and restored.
        5 tcp_established: Option<bool>,
        /// Whether CRIU may use any path to a device.
        6 evasive_devices: Option<bool>,
        /// Whether session and terminal may come from outside.
        7 shell_job: Option<bool>,
        /// Whether locks of files are dumped and restored.
        8 file_locks: Option<bool>,
        /// The level of the log: 4 logs everything.
        9 log_level: Option<i32>,
        /// The name of the log in the work directory.
        10 log_file: String,
        /// The server that pages are sent to, or fetched from.
        11 page_server: Option<PageServer>,
        /// Whether notifications are sent.
        12 notify_scripts: Option<bool>,
        /// The root filesystem.
        13 root: String,
        /// The images of the parent dump, relative to the images.
        14 parent_img: String,
        /// Whether the kernel is to track which memory changes.
        15 track_mem: Option<bool>,
        /// Whether pages that are dumped anew are removed from the parent's images.
        16 auto_dedup: Option<bool>,
        /// The directory of the log, as a descriptor of the asking process.
        17 work_dir_fd: Option<i32>,
        /// Whether an unlinked file may be linked again for the dump.
        18 link_remap: Option<bool>,
        /// Mounts that CRIU does not make itself.
        23 external_mounts: Vec<Pair>,
        /// Whether CRIU manages cgroups; older than `cgroup_mode`.
        24 manage_cgroups: Option<bool>,
        /// The new places of the images' cgroups.
        25 cgroup_roots: Vec<CgroupRoot>,
        /// Whether the first process becomes a child of the asking process.
        26 rst_sibling: Option<bool>,
        /// Descriptors of CRIU for what the images name.
        27 inherit_fd: Vec<InheritFd>,
        /// Whether mounts may be slaves of mounts outside.
        30 ext_masters: Option<bool>,
        /// A [`CgroupMode`].
        34 cgroup_mode: Option<i32>,
        /// The largest unlinked file that goes into the images, in bytes.
        35 ghost_limit: Option<i32>,
        /// External resources, each as `kind[id]:name`.
        37 external: Vec<String>,
        /// The namespaces (`CLONE_NEW*`) whose content is not dumped.
        38 empty_namespaces: Option<i32>,
        /// Namespaces to join.
        39 join_namespaces: Vec<JoinNamespace>,
        /// The cgroup whose freezer stops the processes.
        44 freeze_cgroup: String,
        /// How long freezing may take, in seconds.
        45 timeout: Option<i32>,
        /// Whether connections that are not open yet are left out.
        46 tcp_skip_in_flight: Option<bool>,
        /// Whether pages are fetched later.
        48 lazy_pages: Option<bool>,
        /// Whether the other end of a terminal is passed to the asking process.
        50 orphan_pts_master: Option<bool>,
        /// A file with further options, which override these.
        51 config_file: String,
        /// Whether TCP connections are restored closed.
        52 tcp_close: Option<bool>,
        /// The LSM profile in place of the images': `selinux:` or `apparmor:` and its name.
        53 lsm_profile: String,
        /// The SELinux context of mounts in place of the images'.
        63 lsm_mount_context: String,
        /// A [`NetworkLock`].
        64 network_lock: Option<i32>,
    }
    /// `criu_page_server_info`.
    PageServer {
        /// The host.
        1 address: String,
        /// The port.
        2 port: Option<i32>,
    }
    /// `ext_mount_map`. In a dump the key is a mount point, and the value its name in the images. In a restore the
    /// key is that name, and the value the source.
    Pair {
        /// See above.
        1 key: String,
        /// See above.
        2 value: String,
    }
    /// `cgroup_root`.
    CgroupRoot {
        /// The controllers of a hierarchy of version 1.
        1 controllers: String,
        /// The path in the hierarchy.
        2 path: String,
    }
    /// `inherit_fd`.
    InheritFd {
        /// Its key in the images.
        1 key: String,
        /// The number of the descriptor that CRIU was started with.
        2 fd: Option<i32>,
    }
    /// `join_namespace`.
    JoinNamespace {
        /// Its kind: `ipc`, `uts`, `time`.
        1 kind: String,
        /// Its file.
        2 path: String,
    }
    /// `criu_features`.
    Features {
        /// Whether changes of memory are tracked.
        1 mem_track: Option<bool>,
        /// Whether pages can be fetched later.
        2 lazy_pages: Option<bool>,
    }
    /// `criu_resp`.
    Response {
        /// The [`Type`] of the request, or [`Type::Notify`].
        1 kind: Option<i32>,
        /// Whether the request succeeded.
        2 success: Option<bool>,
        /// The restored process.
        4 restored: Option<Restored>,
        /// The step that is reported.
        5 notify: Option<Step>,
        /// The errno of a failure.
        7 errno: Option<i32>,
        /// The available features.
        8 features: Option<Features>,
        /// CRIU's description of a failure.
        9 error: String,
        /// The version.
        10 version: Option<Version>,
    }
    /// `criu_restore_resp`.
    Restored {
        /// Its process id.
        1 pid: Option<i32>,
    }
    /// `criu_notify`.
    Step {
        /// Its name.
        1 name: String,
        /// The first process of the tree, once there is one.
        2 pid: Option<i32>,
    }
    /// `criu_version`.
    Version {
        /// The first number of 4.1.1.
        1 major: Option<i32>,
        /// The second number.
        2 minor: Option<i32>,
        /// The commit, in a build between two versions.
        3 commit: String,
        /// The third number.
        4 sublevel: Option<i32>,
    }
}

impl Version {
    /// A number that grows with the version: 40101 for 4.1.1. A build between two versions counts as the later one.
    pub fn number(&self) -> i32 {
        let [major, minor, sublevel] = [self.major, self.minor, self.sublevel].map(Option::unwrap_or_default);
        match self.commit.is_empty() {
            true => major * 10_000 + minor * 100 + sublevel,
            false => major * 10_000 + (minor + 1) * 100,
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, sublevel] = [self.major, self.minor, self.sublevel].map(Option::unwrap_or_default);
        write!(f, "{major}.{minor}")?;
        if sublevel > 0 { write!(f, ".{sublevel}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use windlass_base::protobuf::Message;

    use super::*;

    #[test]
    fn zero_is_written_where_it_means_something() {
        let options =
            Options { images_dir_fd: Some(0), cgroup_mode: Some(CgroupMode::Ignore as i32), ..Options::default() };
        // Field 1 and field 34, both of wire type 0 and with the value 0.
        assert_eq!(options.encode(), [8, 0, 0x90, 2, 0]);
    }

    /// The answer of CRIU 4.1.1 to a request for its version.
    #[test]
    fn an_answer_is_read() {
        let bytes = [8, 10, 16, 1, 82, 6, 8, 4, 16, 1, 32, 1];
        let response = Response::decode(&bytes).expect("a message");
        let version = response.version.expect("the version");
        assert_eq!((version.to_string().as_str(), version.number()), ("4.1.1", 40_101));
        assert_eq!((response.kind, response.success), (Some(Type::Version as i32), Some(true)));
    }

    #[test]
    fn a_build_between_two_versions_counts_as_the_later() {
        let version = Version { major: Some(4), minor: Some(1), commit: "v4.1-3-gabc".into(), sublevel: None };
        assert_eq!(version.number(), 40_200);
    }
}
