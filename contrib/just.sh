#!/bin/sh
# Runs recipes of the Justfile on a machine that may have neither just nor a C compiler: contrib/just.sh demo
#
# It takes `just` from PATH, else from apt, else from PyPI's wheel, else from crates.io, and keeps what it fetched
# below target/tools. As root on Debian it also installs a C compiler, which Rust links with, and it adds Rust's
# musl target where rustup can. It says what it does.
set -eu

cd "$(dirname "$0")/.."
tools=$PWD/target/tools
PATH=$tools/bin:$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
export PATH

say() { echo "just.sh: $*" >&2; }
have() { command -v "$1" > /dev/null 2>&1; }

apt_install() { # PACKAGE...: fails where apt, root or a package is missing, and says why apt refuses
    have apt-get && [ "$(id -u)" = 0 ] || return 1
    # A fresh tree has no lists; afterwards apt knows whether the package exists.
    if [ -n "$(apt-cache madison "$1" 2> /dev/null)" ] || refusal=$(apt-get update -q 2>&1 > /dev/null); then
        refusal=$(DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" 2>&1 > /dev/null) &&
            say "installed $* with apt" && return
    fi
    say "apt cannot install $*: $(echo "$refusal" | grep -m 1 '^E:' || echo "$refusal" | tail -n 1)"
    return 1
}

from_wheel() {
    python3 -m pip --version > /dev/null 2>&1 || return 1
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --disable-pip-version-check --root-user-action ignore \
        --target "$tools" rust-just > /dev/null 2>&1 || return 1
    [ -x "$tools/bin/just" ] && say "took just from PyPI (rust-just), into $tools"
}

from_crates() {
    say "building just from crates.io, into $tools"
    cargo install -q --locked --root "$tools" just
}

have cargo || {
    say "there is no cargo: install a stable Rust toolchain first, see https://rustup.rs"
    exit 1
}
have cc || apt_install gcc libc6-dev || {
    say "there is no C compiler (cc), which Rust links with: install gcc and libc6-dev"
    exit 1
}
have just || apt_install just || from_wheel || from_crates

musl=$(rustc -vV | sed -n 's/^host: \(.*\)-gnu$/\1-musl/p')
if [ -n "$musl" ] && [ ! -d "$(rustc --print sysroot)/lib/rustlib/$musl/lib" ]; then
    # A static program with musl starts in four fifths of the time of one with glibc.
    if have rustup && rustup target add "$musl" > /dev/null 2>&1; then
        say "added Rust's target $musl"
    else
        say "Rust's target $musl cannot be had: building with glibc, which works as well and starts more slowly"
    fi
fi

exec just "$@"
