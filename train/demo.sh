#!/bin/sh
# make demo: sudokus -> a corpus -> three models trained alike on two MPI ranks -> evaluation side by
# side -> a decoding to watch. configs/compare/demo.sh holds its settings.
#
# Fails where an accuracy of ar or refusion is below the settings' floor, or refusion answers slower than ar.
# DEMO_OBJECTIVES="refusion" trains that one alone, DEMO_STEPS=800 is over sooner; NAME=VALUE arguments change settings.
set -eu
bin=${BUILD_DIR:-build/release}
run=runs/demo
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }

begin=$(date +%s)
rm -rf "$run"
say "1. A task, a corpus, and a model of each objective on two MPI ranks (configs/compare/demo.sh)"
BUILD_DIR="$bin" sh train/compare.sh configs/compare/demo.sh "$@"
questions=$run/demo/data-sudoku4/test.jsonl model=$run/demo/sudoku4-refusion-1

say "2. Held-out questions, which appear in no training data; one at a time"
head -n 2 "$questions"
printf '\n%-10s %10s %10s %20s %14s\n' decoder accuracy tokens/s "tokens per forward" "trained for"
jq -r '.rows[] | [.decoder, .accuracy * 100, .tokens_per_second, .tokens_per_forward, .train_seconds] | @tsv' \
    "$run/report.json" | awk -F '\t' '{printf "%-10s %8.1f %% %10.0f %20.2f %12.0f s\n", $1, $2, $3, $4, $5}'

say "3. One decoding of refusion: which slot is filled when"
question=$(head -n 1 "$questions" | jq -r .query)
echo "$question"
"$bin"/refusion-infer --model "$model" --prompt "$question" --show

say "4. The loss curves"
sh train/plot.sh --out "$run/loss.png" "$run"/demo/sudoku4-*-1
echo "$run/report.html shows all of this, and answers that play"

echo
echo "demo: $(($(date +%s) - begin)) s; everything is in $run/"
jq -e '[.rows[] | {key: .decoder, value: .tokens_per_second}] | from_entries
    | .ar == null or .refusion > .ar' "$run/report.json" >/dev/null || {
    echo "demo: refusion answers no faster than ar: something is broken" >&2
    exit 1
}
