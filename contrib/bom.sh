#!/bin/sh
# Writes the bill of materials of both programs, a CycloneDX document, to the file $1: each crate that is linked into
# them, with version, licence and checksum. It names nothing of the machine on which it was made.
set -eu

to=${1:?usage: bom.sh FILE}
cd "$(dirname "$0")/.."
tools=$PWD/target/tools
PATH=$PATH:$tools/bin
command -v cargo-cyclonedx > /dev/null || cargo install --quiet --locked --root "$tools" cargo-cyclonedx >&2

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
# It writes a file beside the manifest of each member of the workspace; that of the root has all of them.
cargo cyclonedx --quiet --format json --spec-version 1.5 --target x86_64-unknown-linux-musl --override-filename windlass-bom
sed -e "s|file://$PWD|file:///windlass|g" windlass-bom.json > "$to"
find . -path ./target -prune -o -name windlass-bom.json -exec rm {} +
