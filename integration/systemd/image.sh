#!/bin/sh
# Makes an ext4 image of a Debian that boots with systemd under User-Mode Linux:
#   image.sh SUITE IMAGE [small]
# The engines and the peers are in it, unless it is to be small; windlass is not, it comes over hostfs at
# each boot. Made once and cached: nothing happens if IMAGE is newer than this
# recipe. Needs root, mmdebstrap, mke2fs and a Debian mirror.
set -eu
suite=$1 image=$2
[ "$image" -nt "$0" ] && exit 0

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,uidmap,kmod,procps,util-linux,iproute2
packages=$packages,jq,busybox-static,strace
if [ "${3:-}" != small ]; then
    packages=$packages,iptables,runc,crun,podman,conmon,containerd,docker.io,slirp4netns,apparmor
    [ "$suite" = bookworm ] || packages=$packages,docker-cli
fi

mkdir -p "$(dirname "$image")"
work=$(mktemp -d "$(dirname "$image")/making.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

mmdebstrap --variant=minbase --include="$packages" --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt=path-exclude='/usr/share/man/*' --dpkgopt=path-exclude='/usr/share/doc/*' \
    --dpkgopt=path-exclude='/usr/share/locale/*' "$suite" "$root" "$mirror"

# User-Mode Linux has its modules beside it, on the host.
mkdir -p "$root/usr/lib/modules"
cp -a /usr/lib/uml/modules/. "$root/usr/lib/modules/"
for modules in "$root"/usr/lib/modules/*; do
    chroot "$root" depmod "$(basename "$modules")"
done

echo windlass >"$root/etc/hostname"
printf '127.0.0.1 localhost windlass\n' >"$root/etc/hosts"
chroot "$root" passwd -d root >/dev/null
# One user with subordinate ids and one without.
chroot "$root" useradd -m -u 1000 -s /bin/bash user
chroot "$root" useradd -m -u 1001 -s /bin/bash alone
printf 'user:100000:65536\n' | tee "$root/etc/subuid" >"$root/etc/subgid"
# Nothing may ask, wait for a network or start an engine by itself.
chroot "$root" systemctl mask -q getty@tty0.service serial-getty@tty0.service console-getty.service \
    systemd-networkd-wait-online.service docker.service docker.socket containerd.service podman.service \
    podman.socket apt-daily.timer apt-daily-upgrade.timer fstrim.timer man-db.timer e2scrub_all.timer 2>/dev/null

# Where the result goes: `umlw=` on the kernel's command line names a directory of the host.
cat >"$root/usr/local/sbin/windlass-guest" <<'GUEST'
#!/bin/sh
work=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^umlw=//p')
mkdir -p /host
mount -t hostfs none /host -o "$work" || exec systemctl poweroff --force --force
timeout "$(cat /host/limit)" /bin/bash /host/cmd >/host/out 2>&1 </dev/null
echo $? >/host/rc
sync
systemctl poweroff --force --force
GUEST
chmod 755 "$root/usr/local/sbin/windlass-guest"
cat >"$root/etc/systemd/system/windlass-guest.service" <<'UNIT'
[Unit]
Description=What the harness asks for
After=multi-user.target
[Service]
Type=exec
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/usr/local/sbin/windlass-guest
LimitNOFILE=65536
Delegate=yes
UNIT
mkdir -p "$root/etc/systemd/system/graphical.target.wants"
ln -sf ../windlass-guest.service "$root/etc/systemd/system/graphical.target.wants/"

truncate -s 3G "$image.new"
mke2fs -q -F -t ext4 -O ^has_journal -E root_owner=0:0 -d "$root" "$image.new"
mv "$image.new" "$image"
