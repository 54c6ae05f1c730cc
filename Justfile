# Comments in a recipe are for readers: the shell does not get them.
set ignore-comments

# One static binary at a fixed place: a shared library would have to be found and trusted at
# each start, which costs more than all that the runtime does by itself. Building for a named
# target keeps these flags away from procedural macros, which must be shared libraries.
flags := "-C target-feature=+crt-static -C relocation-model=static"
# With musl where Rust has it (`rustup target add`): glibc asks the processor for its features a
# hundred times at each start, each a trap in a virtual machine, and makes a larger program.
host := `rustc -vV | sed -n 's/host: //p'`
musl := replace(host, "-gnu", "-musl")
target := env("WINDLASS_TARGET", if path_exists(`rustc --print sysroot` / "lib/rustlib" / musl / "lib") == "true" { musl } else { host })
targets := env("CARGO_TARGET_DIR", "target")
built := targets / target / "release"
windlass := built / "windlass"
shim := built / "windlass-shim"
# Programs for tests, which need not be small: with glibc.
integration := targets / host / "release/integration"
engines := targets / host / "release/engines"
# The chapters of the suite that are sweeps of paths and resources.
world := "swap:: shortage::"

commit := `git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown`
prefix := env("PREFIX", "/usr/local")
destdir := env("DESTDIR", "")

# List the recipes
default:
    @just --list --unsorted

# Build windlass and run a real container; needs root
demo: build
    contrib/demo.sh {{windlass}}

# `check`, then real containers, with a line for each stage and chapter; needs root
test:
    contrib/test.sh {{just_executable()}}

# Build the static release programs
build:
    WINDLASS_COMMIT={{commit}} RUSTFLAGS="{{flags}}" cargo build --release --bins --target {{target}}
    # A copy starts in 0.85 of the time: it lies in the page cache in larger pieces than what a linker has written, and
    # the kernel maps many pages of such a piece at once.
    for program in {{windlass}} {{shim}}; do cp $program $program.copy && mv $program.copy $program; done

# Build the suite of real containers
suite:
    RUSTFLAGS="{{flags}}" cargo build --release --package integration --target {{host}}

# Install what the tests need (Debian); needs root
setup:
    integration/setup.sh
    integration/criu.sh target/criu || echo "CRIU CANNOT BE HAD HERE: the cases of checkpoint and restore are skipped"

# Everything that needs no root: format, lints, tests, documentation
check: fmt-check lint features unit doc

# For the change at hand: format, lints and tests of the crates that differ from a commit, without fuzzing and oracles
quick base="main":
    contrib/quick.sh {{base}}

# Format
fmt:
    cargo fmt --all

# Whether `just fmt` would change anything
fmt-check:
    cargo fmt --all --check

# Upgrades of the shim in place, under load: 1000 in each mode, or as many as are given
upgrades times="1000":
    WINDLASS_UPGRADES={{times}} cargo test --test shim_upgrade many_upgrades

# Upgrades between two formats of the shim's image, forward and back
upgrade-formats:
    cargo build --bin windlass-shim --features next-image --target-dir target/next-image
    WINDLASS_SHIM_NEXT="$PWD/target/next-image/debug/windlass-shim" cargo test --test shim_upgrade formats

# Images of this format for the test data, once for each release
upgrade-images:
    WINDLASS_IMAGES="$PWD/src/shim/tests/images" cargo test --test shim_upgrade images

# Clippy, warnings are errors
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# The features that change a crate: lints, and the tests of the crate that has cgroup-v1
features:
    # Without the conversion from and to oci-spec, as the programs are built.
    cargo clippy --package windlass-plan --lib --no-default-features -- -D warnings
    cargo clippy --package windlass --package windlass-cgroup --all-targets --features cgroup-v1 -- -D warnings
    cargo test --package windlass-cgroup --features cgroup-v1 --no-fail-fast
    cargo clippy --package windlass-shim --all-targets --features next-image -- -D warnings
    {{just_executable()}} upgrade-formats

