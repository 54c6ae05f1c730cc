#!/bin/sh
# Runs a real container with the runtime given as $1, from programs of this host: nothing is
# downloaded, and nothing stays behind.
set -eu

runtime=$(realpath "${1:?usage: demo.sh RUNTIME}")
id=demo-$$
[ "$(id -u)" = 0 ] || { echo "demo: needs root: a container's namespaces and mounts do" >&2; exit 1; }

bundle=$(mktemp -d)
trap '"$runtime" delete --force "$id" 2>/dev/null || true; rm -rf "$bundle"' EXIT
cd "$bundle"

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# A program of the host and the libraries that it needs.
bring() {
    for program in "$@"; do
        path=$(command -v "$program") || continue
        cp -L "$path" "rootfs/bin/$program"
        ldd "$path" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
            mkdir -p "rootfs$(dirname "$library")"
            cp -Ln "$library" "rootfs$library"
        done
    done
}

mkdir -p rootfs/bin rootfs/dev rootfs/etc rootfs/proc rootfs/sys rootfs/tmp
bring sh cat grep id ls sleep uname
cat > rootfs/demo <<'INSIDE'
echo "host name: $(uname -n)"
echo "user:      $(id)"
echo "process:   $$ of those in /proc:" /proc/[0-9]*
echo "root:      $(ls -m /)"
grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status
if echo x 2>/dev/null > /file; then echo "the root is writable"; else echo "the root is read-only"; fi
INSIDE

say "\$ windlass spec        # writes config.json; the demo changes args and terminal in it"
"$runtime" spec
sed -i -e 's/"terminal": true/"terminal": false/' -e 's|^\t*"sh"$|"/bin/sh", "/demo"|' config.json

say "\$ windlass run $id"
"$runtime" run "$id"

say "The same in steps: create, state, start, exec, kill, delete"
sed -i 's|"/bin/sh", "/demo"|"/bin/sleep", "600"|' config.json
"$runtime" create "$id" < /dev/null > create.log 2>&1 || { cat create.log; exit 1; }
"$runtime" state "$id" | grep -E '"(pid|status)"'
"$runtime" start "$id"
"$runtime" exec "$id" /bin/sh -c 'echo "exec sees the processes" /proc/[0-9]*'
"$runtime" kill "$id" KILL
until "$runtime" state "$id" | grep -q stopped; do sleep 0.1; done
"$runtime" delete "$id"

"$runtime" help explain > /dev/null 2>&1 || exit 0

say "\$ windlass explain     # the first steps of what create would do"
"$runtime" explain | head -n 12

say "An error says who asked for what failed: the source of this bind mount does not exist"
sed -i 's|"mounts": \[|&{"destination": "/data", "type": "bind", "source": "/no/such/dir", "options": ["rbind"]},|' config.json
echo "\$ windlass run $id"
! "$runtime" run "$id" || { echo "demo: that had to fail" >&2; exit 1; }
