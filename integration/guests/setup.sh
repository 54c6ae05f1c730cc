#!/bin/sh
# Installs with apt what an emulated machine of an architecture needs on Debian: setup.sh ARCHITECTURE
# Idempotent, and quick when everything is there. What cannot be had is named by run.sh.
set -eu
. "$(dirname "$0")/../apt.sh"
architecture=$1
case $architecture in
    x86_64) emulator=x86 debian=amd64 ;;
    aarch64) emulator=arm debian=arm64 ;;
    *) emulator=misc debian=$architecture ;;
esac
need=
want() { # PROGRAM PACKAGE...
    command -v "$1" > /dev/null && return
    shift
    need="$need $*"
}
want "qemu-system-$architecture" "qemu-system-$emulator"
want mmdebstrap mmdebstrap
want mke2fs e2fsprogs
want depmod kmod
dpkg-query -W -f '${Status}' busybox-static 2> /dev/null | grep -q 'ok installed' || need="$need busybox-static"
if [ "$architecture" != "$(uname -m)" ]; then
    want "$architecture-linux-gnu-gcc" "gcc-$architecture-linux-gnu" "libc6-dev-$debian-cross"
fi
# shellcheck disable=SC2086 # A list of words.
install_packages integration/guests/setup.sh $need
