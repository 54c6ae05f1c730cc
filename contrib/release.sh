#!/bin/sh
# Makes the files of a release in target/dist: a tarball and a Debian package per architecture, a bill of materials,
# SHA256SUMS. The same commit gives the same bytes, wherever, whenever and by whomever it is built.
#
# usage: release.sh [--trial] [ARCHITECTURE...]: by default x86_64 and aarch64. --trial accepts the placeholders of
# contrib/release.conf and a work tree with changes; its files are not for publication.
set -eu

cd "$(dirname "$0")/.."
die() { echo "release: $*" >&2; exit 1; }

trial=
if [ "${1:-}" = --trial ]; then trial=yes; shift; fi
[ $# -gt 0 ] || set -- x86_64 aarch64

if [ -z "$trial" ]; then
    # The addresses in it are names that can never exist (RFC 2606).
    ! grep -q '\.invalid' contrib/release.conf || die "contrib/release.conf has placeholders: set who publishes this, or try it out with --trial"
    [ -z "$(git status --porcelain)" ] || die "the work tree has changes: commit them, or try it out with --trial"
fi

# What is missing is said before anything is built.
missing=
need() { # PROGRAM PACKAGE
    command -v "$1" > /dev/null || missing="$missing $2"
}
need dpkg-deb dpkg
# Debian's rules for packages: their errors are errors here.
[ "$trial" ] || need lintian lintian
for architecture; do
    target=$architecture-unknown-linux-musl
    [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] || rustup target add "$target" ||
        die "Rust's target $target cannot be had"
    [ "$architecture" = "$(uname -m)" ] ||
        need "$architecture-linux-gnu-gcc" "gcc-$(echo "$architecture" | tr _ -)-linux-gnu"
done
[ -z "$missing" ] || die "programs are missing: install Debian's packages$missing"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
WINDLASS_COMMIT=$(git describe --always --dirty --abbrev=12)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export WINDLASS_COMMIT SOURCE_DATE_EPOCH
umask 022

# Messages of panics contain paths of source files: without this, names of directories would get into the programs.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
flags="-C target-feature=+crt-static -C relocation-model=static"
flags="$flags --remap-path-prefix=$PWD=/windlass --remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$(rustc --print sysroot)=/rust"
targets=${CARGO_TARGET_DIR:-target}
dist=target/dist
rm -rf "$dist"
mkdir -p "$dist"

for kind in man completions; do
    rm -rf "target/$kind"
    cargo run --locked --quiet --example pages -- "$kind" "target/$kind"
done

# All entries have the commit's time and root as their owner, and are sorted.
pack() { # ARCHIVE DIRECTORY NAME
    tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=gnu \
        --transform="flags=r;s|^\.|$3|" -C "$2" -c . | gzip -9n > "$1"
}

contrib/bom.sh "$dist/windlass-$version.cdx.json"

for architecture; do
    target=$architecture-unknown-linux-musl
    if [ "$architecture" != "$(uname -m)" ]; then
        export "CARGO_TARGET_$(echo "$target" | tr 'a-z-' 'A-Z_')_LINKER=$architecture-linux-gnu-gcc"
    fi
    RUSTFLAGS="$flags" cargo build --locked --release --bins --target "$target"

    root=$(mktemp -d)
    contrib/install.sh "$targets/$target/release" "$root" /usr/local > /dev/null
    install -m 644 README.md CHANGELOG.md LICENSE "$dist/windlass-$version.cdx.json" "$root/usr/local/share/doc/windlass/"
    pack "$dist/windlass-$version-$architecture.tar.gz" "$root/usr/local" "windlass-$version-$architecture"
    rm -rf "$root"
    contrib/deb.sh "$targets/$target/release" "$dist" "$architecture" "$dist/windlass-$version.cdx.json" > /dev/null
done

if command -v lintian > /dev/null; then
    lintian --fail-on error "$dist"/*.deb >&2
else
    echo "release: lintian is missing, so nothing has checked the packages" >&2
fi

[ "$(git describe --always --dirty --abbrev=12)" = "$WINDLASS_COMMIT" ] ||
    die "the work tree has changed meanwhile: what was built is of no one commit"
(cd "$dist" && sha256sum -- * > SHA256SUMS.new && mv SHA256SUMS.new SHA256SUMS)
cat "$dist/SHA256SUMS"
