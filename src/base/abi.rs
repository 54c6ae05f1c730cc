//! Numbers of the kernel's interface that planning and acting share.

/// The type of procfs in statfs(2) (linux/magic.h).
pub const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// ioctl(2) that makes a terminal the controlling one (TIOCSCTTY(2const)); it has another number on some
/// architectures.
#[allow(clippy::unnecessary_cast)] // Its type depends on the C library.
pub const TIOCSCTTY: u64 = libc::TIOCSCTTY as u64;

/// sched_setattr(2)'s argument, in the kernel's layout (`SCHED_ATTR_SIZE_VER0`, 48 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerAttributes {
    /// Size of this structure.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Static priority.
    pub priority: u32,
    /// Runtime, ns.
    pub runtime: u64,
    /// Deadline, ns.
    pub deadline: u64,
    /// Period, ns.
    pub period: u64,
}

/// Converts a list of numbers such as `0-3,7` into bits, lowest first. Returns `None` for other texts, for reversed
/// ranges, and for numbers from 8192 on.
pub fn bits_of_list(list: &str) -> Option<Vec<u64>> {
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n < 8192);
    let mut bits = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        if bits.len() <= last / 64 {
            bits.resize(last / 64 + 1, 0);
        }
        for n in first..=last {
            bits[n / 64] |= 1 << (n % 64);
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::bits_of_list;

    #[test]
    fn lists_of_cpus_become_bits() {
        assert_eq!(bits_of_list("0-3,7"), Some(vec![0x8f]));
        assert_eq!(bits_of_list("64"), Some(vec![0, 1]));
        assert_eq!(bits_of_list(""), Some(vec![]));
        for wrong in ["3-1", "a", "9999", "-1", "1-"] {
            assert_eq!(bits_of_list(wrong), None, "{wrong}");
        }
    }
}
