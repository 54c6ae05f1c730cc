#!/bin/sh
# Compares the table of system calls with the kernel's headers of all architectures, from Debian's package
# linux-libc-dev: headers.sh [SUITE]. Needs root, mmdebstrap and a Debian mirror.
set -eu
suite=${1:-sid}
top=$(cd "$(dirname "$0")/../.." && pwd)
headers=$top/target/kernel-headers-$suite
if [ ! -d "$headers" ]; then
    work=$(mktemp -d "$top/target/kernel-headers.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mmdebstrap --quiet --variant=extract --include=linux-libc-dev --aptopt='APT::Install-Recommends "false"' \
        --aptopt='Acquire::Check-Valid-Until "false"' "$suite" "$work/root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
    mv "$work/root" "$headers"
fi
cd "$top"
WINDLASS_KERNEL_HEADERS=$headers cargo test --quiet --package windlass-seccomp --test headers
