#!/bin/sh
# scaling.sh: training on more ranks and threads, beside what the cores themselves grow.
#
# Usage: tests/bench/scaling.sh PROGRAM_FOLDER >table.md        (make all build/release/tests/bench/bench_limits)
#
# Prints two tables in Markdown. The first: 30 M parameters, a leaf of 1024 places for each core, so that a core
# has the same work whatever their number; 1, 2, 4, ... ranks of one thread, one rank of as many threads, and all
# cores divided between ranks and threads; f32 and bf16. `growth` is that of tokens/s over 1 rank x 1 thread, `of
# the limit` its share of the growth of the multiply-adds that bench_limits measures on as many threads in the
# same run. `hidden`: the part of the exchange behind which rank 0 computed. The second, where memory allows: what
# a rank of the 1.7B shape takes, all weights and adapters.
#
# Cores that others use too are slower now and then: all of it is measured TURNS times, one turn after the other,
# and the best of each counts, of the limits as of the runs.
#
# Environment: CORES (those of this process), PAIRS (instead of those named above: "1x1 16x1"), TURNS (1), STEPS (4;
# the first one does not count), SHARD (state, of several ranks), COMPUTES ("f32 bf16"), LARGE (auto: with 60 GiB of
# free memory; yes, no), LARGE_RANKS (4), MPIRUN_FLAGS (--oversubscribe --bind-to none), SECONDS_AT_MOST (420: nothing
# begins later, and what has begun is ended a minute later). TMPDIR needs 8 GB for the base of 1.7B's adapters.

folder=${1:?name the folder of the programs}
folder=$(cd "$folder" && pwd) || exit 2
cores=${CORES:-$(nproc)}
steps=${STEPS:-4}
shard=${SHARD:-state}
large_ranks=${LARGE_RANKS:-4}
flags=${MPIRUN_FLAGS:---oversubscribe --bind-to none}
limit=${SECONDS_AT_MOST:-420}
begin=$(date +%s)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_orte_execute_quiet=1
cd "$work" || exit 1
load=$(cut -d ' ' -f 1 /proc/loadavg)

say() {
    echo "scaling.sh: $(($(date +%s) - begin)) s: $1" >&2
}
in_time() {
    [ $(($(date +%s) - begin)) -lt "$limit" ]
}
# bounded COMMAND...
bounded() {
    timeout $((begin + limit + 60 - $(date +%s))) "$@"
}

cat >run.yaml <<END
model: {vocab_size: 4096, hidden_size: 512, intermediate_size: 1536, num_hidden_layers: 10, num_attention_heads: 8, num_key_value_heads: 2}
data: {train: train.h5, row_length: 512}
objective: {slot_sizes: [4, 8]}
train: {micro_rows: 2, reduce: fast, seed: 5}
optim: {lr: 1e-4, schedule: constant}
checkpoint: {best: false}
log: {valid_every: 0}
END
# Qwen3-1.7B's
cat >large.yaml <<END
model: {vocab_size: 151936, hidden_size: 2048, intermediate_size: 6144, num_hidden_layers: 28, num_attention_heads: 16, num_key_value_heads: 8, head_dim: 128}
data: {train: train.h5, row_length: 512}
objective: {slot_sizes: [4, 8]}
train: {micro_rows: 1, reduce: fast, compute: bf16, recompute: block, steps: 1, seed: 5}
optim: {lr: 1e-5, schedule: constant}
checkpoint: {best: false, async: no}
log: {valid_every: 0}
END
{
    "$folder/refusion-data" synth arithmetic --option parts=2 --n 40000 --out sums.jsonl &&
        "$folder/refusion-data" build --out train.h5 sums.jsonl
} >log 2>&1 || {
    cat log >&2
    exit 1
}

# field EVENT NAME: the values that lines of the run have.
field() {
    sed -n 's/.*"event":"'"$1"'".*,"'"$2"'":\([0-9.e+-]*\).*/\1/p' run/metrics.jsonl
}
# median NAME: of the steps but the first.
median() {
    field step "$1" | tail -n +2 | sort -g | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }'
}

# train RANKS THREADS ARGUMENTS...: a run in the folder `run`. It ends in error where its checkpoint would begin,
# which would take longer than all else.
train() {
    ranks=$1 threads=$2
    shift 2
    rm -rf run
    # shellcheck disable=SC2086  # flags are words
    bounded env RF_FAILPOINT=layout:error mpirun -n "$ranks" $flags "$folder/refusion-train" "$@" \
        train.threads="$threads" log.dir=run >log 2>&1 </dev/null
    if [ -z "$(field end status 2>/dev/null)" ] || [ -z "$(field step seconds)" ]; then
        tail -n 5 log >&2
        return 1
    fi
}

# peak TYPE THREADS: GFLOP/s of multiply-adds, by the best instructions there are.
peak() {
    awk -v type="$1" -v threads=", $2 thread" 'index($0, "peak " type " multiply-add") {
        machine = $0
        sub(/.*"machine":/, "", machine)
        sub(/.*"value":/, "")
        if ((index(machine, threads "s\"") || index(machine, threads "\"")) && $0 + 0 > best) best = $0 + 0
    } END { print best + 0 }' runs/bench/bench.jsonl
}

