#!/bin/sh
# Runs a script as root on a machine of image.sh, emulated:
#   boot.sh ARCHITECTURE DIR SECONDS SCRIPT [FILE...]
# The machine's disk is not changed. The FILEs lie in /host beside the script. Prints what the script printed and exits
# with its status; 124 if it took too long, 125 if the machine died.
set -u
architecture=$1 dir=$2 limit=$3 script=$4
shift 4
work=$(mktemp -d "${TMPDIR:-/tmp}/windlass-guest.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir "$work/host"
cp "$script" "$work/host/cmd"
[ $# -eq 0 ] || cp -a "$@" "$work/host/"
cat > "$work/host/guest-init" << 'INIT'
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount --make-rshared /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 -o nsdelegate cgroup /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
echo guest > /proc/sys/kernel/hostname
ip link set lo up
modprobe -a overlay veth dummy fuse tun binfmt_misc 2> /dev/null
/bin/sh /host/cmd < /dev/null 2>&1
echo "@end $?"
sync
/bin/busybox poweroff -f
INIT
chmod 755 "$work/host/guest-init"
tar -C "$work/host" -cf "$work/host.tar" .
truncate -s %1M "$work/host.tar"

cores=$(nproc)
options=
case $architecture in
    # On a busy host the kernel finds that its timer is late and gives up.
    x86_64) machine="qemu-system-x86_64 -machine q35,accel=tcg -cpu max" console=ttyS0 options="no_timer_check tsc=unstable" ;;
    # Half of the emulated time would be spent on the architecture's own cipher for pointer authentication.
    aarch64) machine="qemu-system-aarch64 -machine virt,gic-version=3 -cpu max,pauth-impdef=on" console=ttyAMA0 ;;
    riscv64) machine="qemu-system-riscv64 -machine virt -cpu rv64" console=ttyS0 ;;
    s390x) machine="qemu-system-s390x -machine s390-ccw-virtio -cpu max" console=ttysclp0 ;;
esac
# shellcheck disable=SC2086
timeout -k 1 "$limit" $machine -smp "$cores" -m "${WINDLASS_GUEST_MEMORY:-1536}" -nodefaults -no-user-config \
    -display none -no-reboot -nic none -kernel "$dir/vmlinuz" -initrd "$dir/initrd" \
    -append "console=$console quiet loglevel=3 panic=-1 mitigations=off $options ${WINDLASS_GUEST_KERNEL:-}" -serial stdio \
    -drive "file=$dir/root.ext4,format=raw,if=virtio,snapshot=on,cache=unsafe" \
    -drive "file=$work/host.tar,format=raw,if=virtio,readonly=on" < /dev/null 2> "$work/errors" |
    sed -u 's/\r//g' | sed -u '/^@end /w '"$work/end"
if [ -s "$work/end" ]; then exit "$(sed -n 's/^@end //p' "$work/end" | tail -n 1)"; fi
echo "the machine ended early:" >&2
tail -n 5 "$work/errors" >&2
exit 125
