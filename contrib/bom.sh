#!/bin/sh
# Writes the bill of materials of both programs, a CycloneDX document, to the file $1: each crate that is linked into
# them, with version, licence and checksum, and, with the scope `excluded`, those that only the build needs. It names
# nothing of the machine on which it was made.
#
# It is made from the tree of the one package that is built. Cargo's metadata are those of the whole workspace: they
# also have what tests need, and what features need without which the programs are built.
set -eu

to=${1:?usage: bom.sh FILE}
cd "$(dirname "$0")/.."
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

tree() { # EDGES: a line for each dependency: its depth, name and version, its licence, its repository
    cargo tree --locked --package windlass --target x86_64-unknown-linux-musl --target aarch64-unknown-linux-musl \
        --edges "$1" --prefix depth --format ' {p}	{l}	{r}'
}
tree normal,no-proc-macro > "$work/linked"
tree normal,build > "$work/all"

awk -v time="$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)" -v rust="$(rustc -V | cut -d ' ' -f 2)" '
function component(type, name, version, licence, more) {
    return sprintf("{\"type\": \"%s\", \"bom-ref\": \"%s@%s\", \"name\": \"%s\", \"version\": \"%s\", " \
        "\"licenses\": [{\"expression\": \"%s\"}]%s}", type, name, version, name, version, licence, more)
}
# Cargo.lock has a section for each package.
FILENAME ~ /Cargo.lock$/ {
    gsub(/"/, "", $3)
    if ($1 == "name") name = $3
    if ($1 == "version") version = $3
    if ($1 == "checksum") sum[name "@" version] = $3
    next
}
NF {
    split($0, part, "\t")
    split(part[1], word, " ")
    name = word[2]; version = substr(word[3], 2); ref = name "@" version
}
FILENAME ~ /linked$/ { linked[ref] = 1; next }
NF {
    above[word[1]] = ref
    edge = above[word[1] - 1] " " ref
    if (word[1] > 0 && !(edge in seen)) {
        seen[edge] = 1
        needs[above[word[1] - 1]] = needs[above[word[1] - 1]] ", \"" ref "\""
    }
    if (ref in refs) next
    refs[ref] = 1
    order[count++] = ref
    # The form of licences from before they were SPDX expressions.
    gsub(/ *\/ */, " OR ", part[2])
    sub(/ *\(\*\)$/, "", part[3])
    more = ", \"scope\": \"" (ref in linked ? "required" : "excluded") "\", \"purl\": \"pkg:cargo/" ref "\""
    if (ref in sum) more = more ", \"hashes\": [{\"alg\": \"SHA-256\", \"content\": \"" sum[ref] "\"}]"
    if (part[3]) more = more ", \"externalReferences\": [{\"type\": \"vcs\", \"url\": \"" part[3] "\"}]"
    if (word[1] == 0) {
        more = more ", \"components\": [{\"type\": \"application\", \"name\": \"windlass\"}, " \
            "{\"type\": \"application\", \"name\": \"windlass-shim\"}]"
        program = component("application", name, version, part[2], more)
    } else {
        list = list ",\n    " component("library", name, version, part[2], more)
    }
}
END {
    std = component("library", "std", rust, "MIT OR Apache-2.0", ", \"scope\": \"required\", \"description\": " \
        "\"The standard library of Rust, and the C library musl that its target brings\"")
    print "{\n  \"bomFormat\": \"CycloneDX\",\n  \"specVersion\": \"1.5\",\n  \"version\": 1,"
    print "  \"metadata\": {\n    \"timestamp\": \"" time "\",\n    \"component\": " program "\n  },"
    print "  \"components\": [\n    " std list "\n  ],\n  \"dependencies\": ["
    for (i = 0; i < count; i++)
        printf "    {\"ref\": \"%s\", \"dependsOn\": [%s]}%s\n", order[i], substr(needs[order[i]], 3), \
            i < count - 1 ? "," : ""
    print "  ]\n}"
}' Cargo.lock "$work/linked" "$work/all" > "$to"
