#!/bin/sh
# Runs the program of the suite, with the engines of this machine or, after `--release NAME`, with those of another
# Debian release: in the tree that tree.sh has made, entered by pivot_root(2), because user namespaces cannot be made
# inside a chroot. What is written there is gone after the run. Needs root.
#
# usage: run.sh ENGINES [ARGUMENT...]
set -eu

release=
for word; do
    [ "$release" != next ] || { release=$word; break; }
    [ "$word" != --release ] || release=next
done
[ "$release" != next ] || { echo "run.sh: --release needs a name" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
# Debian's sid has the code name of the release to come.
# shellcheck source=/dev/null
own=$(. /etc/os-release && case ${ID:-}-$(cat /etc/debian_version 2> /dev/null) in
    debian-*/sid) echo sid ;;
    *) echo "${VERSION_CODENAME:-}" ;;
esac) || own=
[ -n "$release" ] && [ "$release" != "$own" ] || exec "$@"

tree=$("$here/tree.sh" "$release")
work=$(mktemp -d "${TMPDIR:-/var/tmp}/windlass-engines.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
mkdir "$work/upper" "$work/work" "$work/root"
cat > "$work/inside" << 'INSIDE'
set -eu
tree=$1 work=$2 checkout=$3
shift 3
directory=$PWD
mount -t overlay -o "lowerdir=$tree,upperdir=$work/upper,workdir=$work/work" none "$work/root"
cd "$work/root"
mount -t proc none proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 none run
# Binds the checkout, and the programs that the arguments name.
mkdir -p "./$checkout"
mount --bind "$checkout" "./$checkout"
for word; do
    case $word in
        "$checkout"/*) ;;
        /*) [ ! -f "$word" ] || { mkdir -p "./${word%/*}"; touch "./$word"; mount --bind "$word" "./$word"; } ;;
    esac
done
pivot_root . mnt
umount -l /mnt
cd "$directory" 2> /dev/null || cd /
exec env -u TMPDIR LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
INSIDE
# Programs are named by paths of this machine.
first=$(realpath "$1")
shift
unshare --mount --propagation private sh "$work/inside" "$tree" "$work" "$(cd "$here/../.." && pwd)" "$first" "$@"
