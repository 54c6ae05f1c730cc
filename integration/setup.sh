#!/bin/sh
# Installs with apt what the integration tests need on Debian 12: peers to
# compare with, a static busybox, a User-Mode Linux kernel and small tools.
# Idempotent, and quick when everything is there.
set -eu
. "$(dirname "$0")/apt.sh"
need=
want() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || [ -x "/sbin/$1" ] || [ -x "/usr/sbin/$1" ] || need="$need $2"
}
want runc runc
want crun crun
want linux.uml user-mode-linux
want containerd containerd
want script bsdutils
want ip iproute2
want podman podman
want conmon conmon
want script bsdutils
want pgrep procps
want setpriv util-linux
want ps procps
want apparmor_parser apparmor
want newuidmap uidmap
want mmdebstrap mmdebstrap
want mke2fs e2fsprogs
want strace strace
want socat socat
want skopeo skopeo
want umoci umoci
# The dynamic busybox of another package is of no use inside a container.
dpkg-query -W -f '${Status}' busybox-static 2>/dev/null | grep -q 'ok installed' || need="$need busybox-static"
/usr/bin/python3 -c 'import google.protobuf' 2>/dev/null || need="$need python3-protobuf"
# shellcheck disable=SC2086 # A list of words.
install_packages integration/setup.sh $need
