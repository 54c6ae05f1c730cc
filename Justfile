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
# Whose programs need not be small.
integration := targets / host / "release/integration"
engines := targets / host / "release/engines"
# The chapters of the suite that are sweeps.
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

# Everything: `check`, then real containers, with a line a stage and a chapter; needs root
test:
    contrib/test.sh {{just_executable()}}

# A copy, as `install` makes one: what a linker has written lies in the page cache page by page, a copy in larger pieces,
# of which a start maps many at once (0.85 of the time).
# Build the static release programs
build:
    WINDLASS_COMMIT={{commit}} RUSTFLAGS="{{flags}}" cargo build --release --bins --target {{target}}
    for program in {{windlass}} {{shim}}; do cp $program $program.copy && mv $program.copy $program; done

# Build the suite of real containers
suite:
    RUSTFLAGS="{{flags}}" cargo build --release --package integration --target {{host}}

# Install what the tests need (Debian); needs root
setup:
    integration/setup.sh
    integration/criu.sh target/criu || echo "CRIU CANNOT BE HAD HERE: the cases of checkpoint and restore are skipped"

# All that needs no root: format, lints, tests, documentation
check: fmt-check lint features unit doc

# For the change at hand: format, and lints and tests of the crates that differ from a commit; no fuzzing, no oracles
quick base="main":
    contrib/quick.sh {{base}}

# Format
fmt:
    cargo fmt --all

# Whether `just fmt` would change anything
fmt-check:
    cargo fmt --all --check

# Upgrades of the shim in place under load, so many of each mode
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

# The programs are built without windlass-plan's conversion from and to oci-spec.
# The features that change a crate: lints, and the tests of the crate that has cgroup-v1
features:
    cargo clippy --package windlass-plan --lib --no-default-features -- -D warnings
    cargo clippy --package windlass --package windlass-cgroup --all-targets --features cgroup-v1 -- -D warnings
    cargo test --package windlass-cgroup --features cgroup-v1 --no-fail-fast
    cargo clippy --package windlass-shim --all-targets --features next-image -- -D warnings
    {{just_executable()}} upgrade-formats

# Tests that need no root; `just unit cli`: those of tests/cli.rs, `just unit home`: those with a name like it
unit *args:
    set -- {{args}}; if [ "$(find tests src/*/tests seccomp/tests -name "${1:-}.rs")" ]; then set -- --test "$@"; fi; \
        cargo test --workspace --no-fail-fast "$@"

# API documentation, warnings are errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

# Rewrite the expected plans after a deliberate change; review the diff
bless:
    BLESS=1 cargo test --package windlass-plan --test plans

# A plan that was printed is run again: `just simulate 17 requests=4 size=9`.
# The shim on a simulated kernel, from a seed on, for so many seconds: `just simulate 1 3600`
simulate *args:
    cargo run --quiet --profile simulate --package windlass-shim-simulated --bin simulate -- {{args}}

# The first seeds, as many as two minutes and a half allow
simulate-short: (simulate "1" "150")

# Real containers; needs root: `just integrate mounts`
integrate *args: build suite
    {{integration}} --runtime {{windlass}} {{args}}

# What was done is in target/sweep.progress, and the next one goes on from there.
# Make every system call fail, and the last: `just sweep all`, `just sweep calls run/plain`; hours, needs root
sweep mode="all" *args: build suite
    {{integration}} --sweep {{mode}} --runtime {{windlass}} --resume target/sweep.progress {{args}}
    [ {{mode}} != all ] || contrib/mutants.sh

# Change the code in 200 places, one at a time: do the tests of the crate notice? Needs cargo-mutants
mutants number="200":
    contrib/mutants.sh {{number}}

# A sample of it in some minutes, anew each time
sweep-short mode="all" *args: build suite
    {{integration}} --sweep {{mode}} --short --runtime {{windlass}} {{args}}
    {{ if mode == "all" { integration + " --runtime " + windlass + " " + world } else { "true" } }}

# A sample, as in `sweep-short`; all of it with --long.
# Exchange every path of a hostile root file system at each lookup, and let each resource run short
sweep-world *args: build suite
    {{integration}} --runtime {{windlass}} {{args}} {{world}}

# Everything about systemd, in guests that it has booted; needs root, mmdebstrap and a Debian mirror
integrate-systemd *suites: build
    integration/systemd/run.sh {{windlass}} {{suites}}

# The cases of it alone, in one small guest
integrate-systemd-short: build
    integration/systemd/run.sh --short {{windlass}}

