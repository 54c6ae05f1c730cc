#!/bin/sh
# Draws the figures of numbers.sh as bars, an SVG that is readable on a light and on a dark page.
#
# usage: picture.sh NUMBERS > PICTURE
set -eu

awk '
function bar(y, name, value, most, unit, ours) {
    width = 360 * value / most
    printf "<text class=\"name\" x=\"168\" y=\"%d\">%s</text>\n", y + 13, name
    printf "<rect class=\"%s\" x=\"176\" y=\"%d\" width=\"%.1f\" height=\"16\" rx=\"2\"/>\n", ours ? "ours" : "theirs", y, width < 2 ? 2 : width
    printf "<text x=\"%.1f\" y=\"%d\">%s %s</text>\n", 182 + width, y + 13, value, unit
}
/^#/ || NF != 3 { next }
{
    if (!($1 in count)) order[++groups] = $1
    at = ++count[$1]
    name[$1, at] = $2
    value[$1, at] = $3
    if ($3 > most[$1]) most[$1] = $3
}
END {
    title["run"] = "Run a container, with Docker’s seccomp profile: milliseconds"
    title["exec"] = "A command in it, with the same profile: milliseconds"
    title["mounts"] = "Run a container with 100 bind mounts: milliseconds"
    title["memory"] = "What stays with a container while it runs: kB of memory"
    y = 8
    for (g = 1; g <= groups; g++) {
        figure = order[g]
        unit = figure == "memory" ? "kB" : "ms"
        body = body sprintf("<text class=\"title\" x=\"8\" y=\"%d\">%s</text>\n", y + 14, title[figure])
        y += 24
        for (i = 1; i <= count[figure]; i++) { tops[figure, i] = y; y += 21 }
        y += 14
    }
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"%d\" viewBox=\"0 0 640 %d\" role=\"img\">\n", y, y
    print "<title>What windlass costs beside runc, crun, conmon and containerd’s shim: shorter is better</title>"
    print "<style>"
    print "text { font: 13px system-ui, sans-serif; fill: #57606a } .title { font-weight: 600 } .name { text-anchor: end }"
    print ".ours { fill: #1a7f37 } .theirs { fill: #8c959f }"
    print "@media (prefers-color-scheme: dark) { text { fill: #adbac7 } .ours { fill: #3fb950 } .theirs { fill: #768390 } }"
    print "</style>"
    printf "%s", body
    for (g = 1; g <= groups; g++) {
        figure = order[g]
        for (i = 1; i <= count[figure]; i++)
            bar(tops[figure, i], name[figure, i], value[figure, i], most[figure], figure == "memory" ? "kB" : "ms", name[figure, i] ~ /^windlass/)
    }
    print "</svg>"
}' "${1:?usage: picture.sh NUMBERS}"
