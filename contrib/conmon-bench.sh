#!/bin/bash
# Compares programs in the role of conmon: memory of ten idle ones, and the throughput of the log.
# usage: conmon-bench.sh CONMON... (for example target/*/release/windlass-shim /usr/bin/conmon)
#
# Needs no root and no containers: the runtime is tests/support/runtime.sh. The log is in /dev/shm.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d /dev/shm/conmon-bench.XXXXXX)
trap 'kill $(cat "$work"/*/*/pid "$work"/*/*/conmon.pid 2>/dev/null) 2>/dev/null; rm -rf "$work"' EXIT
IDLE=10
PASSES=${PASSES:-4}
line=$(printf '%079d' 7)
yes "$line" | head -c $((128 << 20)) >"$work/lines"

# start DIR NAME LOG: as podman does
start() {
    mkdir -p "$1/$2"
    cp "$1/process" "$1/$2/process"
    (cd "$1/$2" && "$1/conmon" --api-version 1 -c "$2" -u "$2" -n "$2" -r "$1/runtime" -b "$1/$2" -p "$1/$2/pid" \
        --conmon-pidfile "$1/$2/conmon.pid" --exit-dir "$1/exits" --full-attach -l "k8s-file:$3" --log-level error)
}
sum() { awk -v name="$1:" '$1 == name { n += $2 } END { print n + 0 }' "${@:2}"; }

printf '%-44s %9s %9s %9s %5s %5s %9s\n' program 'PSS/kB' 'dirty/kB' 'RSS/kB' thr. fds 'log MiB/s'
number=0
for program in "$@"; do
    number=$((number + 1))
    dir=$work/$number
    mkdir -p "$dir/exits"
    ln -s "$(realpath "$program")" "$dir/conmon"
    cp "$here/tests/support/runtime.sh" "$dir/runtime"

    echo 'exec sleep 1000' >"$dir/process"
    for i in $(seq $IDLE); do start "$dir" "idle$i" "$dir/idle$i.log"; done
    sleep 2
    maps=()
    fds=0
    threads=0
    for i in $(seq $IDLE); do
        pid=$(cat "$dir/idle$i/conmon.pid")
        maps+=("/proc/$pid/smaps_rollup")
        fds=$((fds + $(ls "/proc/$pid/fd" | wc -l)))
        threads=$((threads + $(ls "/proc/$pid/task" | wc -l)))
    done
    pss=$(($(sum Pss "${maps[@]}") / IDLE))
    dirty=$(($(sum Private_Dirty "${maps[@]}") / IDLE))
    rss=$(($(sum Rss "${maps[@]}") / IDLE))
    for i in $(seq $IDLE); do kill -9 "$(cat "$dir/idle$i/pid")"; done

    echo "for i in \$(seq $PASSES); do dd if=$work/lines bs=64k 2>/dev/null; done" >"$dir/process"
    rates=()
    for i in 1 2 3; do
        begun=$(date +%s%N)
        start "$dir" "log$i" "$dir/log"
        while [ ! -e "$dir/exits/log$i" ]; do sleep 0.01; done
        rates+=($((128 * PASSES * 1000000000 / ($(date +%s%N) - begun))))
        rm "$dir/log"
    done
    rate=$(printf '%s\n' "${rates[@]}" | sort -n | sed -n 2p)
    printf '%-44s %9s %9s %9s %5s %5s %9s\n' "$program" $pss $dirty $rss $((threads / IDLE)) $((fds / IDLE)) "$rate"
done
