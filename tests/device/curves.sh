#!/bin/sh
# Loss curves of 2000 steps on real text: the backend cuda in bf16 beside cpu in f32, from the same seeds.
#
#   sh tests/device/curves.sh PROGRAMS TEXT OUT     PROGRAMS: folder of refusion-data and refusion-train,
#                                                   of a build with CUDA=1; TEXT: .txt or .jsonl, .gz too
#
# Three seeds a backend, all six at once. Leaves the runs, and curves.csv with the smoothed losses (means of 100
# steps), in OUT. Fails where the mean absolute gap between the curves of the two backends (of one seed; mean over
# steps and seeds) is above the standard deviation over the seeds of cpu's (mean over steps). A model of 2 M
# parameters: a minute where the seeds have ten cores each. RF_OTHER=BACKEND: takes that in place of cuda, to try
# this script on a machine without a GPU. STEPS=N: fewer steps.
set -eu
if [ $# -ne 3 ]; then
    sed -n '4,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
programs=$1 text=$2 out=$3
other=${RF_OTHER:-cuda} steps=${STEPS:-2000}
mkdir -p "$out"
cat >"$out/model.yaml" <<END
model: {hidden_size: 192, intermediate_size: 576, num_hidden_layers: 4, num_attention_heads: 3, num_key_value_heads: 1}
data: {row_length: 256}
objective: {kind: refusion, slot_sizes: [4, 8]}
train: {steps: $steps, batch_rows: 16, micro_rows: 16}
optim: {lr: 1e-3, schedule: cosine, warmup: 100}
log: {every: 1, valid_every: 0, samples_every: 0}
checkpoint: {every: $steps, keep: 1}
END
"$programs/refusion-data" build --tokenizer byte --out "$out/text.h5" "$text"

# run NAME SEED KEY=VALUE...
run() {
    name=$1 seed=$2
    shift 2
    "$programs/refusion-train" "$out/model.yaml" data.train="$out/text.h5" log.dir="$out/$name-$seed" \
        train.seed="$seed" "$@" >"$out/$name-$seed.log" 2>&1 || {
        tail -n 3 "$out/$name-$seed.log" >&2
        return 1
    }
}

threads=${OMP_NUM_THREADS:-$((($(nproc) - 3) / 3))}
pids=
for seed in 1 2 3; do
    OMP_NUM_THREADS=1 run other "$seed" train.backend="$other" train.compute=bf16 &
    pids="$pids $!"
    OMP_NUM_THREADS=$((threads > 0 ? threads : 1)) run cpu "$seed" train.backend=cpu train.compute=f32 &
    pids="$pids $!"
done
for pid in $pids; do
    wait "$pid"
done

for name in cpu other; do
    for seed in 1 2 3; do
        sed -n 's/.*"event": *"step".*"step": *\([0-9]*\).*"loss": *\([-+.0-9e]*\).*/\1 \2/p' \
            "$out/$name-$seed/metrics.jsonl" >"$out/$name-$seed.losses"
    done
done
paste -d ' ' "$out"/cpu-[123].losses "$out"/other-[123].losses | awk -v other="$other" -v steps="$steps" '
    BEGIN {print "step,cpu 1,cpu 2,cpu 3," other " 1," other " 2," other " 3"}
    {
        line = $1
        for (i = 1; i <= 6; i++) {
            if ($(2 * i - 1) != $1) broken = 1
            loss[i, NR] = $(2 * i)
            sum[i] += $(2 * i) - (NR > 100 ? loss[i, NR - 100] : 0)
            smooth[i] = sum[i] / (NR > 100 ? 100 : NR)
            line = line "," smooth[i]
        }
        print line
        mean = (smooth[1] + smooth[2] + smooth[3]) / 3
        for (i = 1; i <= 3; i++) {
            gap = smooth[i + 3] - smooth[i]
            gaps += (gap < 0 ? -gap : gap) / 3
            square[NR] += (smooth[i] - mean) ^ 2
        }
        deviation += sqrt(square[NR] / 2)
    }
    END {
        printf "%d steps: mean absolute gap of %s to cpu %.5f, standard deviation of cpu over seeds %.5f\n",
            NR, other, gaps / NR, deviation / NR >"/dev/stderr"
        printf "at the end, means of the seeds: %.4f, cpu %.4f\n",
            (smooth[4] + smooth[5] + smooth[6]) / 3, mean >"/dev/stderr"
        exit !(NR == steps && !broken && gaps <= deviation)
    }' >"$out/curves.csv"
