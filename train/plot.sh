#!/bin/sh
# plot.sh: the curves of one run, or of several over each other (needs gnuplot and jq).
#
#   train/plot.sh [--out FILE.png|FILE.svg] [--smooth N] RUN_FOLDER...
#   train/plot.sh --csv RUN_FOLDER...
#
# Four panels: loss of each part (thin: steps; thick: their mean over the last N; points: held out), learning rate,
# gradient norm, tokens/s. Without --out: RUN_FOLDER/loss.png of the first. --smooth 0: chosen by the
# number of steps. --csv: the steps as comma-separated values on standard output instead.
set -eu
usage() {
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit "$1"
}
fail() {
    echo "plot.sh: $1" >&2
    exit "${2:-1}"
}
out='' smooth=0 csv=''
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage 0 ;;
    --csv) csv=1 ;;
    --out | --smooth)
        [ $# -ge 2 ] || fail "$1 needs a value" 2
        if [ "$1" = --out ]; then out=$2; else smooth=$2; fi
        shift
        ;;
    --) shift && break ;;
    -*) fail "$1: no such option; --help shows them" 2 ;;
    *) break ;;
    esac
    shift
done
case $smooth in '' | *[!0-9]*) fail "--smooth=$smooth: must be a whole number" 2 ;; esac
case $out in '' | *.png | *.svg) ;; *) fail "--out=$out: must end in .png or .svg" 2 ;; esac
[ $# -gt 0 ] || usage 2 >&2
for run in "$@"; do
    [ -f "$run/metrics.jsonl" ] || fail "$run: no run folder: it holds no metrics.jsonl" 2
done
command -v jq >/dev/null 2>&1 || fail "jq is missing: make deps installs it"

# rows EVENT RUN [NAME]: the name, if any, step, loss, learning rate, norm, tokens/s, then the loss of each
# part; a part without targets in a step has no value there. A record that was torn, by a kill or because it
# is being written, is passed over.
rows() {
    jq -Rr --arg event "$1" --arg name "${3-}" 'fromjson? | objects | select(.event == $event)
        | [if $name == "" then empty else $name end, .step, .loss, .lr, .grad_norm, .tokens_per_second]
          + (to_entries | map(select(.key | startswith("loss_"))
          | if .value == 0 then null else .value end))
        | map(if . == null then "NaN" else tostring end) | join(",")' "$2/metrics.jsonl"
}
# The names of the parts, in the order of their columns.
parts() {
    jq -Rr 'fromjson? | objects | select(.event == "step") | keys_unsorted | map(select(startswith("loss_"))) | join(",")' \
        "$1/metrics.jsonl" | head -n 1
}

if [ -n "$csv" ]; then
    before=''
    for run in "$@"; do
        names="run,step,loss,lr,grad_norm,tokens_per_second,$(parts "$run")"
        [ "$names" = "$before" ] || echo "$names" # once, unless objectives differ
        before=$names
        rows step "$run" "$(basename "$run")"
    done
    exit 0
fi
command -v gnuplot >/dev/null 2>&1 || fail "gnuplot is missing: make deps installs it"
[ -n "$out" ] || out=$1/loss.png
data=$(mktemp -d 2>/dev/null) ||
    fail "no temporary folder can be made in ${TMPDIR:-/tmp}: let TMPDIR name a folder that may be written"
trap 'rm -rf "$data"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# mean FILE: every column but the step as the mean of the last `smooth` rows that have a value.
mean() {
    awk -F, -v width="$smooth" '
        { if (!width) width = 1
          for (c = 2; c <= NF; c++) if ($c != "NaN") {
              k = ++n[c]; sum[c] += $c; if (k > width) sum[c] -= old[c, k % width]
              old[c, k % width] = $c }
          line = $1
          for (c = 2; c <= NF; c++) line = line "," (n[c] ? sum[c] / (n[c] < width ? n[c] : width) : "NaN")
          print line }' "$1"
}
loss='' lr='' norm='' speed='' i=0
palette='#1b6ca8 #d1495b #2a9d8f #e09f3e #6d597a #8a8d2b #577590 #b56576'
color() { # color K: the K-th, from 0, round and round
    echo "$palette" | cut -d' ' -f$(($1 % 8 + 1))
}
k=0
for run in "$@"; do
    rows step "$run" >"$data/step.$i"
    [ -s "$data/step.$i" ] || fail "$run/metrics.jsonl holds no step yet"
    rows valid "$run" >"$data/valid.$i"
    steps=$(wc -l <"$data/step.$i")
    wanted=$smooth
    [ "$smooth" -gt 0 ] || smooth=$((steps / 50 + 1))
    mean "$data/step.$i" >"$data/mean.$i"
    smooth=$wanted
    title=$(basename "$run" | sed "s/'/''/g")
    one="with lines lw 1.3 lc rgb '$(color "$i")' title '$title'"
    lr="$lr '$data/step.$i' using 1:3 $one,"
    norm="$norm '$data/mean.$i' using 1:4 $one,"
    speed="$speed '$data/mean.$i' using 1:5 $one,"
    column=6
    for part in $(parts "$run" | tr , ' '); do
        if grep -qv "^\([^,]*,\)\{$((column - 1))\}NaN" "$data/step.$i"; then
            name=${part#loss_}
            [ $# -eq 1 ] || name="$title: $name"
            c=$(color "$k")
            k=$((k + 1))
            loss="$loss '$data/step.$i' using 1:$column with lines lw 0.5 lc rgb '#66${c#?}' notitle,"
            loss="$loss '$data/mean.$i' using 1:$column with lines lw 2 lc rgb '$c' title '$name',"
            [ ! -s "$data/valid.$i" ] ||
                loss="$loss '$data/valid.$i' using 1:$column with points pt 7 ps 0.8 lc rgb '$c' title '$name, held out',"
        fi
        column=$((column + 1))
    done
    i=$((i + 1))
done

# The range of the losses: from the least to what the smoothed curves are after a twentieth of the run; the
# first steps would flatten all that is interesting.
range=$(cat "$data"/mean.* "$data"/valid.* | awk -F, '
    { if ($1 > last) last = $1; step[NR] = $1; row[NR] = $0 }
    END { for (r = 1; r <= NR; r++) { n = split(row[r], x, ",")
              for (c = 6; c <= n; c++) if (x[c] != "NaN") {
                  if (low == "" || x[c] + 0 < low) low = x[c] + 0
                  if (step[r] >= last / 20 && (high == "" || x[c] + 0 > high)) high = x[c] + 0 } }
          pad = (high - low) * 0.05; if (pad <= 0) pad = 0.05 * (high > 0 ? high : 1)
          low = (low - pad > 0 || low <= 0) ? low - pad : 0
          printf "%.9g:%.9g", low, high + pad }')

case $out in
*.svg) terminal="svg noenhanced size 1100,720 font 'sans,12' background '#ffffff'" ;;
*) terminal="pngcairo noenhanced size 1100,720 font 'sans,10'" ;;
esac
key='set key top right'
[ $# -gt 1 ] || key='unset key'
gnuplot <<PLOT
set terminal $terminal
set output '$(echo "$out" | sed "s/'/''/g")'
set datafile separator ','
set datafile missing 'NaN'
set grid lc rgb '#dddddd'
set lmargin 9
set multiplot
set size 1,0.62
set origin 0,0.38
set key top right
set ylabel 'cross-entropy, nats per target'
set yrange [$range]
set xlabel 'optimizer step'
plot ${loss%,}
set yrange [*:*]
unset ylabel
$key
set size 0.33,0.37
set origin 0,0
set title 'learning rate'
plot ${lr%,}
set origin 0.335,0
set title 'gradient norm'
plot ${norm%,}
set origin 0.67,0
set title 'tokens/s'
set yrange [0:*]
plot ${speed%,}
unset multiplot
PLOT
echo "$out"
