#!/bin/sh
# compare.sh: the controlled comparison: objectives trained alike, decoders at their best settings.
#
#   train/compare.sh SETTINGS.sh [NAME=VALUE ...]
#
# For each seed, task and objective of the settings (configs/compare/README.md): generates the task,
# builds one corpus, trains one model a seed and objective, tries each decoder's settings on
# validation questions and judges the best ones on test questions. Leaves report.json and report.html
# in the folder `out`. What is finished is not done again, what was killed goes on; a part whose
# settings have changed since is refused. NAME=VALUE sets a variable after the settings file.
#
# Environment: BUILD_DIR (build/release), GSM8K (a JSONL file: likelihoods on its last tenth too).
# Exit status: 0 done, 1 failed or an accuracy below the settings' floor, 2 usage, 3 stopped.
# shellcheck disable=SC2046,SC2086,SC1090  # settings are lists of words
set -eu
fail() {
    echo "compare.sh: $1" >&2
    exit "${2:-1}"
}
usage() {
    sed -n '2,13s/^# \{0,1\}//p' "$0"
    exit "$1"
}
case ${1:-} in
-h | --help) usage 0 ;;
'') usage 2 >&2 ;;
esac
[ -f "$1" ] || fail "$1: no such settings file" 2
command -v jq >/dev/null 2>&1 || fail "jq is missing: make deps installs it"
bin=${BUILD_DIR:-build/release}

