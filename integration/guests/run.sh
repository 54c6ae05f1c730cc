#!/bin/sh
# Builds windlass for an architecture and runs cases of the suite on an emulated machine of it:
#   run.sh ARCHITECTURE SUITE [--short] [NAME...]
# SUITE is the Debian release whose kernel boots. Without NAMEs it runs those of cases.txt, with --short a sample of
# them. The recipe selinux.sh beside it sets more: WINDLASS_GUEST_FILES that the machine gets in /host, and
# WINDLASS_GUEST_BEFORE, a script that it runs first. Needs root, QEMU, a cross linker (gcc-aarch64-linux-gnu and so
# on), mmdebstrap and a Debian mirror. If they are not available, it says that every case was skipped. That is a success
# only with --short: whoever names a machine wants it.
set -eu
architecture=$1 suite=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
short=
if [ "${1:-}" = --short ]; then short=yes; shift; fi

skip() {
    echo "0 passed, 0 failed, EVERY CASE SKIPPED on $architecture $suite: $*" >&2
    if [ "$short" ]; then exit 0; else exit 77; fi
}
"$here/setup.sh" "$architecture" || true
case $architecture in
    x86_64) emulator=qemu-system-x86_64 programs=$architecture-unknown-linux-musl ;;
    aarch64) emulator=qemu-system-aarch64 programs=$architecture-unknown-linux-musl ;;
    riscv64) emulator=qemu-system-riscv64 programs=riscv64gc-unknown-linux-gnu ;;
    s390x) emulator=qemu-system-s390x programs=$architecture-unknown-linux-gnu ;;
    *) echo "no machine for $architecture" >&2; exit 2 ;;
esac
tests=$(echo "$programs" | sed 's/-musl$/-gnu/')
for tool in "$emulator" mmdebstrap mke2fs depmod busybox; do command -v "$tool" > /dev/null || skip "$tool is not installed"; done
for target in "$programs" "$tests"; do
    [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] || rustup target add "$target" > /dev/null 2>&1 ||
        skip "Rust's target $target cannot be had"
    if [ "$architecture" != "$(uname -m)" ]; then
        linker=$architecture-linux-gnu-gcc
        command -v "$linker" > /dev/null || skip "$linker is not installed"
        export "CARGO_TARGET_$(echo "$target" | tr 'a-z-' 'A-Z_')_LINKER=$linker"
    fi
done

cd "$top"
targets=${CARGO_TARGET_DIR:-target}
image=$targets/guests/$architecture-$suite
"$here/image.sh" "$architecture" "$suite" "$image" || skip "its Debian cannot be had"

# Most of the time is the emulation's: an optimised build would take longer than it saves.
export RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" CARGO_PROFILE_DEV_DEBUG=0
cargo build --quiet --bins --target "$programs"
cargo build --quiet --package integration --target "$tests"

if [ $# = 0 ]; then
    # shellcheck disable=SC2046
    set -- $(grep -v '^#' "$here/cases.txt" | if [ "$short" ]; then awk 'NR % 4 == 1'; else cat; fi)
fi
script=$(mktemp)
trap 'rm -f "$script"' EXIT
cat > "$script" << END
export PATH=\$PATH:/host
$(if [ "${WINDLASS_GUEST_BEFORE:-}" ]; then cat "$WINDLASS_GUEST_BEFORE"; fi)
criu=\$(command -v criu) && export WINDLASS_CRIU="\$criu"
windlass doctor || true
integration --harness host --runtime /host/windlass $*
END
# shellcheck disable=SC2086
"$here/boot.sh" "$architecture" "$image" "${WINDLASS_GUEST_SECONDS:-1800}" "$script" \
    "$targets/$programs/debug/windlass" "$targets/$programs/debug/windlass-shim" "$targets/$tests/debug/integration" ${WINDLASS_GUEST_FILES:-}
