#!/bin/sh
# Checks training on two GPUs, one rank each, in under eight minutes, with what pack.sh and pack_mpi.sh
# gathered:
#
#   sh FOLDER/many.sh [LOGS] [PART...]     from any directory; LOGS: where all output is kept
#
# Parts (default: all, in this order): seats exchanges bits checkpoints kills speed. A line for each check;
# the end of the output of one that fails. Fails when one does. BACKEND=cpu runs the same on a machine
# without a GPU, to check this script (seats, which is about GPUs, is left out there).
set -u
folder=$(cd "$(dirname "$0")" && pwd)
logs=${1:-$folder/logs}
[ $# -eq 0 ] || shift
backend=${BACKEND:-cuda}
parts=${*:-seats exchanges bits checkpoints kills speed}
mkdir -p "$logs"
logs=$(cd "$logs" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
cd "$folder" || exit 1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}" OMP_WAIT_POLICY=passive
export NCCL_NVLS_ENABLE=0 NCCL_DEBUG="${NCCL_DEBUG:-WARN}" # no NVLink multicast: others may share the host

# cuBLAS and NCCL: with python3's CUDA packages, or the toolkit. mpirun: what came along, for the libraries beside
# it would break another version's plugins.
wheels=$(python3 -c 'import nvidia; print(":".join(p + "/cu13/lib:" + p + "/nccl/lib" for p in nvidia.__path__))' 2>/dev/null)
LD_LIBRARY_PATH=$folder/lib:${wheels:+$wheels:}${CUDA_HOME:-/usr/local/cuda}/lib64
export LD_LIBRARY_PATH
place=$(cd mpi/lib && echo *)
export PATH="$folder/mpi/bin:$PATH" OPAL_PREFIX="$folder/mpi" OMPI_MCA_mca_base_component_show_load_errors=0
export PMIX_PREFIX="$folder/mpi/lib/$place/pmix2" PMIX_MCA_mca_base_component_show_load_errors=0
LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$folder/mpi/lib/$place/pmix2/lib
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
ranks="mpirun --oversubscribe --bind-to none -n"

fail() {
    echo "FAIL  $1"
    status=1
}

# report CODE WANTED NAME SECONDS: a line, and of a failure the end of its log.
report() {
    if [ "$1" -eq "$2" ]; then
        echo "ok    $3 ($4 s)"
    else
        fail "$3 ($4 s, status $1)"
        grep -a -E 'FAIL|Assertion|rror|cuda|NCCL|Synthesis' "$logs/$3.log" | head -n 12
        tail -n 4 "$logs/$3.log"
    fi
}

# ends STATUS SECONDS NAME COMMAND...: it ends in time with that status. check: with 0.
ends() {
    wanted=$1 limit=$2 name=$3
    shift 3
    begin=$(date +%s)
    timeout -k 5 "$limit" "$@" >"$logs/$name.log" 2>&1 </dev/null
    report $? "$wanted" "$name" $(($(date +%s) - begin))
}
check() {
    ends 0 "$@"
}

says() {
    grep -a -q -e "$2" "$logs/$1.log" && echo "ok    $1 says: $2" || fail "$1 does not say: $2"
}

# train RANKS RUN SETTING...: a run of the small model into $work/RUN.
train() {
    n=$1 run=$2
    shift 2
    # shellcheck disable=SC2086  # words
    check 90 "train-$run" $ranks "$n" ./refusion-train many.yaml log.dir="$work/$run" train.backend="$backend" "$@"
}

# values RUN: step, loss and norm of the gradient, all digits, of every step.
values() {
    sed -n 's/.*"event": *"step".*"step": *\([0-9]*\).*"loss": *\([-+.0-9e]*\).*"grad_norm": *\([-+.0-9e]*\).*/\1 \2 \3/p' \
        "$work/$1/metrics.jsonl" 2>/dev/null | sort -n -u
}

# same A B: two runs of 20 steps have the same bits.
same() {
    values "$1" >"$work/a"
    values "$2" >"$work/b"
    if [ "$(wc -l <"$work/a")" -eq 20 ] && cmp -s "$work/a" "$work/b"; then
        echo "ok    the same bits: $1, $2"
    else
        fail "other bits: $1, $2"
        diff "$work/a" "$work/b" | head -n 4
    fi
}

# near A B TOLERANCE: their losses are that near each other.
near() {
    values "$1" >"$work/a"
    values "$2" >"$work/b"
    if paste "$work/a" "$work/b" | awk -v limit="$3" '
        {gap = ($2 - $5) / $5; gap = gap < 0 ? -gap : gap; most = gap > most ? gap : most; n += $1 == $4}
        END {printf "      largest gap %.3g (at most %g)\n", most, limit; exit !(n == 20 && NR == 20 && most <= limit)}'
    then
        echo "ok    near: $1, $2"
    else
        fail "apart: $1, $2"
    fi
}

cat >many.yaml <<'END'
model: {hidden_size: 256, intermediate_size: 768, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2}
data: {row_length: 256, train: train.h5, valid: valid.h5}
objective: {kind: refusion, slot_sizes: [4]}
train: {steps: 20, batch_rows: 8, micro_rows: 1, seed: 1, compute: bf16, watchdog: 120}
optim: {lr: 2e-3, schedule: constant, warmup: 5}
log: {every: 1, valid_every: 0, samples_every: 0}
checkpoint: {every: 10, best: false}
decode: {kind: refusion, slot_size: 4, gen_length: 32}
END

# A GPU a rank, said aloud; more ranks than GPUs refused, unless they were told; a device that is not there.
run_seats() {
    if [ "$backend" = cpu ]; then
        echo "skip  seats: no GPU"
        return
    fi
    nvidia-smi --query-gpu=index,name,memory.total --format=csv,noheader
    gpus=$(nvidia-smi -L | wc -l)
    train 2 seats-two
    says train-seats-two "GPU to GPU: NCCL"
    more="./refusion-train many.yaml log.dir=$work/seats-more train.backend=cuda train.steps=1"
    # shellcheck disable=SC2086
    ends 2 90 seats-more $ranks $((gpus + 1)) $more
    says seats-more "have the same GPU"
    # shellcheck disable=SC2086
    RF_DEVICE=$gpus ends 2 90 seats-missing $ranks 2 $more
    says seats-missing "there is no such GPU"
    RF_DEVICE=0 train 2 seats-shared
    says train-seats-shared "share a GPU"
    same seats-two seats-shared
}

# The tests of exchanges, by NCCL and through the host.
run_exchanges() {
    for carrier in "" none; do
        for test in exchange/on_two_ranks reduce/exact_2; do
            RF_NCCL=$carrier RF_BACKEND=$backend check 90 "$(echo $test | tr / -)${carrier:+-without-nccl}" \
                ranks/test_dist --filter "$test" --jobs 1 --color=never
        done
    done
}

# 1 rank and 2, every way to share, with and without NCCL; in f32 too. `fast` adds in another order.
run_bits() {
    train 1 one
    for shard in none state gradients weights; do
        train 2 "two-$shard" train.shard=$shard
        same one "two-$shard"
    done
    RF_NCCL=none train 2 two-without-nccl
    same one two-without-nccl
    [ "$backend" = cpu ] || says train-two-without-nccl "RF_NCCL=none"
    train 1 one-f32 train.compute=f32
    train 2 two-f32 train.compute=f32 train.shard=weights
    same one-f32 two-f32
    for shard in none gradients; do
        train 2 "fast-$shard" train.reduce=fast train.shard=$shard train.compute=f32
        near "fast-$shard" one-f32 1e-4
    done
}

# CPU ranks to GPU ranks, back, and two GPUs to one: ten steps, a checkpoint, ten more on the others.
run_checkpoints() {
    moves=0
    train 1 whole train.compute=f32
    for path in "cpu 2 $backend 2" "$backend 2 cpu 2" "$backend 2 $backend 1"; do
        # shellcheck disable=SC2086  # words
        set -- $path
        moves=$((moves + 1))
        run=$moves-from-$1-$2-to-$3-$4
        for part in "$1 $2 10 no" "$3 $4 20 auto"; do
            # shellcheck disable=SC2086
            set -- $part
            # shellcheck disable=SC2086
            check 90 "$run-$3-steps" $ranks "$2" ./refusion-train many.yaml --resume "$4" \
                log.dir="$work/$run" train.backend="$1" train.steps="$3" train.compute=f32
        done
        near "$run" whole 1e-4
    done
    same "$run" whole # the last one, which stayed on one kind of device
}

# A rank that dies ends the run, which goes on to the bits of one that nobody disturbed; a rank that hangs is
# the watchdog's.
run_kills() {
    train 2 undisturbed train.shard=gradients
    run="$work/killed"
    settings="log.dir=$run train.backend=$backend train.shard=gradients"
    begin=$(date +%s)
    # shellcheck disable=SC2016,SC2086  # expanded on each rank; words
    timeout -k 5 90 $ranks 2 sh -c '[ "$OMPI_COMM_WORLD_RANK" = 0 ] || export RF_FAILPOINT=train.nan:kill:50
        exec ./refusion-train many.yaml "$@"' rank $settings >"$logs/killed.log" 2>&1 </dev/null
    code=$?
    if [ $code -ne 0 ] && [ $code -ne 124 ]; then
        echo "ok    killed: status $code ($(($(date +%s) - begin)) s)"
    else
        fail "killed: status $code"
    fi
    # shellcheck disable=SC2086
    check 90 killed-goes-on $ranks 2 ./refusion-train many.yaml --resume auto $settings
    same undisturbed killed

    run="$work/stopped"
    # shellcheck disable=SC2016,SC2086
    timeout -k 5 90 $ranks 2 sh -c 'echo $$ >"$0.$OMPI_COMM_WORLD_RANK"; exec ./refusion-train many.yaml "$@"' \
        "$work/pid" log.dir="$run" train.backend="$backend" train.steps=1000000 train.watchdog=10 \
        checkpoint.every=0 >"$logs/stopped.log" 2>&1 </dev/null &
    job=$!
    for _ in $(seq 60); do
        sleep 1
        grep -q '"step": *20[,}]' "$run/metrics.jsonl" 2>/dev/null && break
    done
    kill -STOP "$(cat "$work/pid.1")"
    begin=$(date +%s)
    wait $job
    report $? 5 stopped $(($(date +%s) - begin))
    says stopped "hangs in section step"
}

# rate RUN: median tokens a second behind the fifth step.
rate() {
    sed -n 's/.*"event": *"step".*"step": *\([0-9]*\).*"tokens_per_second": *\([0-9.e+]*\).*/\1 \2/p' \
        "$work/$1/metrics.jsonl" | awk '$1 > 5 {print $2}' | sort -g | awk '{x[NR] = $1} END {print x[int((NR + 1) / 2)]}'
}

# Tokens a second of Qwen3-0.6B's shape on one GPU and on two, as many rows each, and the most memory in use.
run_speed() {
    shape="model.hidden_size=1024 model.intermediate_size=3072 model.num_hidden_layers=28
        model.num_attention_heads=16 model.num_key_value_heads=8 model.head_dim=128 model.vocab_size=151936
        data.row_length=4096 train.micro_rows=4 checkpoint.every=0 train.steps=15 objective.kind=ar"
    [ "$backend" != cpu ] || shape="data.row_length=64 train.micro_rows=4 checkpoint.every=0 train.steps=15 objective.kind=ar"
    for rows in 4 16; do
        for way in "1 none exact" "2 none exact" "2 none fast" "2 gradients exact" "2 weights exact"; do
            # shellcheck disable=SC2086
            set -- $way
            run=speed-$rows-$1-$2-$3
            : >"$work/memory"
            if [ "$backend" = cuda ]; then
                nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 >"$work/memory" &
                watcher=$!
            fi
            # shellcheck disable=SC2086
            train $1 $run $shape train.shard=$2 train.reduce=$3 train.batch_rows=$((rows * $1))
            [ "$backend" != cuda ] || kill $watcher
            [ "$1" -ne 1 ] || alone=$(rate "$run")
            awk -v run="$run" -v n="$1" -v rate="$(rate "$run")" -v alone="$alone" '
                {most = $1 > most ? $1 : most}
                END {printf "      %s: %.0f tokens/s, %.1f %% of %d times one; at most %d MiB a GPU\n",
                     run, rate, 100 * rate / (n * alone), n, most}' "$work/memory"
        done
    done
}

for part in $parts; do
    "run_$part"
done
[ $status -eq 0 ] && echo "many: all is right" || echo "many: something failed; logs are in $logs"
exit $status
