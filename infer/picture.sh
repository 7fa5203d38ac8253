#!/bin/sh
# picture.sh: draws a decoding as SVG, a row a round.
#
#   refusion-infer --model M.h5 --prompt TEXT --show | infer/picture.sh [TITLE] >decoding.svg
#
# Slots are coloured by the round that filled them; dots are places still masked. A blank is shown as
# "␣", a line end as "↵", the end of text as "■".
set -eu
case ${1:-} in
-h | --help)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
if [ -t 0 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
exec awk -v title="${1:-}" '
# Blanks of a text would be merged or hidden.
function visible(text) {
    gsub(/ /, "␣", text)
    return escape(text)
}
function escape(text) {
    gsub(/&/, "\\&amp;", text); gsub(/</, "\\&lt;", text); gsub(/>/, "\\&gt;", text)
    return text
}
/^round [0-9]+, forward [0-9]+:/ {
    n_rounds++
    forward[n_rounds] = $4 + 0
    n_parts = split($0, part, " slot ")
    for (i = 2; i <= n_parts; i++) {
        slot = part[i] + 0
        text = part[i]
        sub(/^[0-9]+ «/, "", text)
        sub(/»$/, "", text)
        filled[slot] = n_rounds
        content[slot] = text
        n = split(text, letters, "")
        for (k = length_of = 0; k++ < n;) # characters, also where awk counts bytes
            if (letters[k] !~ /[\200-\277]/) length_of++
        if (length_of > longest) longest = length_of
        if (slot + 1 > n_slots) n_slots = slot + 1
    }
}
END {
    if (n_rounds == 0) {
        print "picture.sh: no line \"round N, forward N: ...\" on standard input" > "/dev/stderr"
        exit 1
    }
    split("#2a9d8f #e76f51 #577590 #b56576 #8a8d2b #6d597a #e09f3e #3d5a80", color, " ")
    left = 190; box = longest * 10 + 14 > 74 ? longest * 10 + 14 : 74; gap = 6; row = 40; top = title == "" ? 14 : 48
    width = left + n_slots * (box + gap) + 14
    height = top + n_rounds * row + 8
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" " \
           "font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"16\">\n", \
           width, height, width, height
    printf "<rect width=\"%d\" height=\"%d\" rx=\"8\" fill=\"#ffffff\" stroke=\"#d0d7de\"/>\n", width, height
    if (title != "")
        printf "<text x=\"16\" y=\"30\" fill=\"#24292f\" font-size=\"14\">%s</text>\n", escape(title)
    for (r = 1; r <= n_rounds; r++) {
        y = top + (r - 1) * row
        printf "<text x=\"16\" y=\"%d\" fill=\"#57606a\" font-size=\"13\">round %d, %d forward%s</text>\n", \
               y + 21, r, forward[r], forward[r] == 1 ? "" : "s"
        for (s = 0; s < n_slots; s++) {
            x = left + s * (box + gap)
            done = (s in filled) && filled[s] <= r
            now = done && filled[s] == r
            fill = now ? color[(r - 1) % 8 + 1] : done ? "#eaeef2" : "#ffffff"
            ink = now ? "#ffffff" : done ? color[(filled[s] - 1) % 8 + 1] : "#afb8c1"
            printf "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"30\" rx=\"5\" fill=\"%s\" stroke=\"#d0d7de\"/>", \
                   x, y, box, fill
            printf "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" fill=\"%s\">%s</text>\n", \
                   x + box / 2, y + 21, ink, done ? visible(content[s]) : "····"
        }
    }
    print "</svg>"
}'