# The ranks of one thread first, which are what the targets are about; then threads, then both.
all_pairs() {
    numbers=1
    n=2
    while [ "$n" -lt "$cores" ]; do
        numbers="$numbers $n"
        n=$((2 * n))
    done
    [ "$cores" = 1 ] || numbers="$numbers $cores"
    for n in $numbers; do
        echo "${n}x1"
    done
    for n in $numbers; do
        echo "1x$n"
    done
    for n in $numbers; do
        [ $((cores % n)) != 0 ] || echo "${n}x$((cores / n))"
    done
}
pairs=${PAIRS:-$(all_pairs | awk '!seen[$0]++')}

# turn: the limits on as many threads as the pairs have in all, then the runs. A line a run in `runs`.
turn() {
    for n in $(for pair in $pairs; do echo $((${pair%x*} * ${pair#*x})); done | sort -nu); do
        [ "$n" = 1 ] && [ "$pairs" != 1x1 ] && continue # the others measure one thread too
        in_time || break
        OMP_NUM_THREADS=$n "$folder/tests/bench/bench_limits" >/dev/null || exit 1
    done
    say "limits are measured"
    for pair in $pairs; do
        ranks=${pair%x*} threads=${pair#*x}
        of=$shard
        [ "$ranks" != 1 ] || of=none
        for compute in ${COMPUTES:-f32 bf16}; do
            in_time || {
                say "no time for $compute, $pair"
                continue
            }
            train "$ranks" "$threads" run.yaml train.compute="$compute" train.shard="$of" train.steps="$steps" \
                train.batch_rows=$((2 * ranks * threads)) || {
                say "$compute, $pair fails"
                continue
            }
            echo "$compute $pair $(median tokens_per_second) $(median exchange_seconds) $(median hidden_seconds)" \
                "$(field end peak_mib)" >>runs.txt
            say "$compute, $pair"
        done
    done
}

sed -n 's/model name.*: //p' /proc/cpuinfo | head -n 1
echo "Load of one minute before the first run: $load"
: >runs.txt
for t in $(seq "${TURNS:-1}"); do
    say "turn $t"
    turn
done
echo
echo "| compute | ranks x threads | tokens/s | growth | of the limit | exchange, s | hidden | MiB of a rank |"
echo "|---|---:|---:|---:|---:|---:|---:|---:|"
for pair in $pairs; do
    n=$((${pair%x*} * ${pair#*x}))
    for compute in ${COMPUTES:-f32 bf16}; do
        awk -v compute="$compute" -v pair="$pair" -v peak="$(peak "$compute" "$n")" -v peak1="$(peak "$compute" 1)" '
        $1 == compute && $2 == "1x1" && $3 > one { one = $3 }
        $1 == compute && $2 == pair && $3 > speed { speed = $3; exchange = $4; hidden = $5; mib = $6 }
        END {
            if (!speed) exit
            growth = one ? speed / one : 0
            of = growth && peak1 && peak ? sprintf("%.0f %%", 100 * growth / (peak / peak1)) : "-"
            part = exchange > 1e-4 ? sprintf("%.0f %%", 100 * hidden / exchange) : "-"
            sub("x", " x ", pair)
            printf "| %s | %s | %.0f | %s | %s | %.3f | %s | %.0f |\n", compute, pair, speed,
                growth ? sprintf("%.2f", growth) : "-", of, exchange, part, mib
        }' runs.txt
    done
done

large=${LARGE:-auto}
if [ "$large" = auto ]; then
    large=$(awk '/^MemAvailable/ { print ($2 >= 60 * 1024 * 1024 ? "yes" : "no") }' /proc/meminfo)
fi
if [ "$large" != yes ]; then
    say "no 1.7B: it takes 60 GiB of free memory (LARGE)"
    exit 0
fi

# row NAME ARGUMENTS...: of the second table.
row() {
    name=$1
    shift
    in_time || {
        say "no time for 1.7B, $name"
        return
    }
    train "$large_ranks" $((cores > large_ranks ? cores / large_ranks : 1)) large.yaml \
        train.batch_rows="$large_ranks" "$@" || {
        say "1.7B, $name fails"
        return
    }
    echo "| $name | $large_ranks | $(field end peak_mib) | $(field step seconds) |"
    say "1.7B, $name"
}
echo
echo "| 1.7B, rows of 512 places | ranks | MiB of a rank, at the peak | first step, s |"
echo "|---|---:|---:|---:|"
row "all weights, train.shard=weights" train.shard=weights
# Adapters need a base: the checkpoint of a run that trains next to nothing.
in_time || {
    say "no time for a base of adapters"
    exit 0
}
if bounded "$folder/refusion-train" large.yaml train.batch_rows=1 train.only=model.norm checkpoint.keep=1 \
    log.dir=base >log 2>&1; then
    base=base/$(cat base/latest)
    row "adapters of rank 16, train.shard=none" model.init="$base" lora.rank=16
    row "adapters of rank 16, train.shard=weights" model.init="$base" lora.rank=16 train.shard=weights
else
    say "no base for adapters: $(tail -n 1 log)"
fi
