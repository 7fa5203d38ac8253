#!/bin/sh
# picture.sh: draws a decoding as SVG, a row a round.
#
#   refusion-infer --model M.h5 --prompt TEXT --show | infer/picture.sh [TITLE] >decoding.svg
#
# Slots are coloured by the round that filled them; dots are places still masked. Slots that were halved
# (decode.slot_least) stand below the places of the one that they were. A blank is shown as "␣", a line
# end as "↵", the end of text as "■".
set -eu
case ${1:-} in
-h | --help)
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
if [ -t 0 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
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
# Of "slot 1 «...» slot 3 «...»".
function take(line,    slot, text) {
    while (match(line, /^ slot [0-9]+ «/)) {
        slot = substr(line, 7) + 0
        line = substr(line, RLENGTH + 1)
        if (match(line, /» slot [0-9]+ «/)) {
            text = substr(line, 1, RSTART - 1)
            line = substr(line, RSTART + length("»"))
        } else {
            text = line
            sub(/»$/, "", text)
            line = ""
        }
        fill(slot, text)
    }
}
# A slot is known by its number and by how many stand where one stood in the beginning.
function fill(slot, text,    n, k, length_of, letters) {
    filled[slot, parts[n_rounds]] = n_rounds
    content[slot, parts[n_rounds]] = text
    n = split(text, letters, "")
    for (k = length_of = 0; k++ < n;) # characters, also where awk counts bytes
        if (letters[k] !~ /[\200-\277]/) length_of++
    if (length_of > longest[parts[n_rounds]]) longest[parts[n_rounds]] = length_of
    if ((slot + 1) / parts[n_rounds] > n_slots) n_slots = (slot + 1) / parts[n_rounds]
}
# The round that filled the place of this slot, as whatever slot; owner: its parts.
function filled_by(slot, p,    q) {
    for (q = 1; q <= p; q *= 2)
        if ((int(slot * q / p), q) in filled) {
            owner = q
            return filled[int(slot * q / p), q]
        }
    owner = p
    return 0
}
/^round [0-9]+, forward [0-9]+(, slots of [0-9]+ tokens? \(1\/[0-9]+\))?:/ {
    n_rounds++
    forward[n_rounds] = $4 + 0
    match($0, /^[^:]*:/)
    head = substr($0, 1, RLENGTH)
    parts[n_rounds] = match(head, /\(1\//) ? substr(head, RSTART + 3) + 0 : 1
    if (parts[n_rounds] > finest) finest = parts[n_rounds]
    take(substr($0, length(head) + 1))
}
END {
    if (n_rounds == 0) {
        print "picture.sh: no line \"round N, forward N: ...\" on standard input" > "/dev/stderr"
        exit 1
    }
    split("#2a9d8f #e76f51 #577590 #b56576 #8a8d2b #6d597a #e09f3e #3d5a80", color, " ")
    left = 190; gap = 6; row = 40; top = title == "" ? 14 : 48
    for (p = 1; p <= finest; p *= 2) { # unit: what a slot of the finest takes, the gap included
        need = longest[p] * 10 + 14 > 74 || p < finest ? longest[p] * 10 + 14 : 74
        if ((need + gap) * p / finest > unit) unit = (need + gap) * p / finest
    }
    unit = int(unit) < unit ? int(unit) + 1 : unit
    width = left + (int(n_slots) + (int(n_slots) < n_slots)) * finest * unit + 14
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
        for (s = 0; s < n_slots * parts[r]; s++) {
            by = filled_by(s, parts[r])
            done = by > 0 && by <= r
            p = done ? owner : parts[r]
            if (s % (parts[r] / p) > 0) continue # inside of one that is drawn
            slot = s * p / parts[r]
            x = left + slot * unit * finest / p
            box = unit * finest / p - gap
            now = done && by == r
            paint = now ? color[(r - 1) % 8 + 1] : done ? "#eaeef2" : "#ffffff"
            ink = now ? "#ffffff" : done ? color[(by - 1) % 8 + 1] : "#afb8c1"
            printf "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"30\" rx=\"5\" fill=\"%s\" stroke=\"#d0d7de\"/>", \
                   x, y, box, paint
            printf "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" fill=\"%s\">%s</text>\n", \
                   x + box / 2, y + 21, ink, done ? visible(content[slot, p]) : "····"
        }
    }
    print "</svg>"
}'
