#!/bin/sh
# A fixed sample of the mutants of plan, seccomp and the codecs, each of which the tests of its crate should catch.
# usage: mutants.sh [NUMBER]; needs cargo-mutants. Without it, it says so and does nothing.
set -eu
number=${1:-200}
if ! cargo mutants --version > /dev/null 2>&1; then
    echo "mutants: SKIPPED: cargo-mutants is not installed (cargo install cargo-mutants)"
    exit 0
fi
# -F cannot name the mutants that leave a field out of a struct, so the sample has none of them.
set -- --exclude-re 'delete field' -f 'src/plan/*.rs' -f 'src/plan/unit/*.rs' -f 'src/plan/device_rules/*.rs' -f 'seccomp/src/*.rs' \
    -f 'src/dbus/*.rs' -f 'src/sys/netlink/message.rs' -f 'src/store/record.rs' -f 'src/base/protobuf.rs' \
    -f 'src/shim/frontend/containerd/wire.rs' -f 'src/shim/frontend/containerd/ttrpc.rs' \
    -f 'src/shim/frontend/containerd/frames.rs' -f 'src/shim/frontend/neutral/wire.rs'
# Sorting by checksum gives a random order that is the same each time.
cargo mutants --list --workspace "$@" | while IFS= read -r name; do
    printf '%s %s\n' "$(printf '%s' "$name" | cksum | cut -d' ' -f1)" "$name"
done | sort -n | head -n "$number" | cut -d' ' -f2- | sed 's/[][(){}\\.*+?|^$]/\\&/g' > target/mutants.sample
while IFS= read -r name; do
    set -- "$@" -F "^$name\$"
done < target/mutants.sample
exec cargo mutants --workspace --baseline skip --timeout 120 --output target "$@" -- --lib --tests
