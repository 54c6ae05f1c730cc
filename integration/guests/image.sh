#!/bin/sh
# Makes a machine of another processor or kernel for QEMU, from Debian's packages:
#   image.sh ARCHITECTURE SUITE DIR
# DIR then has `vmlinuz`, `initrd` and `root.ext4`. Nothing of the packages is executed here, so no program of that
# processor has to run on this one. Made once and cached: nothing happens if DIR is newer than this recipe. Needs root,
# mmdebstrap, mke2fs, busybox and a Debian mirror.
set -eu
architecture=$1 suite=$2
mkdir -p "$3"
dir=$(cd "$3" && pwd)
[ "$dir/root.ext4" -nt "$0" ] && exit 0

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
case $architecture in
    x86_64) debian=amd64 kernel=linux-image-cloud-amd64 ;;
    aarch64) debian=arm64 kernel=linux-image-cloud-arm64 ;;
    riscv64) debian=riscv64 kernel=linux-image-riscv64 ;;
    s390x) debian=s390x kernel=linux-image-s390x ;;
    *) echo "no machine for $architecture" >&2; exit 1 ;;
esac
packages=$kernel,busybox-static,bash,coreutils,dash,grep,sed,mawk,tar,util-linux,mount,procps,iproute2,kmod,jq,passwd,login,uidmap,strace,apparmor
# CRIU of Debian 12 is too old to be taken, and Debian 13 has none for riscv64. It locks the network by iptables, and packs
# a tmpfs by tar and gzip.
case $suite-$debian in
    bookworm-* | trixie-riscv64) ;;
    *) packages=$packages,criu,iptables,gzip ;;
esac

work=$(mktemp -d "$dir/making.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mmdebstrap --quiet --variant=extract --architectures="$debian" --include="$packages" \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' \
    --dpkgopt=path-exclude='/usr/share/man/*' \
    --dpkgopt=path-exclude='/usr/share/doc/*' --dpkgopt=path-exclude='/usr/share/locale/*' "$suite" "$root" "$mirror"

modules=$(find "$root/usr/lib/modules" "$root/lib/modules" -mindepth 1 -maxdepth 1 -type d 2> /dev/null | head -n 1)
version=${modules##*/}
# Later kernels lie beside their modules.
cp "$(ls "$root/boot/vmlinu"[xz]-"$version" "$modules/vmlinuz" 2> /dev/null | head -n 1)" "$work/vmlinuz"
depmod -b "${modules%/lib/modules/*}" "$version" 2> /dev/null || depmod -b "$root" "$version"

# What the packages would have made when they were configured.
cp -n "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd" 2> /dev/null || true
cp -n "$root/usr/share/base-passwd/group.master" "$root/etc/group" 2> /dev/null || true
grep -q ^root: "$root/etc/passwd" 2> /dev/null || echo root:x:0:0:root:/root:/bin/sh >> "$root/etc/passwd"
grep -q ^root: "$root/etc/group" 2> /dev/null || echo root:x:0: >> "$root/etc/group"
touch "$root/etc/subuid" "$root/etc/subgid"
[ -e "$root/bin/sh" ] || ln -s dash "$root/bin/sh"
[ -e "$root/usr/bin/awk" ] || ln -s mawk "$root/usr/bin/awk"
mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/host" "$root/root"
chmod 1777 "$root/tmp"

# The first file system: loads what the root needs and goes on there.
first=$work/first
mkdir -p "$first/bin" "$first/proc" "$first/sys" "$first/dev" "$first/new" "$first/lib/modules"
cp "$(ls "$root"/usr/bin/busybox "$root"/bin/busybox 2> /dev/null | head -n 1)" "$first/bin/busybox"
for applet in sh mount modprobe insmod switch_root tar sleep mkdir cat poweroff; do ln -s busybox "$first/bin/$applet"; done
# The modules of disks and of ext4, and what they need, in the order in which they go in.
(
    cd "$modules"
    for wanted in virtio_pci virtio_ccw virtio_mmio virtio_blk ext4 crc32c crc32c_generic; do
        line=$(grep -E "(^|/)$(echo "$wanted" | sed 's/_/[-_]/g')\.ko[^:]*:" modules.dep || true)
        [ -n "$line" ] || continue
        needs=$(echo "${line#*:}" | tr ' ' '\n' | tac | tr '\n' ' ')
        echo "$needs ${line%%:*}" | tr ' ' '\n'
    done | grep . | awk '!seen[$0]++' > "$work/order"
    while read -r module; do
        mkdir -p "$first/lib/modules"
        case $module in
            *.xz) xz -dc "$module" > "$first/lib/modules/$(basename "$module" .xz)" ;;
            *) cp "$module" "$first/lib/modules/" ;;
        esac
    done < "$work/order"
    sed -e 's|.*/||' -e 's|\.xz$||' "$work/order" > "$first/lib/modules/order"
)
cat > "$first/init" << 'INIT'
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/lib/modules/$module"; done < /lib/modules/order
tries=0
until [ -b /dev/vdb ] || [ $tries = 100 ]; do sleep 0.1; tries=$((tries + 1)); done
# The kernel numbers the two disks in the order in which it finds them.
if mount -t ext4 /dev/vda /new 2> /dev/null; then files=/dev/vdb; else files=/dev/vda; fi
[ $files = /dev/vdb ] || mount -t ext4 /dev/vdb /new || exec poweroff -f
tar -C /new/host -xf $files
exec switch_root /new /host/guest-init
INIT
chmod 755 "$first/init"
(cd "$first" && find . | busybox cpio -o -H newc > "$work/initrd.cpio")
gzip -1c "$work/initrd.cpio" > "$work/initrd"

truncate -s 1G "$work/root.ext4"
mke2fs -q -F -t ext4 -O ^has_journal -E root_owner=0:0 -d "$root" "$work/root.ext4"
mv "$work/vmlinuz" "$work/initrd" "$work/root.ext4" "$dir/"
