#!/bin/sh
# Boots guests with systemd and runs what is to be true there:
#   run.sh WINDLASS [SUITE...]
# SUITE is a Debian release; default: bookworm, whose systemd takes processes by
# number, and trixie, whose takes them by pidfd. The images are made once and
# kept in target/systemd. With PEERS=1 the same cases run on runc and crun, whose
# failures are shown and do not count.
set -eu
here=$(dirname "$(readlink -f "$0")")
windlass=$(readlink -f "$1")
cache=$(dirname "$(dirname "$here")")/target/systemd
shift
[ $# -gt 0 ] || set -- bookworm trixie
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$windlass" "$here/cases.sh" "$here/engines.sh" "$work/"
cat >"$work/ours" <<'GUEST'
cp /host/windlass /usr/local/bin/
failed=0
bash /host/cases.sh /usr/local/bin/windlass || failed=1
bash /host/engines.sh /usr/local/bin/windlass || failed=1
exit $failed
GUEST
cat >"$work/peers" <<'GUEST'
bash /host/cases.sh "$(command -v runc)"
bash /host/cases.sh "$(command -v crun)"
exit 0
GUEST
failed=0
for suite in "$@"; do
    "$here/image.sh" "$suite" "$cache/$suite.img"
    echo "== $suite"
    "$here/boot.sh" "$cache/$suite.img" 400 "$work/ours" "$work/windlass" "$work/cases.sh" "$work/engines.sh" || failed=1
    [ -z "${PEERS:-}" ] || "$here/boot.sh" "$cache/$suite.img" 600 "$work/peers" "$work/cases.sh" || true
done
exit $failed
