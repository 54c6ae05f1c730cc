//! The flags of a dump or a restore, in the terms of CRIU.

use crate::message::{CgroupMode, NetworkLock, Options, PageServer};

/// The flags that `checkpoint` and `restore` pass on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub leave_running: bool,
    pub tcp_established: bool,
    pub tcp_skip_in_flight: bool,
    pub tcp_close: bool,
    pub link_remap: bool,
    pub ext_unix_sk: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub lazy_pages: bool,
    pub auto_dedup: bool,
    pub pre_dump: bool,
    /// `--parent-path`, relative to the images.
    pub parent: Option<String>,
    pub page_server: Option<(String, u16)>,
    /// `--manage-cgroups-mode`. `None`: the runtime manages cgroups.
    pub cgroup_mode: Option<CgroupMode>,
    pub network_lock: Option<NetworkLock>,
    pub lsm_profile: String,
    pub lsm_mount_context: String,
}

/// The log's most detailed level, which the explanation of a failure needs.
const LOG_LEVEL: i32 = 4;

impl Flags {
    /// Whether CRIU makes cgroups and moves processes into them.
    pub fn manages_cgroups(&self) -> bool {
        !matches!(self.cgroup_mode, None | Some(CgroupMode::Ignore))
    }

    /// The mode in which CRIU manages cgroups at a restore. The container's own cgroup exists, with the limits of
    /// config.json. `full` would give it the limits of the images; `soft` gives them only to cgroups that CRIU makes.
    pub fn cgroup_mode_of_restore(&self) -> CgroupMode {
        match self.cgroup_mode {
            Some(CgroupMode::Full) => CgroupMode::Soft,
            mode => mode.unwrap_or(CgroupMode::Ignore),
        }
    }

    /// The options that follow from the flags alone. An option that is not asked for is absent, so that a file of
    /// CRIU's configuration decides about it.
    pub fn options(&self) -> Options {
        let set = |flag: bool| flag.then_some(true);
        Options {
            ext_unix_sk: set(self.ext_unix_sk),
            tcp_established: set(self.tcp_established),
            tcp_skip_in_flight: set(self.tcp_skip_in_flight),
            tcp_close: set(self.tcp_close),
            shell_job: set(self.shell_job),
            file_locks: set(self.file_locks),
            link_remap: set(self.link_remap),
            lazy_pages: set(self.lazy_pages),
            auto_dedup: set(self.auto_dedup),
            log_level: Some(LOG_LEVEL),
            notify_scripts: Some(true),
            orphan_pts_master: Some(true),
            manage_cgroups: Some(true),
            cgroup_mode: Some(self.cgroup_mode.unwrap_or(CgroupMode::Ignore) as i32),
            // Locking the network takes tens of milliseconds, and only connections need it.
            network_lock: match self.network_lock {
                None if !self.tcp_established => Some(NetworkLock::Skip as i32),
                lock => lock.map(|lock| lock as i32),
            },
            page_server: self
                .page_server
                .as_ref()
                .map(|(address, port)| PageServer { address: address.clone(), port: Some((*port).into()) }),
            lsm_profile: self.lsm_profile.clone(),
            lsm_mount_context: self.lsm_mount_context.clone(),
            ..Options::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use windlass_base::protobuf::{FieldValue, Fields, Message};

    #[test]
    fn the_network_is_locked_only_for_connections() {
        let lock = |flags: Flags| flags.options().network_lock;
        assert_eq!(lock(Flags::default()), Some(3));
        assert_eq!(lock(Flags { tcp_established: true, ..Flags::default() }), None);
        let nftables = Some(NetworkLock::Nftables);
        assert_eq!(lock(Flags { network_lock: nftables, ..Flags::default() }), Some(2));
    }

    #[test]
    fn what_is_not_asked_for_is_left_to_the_configuration_of_criu() {
        let options = Flags::default().options();
        assert_eq!((options.tcp_established, options.file_locks, options.shell_job), (None, None, None));
        assert_eq!(options.cgroup_mode, Some(0));
    }

    /// The fields of a message by their numbers: a number, or the length of bytes.
    fn fields(message: &[u8]) -> BTreeMap<u32, u64> {
        let fields = Fields::of(message).map(|field| match field.expect("a field") {
            (number, FieldValue::Varint(value)) => (number, value),
            (number, FieldValue::Bytes(bytes)) => (number, bytes.len() as u64),
            other => panic!("{other:?}"),
        });
        fields.collect()
    }

    #[test]
    fn each_flag_has_its_number_in_rpc_proto() {
        let none = fields(&Flags::default().options().encode());
        type Change = fn(&mut Flags);
        let table: &[(Change, u32, u64)] = &[
            (|flags| flags.ext_unix_sk = true, 4, 1),
            (|flags| flags.shell_job = true, 7, 1),
            (|flags| flags.file_locks = true, 8, 1),
            (|flags| flags.page_server = Some(("host".to_owned(), 1)), 11, 8),
            (|flags| flags.auto_dedup = true, 16, 1),
            (|flags| flags.link_remap = true, 18, 1),
            (|flags| flags.cgroup_mode = Some(CgroupMode::Strict), 34, 5),
            (|flags| flags.tcp_skip_in_flight = true, 46, 1),
            (|flags| flags.lazy_pages = true, 48, 1),
            (|flags| flags.tcp_close = true, 52, 1),
            (|flags| flags.lsm_profile = "a".to_owned(), 53, 1),
            (|flags| flags.lsm_mount_context = "bc".to_owned(), 63, 2),
            (|flags| flags.network_lock = Some(NetworkLock::Iptables), 64, 1),
        ];
        for (change, number, value) in table {
            let mut flags = Flags::default();
            change(&mut flags);
            let mut expected = none.clone();
            expected.insert(*number, *value);
            assert_eq!(fields(&flags.options().encode()), expected, "{flags:?}");
        }
        let established = fields(&Flags { tcp_established: true, ..Flags::default() }.options().encode());
        assert_eq!((established.get(&5), established.get(&64)), (Some(&1), None));
    }

    #[test]
    fn each_option_has_its_number_in_rpc_proto() {
        let options = Options {
            images_dir_fd: Some(101),
            pid: Some(102),
            leave_running: Some(true),
            log_file: "a".repeat(10),
            root: "a".repeat(13),
            parent_img: "a".repeat(14),
            track_mem: Some(true),
            work_dir_fd: Some(117),
            rst_sibling: Some(true),
            ext_masters: Some(true),
            ghost_limit: Some(135),
            empty_namespaces: Some(138),
            freeze_cgroup: "a".repeat(44),
            timeout: Some(145),
            config_file: "a".repeat(51),
            ..Options::default()
        };
        let expected: &[(u32, u64)] = &[
            (1, 101),
            (2, 102),
            (3, 1),
            (10, 10),
            (13, 13),
            (14, 14),
            (15, 1),
            (17, 117),
            (26, 1),
            (30, 1),
            (35, 135),
            (38, 138),
            (44, 44),
            (45, 145),
            (51, 51),
        ];
        assert_eq!(fields(&options.encode()), expected.iter().copied().collect());
    }
}
