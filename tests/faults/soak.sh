#!/bin/sh
# soak.sh: kills a run again and again, and compares its end with that of a run that nobody disturbed.
#
# Usage: tests/faults/soak.sh PROGRAM_FOLDER        (make soak)
#
# Environment: KILLS (200), SECONDS_AT_MOST (3600), SEED (1), SETTINGS (further settings of the run; by
# default train.shard=weights where the program knows it, checkpoint.async=yes).
#
# A tiny model is trained on 1, 2 or 4 ranks with a checkpoint every 20 steps, written beside training.
# At a random moment of a start, a step or a save something is killed with SIGKILL: a rank, all ranks, or
# mpirun; then it goes on with --resume auto on another number of ranks. After the last kill it ends in
# peace. Weights and moments must be those of the undisturbed run, bit for bit, no checkpoint may have been
# found damaged, and nothing may be left over.

folder=${1:?name the folder of the programs}
folder=$(cd "$folder" && pwd) || exit 2
kills=${KILLS:-200}
limit=${SECONDS_AT_MOST:-3600}
seed=${SEED:-1}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_orte_execute_quiet=1
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1

fail() {
    echo "soak.sh: $1" >&2
    tail -n 20 log >&2
    exit 1
}

# A rank: leaves its process id, and becomes the program.
cat >rank <<END
#!/bin/sh
echo \$\$ >pid.\${OMPI_COMM_WORLD_RANK:-\$PMI_RANK}
exec "$folder/refusion-train" "\$@"
END
chmod +x rank
cat >run.yaml <<END
data: {train: train.h5, row_length: 64}
model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2}
objective: {slot_sizes: [2, 4]}
train: {batch_rows: 4, seed: 5, threads: 1, watchdog: 60}
optim: {lr: 3e-3, schedule: constant}
checkpoint: {every: 20, keep: 3, async: yes}
log: {valid_every: 0, every: 1000}
END
{
    "$folder/refusion-data" synth arithmetic --option parts=2 --n 200 --out sums.jsonl &&
        "$folder/refusion-data" build --out train.h5 sums.jsonl
} >log 2>&1 || fail "no corpus"
settings=${SETTINGS:-}
if [ -z "$settings" ] && "$folder/refusion-train" --help | grep 'train\.shard' >/dev/null; then
    settings=train.shard=weights
fi

# train RANKS ARGUMENTS...: the run, in the background.
train() {
    n=$1
    shift
    rm -f pid.*
    # shellcheck disable=SC2086  # settings are words
    setsid mpirun -n "$n" --oversubscribe --bind-to none ./rank run.yaml $settings "$@" >>log 2>&1 </dev/null &
    job=$!
}

# Step of the newest checkpoint.
newest() {
    sed -n 's/step-0*\([0-9]*\)\.h5/\1/p' run/latest 2>/dev/null || echo 0
}

begin=$(date +%s)
done_kills=0
awk -v seed="$seed" -v n="$kills" 'BEGIN { srand(seed)
    for (i = 0; i < n; i++) printf "%.2f %d %d\n", 0.2 + 1.6 * rand(), int(4 * rand()), 2 ^ int(3 * rand()) }' >plan
while read -r delay victim ranks; do
    if [ $(($(date +%s) - begin)) -gt "$limit" ]; then
        break
    fi
    train "$ranks" log.dir=run train.steps=100000000 --resume auto
    sleep "$delay"
    case $victim in
    0) kill -9 "$(cat pid.0 2>/dev/null)" 2>/dev/null || kill -9 "$job" ;;
    1) kill -9 "$(cat "pid.$((ranks - 1))" 2>/dev/null)" 2>/dev/null || kill -9 "$job" ;;
    2) for pid in $(cat pid.* 2>/dev/null) $job; do kill -9 "$pid" 2>/dev/null; done ;;
    3) kill -9 "$job" ;;
    esac
    # Open MPI's mpirun may wait for ever when a rank dies while the two connect: launch.sh ends it, too.
    # shellcheck disable=SC2016  # of that shell
    setsid sh -c 'sleep 30; kill -9 "$1" && echo >>waited' guard "$job" >/dev/null 2>&1 &
    guard=$!
    wait "$job" 2>/dev/null && fail "a run that was killed ended well"
    kill -9 "-$guard" 2>/dev/null || kill -9 "$guard" 2>/dev/null # before it has its session
    # Ranks that mpirun left behind end by themselves.
    tries=0
    for pid in $(cat pid.* 2>/dev/null); do
        while kill -0 "$pid" 2>/dev/null && [ $tries -lt 300 ]; do
            tries=$((tries + 1))
            sleep 0.1
        done
    done
    [ $tries -lt 300 ] || fail "ranks outlive their mpirun"
    done_kills=$((done_kills + 1))
done <plan

last=$(($(newest) + 40))
train 2 log.dir=run train.steps=$last --resume auto
wait "$job" || fail "the run does not end after $done_kills kills"
killed=$(($(date +%s) - begin))
train 1 log.dir=whole train.steps=$last
wait "$job" || fail "the undisturbed run fails"
name=$(printf 'step-%09d.h5' "$last")
for group in /params /adam; do
    h5diff -q "run/$name" "whole/$name" "$group" || fail "$group of $name differs after $done_kills kills"
done
left=$(find run -name '*.tmp-*' -o -name '*.damaged')
[ -z "$left" ] || fail "left over: $left"
! grep -q 'damaged\|checksum\|truncated\|none of its' log || fail "a checkpoint was found damaged"
[ ! -e waited ] || echo "soak: mpirun waited for ever after $(wc -l <waited) of the kills, and was killed after 30 s"
echo "soak: $done_kills kills in $killed s, $last steps${settings:+, $settings}: weights and moments equal bit for bit"
[ "$done_kills" = "$kills" ] || fail "no time for more than $done_kills of $kills kills"
