//! The architectures of the OCI runtime spec, and the facts about each that a filter needs.

use crate::table::column;

/// The little-endian flag of an `AUDIT_ARCH_*` value.
pub(crate) const AUDIT_LITTLE_ENDIAN: u32 = 0x4000_0000;

/// The bit that marks a call number as one of the x32 ABI.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// A system call ABI, by the names of the OCI runtime spec 1.3.
///
/// One kernel may have several (x86_64 with x86 and x32). A filter has a part for each that its profile lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// x86_64 with 32-bit pointers; shares the audit value of [`Arch::X86_64`].
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM, EABI.
    Arm,
    /// MIPS o32, big endian.
    Mips,
    /// MIPS n64, big endian.
    Mips64,
    /// MIPS n32, big endian.
    Mips64n32,
    /// MIPS o32, little endian.
    Mipsel,
    /// MIPS n64, little endian.
    Mipsel64,
    /// MIPS n32, little endian.
    Mipsel64n32,
    /// 32-bit PowerPC.
    Ppc,
    /// 64-bit PowerPC, big endian.
    Ppc64,
    /// 64-bit PowerPC, little endian.
    Ppc64le,
    /// 31-bit s390.
    S390,
    /// 64-bit s390.
    S390x,
    /// 64-bit RISC-V.
    Riscv64,
    /// 64-bit LoongArch.
    Loongarch64,
    /// Motorola 68000.
    M68k,
    /// 32-bit PA-RISC.
    Parisc,
    /// 64-bit PA-RISC.
    Parisc64,
    /// SuperH, little endian.
    Sh,
    /// SuperH, big endian.
    Sheb,
}

/// The properties of an ABI in the kernel's headers.
struct Facts {
    name: &'static str,
    /// The `AUDIT_ARCH_*` value of `linux/audit.h`.
    audit: u32,
    /// The column of the syscall table.
    column: usize,
    /// The number of the ABI's first call.
    first: u32,
    /// Whether arguments are 32 bits wide.
    narrow: bool,
}

const fn facts(name: &'static str, audit: u32, column: usize, first: u32, narrow: bool) -> Facts {
    Facts { name, audit, column, first, narrow }
}

/// The facts in the order of the variants of [`Arch`].
#[rustfmt::skip]
static FACTS: [Facts; 23] = [
    facts("SCMP_ARCH_X86_64",      0xc000_003e, column::X86_64,         0, false),
    facts("SCMP_ARCH_X86",         0x4000_0003, column::X86,            0, true),
    facts("SCMP_ARCH_X32",         0xc000_003e, column::X32,      X32_BIT, true),
    facts("SCMP_ARCH_AARCH64",     0xc000_00b7, column::AARCH64,        0, false),
    facts("SCMP_ARCH_ARM",         0x4000_0028, column::ARM,            0, true),
    facts("SCMP_ARCH_MIPS",        0x0000_0008, column::MIPS,        4000, true),
    facts("SCMP_ARCH_MIPS64",      0x8000_0008, column::MIPS64,      5000, false),
    facts("SCMP_ARCH_MIPS64N32",   0xa000_0008, column::MIPS64N32,   6000, true),
    facts("SCMP_ARCH_MIPSEL",      0x4000_0008, column::MIPS,        4000, true),
    facts("SCMP_ARCH_MIPSEL64",    0xc000_0008, column::MIPS64,      5000, false),
    facts("SCMP_ARCH_MIPSEL64N32", 0xe000_0008, column::MIPS64N32,   6000, true),
    facts("SCMP_ARCH_PPC",         0x0000_0014, column::PPC,            0, true),
    facts("SCMP_ARCH_PPC64",       0x8000_0015, column::PPC64,          0, false),
    facts("SCMP_ARCH_PPC64LE",     0xc000_0015, column::PPC64,          0, false),
    facts("SCMP_ARCH_S390",        0x0000_0016, column::S390,           0, true),
    facts("SCMP_ARCH_S390X",       0x8000_0016, column::S390X,          0, false),
    facts("SCMP_ARCH_RISCV64",     0xc000_00f3, column::RISCV64,        0, false),
    facts("SCMP_ARCH_LOONGARCH64", 0xc000_0102, column::LOONGARCH64,    0, false),
    facts("SCMP_ARCH_M68K",        0x0000_0004, column::M68K,           0, true),
    facts("SCMP_ARCH_PARISC",      0x0000_000f, column::PARISC,         0, true),
    facts("SCMP_ARCH_PARISC64",    0x8000_000f, column::PARISC64,       0, false),
    facts("SCMP_ARCH_SH",          0x4000_002a, column::SH,             0, true),
    facts("SCMP_ARCH_SHEB",        0x0000_002a, column::SH,             0, true),
];

impl Arch {
    /// Every architecture, in the order of the spec's numbers.
    pub const ALL: [Arch; 23] = [
        Arch::X86_64,
        Arch::X86,
        Arch::X32,
        Arch::Aarch64,
        Arch::Arm,
        Arch::Mips,
        Arch::Mips64,
        Arch::Mips64n32,
        Arch::Mipsel,
        Arch::Mipsel64,
        Arch::Mipsel64n32,
        Arch::Ppc,
        Arch::Ppc64,
        Arch::Ppc64le,
        Arch::S390,
        Arch::S390x,
        Arch::Riscv64,
        Arch::Loongarch64,
        Arch::M68k,
        Arch::Parisc,
        Arch::Parisc64,
        Arch::Sh,
        Arch::Sheb,
    ];

