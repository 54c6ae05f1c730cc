#!/bin/sh
# Runs a script as root in a guest that systemd has booted (User-Mode Linux):
#   boot.sh IMAGE SECONDS SCRIPT [FILE...]
# The image is not changed: what the guest writes goes to a copy-on-write file.
# The FILEs lie in /host in the guest, beside the script. Prints what the script
# printed and exits with its status; 124 if it took too long, 125 if the guest
# died.
set -u
image=$1 limit=$2 script=$3
shift 3
work=$(mktemp -d "${TMPDIR:-/tmp}/windlass-guest.XXXXXX")
kernel=
trap 'rm -rf "$work"; [ -z "$kernel" ] || kill -KILL "$kernel" 2>/dev/null' EXIT
trap 'exit 130' INT TERM
cp "$script" "$work/cmd"
[ $# -eq 0 ] || cp -a "$@" "$work/"
chmod 755 "$work"
echo "$limit" >"$work/limit"
# ext4 of the image and the memory of the guest: both are files, the latter of a tmpfs.
TMPDIR=/dev/shm timeout -k 1 $((limit + 60)) linux.uml mem="${WINDLASS_GUEST_MEMORY:-1024M}" \
    "ubd0=$work/cow,$image" root=/dev/ubda rootfstype=ext4 rw "umlw=$work" panic=-1 quiet \
    systemd.show_status=false apparmor=1 lsm=capability,yama,apparmor con=null con0=fd:0,fd:1 \
    </dev/null >"$work/console" 2>&1 &
kernel=$!
wait "$kernel"
died=$?
kernel=
[ ! -f "$work/out" ] || cat "$work/out"
if [ -f "$work/rc" ]; then
    rc=$(cat "$work/rc")
    [ "$rc" != 124 ] || echo "FAILED: it took longer than $limit s" >&2
    exit "$rc"
fi
echo "the guest ended early (status $died):" >&2
tail -n 12 "$work/console" >&2
[ "$died" = 124 ] && exit 124
exit 125