# Tests that need no root; `just unit cli` runs those of tests/cli.rs, `just unit home` those with `home` in the name
unit *args:
    set -- {{args}}; if [ "$(find tests src/*/tests seccomp/tests -name "${1:-}.rs")" ]; then set -- --test "$@"; fi; \
        cargo test --workspace --no-fail-fast "$@"

# API documentation, warnings are errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

# Rewrite the expected plans after a deliberate change; review the diff
bless:
    BLESS=1 cargo test --package windlass-plan --test plans

# The shim on a simulated kernel, from a seed on, for a number of seconds: `just simulate 1 3600`
simulate *args:
    # A plan that was printed is run again by `just simulate 17 requests=4 size=9`.
    cargo run --quiet --profile simulate --package windlass-shim-simulated --bin simulate -- {{args}}

# The same from the first seed on, for two minutes and a half
simulate-short: (simulate "1" "150")

# Real containers; needs root: `just integrate mounts`
integrate *args: build suite
    {{integration}} --runtime {{windlass}} {{args}}

# Make every system call of each verb fail, and kill at each: `just sweep calls run/plain`; takes hours, needs root
sweep mode="all" *args: build suite
    # target/sweep.progress has what was done, and the next sweep goes on from there.
    {{integration}} --sweep {{mode}} --runtime {{windlass}} --resume target/sweep.progress {{args}}
    [ {{mode}} != all ] || contrib/mutants.sh

# Change the code in 200 places, one at a time, and list what the tests do not notice; needs cargo-mutants
mutants number="200":
    contrib/mutants.sh {{number}}

# A sample of the sweep, in some minutes, from the beginning each time; needs root
sweep-short mode="all" *args: build suite
    {{integration}} --sweep {{mode}} --short --runtime {{windlass}} {{args}}
    {{ if mode == "all" { integration + " --runtime " + windlass + " " + world } else { "true" } }}

# Exchange paths of a hostile root filesystem at each lookup, and let each resource run short; needs root
sweep-world *args: build suite
    # A sample, unless --long is given.
    {{integration}} --runtime {{windlass}} {{args}} {{world}}

# Everything about systemd, in guests that systemd has booted; needs root, mmdebstrap and a Debian mirror
integrate-systemd *suites: build
    integration/systemd/run.sh {{windlass}} {{suites}}

# The cases about systemd alone, in one small guest
integrate-systemd-short: build
    integration/systemd/run.sh --short {{windlass}}

# Cases on an emulated machine with another processor or kernel: `just guest x86_64 trixie seccomp::`; needs root, QEMU
guest architecture="aarch64" suite="bookworm" *args:
    # Kernel and root filesystem are made of Debian's packages.
    integration/guests/run.sh {{architecture}} {{suite}} {{args}}

# A sample of these cases on another processor, in some minutes
guest-short architecture="aarch64" suite="bookworm":
    integration/guests/run.sh {{architecture}} {{suite}} --short

# SELinux enforcing a small policy, on an emulated machine: the chapter `selinux`
guest-selinux suite="bookworm":
    integration/guests/selinux.sh {{suite}}

# Compare seccomp's numbers of all architectures with a Debian release's kernel headers; needs root, mmdebstrap, a mirror
kernel-headers suite="sid":
    seccomp/tools/headers.sh {{suite}}

# Run the README's commands in a Debian with nothing but a Rust toolchain: `just bare trixie`; needs root and mmdebstrap
bare suite="bookworm" *recipes:
    contrib/bare.sh {{suite}} {{recipes}}

# Real containers on windlass and on another runtime, and the differences; needs root
compare peer="runc" *args: build suite
    {{integration}} --runtime {{windlass}} --compare {{peer}} {{args}}

