#!/bin/sh
# Packs what was built in the directory BUILT as windlass_VERSION_ARCHITECTURE.deb in the directory DIR. ARCHITECTURE
# is Rust's name of it, by default this machine's; BOM is a bill of materials to put into the package.
set -eu

usage='usage: deb.sh BUILT DIR [ARCHITECTURE [BOM]]'
built=${1:?$usage} to=${2:?$usage} machine=${3:-$(uname -m)} bom=${4:-}
. contrib/release.conf
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)-1
case $machine in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) architecture=$machine ;;
esac
# dpkg-deb sets the time of newer files to this.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH
umask 022
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

contrib/install.sh "$built" "$root" /usr > /dev/null
doc=$root/usr/share/doc/windlass
ln -s windlass-shim.8 "$root/usr/share/man/man8/containerd-shim-windlass-v2.8"
for page in "$root"/usr/share/man/man8/*.8; do
    if [ -L "$page" ]; then ln -s "$(readlink "$page").gz" "$page.gz" && rm "$page"; else gzip -9n "$page"; fi
done
# The directory in which Debian's zsh looks for completions.
mkdir -p "$root/usr/share/zsh/vendor-completions"
mv "$root/usr/share/zsh/site-functions/_windlass" "$root/usr/share/zsh/vendor-completions/"
rmdir "$root/usr/share/zsh/site-functions"
install -D -m 644 contrib/debian/windlass-shim.default "$root/etc/default/windlass-shim"
install -D -m 644 contrib/debian/lintian-overrides "$root/usr/share/lintian/overrides/windlass"
[ -z "$bom" ] || install -m 644 "$bom" "$doc/windlass.cdx.json"
sed -e "s|@maintainer@|$maintainer|" -e "s|@homepage@|$homepage|" contrib/debian/copyright > "$doc/copyright"
gzip -9nc CHANGELOG.md > "$doc/changelog.gz"
gzip -9nc > "$doc/changelog.Debian.gz" << END
windlass ($version) unstable; urgency=medium

  * Package of windlass ${version%-1}; its changes are in changelog.gz.

 -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END

mkdir "$root/DEBIAN"
echo /etc/default/windlass-shim > "$root/DEBIAN/conffiles"
install -m 755 contrib/debian/postinst "$root/DEBIAN/postinst"
(cd "$root" && find usr -type f -print | LC_ALL=C sort | xargs md5sum > DEBIAN/md5sums)
# The programs are static and need nothing. Engines find them by their own configuration.
cat > "$root/DEBIAN/control" << END
Package: windlass
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(find "$root/usr" "$root/etc" -type f -printf '%s\n' | awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
Suggests: docker.io | containerd | podman
Section: admin
Priority: optional
Homepage: $homepage
Description: OCI container runtime and shim
 A container runtime that takes runc's place below docker, containerd, podman
 and CRI-O, and a shim that takes the place of containerd's and of conmon. Both
 are static programs without dependencies.
END
mkdir -p "$to"
package=$to/windlass_${version}_$architecture.deb
dpkg-deb --build --root-owner-group -Zxz "$root" "$package" > /dev/null
echo "$package"
