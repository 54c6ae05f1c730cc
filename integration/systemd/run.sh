#!/bin/sh
# Boots guests with systemd and runs the cases there:
#   run.sh WINDLASS [SUITE...]
#   run.sh --short WINDLASS
# SUITE is a Debian release; default: bookworm, whose systemd takes processes by number, and trixie, whose takes them by
# pidfd. The images are made once and kept in target/systemd. With PEERS=1 the same cases run on runc and crun, whose
# failures are shown and do not count. --short: the cases without the one of fifty containers at once, in one guest
# without engines. If that guest cannot be made, the script says why, and succeeds.
set -eu
short=
[ "$1" != --short ] || { short=small && shift; }
here=$(dirname "$(readlink -f "$0")")
windlass=$(readlink -f "$1")
cache=$(dirname "$(dirname "$here")")/target/systemd
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "$short" ]; then
    set -- bookworm
    mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
    skip() { echo "SKIPPED: systemd in a guest: $1"; exit 0; }
    for program in mmdebstrap linux.uml mke2fs; do
        command -v $program >/dev/null || skip "no $program"
    done
    [ -e "$cache/bookworm-small.img" ] || /usr/lib/apt/apt-helper download-file "$mirror/dists/bookworm/Release" "$work/release" >/dev/null 2>&1 ||
        skip "$mirror cannot be reached"
else
    [ $# -gt 0 ] || set -- bookworm trixie
fi
cp "$windlass" "$(dirname "$windlass")/windlass-shim" "$here/cases.sh" "$here/engines.sh" \
    "$here/../../examples/windlass@.service" \
    "$here/../../contrib/docker/daemon-systemd.json" "$work/"
cat >"$work/ours" <<'GUEST'
cp /host/windlass /host/windlass-shim /usr/local/bin/
failed=0
bash /host/cases.sh /usr/local/bin/windlass || failed=1
bash /host/engines.sh /usr/local/bin/windlass || failed=1
exit $failed
GUEST
cat >"$work/short" <<'GUEST'
cp /host/windlass /host/windlass-shim /usr/local/bin/
bash /host/cases.sh /usr/local/bin/windlass '^[^f]'
GUEST
# User-Mode Linux cannot make checkpoints, and this kernel may.
cat >"$work/checkpoints" <<'GUEST'
cp /host/windlass /usr/local/bin/
printf '#!/bin/sh\nexec /host/files/loader --library-path /host/files /host/files/criu.bin "$@"\n' >/usr/local/bin/criu
chmod 755 /usr/local/bin/criu
bash /host/cases.sh /usr/local/bin/windlass a_checkpoint
GUEST
criu=$(dirname "$cache")/criu
cat >"$work/peers" <<'GUEST'
bash /host/cases.sh "$(command -v runc)"
bash /host/cases.sh "$(command -v crun)"
exit 0
GUEST
failed=0
for suite in "$@"; do
    image=$cache/$suite${short:+-$short}.img
    "$here/image.sh" "$suite" "$image" $short
    echo "== $suite"
    if [ -e "$criu/criu" ]; then
        "$here/namespaces.sh" "$image" 300 "$work/checkpoints" "$work/windlass" "$work/cases.sh" "$criu/files" || failed=1
    else
        echo "SKIPPED: checkpoints below systemd: NO CRIU: integration/criu.sh target/criu makes one"
    fi
    if [ -n "$short" ]; then
        "$here/boot.sh" "$image" 600 "$work/short" "$work/windlass" "$work/windlass-shim" "$work/cases.sh" \
            "$work/windlass@.service" || failed=1
        continue
    fi
    # A limit for what hangs, not for a slow host.
    "$here/boot.sh" "$image" 1800 "$work/ours" "$work/windlass" "$work/windlass-shim" "$work/cases.sh" "$work/engines.sh" \
        "$work/daemon-systemd.json" "$work/windlass@.service" || failed=1
    [ -z "${PEERS:-}" ] || "$here/boot.sh" "$image" 1800 "$work/peers" "$work/cases.sh" || true
done
exit $failed
