#!/bin/bash
# Engines above a runtime with systemd's cgroups, in the guest, as root:
#   engines.sh RUNTIME
# podman and containerd of an ordinary user, and dockerd with native.cgroupdriver=systemd.
set -u
rt=$1
failed=0
dir=/run/engines

is() {
    if [ "$1" = "$2" ]; then
        echo "ok     $3"
    else
        echo "FAILED $3: $1 is not $2"
        failed=$((failed + 1))
    fi
}

mkdir -p $dir/root/{bin,etc,proc,sys,dev,tmp}
cp /bin/busybox $dir/root/bin/
for applet in sh cat echo sleep id tail true; do ln -s busybox $dir/root/bin/$applet; done
echo root:x:0:0:root:/:/bin/sh >$dir/root/etc/passwd
tar -C $dir/root -cf $dir/image.tar .
chmod -R a+rX $dir

# The shim lies beside the runtime, and podman takes as conmon what its configuration names.
ln -s "$(dirname "$rt")/windlass-shim" $dir/conmon
printf '[engine]\nconmon_path=["%s/conmon"]\n' $dir >$dir/shim.conf
cat >$dir/podman.sh <<END
export XDG_RUNTIME_DIR=/run/user/1000
cd
p() { podman --log-level error --cgroup-manager systemd --events-backend file --storage-driver vfs --runtime $rt "\$@"; }
p image exists box || p import -q $dir/image.tar box >/dev/null
END
podman() { su user -c "$conmon . $dir/podman.sh; $1" 2>&1; }

