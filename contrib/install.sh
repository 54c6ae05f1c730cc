#!/bin/sh
# Installs the built runtime $1, the man pages and the completions below the directory $2.
set -eu

runtime=${1:?usage: install.sh RUNTIME DIR}
to=${2:?usage: install.sh RUNTIME DIR}

install -D -m 755 "$runtime" "$to/bin/windlass"
for page in target/man/*.8; do
    install -D -m 644 "$page" "$to/share/man/man8/${page##*/}"
done
install -D -m 644 target/completions/windlass "$to/share/bash-completion/completions/windlass"
install -D -m 644 target/completions/_windlass "$to/share/zsh/site-functions/_windlass"
install -D -m 644 target/completions/windlass.fish "$to/share/fish/vendor_completions.d/windlass.fish"
echo "installed $to/bin/windlass"
