#!/bin/sh
# Measures what docs/numbers.svg shows, and prints it: a line `FIGURE PROGRAM VALUE`. Needs root, runc, crun and
# containerd. Times are milliseconds. That of windlass is its median; that of another runtime is windlass's median
# divided by the median of the ratios of all rounds. Memory is the mean proportional set size of ten shims that have
# nothing to do, in kB.
#
# usage: numbers.sh INTEGRATION WINDLASS SHIM
set -eu

usage='usage: numbers.sh INTEGRATION WINDLASS SHIM'
integration=${1:?$usage} windlass=${2:?$usage} shim=${3:?$usage}
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "# $(date -u +%F), Linux $(uname -r), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors"
for peer in runc crun; do
    echo "# $("$peer" --version | head -n 1)"
    "$integration" --bench --runtime "$windlass" --compare "$peer" --rounds "${ROUNDS:-30}" run verbs > "$work/$peer"
    "$integration" --growth --runtime "$windlass" --compare "$peer" --rounds 10 mounts >> "$work/$peer"
done
# CASE FIGURE: prints a figure from the tables, whose first 26 columns are the case.
figure() {
    for peer in runc crun; do
        awk -v case="$1" -v peer="$peer" -v figure="$2" '
            { name = substr($0, 1, 26); sub(/ +$/, "", name); split(substr($0, 27), field, " ") }
            name == case && field[1] == "windlass" { ours = field[3] }
            name == case && field[1] == peer { printf "%s %s %.2f\n", figure, peer, ours / field[5] }
            END { if (peer == "crun") printf "%s windlass %.2f\n", figure, ours }' "$work/$peer"
    done
}
figure "run B" run
figure "exec B" exec
figure "run, 100 bind mounts" mounts

"$integration" --runtime "$windlass" --shim "$shim" --harness host shim_measures::ten_idle |
    sed -n -e 's/.*theirs: PSS \([0-9]*\) kB.*/memory containerd-shim-runc-v2 \1/p' -e 's/.*ours: PSS \([0-9]*\) kB.*/memory windlass-shim \1/p'
if command -v conmon > /dev/null; then
    echo "# $(conmon --version | head -n 1)"
    PASSES=1 contrib/conmon-bench.sh "$(command -v conmon)" | awk 'NR == 2 { print "memory conmon", $2 }'
fi
