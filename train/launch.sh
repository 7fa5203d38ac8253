#!/bin/sh
# launch.sh: runs refusion-train on several ranks, so that it can be stopped.
#
# Usage: train/launch.sh -n RANKS [--restart K] [CONFIG.yaml] [section.key=value ...] [--resume auto] ...
#
# mpirun kills its ranks two seconds after a SIGTERM. This script turns SIGTERM, SIGINT, SIGHUP and
# SIGUSR1 into one SIGUSR1 to mpirun, which passes it on to the ranks: they save a checkpoint and end
# with status 3. A second signal more than two seconds later ends them at once. The exit status is
# mpirun's, but 3 where the ranks saved a checkpoint and mpirun itself was told to end. A rank that is
# killed leaves a line, and ends the job with status 5; so does an mpirun that is killed, also where it
# would wait for ever for a host that is cut off. Ctrl-Z stops the ranks too, where Open MPI 4 runs them,
# until this script is continued (fg).
#
# --restart K: a job that ends with status 5 (a rank or mpirun was killed, a rank hangs, the network
# failed) is started again with --resume auto, until K attempts in a row have brought no new checkpoint.
# After a request to stop, and after any other status, it is not.
#
# Slurm: `#SBATCH --signal=B:USR1@180` and `exec train/launch.sh -n "$SLURM_NTASKS" ...` as the last
# line of the batch script.
#
# Environment: MPIRUN (mpirun), MPIRUN_FLAGS (further flags: hosts, binding), PROGRAM
# (build/release/refusion-train; of an installed refusion-launch, the refusion-train beside it),
# RESTART_SECONDS (5: between two attempts), MPIRUN_SECONDS (30: for which mpirun may live on when a rank
# has ended in error, or on request).

# mpirun and the guards of ranks run in sessions of their own, so that Ctrl-C reaches this script and not mpirun,
# and mpirun's SIGKILL the ranks and not their guards.
own_session=
if command -v setsid >/dev/null 2>&1; then
    own_session=setsid
fi

# What mpirun starts: the program of one rank, and a line if a signal ends it.
run_rank() {
    mpirun_here=$PPID
    "$@" &
    child=$!
    trap 'signalled=1; kill -USR1 "$child"' USR1
    trap 'signalled=1; kill -TERM "$child"; guard_mpirun' TERM # mpirun ends, and will kill this shell too
    wait_for_child
    [ "$status" = 0 ] || guard_mpirun
    case $status in
    129 | 130 | 138 | 143) ;; # HUP, INT, USR1, TERM: asked twice, as the rank has said
    1[3-9]?)
        why=
        [ "$status" != 137 ] || why=", as the system does when memory runs out"
        echo "launch.sh: rank ${OMPI_COMM_WORLD_RANK:-$PMI_RANK} was ended by signal $((status - 128))$why:" \
            "start again with --resume auto" >&2
        exit 5
        ;;
    esac
    exit "$status"
}

# mpirun, or its daemon here, would wait for ever for a host that is cut off, and may hang when it is told to end:
# it is killed if it lives on for so long after this rank. (Linux tells when a process began: the number may be
# another's by then. What has ended, Z, may stand there for ever where nobody asks for its status.)
guard_mpirun() {
    # shellcheck disable=SC2016  # expanded by the shell of the guard
    $own_session sh -c '
        began() { sed "s/.*) //; s/^Z.*//" "/proc/$1/stat" | cut -d " " -f 20; }
        lives() { [ -n "$2" ] && [ "$(began "$1")" = "$2" ]; }
        rank=$(began "$2")
        mpirun=$(began "$3")
        while lives "$2" "$rank"; do sleep 1; done
        seconds=$1
        while lives "$3" "$mpirun"; do
            if [ "$seconds" -le 0 ]; then kill -KILL "$3"; fi
            sleep 1
            seconds=$((seconds - 1))
        done' \
        guard "${MPIRUN_SECONDS:-30}" "$child" "$mpirun_here" </dev/null >/dev/null 2>&1 &
}

