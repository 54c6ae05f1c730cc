#!/bin/bash
# Runs the README's two commands on a fresh clone, in a tree of Debian that has nothing but a Rust toolchain. Needs
# root, mmdebstrap and a Debian mirror. The tree is entered by pivot_root(2), because user namespaces cannot be made
# inside a chroot. It is made once and kept in target/bare; what the commands install goes to a layer that is removed
# afterwards.
#
# usage: bare.sh SUITE [RECIPE...]: by default demo and test
set -eu

suite=${1:?usage: bare.sh SUITE [RECIPE...]}
shift
[ $# -gt 0 ] || set -- demo test
cd "$(dirname "$0")/.."
tree=$PWD/target/bare/$suite
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
if [ ! -e "$tree/etc/debian_version" ]; then
    mkdir -p target/bare
    # It has another name until it is whole: one whose making was interrupted is made anew.
    rm -rf --one-file-system "$tree" "$tree.new"
    # rustup's instructions need a program to download with, and certificates.
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,curl,git --aptopt='Acquire::Check-Valid-Until "false"' \
        "$suite" "$tree.new" "$mirror"
    mv "$tree.new" "$tree"
fi

work=$(mktemp -d "${TMPDIR:-/var/tmp}/windlass-bare.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
mkdir "$work/upper" "$work/work" "$work/root" "$work/root.old"
git clone --quiet . "$work/upper/src"
sysroot=$(rustc --print sysroot)
cargo=${CARGO_HOME:-$HOME/.cargo}
cat > "$work/inside" << 'INSIDE'
set -eu
work=$1 tree=$2 sysroot=$3 cargo=$4
shift 4
mount -t overlay -o "lowerdir=$tree,upperdir=$work/upper,workdir=$work/work" none "$work/root"
cd "$work/root"
mount -t proc none proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 none run
mkdir -p toolchain root/.cargo mnt
mount --rbind "$sysroot" toolchain
# The tree does not get the settings of this machine's network.
for file in /etc/resolv.conf /etc/hosts; do cat "$file" > "${file#/}"; done
mkdir -p usr/local/share/ca-certificates
cp -aL /usr/local/share/ca-certificates/. usr/local/share/ca-certificates/ 2> /dev/null || true
cp -aL /etc/ssl/certs/. etc/ssl/certs/ 2> /dev/null || true
cp -a /etc/apt/apt.conf.d/*proxy* etc/apt/apt.conf.d/ 2> /dev/null || true
[ ! -e "$cargo/config.toml" ] || cp "$cargo/config.toml" root/.cargo/
[ ! -d "$cargo/registry" ] || { mkdir root/.cargo/registry && mount --bind "$cargo/registry" root/.cargo/registry; }
pivot_root . mnt
umount -l /mnt
mount --make-rshared /
cd /src
export HOME=/root TERM=${TERM:-dumb} LANG=C.UTF-8 PATH=/toolchain/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0
for recipe; do
    echo "== contrib/just.sh $recipe"
    contrib/just.sh "$recipe"
done
INSIDE
unshare --mount --pid --fork --kill-child --cgroup --propagation private bash "$work/inside" "$work" "$tree" "$sysroot" "$cargo" "$@"
echo "bare $suite: $* passed"
