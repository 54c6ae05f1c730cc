use super::*;

const VERSION: Option<Version> = Some(Version { major: 1, minor: 2 });

fn planned(json: &str) -> (Limits, Vec<Diagnostic>, Vec<Diagnostic>) {
    let resources: Resources = serde_json::from_str(json).expect("resources");
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    let limits = limits(&resources, VERSION, &mut faults, &mut warnings);
    (limits, faults, warnings)
}

/// The writes as `file=value`, in order.
fn writes(json: &str) -> Vec<String> {
    let (limits, faults, warnings) = planned(json);
    assert_eq!((faults, warnings), (vec![], vec![]));
    limits.writes.iter().map(|write| format!("{}={}", write.file, write.value)).collect()
}

fn fault(json: &str) -> (String, String) {
    let (_, mut faults, _) = planned(json);
    assert_eq!(faults.len(), 1, "{faults:?}");
    let Diagnostic { pointer, msg } = faults.remove(0);
    (pointer, msg)
}

#[test]
fn an_update_of_memory_or_swap_alone_is_completed_by_what_stands() {
    let stands = |limit, swap| MemoryInForce { limit, swap };
    let some = stands(Some(48), Some(32));
    for (given, stands, completed, filled) in [
        ((Some(60), None), some, (Some(60), Some(80)), false),
        ((Some(60), Some(0)), some, (Some(60), Some(80)), false),
        ((Some(100), None), some, (Some(100), Some(100)), false),
        ((Some(60), None), stands(Some(48), Some(0)), (Some(60), None), false),
        ((Some(60), None), stands(Some(48), None), (Some(60), None), false),
        ((Some(60), None), stands(None, Some(32)), (Some(60), None), false),
        ((Some(60), Some(70)), some, (Some(60), Some(70)), false),
        ((Some(60), Some(-1)), some, (Some(60), Some(-1)), false),
        ((Some(-1), None), some, (Some(-1), None), false),
        ((None, Some(64)), some, (Some(48), Some(64)), true),
        ((Some(0), Some(64)), some, (Some(48), Some(64)), true),
        ((None, Some(64)), stands(None, None), (None, Some(64)), false),
        ((None, Some(-1)), some, (None, Some(-1)), false),
        ((None, None), some, (None, None), false),
    ] {
        let mut memory = Memory { limit: given.0, swap: given.1, ..Memory::default() };
        assert_eq!(complete_memory(&mut memory, stands), filled, "{given:?} {stands:?}");
        assert_eq!((memory.limit, memory.swap), completed, "{given:?} {stands:?}");
    }
}

