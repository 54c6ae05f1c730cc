#!/usr/bin/env python3
"""Writes src/table/rows.rs: the number of every system call in every ABI.

usage: syscall_table.py RAW_SYS HEADERS > src/table/rows.rs

RAW_SYS  the `src` directory of the crate linux-raw-sys (0.12: Linux 6.17); its
         `*/general.rs` hold the __NR_ constants of the kernel's headers.
HEADERS  a directory into which Debian's linux-libc-dev-{s390x,mipsn32,hppa,sh4}-cross
         were unpacked with `dpkg -x`, for the ABIs that RAW_SYS does not have.

Calls added since Linux 5.1 have one number in all of these ABIs, so the calls newer
than HEADERS are taken from m68k, which has the plain common set.
"""
import re
import subprocess
import sys
from pathlib import Path

# ABI -> (directory in RAW_SYS, number of the ABI's first call)
RAW = {
    "X86_64": ("x86_64", 0),
    "X86": ("x86", 0),
    "X32": ("x32", 0x40000000),
    "ARM": ("arm", 0),
    "AARCH64": ("aarch64", 0),
    "MIPS": ("mips", 4000),
    "MIPS64": ("mips64", 5000),
    "PPC": ("powerpc", 0),
    "PPC64": ("powerpc64", 0),
    "S390X": ("s390x", 0),
    "RISCV64": ("riscv64", 0),
    "LOONGARCH64": ("loongarch64", 0),
    "M68K": ("m68k", 0),
}
# ABI -> (directory in HEADERS, header, preprocessor flags, number of its first call)
HEADERS = {
    "MIPS64N32": ("mips64-linux-gnuabin32", "unistd_n32.h", ["-D__NR_Linux=6000"], 6000),
    "S390": ("s390x-linux-gnu", "unistd_32.h", [], 0),
    "PARISC": ("hppa-linux-gnu", "unistd_32.h", ["-D__NR_Linux=0"], 0),
    "PARISC64": ("hppa-linux-gnu", "unistd_64.h", ["-D__NR_Linux=0"], 0),
    "SH": ("sh4-linux-gnu", "unistd_32.h", [], 0),
}
ORDER = [
    "X86_64", "X86", "X32", "AARCH64", "ARM", "MIPS", "MIPS64", "MIPS64N32", "PPC",
    "PPC64", "S390", "S390X", "RISCV64", "LOONGARCH64", "M68K", "PARISC", "PARISC64", "SH",
]
# Calls that the sources lack: name -> (number, the only ABIs that have it there, or None for all)
NEWER = {
    "uprobe": (336, ["X86_64", "X32"]),
    "listns": (470, None),
    "rseq_slice_yield": (471, None),
    "memfd_secret": (447, ["LOONGARCH64"]),
    "sync_file_range2": (388, ["SH"]),
    "cacheflush": (356, ["PARISC", "PARISC64"]),
}
# The private calls of ARM start at 0xf0000; the table keeps them from 1000 on.
ARM_PRIVATE, ARM_PRIVATE_SLOT = 0xF0000, 1000
# Bounds and limits that the headers define beside the calls.
NOT_CALLS = {"Linux", "Linux_syscalls", "O32_Linux", "N32_Linux", "64_Linux",
             "O32_Linux_syscalls", "N32_Linux_syscalls", "64_Linux_syscalls",
             "syscalls", "OABI_SYSCALL_BASE", "SYSCALL_BASE", "arch_specific_syscall",
             "SYSCALL_MASK"}


def is_call(name):
    """Whether a __NR_ macro is a call, not a bound or a hole in the numbering."""
    return name not in NOT_CALLS and not re.fullmatch(r"(reserved|unused)\d+", name)


def raw(root, directory, base):
    text = (root / directory / "general.rs").read_text()
    calls = {}
    for name, number in re.findall(r"const __NR_(\w+): u32 = (\d+);", text):
        if is_call(name):
            calls[name] = int(number) - base
    for name, number in re.findall(r"const __ARM_NR_(\w+): u32 = (\d+);", text):
        if name != "BASE":
            calls[name] = int(number) - ARM_PRIVATE + ARM_PRIVATE_SLOT
    return calls


def headers(root, directory, header, flags, base):
    include = root / "usr" / directory / "include"
    macros = subprocess.run(
        ["cc", "-E", "-dM", *flags, include / "asm" / header],
        capture_output=True, text=True, check=True).stdout
    defined = dict(re.findall(r"#define (__NR_\w+) (.+)", macros))
    calls = {}
    for macro, value in defined.items():
        name = macro[len("__NR_"):]
        if not is_call(name):
            continue
        value = re.sub(r"__NR_Linux", str(base), value)
        if not re.fullmatch(r"[\d+() ]+", value):
            raise SystemExit(f"{directory}: {macro} is {value!r}")
        calls[name] = eval(value) - base
    return calls


def main():
    raw_root, header_root = Path(sys.argv[1]), Path(sys.argv[2])
    abis = {abi: raw(raw_root, *source) for abi, source in RAW.items()}
    common = {n: nr for n, nr in abis["M68K"].items() if nr > 450}
    for abi, source in HEADERS.items():
        abis[abi] = common | headers(header_root, *source)
    for name, (number, only) in NEWER.items():
        for abi in only or ORDER:
            abis[abi].setdefault(name, number)
    names = sorted({name for calls in abis.values() for name in calls})
    for abi, calls in abis.items():
        wrong = {n: nr for n, nr in calls.items() if not 0 <= nr < 1024}
        if wrong:
            raise SystemExit(f"{abi}: outside the table: {wrong}")
    print("//! The number of every system call in every ABI; written by")
    print("//! `tools/syscall_table.py`, not by hand.")
    print()
    print("use super::cell::{COLUMNS, NO};")
    print()
    print(f"/// The calls known, {len(names)} names of Linux 7.2 and before.")
    print(f"pub(super) const CALLS: usize = {len(names)};")
    print()
    print("/// A call's name and its numbers, relative to the first call of each ABI, in the")
    print("/// order of the constants `super::column`:")
    print(f"/// {', '.join(ORDER[:9])},")
    print(f"/// {', '.join(ORDER[9:])}.")
    print("#[rustfmt::skip]")
    print("pub(super) static ROWS: [(&str, [u16; COLUMNS]); CALLS] = [")
    for name in names:
        numbers = ",".join(f"{abis[abi].get(name, 'NO'):>4}" for abi in ORDER)
        print(f'    ({chr(34) + name + chr(34) + ",":29}[{numbers}]),')
    print("];")


main()