# Its status; `wait` returns early, with another one, when a signal comes.
wait_for_child() {
    status=
    while :; do
        signalled=
        before_signal=$status
        wait "$child" 2>/dev/null
        status=$?
        [ -n "$signalled" ] || break
    done
    # the first one had it already, and the shell has forgotten the child since
    [ "$status" != 127 ] || status=${before_signal:-127}
}

if [ "$1" = --rank ]; then
    shift
    run_rank "$@"
fi

usage() {
    echo "usage: train/launch.sh -n RANKS [--restart K] [CONFIG.yaml] [section.key=value ...] [--resume auto]" >&2
    exit 2
}

case ${1:-} in
-h | --help)
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
if [ $# -lt 3 ] || [ "$1" != "-n" ]; then
    usage
fi
ranks=$2
shift 2
case $ranks in
'' | *[!0-9]* | 0*) usage ;;
esac
restart=0
if [ "$1" = --restart ]; then
    restart=$2
    case $restart in
    '' | *[!0-9]* | 0*) usage ;;
    esac
    shift 2
fi
whole_seconds() { # NAME VALUE
    case $2 in
    *[!0-9]* | 0?* | ??????????*)
        echo "launch.sh: $1 is $2: a whole number of seconds, below 10^9" >&2
        exit 2
        ;;
    esac
}
whole_seconds MPIRUN_SECONDS "${MPIRUN_SECONDS:-30}"
whole_seconds RESTART_SECONDS "${RESTART_SECONDS:-5}"