#[test]
fn the_zeros_that_engines_send_write_nothing() {
    let json = r#"{
        "memory": {"limit": 0, "swap": 0, "reservation": 0, "kernel": 0, "kernelTCP": 0, "swappiness": 0,
                   "disableOOMKiller": false, "useHierarchy": false, "checkBeforeUpdate": false},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "realtimeRuntime": 0, "realtimePeriod": 0, "cpus": "", "mems": ""},
        "pids": {}, "network": {"classID": 0, "priorities": []}, "hugepageLimits": [], "rdma": {}, "unified": {},
        "blockIO": {"weight": 0, "leafWeight": 0, "weightDevice": [{"major": 8, "minor": 0, "weight": 0}]}
    }"#;
    assert_eq!(writes(json), Vec::<String>::new());
    assert_eq!(planned(json).0.memory_check, None);
    assert_eq!(writes(r#"{"memory": null, "cpu": null, "pids": null, "blockIO": null, "network": null}"#).len(), 0);
}

#[test]
fn swap_is_what_exceeds_memory_and_is_written_first() {
    assert_eq!(writes(r#"{"memory": {"limit": 100, "swap": 300}}"#), ["memory.swap.max=200", "memory.max=100"]);
    assert_eq!(writes(r#"{"memory": {"limit": 100, "swap": 100}}"#), ["memory.swap.max=0", "memory.max=100"]);
    assert_eq!(writes(r#"{"memory": {"limit": 100, "swap": -1}}"#), ["memory.swap.max=max", "memory.max=100"]);
    assert_eq!(writes(r#"{"memory": {"limit": -1}}"#), ["memory.swap.max=max", "memory.max=max"]);
    assert_eq!(writes(r#"{"memory": {"limit": -1, "swap": 5}}"#), ["memory.swap.max=5", "memory.max=max"]);
    assert_eq!(writes(r#"{"memory": {"limit": 100}}"#), ["memory.max=100"]);
    assert_eq!(writes(r#"{"memory": {"reservation": 7}}"#), ["memory.low=7"]);
}

#[test]
fn contradictions_of_memory_and_swap_are_faults_in_the_words_of_runc() {
    let swap = "/linux/resources/memory/swap".to_owned();
    assert_eq!(
        fault(r#"{"memory": {"swap": 5}}"#),
        (swap.clone(), "unable to set swap limit without memory limit".into())
    );
    assert_eq!(
        fault(r#"{"memory": {"limit": 10, "swap": 5}}"#),
        (swap, "memory+swap limit should be >= memory limit".into())
    );
    assert_eq!(
        fault(r#"{"memory": {"limit": -5}}"#),
        ("/linux/resources/memory/limit".into(), "invalid memory value: -5".into())
    );
}

#[test]
fn what_a_pids_limit_of_zero_means_depends_on_the_edition() {
    let pids = |limit: i64, minor: u32| {
        let resources =
            Resources { pids: Some(windlass_base::spec::Pids { limit: Some(limit) }), ..Resources::default() };
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        let version = Some(Version { major: 1, minor });
        let limits = limits(&resources, version, &mut faults, &mut warnings);
        assert_eq!(faults, []);
        let warned: Vec<String> = warnings.into_iter().map(|warning| warning.pointer).collect();
        (limits.writes[0].value.clone(), limits.needs().len(), warned)
    };
    // No limit needs no controller: engines send it to hosts that have none.
    assert_eq!(pids(0, 0), ("max".into(), 0, vec![]));
    assert_eq!(pids(0, 2), ("max".into(), 0, vec![]));
    assert_eq!(pids(0, 3), ("1".into(), 1, vec!["/linux/resources/pids/limit".into()]));
    for minor in [2, 3] {
        assert_eq!(pids(-1, minor), ("max".into(), 0, vec![]));
        assert_eq!(pids(20, minor), ("20".into(), 1, vec![]));
        assert_eq!(pids(-7, minor), ("max".into(), 0, vec!["/linux/resources/pids/limit".into()]));
    }
    assert_eq!(writes(r#"{"pids": {}}"#), Vec::<String>::new(), "absent is never 0");
}

#[test]
fn shares_become_the_weight_of_the_current_formula() {
    // Values of opencontainers/cgroups v0.0.6: ends, default, and frequent values of Kubernetes.
    for (shares, weight) in [
        (1, 1),
        (2, 1),
        (3, 2),
        (10, 4),
        (102, 17),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ] {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
    let mut last = 0;
    for shares in 0..=262_144 {
        let weight = weight_of_shares(shares);
        assert!(weight >= last && (1..=10_000).contains(&weight), "{shares}");
        last = weight;
    }
}

#[test]
fn quota_and_period_are_one_write_and_nothing_unasked_is_in_it() {
    assert_eq!(writes(r#"{"cpu": {"quota": 5000, "period": 10000}}"#), ["cpu.max=5000 10000"]);
    assert_eq!(writes(r#"{"cpu": {"quota": 5000}}"#), ["cpu.max=5000"]);
    assert_eq!(writes(r#"{"cpu": {"quota": -1}}"#), ["cpu.max=max"]);
    assert_eq!(writes(r#"{"cpu": {"period": 10000}}"#), ["cpu.max=max 10000"]);
    assert_eq!(
        writes(r#"{"cpu": {"quota": 5000, "burst": 100, "idle": 0, "shares": 2, "cpus": "0-1", "mems": "0"}}"#),
        ["cpu.idle=0", "cpu.weight=1", "cpu.max=5000", "cpu.max.burst=100", "cpuset.cpus=0-1", "cpuset.mems=0"]
    );
}

#[test]
fn an_idle_cgroup_has_no_weight_and_that_is_said() {
    let (limits, _, warnings) = planned(r#"{"cpu": {"idle": 1, "shares": 512}}"#);
    assert_eq!(limits.writes.len(), 1);
    assert_eq!(warnings[0].pointer, "/linux/resources/cpu/shares");
}

#[test]
fn io_weights_are_for_bfq_or_converted() {
    let (limits, ..) =
        planned(r#"{"blockIO": {"weight": 10, "weightDevice": [{"major": 8, "minor": 16, "weight": 1000}]}}"#);
    let of = |index: usize| (&*limits.writes[index].file, &*limits.writes[index].value, &limits.writes[index].absent);
    let instead = |value: &str| Absent::Instead { file: "io.weight".into(), value: value.into() };
    assert_eq!(of(0), ("io.bfq.weight", "10", &instead("1")));
    assert_eq!(of(1), ("io.bfq.weight", "8:16 1000", &instead("8:16 10000")));
    assert_eq!(limits.writes[1].pointer, "/linux/resources/blockIO/weightDevice/0/weight");
    assert_eq!(fault(r#"{"blockIO": {"weight": 9}}"#).0, "/linux/resources/blockIO/weight");
}

#[test]
fn each_rate_is_one_write_of_its_device() {
    let json = r#"{"blockIO": {
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}],
        "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 0}],
        "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 6}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}]}}"#;
    assert_eq!(writes(json), ["io.max=8:0 rbps=5", "io.max=8:0 wbps=max", "io.max=8:0 riops=6", "io.max=8:0 wiops=7"]);
}

#[test]
fn huge_pages_are_limited_in_use_and_reserved() {
    let json = r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#;
    assert_eq!(writes(json), ["hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304"]);
    for size in ["", "2", "MB", "02MB", "2mb", "../x", "2TB"] {
        let json = format!(r#"{{"hugepageLimits": [{{"pageSize": "{size}", "limit": 1}}]}}"#);
        assert_eq!(fault(&json).0, "/linux/resources/hugepageLimits/0/pageSize", "{size}");
    }
}

#[test]
fn rdma_is_one_write_per_device() {
    assert_eq!(
        writes(r#"{"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 4294967295}, "mlx5_2": {"hcaObjects": 1}}}"#),
        ["rdma.max=mlx5_1 hca_handle=3 hca_object=max", "rdma.max=mlx5_2 hca_object=1"]
    );
}

#[test]
fn unified_is_written_last_and_line_by_line() {
    let json = r#"{"unified": {"io.max": "8:0 rbps=1\n8:16 rbps=2\n", "memory.high": "5"}, "memory": {"limit": 9}}"#;
    assert_eq!(writes(json), ["memory.max=9", "io.max=8:0 rbps=1", "io.max=8:16 rbps=2", "memory.high=5"]);
}

#[test]
fn unified_names_only_files_that_are_limits() {
    for name in ["a/b.c", "../memory.max", "memory", ".max", "memory.", "cgroup.procs", "cgroup.kill", "cgroup.freeze"]
    {
        let json = format!(r#"{{"unified": {{"{name}": "1"}}}}"#);
        assert_eq!(fault(&json).0, format!("/linux/resources/unified/{}", escape(name)));
    }
    assert_eq!(writes(r#"{"unified": {"cgroup.max.descendants": "10"}}"#), ["cgroup.max.descendants=10"]);
}

#[test]
fn what_only_v1_has_is_warned_about_unless_it_changes_nothing() {
    let json = r#"{
        "memory": {"kernel": 5, "kernelTCP": 5, "swappiness": 60, "disableOOMKiller": true, "useHierarchy": true},
        "cpu": {"realtimeRuntime": 1, "realtimePeriod": 1}, "blockIO": {"leafWeight": 10},
        "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 1}]}}"#;
    let (limits, faults, warnings) = planned(json);
    assert_eq!((limits.writes, faults), (vec![], vec![]));
    let pointers: Vec<&str> =
        warnings.iter().map(|warning| warning.pointer.trim_start_matches("/linux/resources/")).collect();
    assert_eq!(
        pointers,
        [
            "memory/kernel",
            "memory/kernelTCP",
            "memory/swappiness",
            "memory/disableOOMKiller",
            "blockIO/leafWeight",
            "cpu/realtimeRuntime",
            "cpu/realtimePeriod",
            "network/classID",
            "network/priorities"
        ]
    );
}

#[test]
fn no_limit_needs_no_controller() {
    let (limits, ..) = planned(
        r#"{"memory": {"limit": -1}, "pids": {"limit": -1}, "cpu": {"shares": 1024, "quota": -1, "idle": 0, "burst": 0},
            "unified": {"cgroup.max.depth": "3"}}"#,
    );
    assert_eq!(limits.needs(), []);
    assert_eq!(limits.writes.len(), 8);
}

#[test]
fn a_controller_is_needed_once_for_its_first_limit() {
    let (limits, ..) = planned(r#"{"memory": {"limit": 5, "reservation": 3}, "blockIO": {"weight": 10}}"#);
    let needs = limits.needs();
    assert_eq!(needs.len(), 2);
    assert_eq!((&*needs[0].controller, &*needs[0].pointer), ("memory", "/linux/resources/memory/limit"));
    assert_eq!((&*needs[1].controller, &*needs[1].pointer), ("io", "/linux/resources/blockIO/weight"));
}

#[test]
fn the_check_before_an_update_knows_both_limits() {
    let (limits, ..) = planned(r#"{"memory": {"limit": 5, "swap": 9, "checkBeforeUpdate": true}}"#);
    assert_eq!(limits.memory_check, Some(MemoryCheck { limit: Some(5), swap: Some(9) }));
    for (text, check) in [
        (r#"{"memory": {"limit": 5, "checkBeforeUpdate": true}}"#, Some((Some(5), None))),
        (r#"{"memory": {"limit": 5, "checkBeforeUpdate": false}}"#, None),
        (r#"{"memory": {"limit": -1, "checkBeforeUpdate": true}}"#, None),
    ] {
        let (limits, ..) = planned(text);
        assert_eq!(limits.memory_check, check.map(|(limit, swap)| MemoryCheck { limit, swap }), "{text}");
    }
}
