#!/bin/bash
# CPU and wall time of `run` under systemd, in the guest, as root:
#   bench.sh COUNT SCOPE WINDLASS PEER...
# SCOPE is examples/scope.rs: what systemd takes by itself. Runs alternate, so
# that what else the machine does is everybody's. /bin/true as a PEER tells what
# the shell needs to start anything at all.
set -u
count=$1 scope=$2
shift 2
dir=/run/bench
mkdir -p $dir/rootfs/{bin,proc,sys,dev}
cp /bin/busybox $dir/rootfs/bin/true
cd $dir && "$1" spec && jq '.process.terminal=false|.process.args=["/bin/true"]|.ociVersion="1.0.2"' config.json >c && mv c config.json

# Sets `spent` to the seconds of CPU of this shell's children so far; a subshell would have its own.
spend() {
    times >$dir/times
    spent=$(tail -n 1 $dir/times | awk '{ for (i = 1; i <= NF; i++) { split($i, p, /[ms]/); s += p[1] * 60 + p[2] } print s }')
}

declare -A cpu wall
rounds=10
for round in $(seq $rounds); do
    for rt in "$@"; do
        for manager in systemd-cgroup cgroupfs; do
            key="$(basename "$rt") $manager"
            flag=--systemd-cgroup
            [ $manager = cgroupfs ] && flag=
            jq ".linux.cgroupsPath=\"$([ $manager = cgroupfs ] && echo /bench/x || echo system.slice:bench:x)\"" config.json >c && mv c config.json
            spend
            before=$spent begun=$(date +%s%N)
            for i in $(seq $((count / rounds))); do
                "$rt" --root $dir/state $flag run "b$i" </dev/null >$dir/said 2>&1 || { echo "$rt: $(cat $dir/said)"; exit 1; }
            done
            ended=$(date +%s%N)
            spend
            wall[$key]=$(awk "BEGIN { print ${wall[$key]:-0} + ($ended - $begun) / 1e6 }")
            cpu[$key]=$(awk "BEGIN { print ${cpu[$key]:-0} + ($spent - $before) * 1e3 }")
        done
    done
done
for key in "${!cpu[@]}"; do
    awk "BEGIN { printf \"%-28s %6.1f ms CPU  %6.1f ms wall\n\", \"$key\", ${cpu[$key]} / $count, ${wall[$key]} / $count }"
done | sort
echo "a bare scope:"
"$scope" "$count"
echo "a scope with the properties of the container:"
jq '.linux.cgroupsPath=""' config.json >c && mv c config.json
"$scope" "$count" $dir
