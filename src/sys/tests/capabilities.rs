//! Compares our reading of this process's capabilities with the crate caps.

use caps::CapSet;
use windlass_sys::credentials;

#[test]
fn our_reading_of_our_own_capabilities_is_that_of_caps() {
    let bits = |set: CapSet| -> u64 {
        caps::read(None, set).expect("readable").iter().fold(0, |all, capability| all | capability.bitmask())
    };
    let last: u32 =
        std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("procfs").trim().parse().expect("a number");
    let kernel = u64::MAX >> (63 - last);
    let ours = credentials::capabilities().expect("readable");
    assert_eq!(ours.effective.bits() & kernel, bits(CapSet::Effective));
    assert_eq!(ours.permitted.bits() & kernel, bits(CapSet::Permitted));
    assert_eq!(ours.inheritable.bits() & kernel, bits(CapSet::Inheritable));
    let bounding = (0..64).filter(|n| credentials::is_bounding(*n)).fold(0u64, |all, n| all | 1 << n);
    assert_eq!(bounding, bits(CapSet::Bounding));
}
