#!/bin/sh
# How long a dump and a restore take: of a shell, and of one with 50 MB of memory. Beside windlass: bare CRIU with the same
# options, of a container that is frozen already, and other runtimes. Medians in ms, and ratios to bare CRIU.
#   checkpoint-times.sh WINDLASS CRIU [ROUNDS [PEER...]]
# Needs root, and a machine that does nothing else.
set -eu
if [ "${1:-}" != @inside ]; then
    [ $# -ge 2 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 1; }
    exec unshare --mount --pid --fork --mount-proc --propagation private "$0" @inside "$@"
fi
windlass=$(realpath "$2") criu=$(realpath "$3") rounds=${4:-15}
[ $# -ge 4 ] && shift 4 || shift $#

# Only cgroup2, and all files in memory.
work=$(mktemp -d)
mount -t tmpfs times "$work"
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
group=/sys/fs/cgroup/checkpoint-times
leave() {
    [ -d "$group" ] || return 0
    echo 1 >"$group/cgroup.kill"
    echo 0 >"$group/cgroup.freeze"
    rmdir "$group" 2>/dev/null || { sleep 0.2 && rmdir "$group"; }
}
trap 'leave || true; umount -l "$work"; rmdir "$work"' EXIT
trap 'exit 130' INT TERM
leave
mkdir -p "$work/bin" "$work/times" "$work/bundle/rootfs/bin"
ln -s "$criu" "$work/bin/criu"
PATH=$work/bin:$PATH
bundle=$work/bundle
root=$bundle/rootfs
mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/tmp"
cp "$(command -v busybox)" "$root/bin/busybox"
for name in sh sleep head yes; do ln -s busybox "$root/bin/$name"; done
mount --bind "$root" "$root"

# The configuration of a container that runs a script.
configure() {
    cat >"$bundle/config.json" <<END
{"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"cwd": "/", "user": {"uid": 0, "gid": 0},
 "env": ["PATH=/bin"], "args": ["/bin/sh", "-c", "$1"]},
 "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
  {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}],
 "linux": {"cgroupsPath": "/checkpoint-times", "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
  {"type": "mount"}, {"type": "network"}]}}
END
}

failed() {
    echo "failed: $*" >&2
    cat "$work/said" >&2
    grep -h Error "$work"/images/*.log >&2
    exit 1
}

# Runs a command and adds its time, in us, to a list.
timed() {
    list=$1
    shift
    begin=$(date +%s%N)
    "$@" </dev/null >"$work/said" 2>&1 || failed "$@"
    echo $((($(date +%s%N) - begin) / 1000)) >>"$work/times/$list"
}

quietly() {
    "$@" </dev/null >"$work/said" 2>&1 || failed "$@"
}

# The container of a runtime, made anew.
up() {
    quietly "$1" --root "$work/state" run --detach --bundle "$bundle" times
    tries=0
    until [ -e "$root/tmp/ready" ]; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { echo "the container is not ready" >&2; exit 1; }
        sleep 0.05
    done
    rm "$root/tmp/ready"
}

by_runtime() {
    name=$1 program=$2
    up "$program"
    timed "$name.dump" "$program" --root "$work/state" checkpoint --image-path "$work/images" --leave-running times
    quietly "$program" --root "$work/state" delete --force times
    timed "$name.restore" "$program" --root "$work/state" restore --detach --bundle "$bundle" --image-path "$work/images" times
    quietly "$program" --root "$work/state" delete --force times
    rm -rf "$work/images"
}

by_criu() {
    name=$1
    up "$windlass"
    pid=$("$windlass" --root "$work/state" state times | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
    mkdir "$work/images"
    quietly "$windlass" --root "$work/state" pause times
    timed "$name.dump" "$criu" dump --tree "$pid" --images-dir "$work/images" --root "$root" --leave-running \
        --freeze-cgroup "$group" --manage-cgroups=ignore --network-lock skip --empty-ns net -v4 -o dump.log
    quietly "$windlass" --root "$work/state" delete --force times
    timed "$name.restore" "$criu" restore --restore-detached --images-dir "$work/images" --root "$root" \
        --pidfile "$work/images/pid" --manage-cgroups=ignore --network-lock skip --empty-ns net -v4 -o restore.log
    kill -9 "$(cat "$work/images/pid")"
    rm -rf "$work/images"
}

median() {
    sort -n "$work/times/$1" | sed -n "$(((rounds + 1) / 2))p"
}

capable=
for peer in ${*:-runc crun}; do
    if "$peer" checkpoint --help 2>/dev/null | grep -q image-path; then
        capable="$capable $peer"
    else
        echo "$peer: not here, or without checkpoint"
    fi
done

echo "$("$criu" --version | head -n 1), Linux $(uname -r), $rounds rounds, load $(cut -d' ' -f1 /proc/loadavg)"
for size in shell 50MB; do
    script='exec </dev/null >/dev/null 2>&1; echo >/tmp/ready; while :; do sleep 1; done'
    [ $size = shell ] || script="x=\$(yes | head -c 50000000); $script"
    configure "$script"
    round=0
    while [ $round -lt "$rounds" ]; do
        by_criu "$size.criu"
        by_runtime "$size.windlass" "$windlass"
        for peer in $capable; do by_runtime "$size.$peer" "$peer"; done
        round=$((round + 1))
    done
    for step in dump restore; do
        bare=$(median "$size.criu.$step")
        for name in criu windlass $capable; do
            own=$(median "$size.$name.$step")
            echo "$size $step $name $own $bare" |
                awk '{printf "%-6s %-8s %-9s %8.1f ms  %5.2f\n", $1, $2, $3, $4 / 1000, $4 / $5}'
        done
    done
done
