#!/bin/sh
# The quick checks of a change: format, lints and tests of the crates that it touches, and whether the crates that
# depend on them still build. The change is the difference from the commit $1. `just check` also fuzzes and compares
# with other implementations.
set -eu

cd "$(dirname "$0")/.."
base=${1:?usage: quick.sh COMMIT}
export CARGO_PROFILE_DEV_DEBUG="${CARGO_PROFILE_DEV_DEBUG:-0}"
# Tests that do the same many times, such as running the program for each row of a table, do a tenth of it.
export WINDLASS_SAMPLE=10
left_out=" fuzz oci_spec shim_messages shim_service agreement libseccomp seccompiler "
# Unit tests: names that contain one of these words.
skipped="--skip fuzz::"

changed=$(git diff --name-only "$(git merge-base "$base" HEAD)" && git ls-files --others --exclude-standard)
# Tests of real shims, which spend most of their time waiting. They test nothing of the command line.
case $changed in
*src/bin/windlass-shim* | *tests/shim_* | *tests/support/*) ;;
*) left_out="${left_out}shim_conmon shim_neutral shim_upgrade " ;;
esac
# Every order of events in which an upgrade of the shim can go, which takes some seconds.
case $changed in
*src/shim/upgrade*) ;;
*) skipped="$skipped --skip upgrade::tests::in_every_order" ;;
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
# Crates that were linted with all their targets are not linted again.
others=$(echo "$dependents" | while read -r flag dependent; do
    case " $packages " in *" $dependent "*) ;; *) echo "$flag $dependent" ;; esac
done)
echo "quick: of$(echo "$packages" | sed 's/ --package / /g')"
# shellcheck disable=SC2086 # Lists of words.
cargo fmt $packages --check

results=$(mktemp -d)
running=
# shellcheck disable=SC2086 # Lists of words, here and below.
trap 'kill $running 2>/dev/null || :; rm -rf "$results"' EXIT
trap 'exit 130' INT TERM

# Runs a test program in the directory of its package, and keeps its output if it fails.
try() {
    name=$(basename "$3")
    # Only the standard library's test harness knows --skip, and the programs of tests/ need not have it.
    if [ "$2" = lib ]; then options=$skipped; else options=; fi
    cd "$1"
    "$3" --quiet $options >"$results/$name.output" 2>&1 &
    program=$!
    # An interrupted run leaves no test behind.
    trap 'kill $program' TERM
    wait $program || mv "$results/$name.output" "$results/$name.failed"
}

# The tests run beside clippy and each other, because those of the shim wait for most of their time.
for directory in $directories; do
    targets=$(for file in "$directory"/tests/*.rs "$directory"/tests/*/main.rs; do
        [ -e "$file" ] || continue
        test=$(basename "$(echo "$file" | sed 's|/main\.rs$||')" .rs)
        case $left_out in *" $test "*) ;; *) echo "--test $test" ;; esac
    done)
    cargo test --quiet --package "$(name "$directory")" --lib $targets --no-run \
        --message-format json-render-diagnostics >"$results/artifacts"
    sed -n 's/.*"kind":\["\(lib\|proc-macro\|test\)"\].*"executable":"\([^"]*\)".*/\1 \2/p' "$results/artifacts" \
        >"$results/programs"
    while read -r kind program; do
        try "$directory" "$kind" "$program" &
        running="$running $!"
    done <"$results/programs"
done
cargo clippy --quiet $packages --all-targets -- --deny warnings
[ -z "$others" ] || cargo clippy --quiet $others -- --deny warnings
wait
running=
grep -h '^test result' "$results"/*.output || :
for output in "$results"/*.failed; do
    [ -e "$output" ] || exit 0
    cat "$output"
done
exit 1
