#!/bin/sh
# Gathers into FOLDER what tests/device/run.sh needs on another machine: stripped programs and tests of a
# build with CUDA=1 MPI=0, the shared libraries that they load (but the C library's), data. No GPU is needed.
#
#   make MPI=0 CUDA=1 all tests
#   sh tests/device/pack.sh build/release-nompi-cuda FOLDER
set -eu
if [ $# -ne 2 ]; then
    echo "usage: sh tests/device/pack.sh BUILD FOLDER" >&2
    exit 2
fi
build=$1 folder=$2
programs="refusion-data refusion-train refusion-infer refusion-eval"
# Those that use every backend, or the one that RF_BACKEND names.
tests="kernels/test_backend kernels/test_backends kernels/test_order kernels/test_layouts kernels/test_copies kernels/test_sample
    kernels/test_draw kernels/test_scale_dropout model/test_gradient model/test_forward model/test_golden
    model/test_lora model/test_weights model/test_whole_blocks model/test_init model/test_refused store/test_checkpoint
    train/math/test_reduce train/math/test_optimizer infer/test_decode infer/test_engine infer/test_masked
    infer/score/test_score"

rm -rf "$folder"
mkdir -p "$folder/tests"
for program in $programs; do
    strip -o "$folder/$program" "$build/$program"
done
for test in $tests; do
    strip -o "$folder/tests/$(basename "$test")" "$build/tests/$test"
done
sh tests/device/libraries.sh "$folder/lib" "$folder"/refusion-* "$folder"/tests/*

"$build/refusion-data" synth arithmetic --seed 1 --unique --option parts=6 --option max=9 --option pad=true \
    --n 20000 --out "$folder/train.jsonl"
"$build/refusion-data" synth arithmetic --seed 1 --unique --option parts=6 --option max=9 --option pad=true \
    --n 200 --skip 20000 --out "$folder/test.jsonl"
"$build/refusion-data" build --tokenizer byte --out "$folder/train.h5" --valid-out "$folder/valid.h5" \
    --valid-fraction 0.01 "$folder/train.jsonl"
rm "$folder/train.jsonl"
cp tests/device/run.sh tests/golden/compare_step.py "$folder/"
mkdir -p "$folder/tests/golden"
cp tests/golden/*.h5 tests/golden/sampling_vectors.json "$folder/tests/golden/"
du -sh "$folder"
