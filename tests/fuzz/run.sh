#!/bin/sh
# Runs every fuzz target.
#
#   sh tests/fuzz/run.sh PROGRAMS OUT [SECONDS] [JOBS]      PROGRAMS: a folder with fuzz_* (and seeds)
#
# Each target begins with OUT/seeds/TARGET (made here where they are missing) and keeps what it finds in
# OUT/corpus/TARGET; its log is OUT/TARGET.log, inputs that crash it are OUT/crash/TARGET-*. SECONDS (600)
# for each target, JOBS (1) at once. Fails when a target crashed, leaked, or hung.
set -eu

programs=$1
out=$2
seconds=${3:-600}
jobs=${4:-1}
mkdir -p "$out/crash"
[ -d "$out/seeds" ] || "$programs/seeds" "$out/seeds"

# one TARGET: fuzzes it
one() {
    target=$1
    mkdir -p "$out/corpus/$target"
    "$programs/$target" -max_total_time="$seconds" -timeout=30 -rss_limit_mb=3000 -print_final_stats=1 \
        -artifact_prefix="$out/crash/$target-" "$out/corpus/$target" "$out/seeds/$target" \
        >"$out/$target.log" 2>&1 || touch "$out/crash/$target-failed"
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$target.log")
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$out/$target.log" | tail -n 1)
    verdict=clean
    [ ! -e "$out/crash/$target-failed" ] || verdict="FAILED: see $out/$target.log"
    printf '%-24s %10s runs %7s edges  %s\n' "$target" "${runs:-?}" "${edges:-?}" "$verdict"
}

rm -f "$out"/crash/*-failed
running=0
for program in "$programs"/fuzz_*; do
    one "$(basename "$program")" &
    running=$((running + 1))
    if [ "$running" -ge "$jobs" ]; then
        wait
        running=0
    fi
done
wait
set -- "$out"/crash/*-failed
[ ! -e "$1" ]
