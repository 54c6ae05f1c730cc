#!/bin/sh
# Makes a tree of a Debian release with that release's engines, by mmdebstrap, and prints where it is:
#   tree.sh RELEASE
# Made once and kept in CACHE; made anew where it is missing or another recipe has made it. Needs root, mmdebstrap and a Debian
# mirror.
set -eu
release=$1
CACHE=${CACHE:-/var/cache/windlass-engines}
tree=$CACHE/$release
recipe=$(cksum < "$0")
if [ "$(cat "$tree/etc/debian_version.made" 2> /dev/null)" != "$recipe" ]; then
    mkdir -p "$CACHE"
    work=$(mktemp -d "$CACHE/making.XXXXXX")
    trap 'rm -rf --one-file-system "$work"' EXIT
    trap 'exit 130' INT TERM
    packages=docker.io,docker-cli,docker-buildx,docker-compose,containerd,runc,tini
    packages=$packages,podman,conmon,netavark,aardvark-dns,catatonit,passt,slirp4netns,fuse-overlayfs,uidmap,buildah
    packages=$packages,containernetworking-plugins,iptables,nftables,iproute2,kmod,curl,jq,procps,busybox-static
    packages=$packages,apparmor,user-mode-linux,ca-certificates,attr,strace,python3-minimal,python3-protobuf
    # The tree is no system: no daemon starts in it, and no package needs one.
    mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt='APT::Install-Recommends "false"' \
        --aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt=path-exclude='/usr/share/man/*' \
        --dpkgopt=path-exclude='/usr/share/doc/*' --dpkgopt=path-exclude='/usr/share/locale/*' \
        "$release" "$work/tree" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >&2
    if [ "$release" != trixie ]; then
        # The User-Mode Linux of sid has no NAT: neither the modules of old iptables nor nft_chain_nat.
        kernel=$("$0" trixie)
        cp -a "$kernel/usr/bin/linux.uml" "$work/tree/usr/bin/"
        cp -a "$kernel/usr/lib/uml/modules/." "$work/tree/usr/lib/uml/modules/"
    fi
    echo "$recipe" > "$work/tree/etc/debian_version.made"
    rm -rf --one-file-system "$tree"
    mv "$work/tree" "$tree"
fi
echo "$tree"