self=$(readlink -f "$0") || exit 1
here=${self%/*}
program=$here/refusion-train # where make install puts it
[ -x "$program" ] || program=${here%/*}/build/release/refusion-train
program=${PROGRAM:-$program}
mpirun=${MPIRUN:-mpirun}
if ! command -v "$program" >/dev/null 2>&1; then
    echo "launch.sh: $program does not exist: build it with make" >&2
    exit 1
fi
if ! command -v "$mpirun" >/dev/null 2>&1; then
    echo "launch.sh: $mpirun is not installed: make deps installs it, or set MPIRUN" >&2
    exit 1
fi

flags="-n $ranks"
if "$mpirun" --version 2>/dev/null | grep -qi 'open.*mpi\|openrte\|prte'; then
    # Ranks are not bound to single cores: each uses OpenMP threads.
    flags="$flags --oversubscribe --bind-to none"
    # Open MPI 4: no page about ranks that ended with a status (5 knows no -q, and always prints one), and
    # SIGTSTP and SIGCONT are passed on to the ranks.
    export OMPI_MCA_orte_execute_quiet=1 OMPI_MCA_orte_forward_job_control=1
    if [ "$(id -u)" = 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
        export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
fi

# Ranks write into a pipe of mpirun's, whatever this script's stderr is.
if [ -t 2 ]; then
    RF_TERMINAL=1
    COLUMNS=$(stty size <&2 2>/dev/null | cut -d' ' -f2)
    export RF_TERMINAL COLUMNS
fi

child=
stopping=
started=$(date +%s)
# shellcheck disable=SC2317  # called by trap
stop() {
    signalled=1
    stopping=1
    [ -n "$child" ] || return 0 # attempt() asks it when it is there
    # mpirun and the ranks need a moment until they know what the signal means.
    if [ $(($(date +%s) - started)) -lt 3 ]; then
        sleep 3
    fi
    kill -USR1 "$child" 2>/dev/null
}
trap stop TERM INT HUP USR1

# shellcheck disable=SC2317  # called by trap
pause() {
    signalled=1
    [ -z "$child" ] || kill -TSTP "$child" 2>/dev/null
    kill -STOP $$ # until SIGCONT
    [ -z "$child" ] || kill -CONT "$child" 2>/dev/null
}
trap pause TSTP
trap '' PIPE # of a reader of the log that went away: the lines of this script

# Copies a FIFO to what this script writes to, and drains it when nobody reads that any more: mpirun dies
# of an output that is closed, and the training with it.
relay() { # FIFO
    trap '' TERM INT HUP USR1
    exec <"$1"
    rm -f "$1"
    cat 2>/dev/null
    exec cat >/dev/null 2>&1
}

# Opens 3 and 4: what mpirun prints goes there.
open_relays() {
    fifo=$(mktemp -u "${TMPDIR:-/tmp}/refusion-launch.XXXXXX")
    if ! mkfifo "$fifo.1" "$fifo.2" 2>/dev/null; then
        echo "launch.sh: no pipes can be made in ${TMPDIR:-/tmp}: set TMPDIR to a folder that can be written" >&2
        exit 1
    fi
    relay "$fifo.1" &
    relay_out=$!
    relay "$fifo.2" >&2 &
    relay_err=$!
    exec 3>"$fifo.1" 4>"$fifo.2"
}

# Lets them print what is left: something that a killed mpirun has started may hold them open for long.
close_relays() {
    exec 3>&- 4>&-
    tries=0
    while [ "$tries" -lt 20 ] && { kill -0 "$relay_out" || kill -0 "$relay_err"; } 2>/dev/null; do
        sleep 0.1
        tries=$((tries + 1))
    done
}

# What tells one state of the run's record from another.
record() {
    stat -c '%y %s' "$run_folder/metrics.jsonl" 2>/dev/null
}

# Whether the ranks of this attempt have begun.
have_begun() {
    [ "$(record)" != "$record_before" ]
}

# Whether they saved a checkpoint on request: an mpirun that was told to end returns 1 all the same, and does not
# wait for their status.
have_saved() {
    have_begun &&
        tail -n 1 "$run_folder/metrics.jsonl" | grep -q '"event":"end".*"status":3[,}]'
}

# Whether mpirun can start anything, where it has ended without a word: Open MPI, told to be quiet about ranks, is so
# about hosts and slots too. It tells why not.
can_start() {
    # shellcheck disable=SC2086  # flags are words
    OMPI_MCA_orte_execute_quiet=0 "$mpirun" $flags $MPIRUN_FLAGS true </dev/null >&2
}

# Runs the job; its status.
attempt() {
    started=$(date +%s)
    record_before=$(record)
    open_relays
    # shellcheck disable=SC2086  # flags are words
    $own_session "$mpirun" $flags $MPIRUN_FLAGS sh "$self" --rank "$program" "$@" \
        </dev/null >&3 2>&4 3>&- 4>&- &
    child=$!
    [ -z "$stopping" ] || stop
    wait_for_child
    child=
    close_relays
    if [ "$status" != 1 ] && [ "$status" -le 128 ]; then
        return 0
    fi
    if have_saved; then
        status=3
    elif [ "$status" != 137 ] && [ -z "$stopping" ] && ! have_begun && ! can_start; then
        status=$no_start
    elif [ "$status" -gt 128 ] && [ -z "$stopping" ]; then # of ranks that were killed it is 5 already
        echo "launch.sh: mpirun was ended by signal $((status - 128)), from outside or because a host no" \
            "longer answers: start again with --resume auto" >&2
        status=5
    fi
}

# Of an mpirun that can start nothing: what is wrong with it here stays so; once ranks have run, a host may come back.
no_start=1
run_folder=$("$program" --folder "$@") || exit

if [ "$restart" = 0 ]; then
    attempt "$@"
    exit "$status"
fi

newest() {
    cat "$run_folder/latest" 2>/dev/null
}

failures=0
while :; do
    before=$(newest)
    attempt "$@"
    if [ -n "$stopping" ] || [ "$status" != 5 ]; then
        exit "$status"
    fi
    no_start=5
    failures=$((failures + 1))
    [ "$(newest)" = "$before" ] || failures=0
    if [ "$failures" -ge "$restart" ]; then
        echo "launch.sh: status $status, and no new checkpoint in $failures attempts: giving up" >&2
        exit "$status"
    fi
    echo "launch.sh: status $status: starting again with --resume auto" >&2
    sleep "${RESTART_SECONDS:-5}"
    [ -z "$stopping" ] || exit "$status"
    # Beside any other --resume, which counts where the run folder has no checkpoint yet.
    [ "$1" = --resume=auto ] || set -- --resume=auto "$@"
done
