#!/bin/bash
# Runs a container of `true` $1 times with each of the runtimes $2…, in turn, and prints the
# shortest and the median time of each. Taking turns spreads the machine's moods evenly.
set -eu
# Older runtimes and kernels charge the device filter to the limit of locked memory.
ulimit -l unlimited 2> /dev/null || true

count=${1:?usage: bench.sh COUNT RUNTIME…}
shift
bundle=$(mktemp -d)
trap 'rm -rf "$bundle"' EXIT
mkdir -p "$bundle"/rootfs/{bin,dev,proc,sys}
program=$(type -P true)
cp -L "$program" "$bundle/rootfs/bin/true"
ldd "$program" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$bundle/rootfs${library%/*}"
    cp -Ln "$library" "$bundle/rootfs$library"
done
cd "$bundle"
"$1" spec
sed -i -e 's/"terminal": true/"terminal": false/' -e 's|^\t*"sh"$|"/bin/true"|' config.json

for ((i = 0; i < count; i++)); do
    for runtime in "$@"; do
        begin=${EPOCHREALTIME/[.,]/}
        "$runtime" run "bench-$$" < /dev/null > /dev/null || { echo "bench: $runtime failed" >&2; exit 1; }
        end=${EPOCHREALTIME/[.,]/}
        echo $((end - begin)) >> "$bundle/times-${runtime//\//_}"
    done
done
for runtime in "$@"; do
    sort -n "$bundle/times-${runtime//\//_}" | awk -v name="$runtime" '
        { t[NR] = $1 }
        END { printf "%-40s min %7.2f ms   median %7.2f ms\n", name, t[1] / 1000, t[int((NR + 1) / 2)] / 1000 }'
done
