#!/bin/sh
# Checks the backend cuda on a machine with a GPU, in under ten minutes, with what pack.sh gathered:
#
#   sh FOLDER/run.sh [LOGS] [PART...]      from any directory; LOGS: where all output is kept
#
# Parts (default: all, in this order): dump train decode tests sanitize. A line for each check; the end of
# the output of one that fails. Fails when one does.
set -u
folder=$(cd "$(dirname "$0")" && pwd)
logs=${1:-$folder/logs}
[ $# -eq 0 ] || shift
parts=${*:-dump train decode tests sanitize}
mkdir -p "$logs"
logs=$(cd "$logs" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}" OMP_WAIT_POLICY=passive
cd "$folder" || exit 1

# Where cuBLAS is: with python3's CUDA packages, or the toolkit.
wheels=$(python3 -c 'import nvidia; print(":".join(p + "/cu13/lib" for p in nvidia.__path__))' 2>/dev/null)
libraries=$folder/lib:${wheels:+$wheels:}${CUDA_HOME:-/usr/local/cuda}/lib64

# check SECONDS NAME COMMAND...: runs it within a time, with the libraries that came along.
check() {
    limit=$1 name=$2
    shift 2
    begin=$(date +%s)
    LD_LIBRARY_PATH="$libraries" timeout -k 5 "$limit" "$@" >"$logs/$name.log" 2>&1 </dev/null
    code=$?
    if [ $code -eq 0 ]; then
        echo "ok    $name ($(($(date +%s) - begin)) s)"
    else
        echo "FAIL  $name ($(($(date +%s) - begin)) s, status $code)"
        grep -a -E 'FAIL|Assertion|error|cuda|=========|Synthesis' "$logs/$name.log" | head -n 12
        tail -n 4 "$logs/$name.log"
        status=1
    fi
}

# steps FILE: number and loss of every step of a run.
steps() {
    sed -n 's/.*"event": *"step".*"step": *\([0-9]*\).*"loss": *\([-+.0-9e]*\).*/\1 \2/p' "$1"
}

# near A B TOLERANCE: the losses of two runs, beside each other; fails where they are further apart.
near() {
    steps "$1/metrics.jsonl" >"$work/a"
    steps "$2/metrics.jsonl" >"$work/b"
    paste "$work/a" "$work/b" | awk -v limit="$3" '
        {gap = ($2 - $4) / $4; gap = gap < 0 ? -gap : gap; most = gap > most ? gap : most; n += $1 == $3}
        END {printf "%d steps, largest gap %.3g (at most %g)\n", n, most, limit
             exit !(n == 20 && NR == 20 && most <= limit)}'
}

cat >demo.yaml <<'END'
model: {hidden_size: 128, intermediate_size: 384, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2}
data: {row_length: 256}
objective: {kind: refusion, slot_sizes: [4]}
train: {steps: 20, batch_rows: 8, micro_rows: 4, seed: 1}
optim: {lr: 2e-3, schedule: cosine, warmup: 5}
log: {every: 1, valid_every: 0, samples_every: 0}
decode: {kind: refusion, slot_size: 4, gen_length: 32}
END

run_tests() {
    for test in tests/test_*; do
        RF_BACKEND=cuda check 90 "$(basename "$test")" "./$test" --verbose=1 --color=never --jobs 8
    done
}

# Twenty steps on the GPU beside the same on the CPU, the loss of every step; and again with the same bits.
run_train() {
    for type in f32 bf16; do
        check 60 "train-cpu-$type" ./refusion-train demo.yaml log.dir="$work/cpu-$type" data.train=train.h5 \
            data.valid=valid.h5 train.backend=cpu train.compute=$type
        for turn in 1 2; do
            check 60 "train-cuda-$type-$turn" ./refusion-train demo.yaml log.dir="$work/cuda-$type-$turn" \
                data.train=train.h5 data.valid=valid.h5 train.backend=cuda train.compute=$type
        done
        steps "$work/cuda-$type-1/metrics.jsonl" >"$work/one"
        steps "$work/cuda-$type-2/metrics.jsonl" >"$work/two"
        check 5 "train-$type-same-bits" cmp "$work/one" "$work/two"
    done
    near "$work/cuda-f32-1" "$work/cpu-f32" 1e-5 && echo "ok    train-f32-beside-cpu" || fail train-f32-beside-cpu
    near "$work/cuda-bf16-1" "$work/cpu-bf16" 2e-2 && echo "ok    train-bf16-beside-cpu" || fail train-bf16-beside-cpu
}

fail() {
    echo "FAIL  $1"
    status=1
}

# tokens FILE: the ids of all answers.
tokens() {
    sed -n 's/.*"ids": *\(\[[^]]*\]\).*/\1/p' "$1"
}

# does_it REPORT: nine of ten answers at least are right.
does_it() {
    grep -o '"accuracy": *[0-9.e-]*' "$1" | head -n 1 | awk '{right = $2 >= 0.9} END {exit !right}'
}

# A model that has learnt its task on the GPU decodes to the same tokens on both, and does the task.
run_decode() {
    check 120 train-demo ./refusion-train demo.yaml log.dir="$work/demo" data.train=train.h5 data.valid=valid.h5 \
        train.backend=cuda train.steps=1500 optim.warmup=50 log.every=500 log.valid_every=500
    for decoder in refusion refusion-left-to-right; do
        for backend in cpu cuda; do
            check 60 "infer-$decoder-$backend" ./refusion-infer --model "$work/demo" --backend $backend \
                --prompts test.jsonl --limit 64 --out "$work/$decoder-$backend.jsonl" decode.kind=$decoder
            tokens "$work/$decoder-$backend.jsonl" >"$work/$decoder-$backend.ids"
        done
        check 5 "infer-$decoder-has-answers" test -s "$work/$decoder-cuda.ids"
        check 5 "infer-$decoder-same-tokens" cmp "$work/$decoder-cpu.ids" "$work/$decoder-cuda.ids"
    done
    for weights in f32 bf16 int8; do
        check 60 "eval-$weights" ./refusion-eval --model "$work/demo" --backend cuda --weights $weights \
            --data test.jsonl --task arithmetic --batch 8 --out "$work/$weights.json"
        does_it "$work/$weights.json" && echo "ok    eval-$weights-does-it" || fail "eval-$weights-does-it"
    done
}

# One step's loss, gradients and new weights beside PyTorch in f64, which runs on the CPU.
run_dump() {
    check 60 dump ./refusion-train demo.yaml log.dir="$work/dump" data.train=train.h5 data.valid=valid.h5 \
        train.backend=cuda train.steps=1 debug.dump_step="$work/dump.h5"
    if python3 -c 'import torch, h5py' 2>/dev/null; then
        timeout 60 python3 compare_step.py "$work/dump.h5" 1e-4 >"$logs/dump-beside-pytorch.log" 2>&1 &&
            echo "ok    dump-beside-pytorch" || fail dump-beside-pytorch
        tail -n 3 "$logs/dump-beside-pytorch.log"
    else
        echo "skip  dump-beside-pytorch: python3 has no torch or h5py"
    fi
}

run_sanitize() {
    tool=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
    if [ ! -x "$tool" ]; then
        echo "skip  compute-sanitizer: it is not here"
        return
    fi
    for mode in memcheck initcheck racecheck; do
        for type in f32 bf16; do
            check 60 "sanitize-$mode-train-$type" "$tool" --tool $mode --error-exitcode 9 ./refusion-train demo.yaml \
                log.dir="$work/$mode-$type" data.train=train.h5 data.valid=valid.h5 train.backend=cuda \
                train.compute=$type train.steps=1 train.batch_rows=1 train.micro_rows=1 data.row_length=64 \
                model.hidden_size=32 model.intermediate_size=40 model.num_hidden_layers=1
        done
    done
    for suite in linear head sum adamw add embedding scatter rmsnorm swiglu attention; do
        RF_BACKEND=cuda check 100 "sanitize-memcheck-$suite" "$tool" --tool memcheck --target-processes all \
            --error-exitcode 9 ./tests/test_backends --jobs 1 --color=never --filter "backends/$suite*"
        check 5 "sanitize-memcheck-$suite-ran" grep -q 'Tested: [1-9]' "$logs/sanitize-memcheck-$suite.log"
    done
}

for part in $parts; do
    "run_$part"
done
[ $status -eq 0 ] && echo "device: all is right" || echo "device: something failed; logs are in $logs"
exit $status
