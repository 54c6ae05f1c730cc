#!/bin/sh
# Packs what was built in the directory $1 as windlass_VERSION_ARCHITECTURE.deb in the directory $2.
set -eu

usage='usage: deb.sh BUILT DIR'
built=${1:?$usage} to=${2:?$usage}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

contrib/install.sh "$built" "$root" /usr > /dev/null
gzip -9n "$root"/usr/share/man/man8/*.8
install -m 644 LICENSE "$root/usr/share/doc/windlass/copyright"
gzip -9nc CHANGELOG.md > "$root/usr/share/doc/windlass/changelog.gz"

mkdir "$root/DEBIAN"
cat > "$root/DEBIAN/control" << END
Package: windlass
Version: $version
Architecture: $architecture
Maintainer: The windlass developers <windlass@example.invalid>
Installed-Size: $(du -sk "$root/usr" | cut -f 1)
Section: admin
Priority: optional
Suggests: docker.io | containerd | podman
Description: OCI container runtime and shim
 A container runtime that takes runc's place below docker, containerd, podman
 and CRI-O, and a shim that takes the place of containerd's and of conmon. Both
 are static programs without dependencies.
END
mkdir -p "$to"
package=$to/windlass_${version}_$architecture.deb
dpkg-deb --build --root-owner-group -Zxz "$root" "$package" > /dev/null
echo "$package"
