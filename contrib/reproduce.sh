#!/bin/sh
# Makes a release twice, in two directories, by two users, under two clocks, with the toolchain at two places, and
# fails unless both are equal; needs root, to become the other user, and faketime. Arguments are those of release.sh.
set -eu

cd "$(dirname "$0")/.."
command -v faketime > /dev/null || { echo "reproduce: faketime is missing: install it" >&2; exit 1; }
# The other user may not enter root's home: the toolchain is bound to where everybody can read it.
[ -n "${WINDLASS_REPRODUCE:-}" ] || WINDLASS_REPRODUCE=1 exec unshare --mount --propagation private "$0" "$@"
work=$(mktemp -d "${TMPDIR:-/tmp}/reproduce.XXXXXX")
trap 'umount "$work/toolchain" 2> /dev/null || true; rm -rf --one-file-system "$work"' EXIT
chmod 755 "$work"
cargo_home=${CARGO_HOME:-$HOME/.cargo}
sysroot=$(rustc --print sysroot)
commit=$(git rev-parse HEAD)
mkdir "$work/toolchain"
mount --bind "$sysroot" "$work/toolchain"

make() { # DIRECTORY CLOCK USER TOOLCHAIN ARGUMENT...: in a clone, with a CARGO_HOME of its own beside it
    directory=$work/$1 clock=$2 user=$3 toolchain=$4
    shift 4
    mkdir -p "$directory/home"
    # A local clone would link to the objects here, and their owner would change too.
    git clone --quiet --no-hardlinks . "$directory/checkout"
    # The same commit for both, whatever is committed here meanwhile.
    git -C "$directory/checkout" checkout --quiet --detach "$commit"
    # Both use what is downloaded already.
    for part in registry config.toml; do
        [ ! -e "$cargo_home/$part" ] || cp -a "$cargo_home/$part" "$directory/home/"
    done
    # rustc hangs below faketime, so it alone sees the true time, which it writes nowhere.
    mkdir "$directory/compiler"
    printf '#!/bin/sh\nunset LD_PRELOAD\nexec "%s/bin/rustc" "$@"\n' "$toolchain" > "$directory/compiler/rustc"
    chmod 755 "$directory/compiler/rustc"
    chown -R "$user:$user" "$directory"
    (
        cd "$directory/checkout"
        # `env -i`: the other user does not get the caller's environment, which must not matter.
        setpriv --reuid "$user" --regid "$user" --clear-groups env -i HOME="$directory/home" CARGO_HOME="$directory/home" \
            PATH="$directory/compiler:$toolchain/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
            faketime -f "$clock" contrib/release.sh "$@" > /dev/null
    )
}

make first +0 0 "$sysroot" "$@"
make another/place +400d 65534 "$work/toolchain" "$@"
cd "$work"
diff first/checkout/target/dist/SHA256SUMS another/place/checkout/target/dist/SHA256SUMS || {
    echo "reproduce: the two builds differ" >&2
    exit 1
}
echo "reproduce: equal, twice"
cat first/checkout/target/dist/SHA256SUMS
