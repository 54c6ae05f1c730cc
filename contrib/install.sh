#!/bin/sh
# Installs what was built in the directory $1 (windlass, windlass-shim), the man pages, the
# completions and the engines' drop-in files below $2/$3: $2 is empty or the root of a package, $3
# the prefix at which the programs will be.
set -eu

usage='usage: install.sh BUILT ROOT PREFIX'
built=${1:?$usage} root=${2?$usage} prefix=${3:?$usage}
to=$root$prefix

for program in windlass windlass-shim; do
    install -D -m 755 "$built/$program" "$to/bin/$program"
done
# The names by which engines find the shim: containerd's for the runtime io.containerd.windlass.v2, and, in a
# directory of their own, two that other programs have as well: conmon for podman and CRI-O, and dockerd's.
ln -sf windlass-shim "$to/bin/containerd-shim-windlass-v2"
mkdir -p "$to/libexec/windlass"
ln -sf ../../bin/windlass-shim "$to/libexec/windlass/conmon"
ln -sf ../../bin/windlass-shim "$to/libexec/windlass/containerd-shim-runc-v2"

for page in target/man/*.8; do
    install -D -m 644 "$page" "$to/share/man/man8/${page##*/}"
done
install -D -m 644 target/completions/windlass "$to/share/bash-completion/completions/windlass"
install -D -m 644 target/completions/_windlass "$to/share/zsh/site-functions/_windlass"
install -D -m 644 target/completions/windlass.fish "$to/share/fish/vendor_completions.d/windlass.fish"

for file in contrib/*/*.json contrib/*/*.toml contrib/*/*.conf; do
    example=$to/share/doc/windlass/examples/${file#contrib/}
    install -D -m 644 "$file" "$example"
    sed -i "s|/usr/local/|$prefix/|" "$example"
done
echo "installed $to/bin/windlass and windlass-shim"
