#!/bin/bash
# Engines above a runtime with systemd's cgroups, in the guest, as root:
#   engines.sh RUNTIME
# podman of an ordinary user, and dockerd with native.cgroupdriver=systemd.
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

cat >$dir/podman.sh <<END
export XDG_RUNTIME_DIR=/run/user/1000
cd
p() { podman --log-level error --cgroup-manager systemd --events-backend file --storage-driver vfs --runtime $rt "\$@"; }
p import -q $dir/image.tar box >/dev/null
"\$@"
END
podman() { su user -c "set -- true; . $dir/podman.sh; $1" 2>&1; }

loginctl enable-linger user
until [ -S /run/user/1000/bus ]; do sleep 0.2; done
is "$(podman 'p run --rm --network none box echo hi')" hi "podman runs a container of a user"
is "$(podman 'p run --rm --network none --memory 32m --pids-limit 20 box sh -c "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"' | tr '\n' ' ')" \
    "33554432 20 " "its limits are those that were asked for"
is "$(podman 'p run --rm --network none --memory 16m --memory-swap 16m box tail /dev/zero; echo $?' | tail -n 1)" 137 "a memory limit kills"
is "$(podman 'p run -d --name c --network none box sleep 100 >/dev/null; p exec c id -u; p pause c >/dev/null; p inspect -f "{{.State.Status}}" c
    p unpause c >/dev/null; p update --memory 64m c >/dev/null 2>&1; p stop -t 1 c >/dev/null; p rm -f c >/dev/null; p ps -aq | wc -l' | tr '\n' ' ')" \
    "0 paused 0 " "exec, pause, stop and rm"

printf '{"exec-opts":["native.cgroupdriver=systemd"],"runtimes":{"windlass":{"path":"%s"}},"default-runtime":"windlass","bridge":"none","iptables":false,"storage-driver":"vfs"}' \
    "$rt" >$dir/daemon.json
dockerd --config-file $dir/daemon.json --data-root $dir/data --exec-root $dir/exec -H unix://$dir/d.sock -p $dir/d.pid >$dir/dockerd.log 2>&1 &
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