# --- Settings --------------------------------------------------------------------------------------
out=runs/compare ranks=2 beside=1 gpus=0 timed=200 floor=0 within=0 title="" seeds=1 tasks="" model=""
only="" # of what is done beside each other, what this process does
settings=$1
unset objectives
case $settings in */*) . "$settings" ;; *) . "./$settings" ;; esac
shift
for assignment in "$@"; do
    case $assignment in
    [a-z]*=*) eval "${assignment%%=*}=\${assignment#*=}" ;;
    *) fail "$assignment: not NAME=VALUE" 2 ;;
    esac
done
[ -n "${objectives+given}" ] || fail "$settings has no objectives: which are compared?" 2
# of NAME PART: the variable NAME_PART, or nothing
of() { eval "printf '%s' \"\${$1_$2-}\""; }
work=$out/$(basename "$settings" .sh)
log=$work/log
mkdir -p "$work"
begin=$(date +%s)
parts="" # part.json of every run so far

# What a person need not see goes to a file; its end is shown where the command fails.
logged() {
    "$@" >>"$log" 2>&1 </dev/null && return
    status=$?
    tail -n 3 "$log" >&2
    exit "$status"
}

# A part is done where its recipe says so; another recipe under the same name is refused.
# is_done FOLDER RECIPE
is_done() {
    if [ -f "$1/recipe" ] && [ "$(cat "$1/recipe")" != "$2" ]; then
        fail "$1 was made with other settings (its file recipe): remove that folder"
    fi
    [ -f "$1/finished" ]
}

# A file that is there is whole, also after kill -9.
# note_recipe FOLDER RECIPE
note_recipe() {
    mkdir -p "$1"
    echo "$2" >"$1/recipe.new"
    mv "$1/recipe.new" "$1/recipe"
}

# --- Parts -----------------------------------------------------------------------------------------
# Questions and corpus of a task.
make_data() {
    task=$1 folder=$work/data-$1
    if [ "$task" = gsm8k ]; then
        make_gsm8k
        return
    fi
    n=$(of train "$task") n_valid=$(of valid "$task") n_test=$(of test "$task")
    generate="$(of kind "$task") --seed 1 --unique $(of synth "$task")"
    recipe="$generate $n $n_valid $n_test"
    if is_done "$folder" "$recipe"; then return; fi
    note_recipe "$folder" "$recipe"
    logged "$bin"/refusion-data synth $generate --n $((n + n_valid + n_test)) --out "$folder/all.jsonl"
    awk -v train="$n" -v valid="$n_valid" -v test="$n_test" -v folder="$folder" '
        {print >(folder "/" (NR <= train ? "train" : NR <= train + valid ? "valid" : "test") ".jsonl")}
        END {exit NR != train + valid + test}' "$folder/all.jsonl"
    sync "$folder/train.jsonl" "$folder/valid.jsonl" "$folder/test.jsonl"
    rm "$folder/all.jsonl"
    build_corpus "$folder"
}

# build_corpus FOLDER: of its train.jsonl and valid.jsonl
build_corpus() {
    logged "$bin"/refusion-data build --tokenizer byte --out "$1/train.h5" "$1/train.jsonl"
    logged "$bin"/refusion-data build --tokenizer byte --out "$1/valid.h5" "$1/valid.jsonl"
    touch "$1/finished"
}

# train_model TASK OBJECTIVE SEED [LEARNING_RATE]: goes on where it was stopped. Sets `run`, its folder.
train_model() {
    run=$work/$1-$2-$3${4:+-$4} folder=$work/data-$1
    set -- "$model" objective.kind="$2" train.seed="$3" data.train="$folder/train.h5" \
        data.valid="$folder/valid.h5" log.dir="$run" $(of set "$1") $(of set "$2") $(of set "$1_$2") \
        ${4:+optim.lr="$4"}
    recipe="$(cat "$model") $*"
    if is_done "$run" "$recipe"; then return; fi
    note_recipe "$run" "$recipe"
    PROGRAM="$bin/refusion-train" sh train/launch.sh -n "$ranks" "$@" --resume auto || exit $?
    touch "$run/finished"
}

# train_best TASK OBJECTIVE SEED: at the one of the objective's learning rates that leaves the lowest
# validation loss with the first seed; at that of the settings where there are none to choose from.
train_best() {
    rate="" lowest=""
    for candidate in $(of rates "$2"); do
        train_model "$1" "$2" "${seeds%% *}" "$candidate"
        loss=$(jq -s 'map(select(.event == "valid")) | last | .loss' "$run/metrics.jsonl")
        if [ -z "$lowest" ] || jq -en "$loss < $lowest" >/dev/null; then
            rate=$candidate lowest=$loss
        fi
    done
    train_model "$1" "$2" "$3" "$rate"
}

# evaluate TASK OBJECTIVE SEED: the model in `run`; a sweep for each line of the objective's sweeps.
evaluate() {
    folder=$work/data-$1 number=0
    lines=$(of sweeps "$1_$2")
    lines=${lines:-$(of sweeps "$2")}
    [ -n "$lines" ] || fail "$settings has no sweeps_$2: which decoders answer for objective $2?" 2
    while read -r line; do
        [ -n "$line" ] || continue
        number=$((number + 1))
        logged "$bin"/refusion-eval --model "$run" --data "$folder/test.jsonl" \
            --pick-on "$folder/valid.jsonl" --task "$(of kind "$1")" --no-likelihood \
            --within "$within" --out "$run/eval-$number.json" $line
    done <<LINES
$lines
LINES
    empty=$(jq -r '.rows[] | select(.forwards == 0) | .settings.kind' $(seq -f "$run/eval-%g.json" "$number"))
    [ -z "$empty" ] || fail "$run: $empty decoded no answer: see why at the end of $log"
    time_alone "$1" "$number"
    train_facts "$run" >"$run/facts.json"
    jq --arg task "$1" --arg objective "$2" --argjson seed "$3" --argjson first "${seeds%% *}" \
        --slurpfile facts "$run/facts.json" --slurpfile alone "$run/alone.json" -s '
        {machine: .[0].machine, threads: .[0].threads, weights: .[0].rows[0].weights, program: .[0].program}
        + ({rows: map(.rows), sweep: map(.sweep)} | map_values(add
            | map({task: $task, objective: $objective, decoder: .settings.kind, seed: $seed}
                  + del(.model, .task) + $facts[0])))
        | .rows = (.rows | to_entries | map(.value + ($alone[.key] // {})))
        | if $seed > $first then del(.rows[].samples, .rows[].order) else . end' $(seq -f "$run/eval-%g.json" "$number") >"$run/part.json"
    parts="$parts $run/part.json"
}

# time_alone TASK NUMBER: models that were judged beside each other shared the machine. The speeds of the
# settings that were chosen are measured again, one after the other, on the first `timed` test questions:
# alone.json has an object for each row; none where models are judged one by one.
time_alone() {
    if [ "$beside" -eq 1 ] || [ -n "$only" ]; then
        [ -e "$run/alone.json" ] || : >"$run/alone.json"
        return
    fi
    head -n "$timed" "$work/data-$1/test.jsonl" >"$work/data-$1/timed.jsonl"
    jq -r '.rows[].settings | to_entries | map("decode.\(.key)=\(.value)") | join(" ")' \
        $(seq -f "$run/eval-%g.json" "$2") >"$run/chosen.new"
    if [ -s "$run/alone.json" ] && cmp -s "$run/chosen.new" "$run/chosen"; then return; fi
    : >"$run/alone.json.new"
    row=0
    while read -r line; do
        row=$((row + 1))
        logged "$bin"/refusion-eval --model "$run" --data "$work/data-$1/timed.jsonl" --task "$(of kind "$1")" \
            --no-likelihood --out "$run/alone-$row.json" $line
        jq '{timed_questions: .questions} + (.answers | {tokens_per_second, latency_mean, latency_p50, latency_p95})' \
            "$run/alone-$row.json" >>"$run/alone.json.new"
    done <"$run/chosen.new"
    mv "$run/chosen.new" "$run/chosen"
    mv "$run/alone.json.new" "$run/alone.json"
}

# What the training of a run took: seconds, samples, and places computed, padding included.
train_facts() {
    jq -s 'map(select(.event == "step")) | {train_seconds: (map(.seconds) | add),
        learning_rate: (map(.lr) | max),
        train_samples: (map(.n_samples) | add),
        train_places: (map(.tokens / .fill) | add | round)}' "$1/metrics.jsonl"
}

# Of the file of questions: its last tenth is held out.
make_gsm8k() {
    folder=$work/data-gsm8k
    recipe="$GSM8K $(cksum <"$GSM8K")"
    if ! is_done "$folder" "$recipe"; then
        note_recipe "$folder" "$recipe"
        gzip -cdf "$GSM8K" >"$folder/all.jsonl"
        n=$(wc -l <"$folder/all.jsonl")
        head -n $((n - n / 10)) "$folder/all.jsonl" >"$folder/train.jsonl"
        tail -n $((n / 10)) "$folder/all.jsonl" >"$folder/valid.jsonl"
        build_corpus "$folder"
    fi
}

# likelihood OBJECTIVE SEED: of the last tenth of that file, by the model in `run`, trained on the rest.
likelihood() {
    logged "$bin"/refusion-eval --model "$run" --data "$work/data-gsm8k/valid.jsonl" --out "$run/likelihood.json"
    jq --arg objective "$1" --argjson seed "$2" \
        '{likelihood: [{task: "gsm8k", objective: $objective, seed: $seed} + .likelihood]}' \
        "$run/likelihood.json" >"$run/part.json"
    parts="$parts $run/part.json"
}

# judge TASK OBJECTIVE SEED: trained where that is left to do.
judge() {
    train_best "$@"
    case $1 in
    gsm8k) likelihood "$2" "$3" ;;
    *) evaluate "$@" ;;
    esac
}

# --- Models side by side ---------------------------------------------------------------------------
# list_models VERB SEED...: a line `only=VERB TASK OBJECTIVE SEED [RATE]` for each model; to train the first
# seed's, one for each of its objective's learning rates.
list_models() {
    verb=$1
    shift
    for seed in "$@"; do
        for task in $tasks ${GSM8K:+gsm8k}; do
            for objective in $objectives; do
                rates=""
                [ "$verb$seed" != "train${seeds%% *}" ] || rates=$(of rates "$objective")
                for rate in ${rates:-""}; do
                    echo "only=$verb $task $objective $seed${rate:+ $rate}"
                done
            done
        done
    done
}

# do_beside ARGUMENTS: what the lines of standard input say, `beside` of them at once, each by this script
# with these arguments and that line; the first that fails ends it, with its status.
do_beside() {
    rm -f "$work/failed"
    xargs -r -d '\n' -n 1 -P "$beside" --process-slot-var=COMPARE_SLOT sh "$0" "$settings" "$@" && return
    exit "$(cat "$work/failed" 2>/dev/null || echo 1)"
}

# do_only VERB TASK [OBJECTIVE SEED [RATE]]: in such a process, which takes a GPU by its turn and has a log of
# its own. (255: xargs begins no other.)
do_only() {
    what=$1 start=$(date +%s)
    shift
    name=$(echo "$*" | tr ' ' -)
    log=$work/$name.log
    [ "$gpus" -eq 0 ] || export CUDA_VISIBLE_DEVICES=$((COMPARE_SLOT % gpus))
    share=$(($(env -u OMP_NUM_THREADS nproc) / (beside * ranks)))
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((share > 1 ? share : 1))}"
    case $what-$# in
    data-*) verb=make_data ;;
    train-4) verb=train_model ;;
    train-3) verb=train_best ;;
    *) verb=$what ;;
    esac
    set +e
    (
        set -e
        $verb "$@"
    ) >>"$log" 2>&1 </dev/null
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        tail -n 3 "$log" >&2
        echo "$status" >"$work/failed"
        exit 255
    fi
    echo "compare: $name: $what ($(($(date +%s) - start)) s)"
}

# --- The report ------------------------------------------------------------------------------------
# All parts that are there, with mean and spread over the seeds.
write_report() {
    jq -s --arg scale "$(basename "$settings" .sh)" --argjson seconds $(($(date +%s) - begin)) \
        --arg host "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(env -u OMP_NUM_THREADS nproc) CPUs" '
        def mean: if length == 0 then null else add / length end;
        def spread: if length < 2 then 0 else mean as $m | map(. - $m | . * .) | add / (length - 1) | sqrt end;
        {scale: $scale, program: map(.program // empty)[0], machine: map(.machine // empty)[0],
         host: $host, threads: map(.threads // empty)[0], seconds_of_last_call: $seconds,
         rows: map(.rows // []) | add, sweep: map(.sweep // []) | add,
         likelihood: map(.likelihood // []) | add}
        | .means = (.rows | group_by([.task, .objective, .decoder]) | map(. as $rows
            | (.[0] | {task, objective, decoder}) + {seeds: length}
            + (["accuracy", "tokens_per_second", "tokens_per_forward", "forwards", "latency_mean", "places", "train_seconds"]
               | map({key: ., value: (. as $field | $rows | map(.[$field] // empty)
                   | {mean: mean, spread: spread})}) | from_entries)))' $parts >"$out/report.json.new"
    mv "$out/report.json.new" "$out/report.json"
    set --
    for part in $parts; do
        set -- "$@" --page "$(dirname "$part")"
    done
    "$bin"/refusion-eval --html "$out/report.html" --title "${title:-Comparison: $(basename "$settings" .sh)}" \
        --page "$out/report.json" "$@"
}

print_table() {
    printf '%-12s %-10s %-24s %4s %10s %10s %15s %9s %11s %9s\n' task objective decoder seed accuracy \
        tokens/s tokens/forward forwards "latency ms" "trained s"
    jq -r '.rows[] | [.task, .objective, .decoder, .seed, .accuracy * 100, .tokens_per_second,
        .tokens_per_forward, .forwards, .latency_mean * 1000, .train_seconds] | @tsv' "$out/report.json" |
        awk -F '\t' '{printf "%-12s %-10s %-24s %4d %8.1f %% %10.0f %15.2f %9d %11.2f %9.0f\n",
            $1, $2, $3, $4, $5, $6, $7, $8, $9, $10}'
    jq -r '.likelihood[] | "\(.task) \(.objective) \(.seed): \(.nats_per_byte) nats per byte"' "$out/report.json"
}

# --- All -------------------------------------------------------------------------------------------
if [ -n "$only" ]; then
    do_only $only
    exit 0
fi
if [ "$beside" -gt 1 ]; then
    for task in $tasks ${GSM8K:+gsm8k}; do
        echo "only=data $task"
    done | do_beside "$@"
fi
for task in $tasks ${GSM8K:+gsm8k}; do
    make_data "$task"
done
if [ -z "$objectives" ]; then
    echo "compare: data of $tasks${GSM8K:+ gsm8k} ($(($(date +%s) - begin)) s)"
    exit 0
fi
if [ "$beside" -gt 1 ]; then # the other seeds take the learning rate that was the better one for the first
    first=${seeds%% *}
    list_models train "$first" | do_beside "$@"
    list_models train ${seeds#"$first"} | do_beside "$@"
    list_models judge $seeds | do_beside "$@"
fi
for seed in $seeds; do
    for task in $tasks ${GSM8K:+gsm8k}; do
        for objective in $objectives; do
            echo "compare: $task, $objective, seed $seed ($(($(date +%s) - begin)) s)"
            judge "$task" "$objective" "$seed"
        done
        write_report
    done
done
print_table
echo "compare: $(($(date +%s) - begin)) s; $out/report.json, $out/report.html"
low=$(jq -r --argjson floor "$floor" '.rows[] | select(.decoder == "ar" or .decoder == "refusion")
    | select(.accuracy * 100 < $floor) | "\(.task) \(.decoder) \(.accuracy * 100) %"' "$out/report.json")
[ -z "$low" ] || fail "below $floor %: $low"