# docker, containerd, podman, … on windlass and on runc, on both shims; needs root: `just engines podman exec`
engines *args: build
    # The engines of another Debian release: `just engines --release trixie docker`. Without windlass-shim: `--shim none`.
    integration/engines/setup.sh {{ if args =~ "--release" { "tree" } else if args =~ "--long" { "long" } else { "" } }}
    RUSTFLAGS="{{flags}}" cargo build --release --package engines --features cri --target {{host}}
    integration/engines/run.sh {{engines}} --runtime {{windlass}} --shim {{shim}} {{args}}

# A sample of the engines' cases, in some minutes; needs root
engines-short: build
    # docker, containerd and buildah on windlass and its shim, without User-Mode Linux; runc only where something fails.
    integration/engines/setup.sh short || echo "engines-short: not all of them can be installed here"
    RUSTFLAGS="{{flags}}" cargo build --release --package engines --target {{host}}
    {{engines}} --runtime {{windlass}} --shim {{shim}} --harness host --again docker containerd buildah \
        life:: exec:: logs:: network:: volumes:: build:: tasks:: run:: live_restore:: shim_upgrade:: outage::output_of_seconds

# All of the engines' cases, the long ones too, with their outcome in the README's table
engines-record *args: deb (engines "--long" "--results" "integration/engines/results.json" args) engines-table

# The table of the README, from the recorded outcome
engines-table:
    cargo run --quiet --package engines -- table integration/engines/results.json README.md

# How long a dump and a restore take, beside bare CRIU and other runtimes; needs root: `just bench-checkpoint 15 runc`
bench-checkpoint *args: build
    integration/criu.sh target/criu
    integration/checkpoint-times.sh {{windlass}} target/criu/criu {{args}}

# How long the verbs take, beside another runtime; needs root: `just bench crun`, `just bench runc run --rounds 50`
bench peer="runc" *args: build suite
    {{integration}} --bench --runtime {{windlass}} --compare {{peer}} {{args}}
    # The figures of the shim beside containerd's own; without containerd these cases are skipped.
    {{integration}} --runtime {{windlass}} --shim {{shim}} shim_measures:: shim_spool::no_write_waits

# A hundred probes a second below the shim, for ten minutes: their cost, and whether anything is left or lost; needs root
probes seconds="600": build suite
    WINDLASS_PROBE_SECONDS={{seconds}} {{integration}} --runtime {{windlass}} --shim {{shim}} shim_measures::a_hundred

# How cost grows with mounts, containers, processes and the rest, beside another runtime; needs root
growth peer="runc" *args: build suite
    {{integration}} --growth --runtime {{windlass}} --compare {{peer}} {{args}}

# Measure on this machine what the README's picture shows, and draw it; needs root, runc, crun and containerd
numbers: build suite
    contrib/numbers.sh {{integration}} {{windlass}} {{shim}} > target/numbers.txt
    mv target/numbers.txt docs/numbers.txt
    {{just_executable()}} picture

# Draw the picture of the README from the recorded figures
picture:
    contrib/picture.sh docs/numbers.txt > docs/numbers.svg

# Write the man pages to target/man
man dir="target/man":
    cargo run --quiet --example pages -- man {{dir}}

# Write the shell completions to target/completions
completions dir="target/completions":
    cargo run --quiet --example pages -- completions {{dir}}

# Install below PREFIX (/usr/local) inside DESTDIR
install: build man completions
    contrib/install.sh {{built}} "{{destdir}}" "{{prefix}}"

# A Debian package in target/debian: `apt install ./target/debian/windlass_*.deb`
deb: build man completions
    contrib/deb.sh {{built}} target/debian

# Make a release in target/dist: tarballs, Debian packages, bill of materials, checksums; `--trial` accepts placeholders
release *args:
    contrib/release.sh {{args}}

# Make a release twice, in other directories, by other users and at other times, and compare; needs root
reproduce *args:
    contrib/reproduce.sh {{args}}
