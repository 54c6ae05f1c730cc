#!/bin/sh
# Installs the Debian package $1 with apt, runs a container by the engine $2 with the drop-in file of
# the package, and purges it: nothing may be left. In the namespaces of a session of the suite; what is
# written goes to memory.
set -eu
deb=$1 engine=$2 work=/mnt

mount --make-rprivate /
mount -t tmpfs none $work
cp "$deb" $work/
for dir in usr etc var; do
    mkdir -p $work/$dir/upper $work/$dir/work
    mount -t overlay -o "lowerdir=/$dir,upperdir=$work/$dir/upper,workdir=$work/$dir/work" none /$dir
done
mount -t tmpfs none /tmp
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
unset CONTAINERS_CONF
fail() { echo "package.sh: $*" >&2; exit 1; }
quiet() { "$@" > /tmp/log 2>&1 || { cat /tmp/log >&2; fail "$*"; }; }
files() { find /usr /etc -xdev | sort; }

mkdir -p /etc/containers/containers.conf.d
files > /tmp/before
quiet apt-get install -y --no-install-recommends "$work/${deb##*/}"
quiet dpkg --verify windlass
quiet windlass --version
/usr/libexec/windlass/conmon --version | grep -q '^conmon version' || fail "the shim does not answer as conmon"
ls /usr/share/man/man8/windlass.8* /usr/share/bash-completion/completions/windlass > /dev/null

mkdir -p /tmp/bb/bin
cp /bin/busybox /tmp/bb/bin/
tar -C /tmp/bb -cf /tmp/bb.tar .
examples=/usr/share/doc/windlass/examples
case $engine in
podman)
    cp $examples/podman/windlass.conf $examples/podman/windlass-shim.conf /etc/containers/containers.conf.d/
    printf '[containers]\npids_limit = 0\ndefault_ulimits = []\n' > /etc/containers/containers.conf.d/suite.conf
    client="podman --root /tmp/podman --runroot /tmp/podman-run --tmpdir /tmp/podman-tmp --events-backend file"
    ;;
docker)
    client="docker --host unix:///tmp/d.sock"
    # As systemd has it with the drop-in file.
    PATH=$(sed -n 's/^Environment=PATH=//p' $examples/docker/shim.conf)
    dockerd --config-file $examples/docker/daemon.json --host unix:///tmp/d.sock --data-root /tmp/docker \
        --exec-root /tmp/d --pidfile /tmp/d.pid --bridge none --iptables=false > /tmp/dockerd.log 2>&1 &
    tries=0
    until $client version > /dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { tail /tmp/dockerd.log >&2; fail "dockerd does not start"; }
        sleep 0.1
    done
    ;;
esac
quiet $client import /tmp/bb.tar localhost/bb:latest
[ "$($client run --name hello --network none localhost/bb:latest /bin/busybox echo hello)" = hello ] || fail "no container runs"
runtime=$($client inspect hello --format "$([ "$engine" = docker ] && echo '{{.HostConfig.Runtime}}' || echo '{{.OCIRuntime}}')")
[ "$runtime" = windlass ] || fail "the runtime is $runtime"
quiet $client rm hello
if [ "$engine" = docker ]; then
    quiet $client run -d --name sleeper --network none localhost/bb:latest /bin/busybox sleep 1000
    readlink /proc/[0-9]*/exe | grep -q windlass-shim || fail "dockerd does not take the shim"
    quiet $client rm -f sleeper
    kill "$(cat /tmp/d.pid)"
    wait
fi

rm -f /etc/containers/containers.conf.d/windlass*.conf /etc/containers/containers.conf.d/suite.conf
quiet apt-get purge -y windlass
files > /tmp/after
diff /tmp/before /tmp/after >&2 || fail "apt purge has left something"
