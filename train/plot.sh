#!/bin/sh
# Draws the loss curves of a run: plot.sh RUN_FOLDER writes RUN_FOLDER/loss.png (needs gnuplot and jq).
set -eu
if [ $# -ne 1 ] || [ ! -f "$1/metrics.jsonl" ]; then
    echo "usage: plot.sh RUN_FOLDER (a folder with metrics.jsonl)" >&2
    exit 2
fi
for program in gnuplot jq; do
    command -v "$program" >/dev/null 2>&1 || {
        echo "plot.sh: $program is missing: make deps installs it" >&2
        exit 1
    }
done
run=$1
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
# A term without targets has no value: NaN leaves a gap.
row='[.step, .loss, .loss_ar // "NaN", .loss_denoise // "NaN"] | @tsv'
jq -r "select(.event == \"step\") | $row" "$run/metrics.jsonl" >"$data/train"
jq -r "select(.event == \"valid\") | $row" "$run/metrics.jsonl" >"$data/valid"
[ -s "$data/train" ] || {
    echo "plot.sh: $run/metrics.jsonl holds no step" >&2
    exit 1
}
valid=""
[ -s "$data/valid" ] && valid="'$data/valid' using 1:3 with points pt 7 lc rgb '#1b6ca8' title 'AR, held out', \
    '$data/valid' using 1:4 with points pt 7 lc rgb '#d1495b' title 'denoising, held out',"
gnuplot <<PLOT
set terminal pngcairo size 960,540 font 'sans,11'
set output '$run/loss.png'
set title '$(basename "$run")'
set xlabel 'optimizer step'
set ylabel 'cross-entropy, nats per target'
set grid lc rgb '#dddddd'
set key top right
set yrange [0:*]
plot $valid '$data/train' using 1:3 with lines lw 1.5 lc rgb '#66a5d6' title 'AR', \
     '$data/train' using 1:4 with lines lw 1.5 lc rgb '#e58a96' title 'denoising'
PLOT
echo "$run/loss.png"
