#!/bin/sh
# The quick checks of a change: format, lints and tests of the crates that it touches, and whether the crates that
# depend on them still build. The change is the difference from the commit $1. `just check` also fuzzes and compares
# with other implementations.
set -eu

cd "$(dirname "$0")/.."
base=${1:?usage: quick.sh COMMIT}
export CARGO_PROFILE_DEV_DEBUG="${CARGO_PROFILE_DEV_DEBUG:-0}"
# Tests that run the program for each row of a table take each tenth.
export WINDLASS_SAMPLE=10
left_out=" fuzz oci_spec shim_messages shim_service agreement libseccomp seccompiler "

changed=$(git diff --name-only "$(git merge-base "$base" HEAD)" && git ls-files --others --exclude-standard)
# Lives of real shims, which wait for most of their time: they test nothing of the command line's code.
case $changed in
*src/bin/windlass-shim* | *tests/shim_* | *tests/support/*) ;;
*) left_out="${left_out}shim_conmon shim_neutral shim_upgrade " ;;
esac
# The directory of each package with a changed file, once.
directories=$(for file in $changed; do
    case $file in
    *.rs | */Cargo.toml | tests/* | */tests/*) ;;
    *) continue ;;
    esac
    directory=$(dirname "$file")
    until [ -e "$directory/Cargo.toml" ]; do directory=$(dirname "$directory"); done
    echo "$directory"
done | sort -u | grep -vx fuzz || true)

if [ -z "$directories" ]; then
    echo "quick: no code differs from $base"
    exit
fi
name() { sed -n 's/^name = "\(.*\)"/\1/p' "$1/Cargo.toml" | head -n 1; }

packages=
for directory in $directories; do packages="$packages --package $(name "$directory")"; done
dependents=$(for directory in $directories; do
    cargo tree --workspace --invert "$(name "$directory")" --edges normal,build --prefix none --format '{p}'
done | sed -n 's/^\([^ ]*\) .*/--package \1/p' | sort -u)
# What is linted with all its targets is not linted once more.
others=$(echo "$dependents" | while read -r flag dependent; do
    case " $packages " in *" $dependent "*) ;; *) echo "$flag $dependent" ;; esac
done)
echo "quick: of$(echo "$packages" | sed 's/ --package / /g')"
# shellcheck disable=SC2086 # Lists of words.
cargo fmt $packages --check
# shellcheck disable=SC2086
cargo clippy --quiet $packages --all-targets -- --deny warnings
# shellcheck disable=SC2086
[ -z "$others" ] || cargo clippy --quiet $others -- --deny warnings

for directory in $directories; do
    targets=$(for file in "$directory"/tests/*.rs "$directory"/tests/*/main.rs; do
        [ -e "$file" ] || continue
        test=$(basename "$(echo "$file" | sed 's|/main\.rs$||')" .rs)
        case $left_out in *" $test "*) ;; *) echo "--test $test" ;; esac
    done)
    # shellcheck disable=SC2086
    cargo test --quiet --package "$(name "$directory")" --lib $targets
done