# From Debian's packages: `just guest aarch64`, `just guest x86_64 trixie seccomp::`.
# Cases on an emulated machine of another processor or kernel; needs root and QEMU
guest architecture="aarch64" suite="bookworm" *args:
    integration/guests/run.sh {{architecture}} {{suite}} {{args}}

# A sample of it on another processor, in some minutes
guest-short architecture="aarch64" suite="bookworm":
    integration/guests/run.sh {{architecture}} {{suite}} --short

# SELinux enforcing a small policy, on an emulated machine: the chapter `selinux`
guest-selinux suite="bookworm":
    integration/guests/selinux.sh {{suite}}

# For all architectures; needs root, mmdebstrap and a Debian mirror.
# The numbers of seccomp's table against the headers of a Debian release's kernel
kernel-headers suite="sid":
    seccomp/tools/headers.sh {{suite}}

# What the README says, in a tree of Debian with nothing but a Rust toolchain; needs root and mmdebstrap: `just bare trixie`
bare suite="bookworm" *recipes:
    contrib/bare.sh {{suite}} {{recipes}}

# The same cases against another runtime, and the differences; needs root
compare peer="runc" *args: build suite
    {{integration}} --runtime {{windlass}} --compare {{peer}} {{args}}

# Those of another Debian release: `just engines --release trixie docker` (or sid). Without windlass-shim: `--shim none`.
# docker, containerd, podman, … on windlass and on runc, on both shims; needs root: `just engines podman exec`
engines *args: build
    integration/engines/setup.sh {{ if args =~ "--release" { "tree" } else if args =~ "--long" { "long" } else { "" } }}
    RUSTFLAGS="{{flags}}" cargo build --release --package engines --features cri --target {{host}}
    integration/engines/run.sh {{engines}} --runtime {{windlass}} --shim {{shim}} {{args}}

# Docker, containerd and buildah on windlass and its shim, without User-Mode Linux; runc only where something fails.
# What of the engines' cases takes some minutes
engines-short: build
    integration/engines/setup.sh short || echo "engines-short: not all of them can be installed here"
    RUSTFLAGS="{{flags}}" cargo build --release --package engines --target {{host}}
    {{engines}} --runtime {{windlass}} --shim {{shim}} --harness host --again docker containerd buildah \
        life:: exec:: logs:: network:: volumes:: build:: tasks:: run:: live_restore:: shim_upgrade:: outage::output_of_seconds

# The worked example with a database too.
# All of the engines' cases, and their outcome written down for the README
engines-record *args: deb (engines "--long" "--results" "integration/engines/results.json" args) engines-table

# The table of the README from the outcome that is written down
engines-table:
    cargo run --quiet --package engines -- table integration/engines/results.json README.md

# How long a dump and a restore take, beside bare CRIU and other runtimes; needs root: `just bench-checkpoint 15 runc`
bench-checkpoint *args: build
    integration/criu.sh target/criu
    integration/checkpoint-times.sh {{windlass}} target/criu/criu {{args}}

# How long the verbs take, beside another runtime; needs root: `just bench crun`, `just bench runc run --rounds 50`
bench peer="runc" *args: build suite
    {{integration}} --bench --runtime {{windlass}} --compare {{peer}} {{args}}
    # The shim's, beside containerd's own; without containerd they are skipped.
    {{integration}} --runtime {{windlass}} --shim {{shim}} shim_measures::

# A hundred probes a second below the shim, for ten minutes: what they cost, and that nothing is left or lost; needs root
probes seconds="600": build suite
    WINDLASS_PROBE_SECONDS={{seconds}} {{integration}} --runtime {{windlass}} --shim {{shim}} shim_measures::a_hundred

# How cost grows with mounts, containers, processes and the rest, beside another runtime; needs root
growth peer="runc" *args: build suite
    {{integration}} --growth --runtime {{windlass}} --compare {{peer}} {{args}}

# What the picture of the README shows, measured on this machine and drawn; needs root, runc, crun and containerd
numbers: build suite
    contrib/numbers.sh {{integration}} {{windlass}} {{shim}} > target/numbers.txt
    mv target/numbers.txt docs/numbers.txt
    {{just_executable()}} picture

# The picture of the README, from the figures that are written down
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

# The files of a release in target/dist: tarballs, Debian packages, a bill of materials, checksums; `--trial` tries it out
release *args:
    contrib/release.sh {{args}}

# Whether a release made twice, in other directories, by other users and at other times, is equal; needs root
reproduce *args:
    contrib/reproduce.sh {{args}}
