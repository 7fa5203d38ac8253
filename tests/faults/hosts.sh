#!/bin/sh
# hosts.sh: two hosts, made of two network namespaces that a cable joins, train as one host does.
#
# Usage: tests/faults/hosts.sh PROGRAM_FOLDER        (make test-faults)
#
# 2 + 2 ranks on two hosts give the weights and moments of 1 rank, bit for bit. Then the cable is cut in the
# middle of a run: the watchdog ends it with status 5, and it goes on to the same end. Needs root, ip, and
# Open MPI; where these are not there, it says so and is skipped with status 77.

folder=${1:?name the folder of the programs}
folder=$(cd "$folder" && pwd) || exit 2
a=rf-a-$$ b=rf-b-$$
net=10.87.$(($$ % 250 + 1))
work=$(mktemp -d) || exit 1
cleanup() {
    ip netns del "$a" 2>/dev/null
    ip netns del "$b" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
skip() {
    echo "hosts.sh: SKIPPED: $1" >&2
    exit 77
}
fail() {
    echo "hosts.sh: $1" >&2
    tail -n 20 "$work/log" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || skip "two hosts need root"
command -v ip >/dev/null || skip "ip is not installed (iproute2)"
mpirun --version 2>/dev/null | grep -qi 'open.*mpi' || skip "Open MPI is not installed"
ip netns add "$a" 2>/dev/null && ip netns add "$b" || skip "no network namespaces here"
ip link add name "v$$a" netns "$a" type veth peer name "v$$b" netns "$b" || skip "no veth pairs here"
ip -n "$a" addr add "$net.1/24" dev "v$$a" && ip -n "$b" addr add "$net.2/24" dev "v$$b" || exit 1
for end in "$a v$$a" "$b v$$b"; do
    # shellcheck disable=SC2086  # two words
    set -- $end
    ip -n "$1" link set lo up && ip -n "$1" link set "$2" up || exit 1
done

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_orte_execute_quiet=1
export OMP_WAIT_POLICY=passive
launch=$PWD/train/launch.sh
export MPIRUN_SECONDS=5 PROGRAM="$folder/refusion-train"
export MPIRUN_FLAGS="--mca plm_rsh_agent $work/agent --host $net.1:2,$net.2:2 --mca btl tcp,vader,self
    --mca btl_tcp_if_include $net.0/24 --mca oob_tcp_if_include $net.0/24"
cd "$work" || exit 1

# What starts Open MPI's daemon on the other host, instead of ssh.
cat >agent <<END
#!/bin/sh
while case \$1 in -*) true ;; *) false ;; esac do shift; done
shift # the host: there is one
exec ip netns exec $b unshare --uts sh -c "hostname $b; cd $work; \$*"
END
chmod +x agent
cat >run.yaml <<END
data: {train: train.h5, row_length: 64}
model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2}
objective: {slot_sizes: [2, 4]}
train: {steps: 60, batch_rows: 8, seed: 5, threads: 1}
optim: {lr: 3e-3, schedule: constant}
checkpoint: {every: 10, async: yes}
log: {valid_every: 0}
END
{
    "$folder/refusion-data" synth arithmetic --option parts=2 --n 200 --out sums.jsonl &&
        "$folder/refusion-data" build --out train.h5 sums.jsonl
} >log 2>&1 || fail "no corpus"

# on_two_hosts ARGUMENTS...: trains on 2 + 2 ranks; mpirun runs on the first host.
on_two_hosts() {
    ip netns exec "$a" unshare --uts sh -c 'hostname "$0" && exec "$@"' "$a" \
        timeout -k 5 120 sh "$launch" -n 4 run.yaml "$@" >>log 2>&1 </dev/null
}
same() {
    for group in /params /adam; do
        h5diff -q "one/step-000000060.h5" "$1/step-000000060.h5" "$group" || fail "$group differs: $1"
    done
}

"$folder/refusion-train" run.yaml log.dir=one >>log 2>&1 || fail "one rank fails"
on_two_hosts log.dir=two || fail "two hosts fail"
same two
grep -q '"ranks":4' two/metrics.jsonl || fail "these were not four ranks"

(
    until [ -e cut/latest ]; do sleep 0.05; done
    ip -n "$b" link set "v$$b" down
) &
on_two_hosts log.dir=cut train.watchdog=4 train.steps=100000000
status=$?
wait
[ "$status" = 5 ] || fail "status $status after the cable was cut"
grep -q 'hangs in section' log || fail "the watchdog has said nothing"
ip -n "$b" link set "v$$b" up
last=$(sed -n 's/step-0*\([0-9]*\)\.h5/\1/p' cut/latest)
for run in cut one; do
    "$folder/refusion-train" run.yaml log.dir=$run train.steps=$((last + 50)) --resume auto >>log 2>&1 ||
        fail "$run does not go on"
done
name=$(printf 'step-%09d.h5' $((last + 50)))
h5diff -q "cut/$name" "one/$name" /params || fail "the run whose cable was cut ends with other weights"
echo "hosts: 2 + 2 ranks on two hosts equal one rank bit for bit; a run whose cable was cut ends, with status $status"
