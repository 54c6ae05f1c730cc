//! Compares the numbers of the table with the headers of the kernel. Headers of all architectures are in Debian's
//! package linux-libc-dev of trixie or later, below the directory that `WINDLASS_KERNEL_HEADERS` names
//! (`tools/headers.sh`). Without the variable the headers of this machine are used, which have only its own
//! architecture.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use windlass_seccomp::Arch;

/// A header, the first number of its ABI, and the ABI.
const HEADERS: &[(&str, u32, Arch)] = &[
    ("x86/asm/unistd_64.h", 0, Arch::X86_64),
    ("x86/asm/unistd_32.h", 0, Arch::X86),
    ("x86/asm/unistd_x32.h", 0x4000_0000, Arch::X32),
    ("arm64/asm/unistd_64.h", 0, Arch::Aarch64),
    ("arm/asm/unistd-eabi.h", 0, Arch::Arm),
    ("mips/asm/unistd_o32.h", 4000, Arch::Mips),
    ("mips/asm/unistd_n64.h", 5000, Arch::Mips64),
    ("mips/asm/unistd_n32.h", 6000, Arch::Mips64n32),
    ("powerpc/asm/unistd_32.h", 0, Arch::Ppc),
    ("powerpc/asm/unistd_64.h", 0, Arch::Ppc64le),
    ("s390/asm/unistd_64.h", 0, Arch::S390x),
    ("riscv/asm/unistd_64.h", 0, Arch::Riscv64),
    ("loongarch/asm/unistd_64.h", 0, Arch::Loongarch64),
    ("m68k/asm/unistd_32.h", 0, Arch::M68k),
    ("parisc/asm/unistd_32.h", 0, Arch::Parisc),
    ("parisc/asm/unistd_64.h", 0, Arch::Parisc64),
    ("sh/asm/unistd_32.h", 0, Arch::Sh),
];

/// Names and numbers of a header of plain `#define`s, relative to the first number.
fn defined(text: &str) -> BTreeMap<&str, u32> {
    text.lines().filter_map(number).filter(|(name, _)| !is_hole(name)).collect()
}

/// `#define __NR_NAME 12`, or `(BASE + 12)`.
fn number(line: &str) -> Option<(&str, u32)> {
    let mut words = line.split_whitespace();
    let name = (words.next() == Some("#define")).then(|| words.next())??.strip_prefix("__NR_")?;
    let last = words.last()?.trim_end_matches(')');
    Some((name, last.parse().ok()?))
}

/// MIPS has names for holes.
fn is_hole(name: &str) -> bool {
    let rest = name.strip_prefix("unused").or_else(|| name.strip_prefix("reserved"));
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn compare(file: &Path, first: u32, arch: Arch, faults: &mut Vec<String>) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let calls = defined(&text);
    assert!(calls.len() > 250, "{}: {} calls", file.display(), calls.len());
    for (name, number) in calls {
        if arch.syscall(name) != Some(first + number) {
            faults.push(format!("{arch:?} {name} is {number}, and not {:?}", arch.syscall(name)));
        }
    }
}

#[test]
fn every_call_of_the_headers_has_its_number() {
    let mut faults = Vec::new();
    match std::env::var_os("WINDLASS_KERNEL_HEADERS").map(PathBuf::from) {
        Some(directory) => {
            for (header, first, arch) in HEADERS {
                compare(&directory.join("usr/lib/linux/uapi").join(header), *first, *arch, &mut faults);
            }
        }
        None => {
            let own = format!("/usr/include/{}-linux-gnu/asm/unistd_64.h", std::env::consts::ARCH);
            // Without linux-libc-dev only `numbers.rs` compares.
            if Path::new(&own).exists() {
                compare(Path::new(&own), 0, Arch::native(), &mut faults);
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn both_forms_of_a_definition_are_read() {
    assert_eq!(number("#define __NR_read 3"), Some(("read", 3)));
    assert_eq!(number("#define __NR_read (__NR_SYSCALL_BASE + 3)"), Some(("read", 3)));
    assert_eq!(number("#define __NR_sync_file_range2 __NR_arm_sync_file_range"), None);
    assert_eq!(number("#ifndef _ASM_UNISTD_64_H"), None);
    assert!(is_hole("unused18") && is_hole("reserved221") && !is_hole("unused") && !is_hole("read"));
}
