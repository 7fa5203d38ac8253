#!/bin/sh
# make demo: task -> corpus -> training on two MPI ranks -> evaluation -> a decoding to watch.
# Ends with an error when the accuracy is below DEMO_MIN_ACCURACY percent (50).
set -eu
bin=${BUILD_DIR:-build/release}
run=runs/demo
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }

begin=$(date +%s)
rm -rf "$run"
mkdir -p "$run"

say "1. A task: six sums a question; held-out questions appear in no training data"
synth="$bin/refusion-data synth arithmetic --seed 1 --unique --option parts=6 --option max=9 --option pad=true"
$synth --n 40000 --out "$run/train.jsonl"
$synth --n 500 --skip 40000 --out "$run/test.jsonl"
head -n 2 "$run/test.jsonl"

say "2. A corpus"
$bin/refusion-data build --tokenizer byte --out "$run/train.h5" \
    --valid-out "$run/valid.h5" --valid-fraction 0.01 "$run/train.jsonl"

say "3. Training on two MPI ranks (configs/demo.yaml)"
PROGRAM="$bin/refusion-train" sh train/launch.sh -n 2 configs/demo.yaml
model="$run/$(cat "$run/latest")"

say "4. Evaluation on the held-out questions"
for kind in refusion refusion-left-to-right; do
    $bin/refusion-eval --model "$model" --data "$run/test.jsonl" --task arithmetic \
        --out "$run/report-$kind.json" "decode.kind=$kind" >"$run/report-$kind.txt"
done
cat "$run/report-refusion.txt"
echo
printf '%-26s %10s %12s %20s\n' decoder accuracy tokens/s "tokens per forward"
for kind in refusion refusion-left-to-right; do
    jq -r --arg kind "$kind" '.answers | [$kind, .accuracy * 100, .tokens_per_second,
        .tokens_per_forward] | @tsv' "$run/report-$kind.json" |
        awk -F '\t' '{printf "%-26s %8.1f %% %12.0f %20.2f\n", $1, $2, $3, $4}'
done
printf '%-26s %10s %12s %20.2f\n' "(token by token)" - - 1

say "5. One decoding: which slot is filled when"
question=$(head -n 1 "$run/test.jsonl" | jq -r .query)
echo "$question"
$bin/refusion-infer --model "$model" --prompt "$question" --show

say "6. The loss curve"
sh train/plot.sh "$run"

accuracy=$(jq '.answers.accuracy * 100' "$run/report-refusion.json")
echo
echo "demo: $(($(date +%s) - begin)) s, accuracy $accuracy %; everything is in $run/"
awk -v a="$accuracy" -v min="${DEMO_MIN_ACCURACY:-50}" 'BEGIN {exit !(a >= min)}' || {
    echo "demo: the accuracy is below ${DEMO_MIN_ACCURACY:-50} %: something is broken" >&2
    exit 1
}
