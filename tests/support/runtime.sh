#!/bin/sh
# A runtime without containers, for tests of the shim. `create` and `exec` run a shell script as
# the process: the file `process` of the bundle, or that of --process. With a file `refuse` beside
# it they fail with that text.
printf '%s\n' "$*" >>"$0.calls"
process=
pid_file=
while [ $# -gt 0 ]; do
    case $1 in
    --bundle) process=$2/process && shift ;;
    --process) process=$2 && shift ;;
    --pid-file) pid_file=$2 && shift ;;
    esac
    shift
done
[ -n "$process" ] || exit 0
if [ -e "$(dirname "$process")/refuse" ]; then
    cat "$(dirname "$process")/refuse" >&2
    exit 1
fi
# A shell gives what it runs in the background no input of its own accord.
exec 9<&0
# It waits until this shell has ended, which would reap it otherwise. A runtime leaves that to the shim.
mkfifo "$pid_file.gate"
exec 7<>"$pid_file.gate" 8<"$pid_file.gate"
rm "$pid_file.gate"
( exec 7>&-; read -r _ <&8; exec setsid sh "$process" <&9 8<&- 9<&- ) &
printf %s $! >"$pid_file"