    /// The ABI that this code was built for.
    pub const fn native() -> Arch {
        NATIVE
    }

    /// The architecture of this name in the spec (`SCMP_ARCH_X86_64`), or `None`.
    pub fn from_name(name: &str) -> Option<Arch> {
        Arch::ALL.into_iter().find(|arch| arch.name() == name)
    }

    /// The spec's name, such as `SCMP_ARCH_X86_64`.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// The `AUDIT_ARCH_*` value which the kernel puts into `seccomp_data.arch`.
    ///
    /// x32 has the value of x86_64: the two differ by a bit of the call number.
    pub fn audit(self) -> u32 {
        self.facts().audit
    }

    /// The number of the call of this name in this ABI, as the kernel sees it, or `None` if the call or the name does
    /// not exist.
    pub fn syscall(self, name: &str) -> Option<u32> {
        let call = crate::table::find(name)?;
        self.number(crate::table::numbers(self.column())[call])
    }

    /// The kernel's number for an entry of the syscall table.
    pub(crate) fn number(self, slot: u16) -> Option<u32> {
        use crate::table::{ARM_PRIVATE, ARM_PRIVATE_SLOT, NO};
        match slot {
            NO => None,
            // Only the column of ARM has entries this high.
            slot if slot >= ARM_PRIVATE_SLOT => Some(ARM_PRIVATE + u32::from(slot - ARM_PRIVATE_SLOT)),
            slot => Some(self.first() + u32::from(slot)),
        }
    }

    pub(crate) fn column(self) -> usize {
        self.facts().column
    }

    pub(crate) fn first(self) -> u32 {
        self.facts().first
    }

    pub(crate) fn narrow(self) -> bool {
        self.facts().narrow
    }

    pub(crate) fn little_endian(self) -> bool {
        self.audit() & AUDIT_LITTLE_ENDIAN != 0
    }

    fn facts(self) -> &'static Facts {
        &FACTS[self as usize]
    }
}

/// The ABI of the build target. A target that the spec does not have fails to compile.
const NATIVE: Arch = {
    let little = cfg!(target_endian = "little");
    let wide = cfg!(target_pointer_width = "64");
    if cfg!(target_arch = "x86_64") {
        if wide { Arch::X86_64 } else { Arch::X32 }
    } else if cfg!(target_arch = "x86") {
        Arch::X86
    } else if cfg!(target_arch = "aarch64") && little && wide {
        Arch::Aarch64
    } else if cfg!(target_arch = "arm") && little {
        Arch::Arm
    } else if cfg!(any(target_arch = "mips", target_arch = "mips32r6")) {
        if little { Arch::Mipsel } else { Arch::Mips }
    } else if cfg!(any(target_arch = "mips64", target_arch = "mips64r6")) {
        match (little, wide) {
            (true, true) => Arch::Mipsel64,
            (false, true) => Arch::Mips64,
            (true, false) => Arch::Mipsel64n32,
            (false, false) => Arch::Mips64n32,
        }
    } else if cfg!(target_arch = "powerpc") && !little {
        Arch::Ppc
    } else if cfg!(target_arch = "powerpc64") {
        if little { Arch::Ppc64le } else { Arch::Ppc64 }
    } else if cfg!(target_arch = "s390x") {
        Arch::S390x
    } else if cfg!(target_arch = "riscv64") {
        Arch::Riscv64
    } else if cfg!(target_arch = "loongarch64") {
        Arch::Loongarch64
    } else if cfg!(target_arch = "m68k") {
        Arch::M68k
    } else {
        panic!("the OCI runtime spec has no seccomp architecture for this target")
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_are_in_the_order_of_the_variants() {
        for (index, arch) in Arch::ALL.into_iter().enumerate() {
            assert_eq!(arch as usize, index);
            assert_eq!(Arch::from_name(arch.name()), Some(arch));
            let name = format!("{arch:?}").to_uppercase();
            assert_eq!(arch.name(), format!("SCMP_ARCH_{name}"));
        }
        assert_eq!(Arch::from_name("SCMP_ARCH_PDP11"), None);
    }

    #[test]
    fn a_call_has_the_number_that_the_kernel_uses() {
        assert_eq!(Arch::X86_64.syscall("read"), Some(0));
        assert_eq!(Arch::X32.syscall("read"), Some(0x4000_0000));
        assert_eq!(Arch::X32.syscall("ptrace"), Some(0x4000_0209));
        assert_eq!(Arch::X86.syscall("read"), Some(3));
        assert_eq!(Arch::Mips.syscall("read"), Some(4003));
        assert_eq!(Arch::Mipsel64n32.syscall("read"), Some(6000));
        assert_eq!(Arch::Arm.syscall("set_tls"), Some(0x000f_0005));
        assert_eq!(Arch::Riscv64.syscall("riscv_hwprobe"), Some(258));
        assert_eq!(Arch::Aarch64.syscall("open"), None);
        assert_eq!(Arch::Aarch64.syscall("no_such_call"), None);
    }

    #[test]
    fn only_x32_and_x86_64_share_an_audit_value() {
        for a in Arch::ALL {
            for b in Arch::ALL {
                let same = a == b || matches!((a, b), (Arch::X86_64, Arch::X32) | (Arch::X32, Arch::X86_64));
                assert_eq!(a.audit() == b.audit(), same, "{a:?} {b:?}");
            }
        }
    }
}
