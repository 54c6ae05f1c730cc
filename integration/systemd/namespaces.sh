#!/bin/bash
# Runs a script as root in a system that systemd has booted on the host's own kernel, in namespaces:
#   namespaces.sh IMAGE SECONDS SCRIPT [FILE...]
# As boot.sh, in two seconds and at the host's speed, with the controllers that the host has in cgroup2:
# for measuring, and for cases that need none.
set -eu
image=$1 limit=$2 script=$3
shift 3
work=$(mktemp -d "${TMPDIR:-/tmp}/windlass-namespaces.XXXXXX")
cgroup=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)/windlass-namespaces.$$
trap 'find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null; rm -rf "$work"' EXIT
mkdir "$cgroup" "$work/host" "$work/image" "$work/layers"
cp "$script" "$work/host/cmd"
[ $# -eq 0 ] || cp -a "$@" "$work/host/"
echo "$limit" >"$work/host/limit"
cat >"$work/boot" <<BOOT
set -eu
mount --make-rprivate /
mount -o loop,ro "$image" "$work/image"
mount -t tmpfs none "$work/layers"
cd "$work/layers"
mkdir upper work root
mount -t overlay -o "lowerdir=$work/image,upperdir=upper,workdir=work" none root
cd root
mkdir -p host
mount --bind "$work/host" host
sed -i '/hostfs/d' usr/local/sbin/windlass-guest
mount -t proc none proc
mount -t sysfs none sys
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=755 none run
mount -t tmpfs -o mode=755 none dev
for node in null zero full random urandom tty kmsg; do
    touch dev/\$node
    mount --bind /dev/\$node dev/\$node
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 none dev/pts
ln -s pts/ptmx dev/ptmx
pivot_root . mnt
umount -l /mnt
exec env -i container=windlass PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init --log-target=null
BOOT
timeout -k 1 $((limit + 20)) bash -c 'echo $$ >"$1/cgroup.procs" && exec unshare -CpmuinT --fork --kill-child bash "$2"' \
    - "$cgroup" "$work/boot" >"$work/console" 2>&1 </dev/null || true
[ ! -f "$work/host/out" ] || cat "$work/host/out"
if [ ! -f "$work/host/rc" ]; then
    tail -n 12 "$work/console" >&2
    exit 125
fi
exit "$(cat "$work/host/rc")"
