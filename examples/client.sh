#!/bin/sh
# usage: client STATE/ID OPERATION [MEMBERS]
# for example: client /run/windlass-shim/web kill '"signal":"TERM"'
dir=$1 request="{\"seq\":1,\"op\":\"$2\"${3:+,$3}}"
ask() {
    if command -v socat >/dev/null; then
        printf '%s\n' "$request" | socat -t 86400 - "UNIX-CONNECT:$dir/shim.sock"
    else
        printf '%s\n' "$request" | nc -N -U "$dir/shim.sock"
    fi
}
answer=$(ask 2>/dev/null)
if [ -n "$answer" ]; then
    printf '%s\n' "$answer"
elif [ "$2" = wait ] && flock --nonblock "$dir/shim.lock" true; then
    cat "$dir/exit.json"
else
    echo "no answer" >&2
    exit 1
fi
