#!/bin/sh
# A runtime without containers: it runs the scripts that a bundle names, as processes of this
# user, so that the shim above it can be tried without root.
#
# BUNDLE/config.json and an exec's process have the member "script", the path of a shell script.
# The files below ROOT/hang and ROOT/fail, named by verbs, make that verb hang or fail.
set -eu

while [ $# -gt 0 ]; do
    case $1 in
        --root) root=$2; shift 2 ;;
        *) break ;;
    esac
done
verb=$1; shift
bundle= pid_file= process= force= signal=
while [ $# -gt 0 ]; do
    case $1 in
        --bundle) bundle=$2; shift 2 ;;
        --pid-file) pid_file=$2; shift 2 ;;
        --process) process=$2; shift 2 ;;
        --force) force=yes; shift ;;
        --detach|--all) shift ;;
        *) break ;;
    esac
done
id=$1
dir=$root/$id
echo "$verb $*" >> "$root/calls"
if [ -e "$root/fail/$verb" ]; then cat "$root/fail/$verb" >&2; exit 1; fi
if [ -e "$root/hang/$verb" ]; then
    echo $$ > "$root/hung"
    while [ -e "$root/hang/$verb" ]; do sleep 0.02; done
fi

script() { sed -n 's/.*"script": *"\([^"]*\)".*/\1/p' "$1"; }
alive() { kill -0 "$1" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }
# Whether this is a process of the container, and not another with the number of one that was reaped.
is_ours() {
    grep -qsz "^FAKE_CONTAINER=$dir\$" "/proc/$1/environ" || grep -qsF "$0" "/proc/$1/cmdline"
}

# A shell gives what it puts into the background no input of its own accord.
exec 3<&0
case $verb in
    create)
        mkdir "$dir"
        mkfifo "$dir/start"
        ( read -r _ < "$dir/start"; FAKE_CONTAINER=$dir exec sh "$(script "$bundle/config.json")" 3<&- ) <&3 &
        echo $! > "$dir/pid"
        printf %s $! > "$pid_file"
        ;;
    start) echo > "$dir/start" ;;
    exec)
        alive "$(cat "$dir/pid")" || { echo "container not running" >&2; exit 1; }
        # Read before the caller may take the file away.
        text=$(script "$process")
        # It waits until this shell has ended, which would reap it otherwise. A runtime leaves that to the shim.
        mkfifo "$pid_file.gate"
        exec 4<>"$pid_file.gate" 5<"$pid_file.gate"
        rm "$pid_file.gate"
        ( exec 4>&-; read -r _ <&5 || :; FAKE_CONTAINER=$dir exec sh "$text" 3<&- 5<&- ) <&3 &
        echo $! >> "$dir/execs"
        printf %s $! > "$pid_file"
        ;;
    kill) signal=${2:-15}; kill "-$signal" "$(cat "$dir/pid")" ;;
    state)
        [ -d "$dir" ] || { echo "container does not exist" >&2; exit 1; }
        pid=$(cat "$dir/pid")
        if alive "$pid"; then status=running; else status=stopped; fi
        echo "{\"id\":\"$id\",\"status\":\"$status\",\"pid\":$pid}"
        ;;
    delete)
        [ -d "$dir" ] || { echo "container does not exist" >&2; exit 1; }
        for pid in $(cat "$dir/pid" "$dir/execs" 2>/dev/null); do
            if [ -n "$force" ] && is_ours "$pid"; then kill -9 "$pid" 2>/dev/null || true; fi
        done
        rm -r "$dir"
        ;;
    *) echo "no such verb: $verb" >&2; exit 1 ;;
esac