loginctl enable-linger user
until [ -S /run/user/1000/bus ]; do sleep 0.2; done
for conmon in "" "export CONTAINERS_CONF=$dir/shim.conf;"; do
    with=${conmon:+, with the shim as conmon}
    is "$(podman 'p info -f "{{.Host.Conmon.Version}}"' | grep -c windlass-shim)" $((${#conmon} > 0)) "podman has the conmon that was meant$with"
    is "$(podman 'p run --rm --network none box echo hi')" hi "podman runs a container of a user$with"
    is "$(podman 'p run --rm --network none box sh -c "exit 9"; echo $?')" 9 "its exit code$with"
    is "$(podman 'echo typed | p run --rm -i --network none box cat')" typed "its input$with"
    is "$(podman 'p run --rm --network none --memory 32m --pids-limit 20 box sh -c "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"' | tr '\n' ' ')" \
        "33554432 20 " "its limits are those that were asked for$with"
    is "$(podman 'p run --rm --network none --memory 16m --memory-swap 16m box tail /dev/zero; echo $?' | tail -n 1)" 137 "a memory limit kills$with"
    is "$(podman 'p run -d --name c --network none box sh -c "echo logged; sleep 100" >/dev/null; p exec c id -u; p exec c sh -c "exit 4"; echo $?
        p pause c >/dev/null; p inspect -f "{{.State.Status}}" c; p unpause c >/dev/null; p update --memory 64m c >/dev/null 2>&1; p logs c
        p stop -t 1 c >/dev/null; p inspect -f "{{.State.ExitCode}}" c; p rm -f c >/dev/null; p ps -aq | wc -l' | tr '\n' ' ')" \
        "0 4 paused logged 137 0 " "exec, pause, logs, stop and rm$with"
done

# containerd of a user, as rootless containerd is: root of a user namespace with mounts of its own.
mkdir $dir/shims
ln -s "$(dirname "$rt")/windlass-shim" $dir/shims/containerd-shim-runc-v2
oci=$dir/oci
mkdir -p $oci/blobs/sha256
blob() { sum=$(sha256sum <"$1" | cut -d' ' -f1); cp "$1" "$oci/blobs/sha256/$sum"; echo "\"digest\":\"sha256:$sum\",\"size\":$(stat -c %s "$1")"; }
image=application/vnd.oci.image
layer=$(blob $dir/image.tar)
printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(sha256sum <$dir/image.tar | cut -d' ' -f1)" >$dir/config
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json",%s},"layers":[{"mediaType":"%s.layer.v1.tar",%s}]}' \
    $image $image "$(blob $dir/config)" $image "$layer" >$dir/manifest
printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s.manifest.v1+json",%s,"annotations":{"io.containerd.image.name":"localhost/box:1"}}]}' \
    $image "$(blob $dir/manifest)" >$oci/index.json
echo '{"imageLayoutVersion":"1.0.0"}' >$oci/oci-layout
tar -C $oci -cf $dir/oci.tar .
cat >$dir/containerd.sh <<END
mount -t tmpfs t /run/containerd
printf 'version = 2\nroot = "/run/containerd/root"\nstate = "/run/containerd/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "/run/containerd/c.sock"\n' >/run/containerd/config.toml
PATH=$dir/shims:\$PATH containerd -c /run/containerd/config.toml >/run/containerd/log 2>&1 &
c() { ctr -a /run/containerd/c.sock "\$@"; }
until c version >/dev/null 2>&1; do sleep 0.2; kill -0 \$! || { cat /run/containerd/log; exit 1; }; done
c images import --snapshotter native $dir/oci.tar >/dev/null || cat /run/containerd/log
r() { c run --snapshotter native --runc-binary $rt --runc-systemd-cgroup --cgroup "user.slice:box:\$id" "\$@"; }
eval "\$1"
kill \$!
END
mkdir -p /run/containerd
containerd() {
    su user -c "export XDG_RUNTIME_DIR=/run/user/1000; systemd-run --user --scope -q -p Delegate=yes \
        unshare --user --map-root-user --map-auto --mount bash $dir/containerd.sh '$1'" 2>&1
}
is "$(containerd 'id=one; r --rm localhost/box:1 one echo hi')" hi "containerd of a user runs a container through the shim"
is "$(containerd 'id=two; r --rm localhost/box:1 two sh -c "exit 6"; echo $?')" 6 "its exit code"
is "$(containerd 'id=three; r -d --memory-limit 33554432 localhost/box:1 three sleep 1000; pid=$(c task ls | grep three | tr -s " " | cut -d" " -f2)
    basename $(readlink /proc/$(grep PPid /proc/$pid/status | cut -f2)/exe)
    cat /sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/user.slice/box-three.scope/memory.max
    c task exec --exec-id e three id -u; c task pause three; c task ls | grep -c PAUSED; c task resume three; c task kill -s KILL three; sleep 1
    c task rm three 2>/dev/null; c container rm three; c task ls -q | wc -l' | tr '\n' ' ')" \
    "windlass-shim 33554432 0 1 0 " "the shim is ours; its limits, exec, pause, kill and rm"

# The file of contrib/, unchanged.
dockerd --config-file /host/daemon-systemd.json --bridge none --iptables=false --storage-driver vfs --data-root $dir/data \
    --exec-root $dir/exec -H unix://$dir/d.sock -p $dir/d.pid >$dir/dockerd.log 2>&1 &
export DOCKER_HOST=unix://$dir/d.sock
for _ in $(seq 100); do docker version >/dev/null 2>&1 && break || sleep 0.5; done
docker import -q $dir/image.tar box >/dev/null 2>&1 || docker import $dir/image.tar box >/dev/null
is "$(docker info -f '{{.CgroupDriver}} {{.DefaultRuntime}}' 2>/dev/null)" "systemd windlass" "dockerd has the systemd driver"
is "$(docker run --rm --network none box echo hi)" hi "docker runs a container"
id=$(docker run -d --network none --memory 32m --pids-limit 30 --cpus 0.5 box sleep 1000)
scope=/sys/fs/cgroup/system.slice/docker-$id.scope
is "$(cat $scope/memory.max $scope/pids.max $scope/cpu.max | tr '\n' ' ')" "33554432 30 50000 100000 " "its limits are in its scope"
is "$(systemctl show --property MemoryMax --value "docker-$id.scope")" 33554432 "and in its unit"
is "$(docker exec "$id" cat /proc/1/cgroup)" "0::/" "exec"
docker update --memory 64m --memory-swap 64m "$id" >/dev/null
is "$(systemctl show --property MemoryMax --value "docker-$id.scope")" 67108864 "docker update changes the unit"
systemctl daemon-reload
is "$(docker exec "$id" sh -c 'echo x >/dev/null && cat /sys/fs/cgroup/memory.max')" 67108864 "after a daemon-reload"
docker rm -f "$id" >/dev/null
sleep 1
is "$(systemctl list-units --all --no-legend 'docker-*.scope' | grep -c .)" 0 "docker rm leaves no scope"
is "$(docker run --rm --network none --memory 16m --memory-swap 16m box tail /dev/zero; echo $?)" 137 "a memory limit kills, in docker"
[ $failed = 0 ] || tail -n 5 $dir/dockerd.log
kill "$(cat $dir/d.pid)"
wait
exit $failed
