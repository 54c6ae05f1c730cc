#!/bin/sh
# Runs the chapter `selinux` on an emulated machine whose SELinux enforces the policy selinux.cil:
#   selinux.sh [SUITE]
# The compiler of the policy is Debian's (secilc). If it is not available, the script says so, and ends with 77.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../apt.sh"
command -v secilc > /dev/null || install_packages integration/guests/selinux.sh secilc ||
    { echo "0 passed, 0 failed, EVERY CASE SKIPPED: secilc is not installed" >&2; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
secilc --policyvers=33 --output="$work/policy" --filecontext="$work/contexts" "$here/selinux.cil"
cat > "$work/before" << 'END'
set -e
mount -t selinuxfs selinux /sys/fs/selinux
cat /host/policy > /sys/fs/selinux/load
echo 1 > /sys/fs/selinux/enforce
chcon system_u:object_r:lib_t:s0 /host/integration
END
WINDLASS_GUEST_KERNEL="security=selinux selinux=1 ${WINDLASS_GUEST_KERNEL:-}" WINDLASS_GUEST_BEFORE=$work/before \
    WINDLASS_GUEST_FILES=$work/policy "$here/run.sh" x86_64 "${1:-bookworm}" selinux::
