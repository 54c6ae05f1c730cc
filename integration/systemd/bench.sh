#!/bin/bash
# What a scope costs a container, beside a bare scope and other runtimes; in the guest, as root:
#   bench.sh COUNT SCOPE RUNTIME...
# SCOPE is examples/scope.rs.
set -eu
count=$1 scope=$2
shift 2
dir=/run/bench
mkdir -p $dir/rootfs/{bin,proc,sys,dev}
cp /bin/busybox $dir/rootfs/bin/sleep
cd $dir
rm -f config.json
"$1" spec
jq '.process.terminal=false|.process.args=["/bin/sleep","1000"]|.ociVersion="1.0.2"' config.json >c
mv c config.json
systemctl --version | head -n 1
exec "$scope" "$count" $dir "$@"
