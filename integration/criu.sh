#!/bin/sh
# Makes DIR/criu: CRIU 4.1 of Debian 13, with its own loader and libraries, for hosts that have none, or one too old
# for their kernel. Made once and cached: nothing happens if it is newer than this recipe. Needs mmdebstrap and a
# Debian mirror.
#   criu.sh DIR
set -eu
dir=$1
[ "$dir/criu" -nt "$0" ] && exit 0

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
mkdir -p "$dir"
work=$(mktemp -d "$dir/making.XXXXXX")
trap 'rm -rf "$work"' EXIT
mmdebstrap --quiet --variant=extract --include=criu trixie "$work/root" "$mirror"

made=$work/criu
mkdir "$made"
libraries=$work/root/usr/lib/$(uname -m)-linux-gnu
loader=$(find "$libraries" -name 'ld-linux*' | head -n 1)
"$loader" --library-path "$libraries" --list "$work/root/usr/sbin/criu" |
    sed -n 's/.*=> \([^ ]*\) .*/\1/p' | while read -r library; do cp -L "$library" "$made/"; done
cp -L "$loader" "$made/loader"
cp "$work/root/usr/sbin/criu" "$made/criu.bin"
rm -rf "$dir/files"
mv "$made" "$dir/files"
files=$(cd "$dir/files" && pwd)
printf '#!/bin/sh\nexec %s/loader --library-path %s %s/criu.bin "$@"\n' "$files" "$files" "$files" >"$work/script"
chmod 755 "$work/script"
mv "$work/script" "$dir/criu"
