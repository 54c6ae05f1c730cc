//! The properties of reading any mountinfo: the property test on stable and the fuzz target on nightly call the same
//! function.

use windlass_base::mountinfo;

use super::hierarchy::{parse, superblock_options};

/// Reads a mountinfo. The hierarchies of cgroups and the list of mounts must agree about which mounts are cgroup2.
pub fn mountinfo(bytes: &[u8]) {
    let mounted = mountinfo::parse(bytes);
    let text = String::from_utf8_lossy(bytes);
    let (unified, v1) = parse(&text);
    assert!(v1.iter().all(|hierarchy| !hierarchy.controllers.is_empty()));
    assert!(superblock_options(&text).iter().all(|option| !option.contains(['=', ','])));
    // An escape of a byte that is no UTF-8 is one more way to write U+FFFD.
    let valid = std::str::from_utf8(bytes).is_ok() && !text.contains('\\');
    if valid && mounted.iter().any(|mount| mount.kind == "cgroup2" && mount.root == "/") {
        assert!(unified.is_some(), "{text:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    const LINES: &str = "24 1 0:22 / /sys rw,nosuid - sysfs sysfs rw,seclabel\n\
        33 24 0:28 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n\
        34 24 0:29 /a\\040b /mnt\\011x ro master:3 propagate_from:2 - cgroup cgroup rw,memory,name=x\n";

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_tables(
            edits in prop::collection::vec((any::<Index>(), select(b" -\n/\\0:19,=\xff".to_vec())), 0..6),
            end in any::<Index>(),
        ) {
            let mut text = LINES.as_bytes().to_vec();
            for (at, byte) in edits {
                let at = at.index(text.len());
                text[at] = byte;
            }
            super::mountinfo(&text);
            super::mountinfo(&text[..end.index(text.len())]);
        }
    }
}
