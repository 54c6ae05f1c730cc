#!/bin/sh
# `just test`: everything that shows on one machine in some minutes whether windlass works. It prints a line for each
# stage and chapter, with counts and time, the output of a stage that fails, and at the end what was skipped and why.
# The output of all stages is kept in target/test. Needs root.
#
# usage: test.sh JUST
set -u

just=${1:?usage: test.sh JUST}
cd "$(dirname "$0")/.."
logs=${CARGO_TARGET_DIR:-target}/test
mkdir -p "$logs"
rm -f "$logs"/*.log
begun=$(date +%s)
failed=0
stages="setup fmt-check lint features unit doc build suite"
[ -t 1 ] && terminal=yes || terminal=
number=0 count=$(($(echo "$stages" | wc -w) + 1))

bar() { # NAME: how far this is, where a person looks on
    [ -n "$terminal" ] || return 0
    printf '\r\033[K[%s%s] %s/%s %s' "$(printf '%*s' $((number * 4)) '' | tr ' ' '#')" \
        "$(printf '%*s' $(((count - number) * 4)) '' | tr ' ' '-')" "$number" "$count" "$1"
}

line() { # WORD SECONDS NAME COUNTS
    [ -z "$terminal" ] || printf '\r\033[K'
    printf '%-4s  %-4s  %4d.0 s  %-20s  %s\n' "$1" - "$2" "$3" "$4"
}

# Adds up the counts of cargo's tests.
counts() {
    awk '/^test result: / { passed += $4; failed += $6; ignored += $8 }
        END { if (passed + failed) printf "%d passed%s%s", passed, failed ? ", " failed " failed" : "", ignored ? ", " ignored " skipped" : "" }' "$1"
}

# What the log of a stage says of its failure. Of tests: those that failed, with what they said, the last lines of a
# program that died, and cargo's list of what failed. Of another stage: its last lines, which have the error.
reasons() {
    found=$(
        sed -n -e '/^failures:$/,/^test result: /{p;d}' -e '/^test .* \.\.\. FAILED/p' "$1"
        grep -B 20 "process didn't exit successfully" "$1"
        sed -n '/^error: [0-9]* targets* failed:$/,/^$/p' "$1"
    )
    if [ -n "$found" ]; then echo "$found"; else tail -n 40 "$1"; fi
}

for stage in $stages; do
    log=$logs/$stage.log
    bar "$stage"
    start=$(date +%s)
    if "$just" "$stage" > "$log" 2>&1; then word=ok; else word=FAIL failed=$((failed + 1)); fi
    number=$((number + 1))
    line $word $(($(date +%s) - start)) "$stage" "$(counts "$log")"
    if [ $word = FAIL ]; then
        reasons "$log"
        echo "      (all of it: $log)"
        case $stage in build | suite) break ;; esac
    fi
done

if [ "$number" = $((count - 1)) ]; then
    # The suite prints the lines of its chapters and what it skips.
    "$just" integrate --brief 2> "$logs/integrate.log" || { failed=$((failed + 1)); tail -n 40 "$logs/integrate.log"; }
fi

sed -n 's/^test \(.*\) \.\.\. ignored\(, \)\{0,1\}\(.*\)/skipped: \3\n    \1/p' "$logs"/*.log 2> /dev/null
grep -h '^[A-Z]* CANNOT BE HAD' "$logs/setup.log" 2> /dev/null
minutes=$((($(date +%s) - begun) / 60)) seconds=$((($(date +%s) - begun) % 60))
if [ "$failed" -gt 0 ]; then echo "FAILED: $failed of $count stages, $minutes min $seconds s"; exit 1; fi
echo "all passed, $minutes min $seconds s"
