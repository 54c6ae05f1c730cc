#!/bin/sh
# Installs with apt the engines that the suite drives, on Debian 12. Idempotent, and quick when everything is there.
# With `short` it installs those of `just engines-short`, with `tree` only what the trees of other releases need. With
# `long` it also makes the root file system of the worked example, a database server, in CACHE.
set -eu
. "$(dirname "$0")/../apt.sh"
CACHE=${CACHE:-/var/cache/windlass-engines}
need=
want() { # PROGRAM PACKAGE
    [ -x "/usr/bin/$1" ] || [ -x "/usr/sbin/$1" ] || [ -x "$1" ] || need="$need $2"
}

"$(dirname "$0")/../setup.sh"
if [ "${1:-}" = tree ]; then
    want mmdebstrap mmdebstrap
    want protoc protobuf-compiler
else
    want dockerd docker.io
    want containerd containerd
    want buildah buildah
    want iptables iptables
    want modprobe kmod
fi
if [ "${1:-}" != short ] && [ "${1:-}" != tree ]; then
    want docker-init tini
    want podman podman
    want conmon conmon
    want netavark netavark
    want /usr/lib/podman/aardvark-dns aardvark-dns
    want catatonit catatonit
    want curl curl
    want protoc protobuf-compiler
    want /usr/lib/cni/bridge containernetworking-plugins
fi
[ "${1:-}" != long ] || want debootstrap debootstrap
# shellcheck disable=SC2086 # A list of words.
install_packages integration/engines/setup.sh $need

[ "${1:-}" = long ] || exit 0
[ -e "$CACHE/mariadb.tar" ] && exit 0
mkdir -p "$CACHE"
tree=$(mktemp -d "$CACHE/tree.XXXXXX")
trap 'rm -rf "$tree"' EXIT
mirror=$(sed -n 's|^deb \(http[^ ]*\) bookworm .*|\1|p; s|^URIs: ||p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
debootstrap --variant=minbase bookworm "$tree" "${mirror:-http://deb.debian.org/debian}" > "$CACHE/log"
# No daemon starts inside the tree.
printf '#!/bin/sh\nexit 101\n' > "$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"
DEBIAN_FRONTEND=noninteractive chroot "$tree" apt-get install -y -q --no-install-recommends mariadb-server mariadb-client >> "$CACHE/log" 2>&1
rm -rf "$tree"/var/cache/apt/archives/*.deb
tar -C "$tree" --numeric-owner -cf "$CACHE/mariadb.tar.new" .
mv "$CACHE/mariadb.tar.new" "$CACHE/mariadb.tar"
