#!/bin/sh
# Runs every test program given and sums up what they report.
#
#   sh tests/run.sh PROGRAM...        V=1: show all output; BESIDE=2: programs at once, and JOBS=2: tests
#                                   of each (many wait for ranks, or for time; with a sanitizer 4 and 1);
#                                   TIMEOUT=1800: seconds a program may take
#
# A line per program; the whole output of a program that fails, and at the end, where a long log is read
# first, its line and the assertions that failed once more. Fails when a program exits non-zero,
# reports nothing, has neither run nor skipped a test, or where a sanitizer reports an error. A skipped test
# is named, but for those that CRITERION_TEST_PATTERN leaves out. Last line: "N passed, N failed", with
# ", N skipped" where some were. With RF_BACKEND=apart (tests/README.md) it tells how many tests used that
# backend, and fails where none did.

V=${V:-}
# With a sanitizer a test that is forked while another thread of Criterion holds a lock of the allocator's
# stands still before it begins, or crashes: no such thread is there where a program's tests run one by one.
case ${BUILD_DIR:-} in
*asan*) JOBS=${JOBS:-1} BESIDE=${BESIDE:-4} ;;
*) JOBS=${JOBS:-2} BESIDE=${BESIDE:-2} ;;
esac
TIMEOUT=${TIMEOUT:-1800}
export V JOBS TIMEOUT

if [ $# -eq 0 ]; then
    echo "run.sh: no test programs given" >&2
    exit 2
fi

# number FIELD: the number behind "FIELD:" in the synthesis line of $output.
number() {
    sed -n "s/.*Synthesis:.*$1: *\([0-9][0-9]*\).*/\1/p" "$output" | tail -n 1
}

# assertions: what failed in $output; of what one printed the beginning and the end, where a program's last
# words are.
assertions() {
    awk '
        function flush(   i) {
            for (i = 1; i <= n; i++) {
                if (i <= 6 || i > n - 8) { print line[i] } else if (i == 7) { print "[----]   ..." }
            }
            n = 0
        }
        /^\[----\] Criterion v/ { next }
        /^\[----\]/ { line[++n] = $0; next }
        { flush() }
        /^\[FAIL\]|Sanitizer/
        END { flush() }' "$output" | head -n 200
}

# report PROGRAM: runs it; its line, and in $sums its numbers.
report() {
    program=$1
    begin=$(date +%s)
    # Criterion has a limit per test only. --foreground, so that an interrupt reaches the program.
    timeout --foreground -k 10 "$TIMEOUT" "$program" --verbose=1 --color=never --jobs "$JOBS" \
        >"$output" 2>&1 </dev/null
    code=$?
    seconds=$(($(date +%s) - begin))
    tested=$(number Tested)
    ok=$(number Passing)
    lost=$(number Failing) # with those that crashed
    sed -n '/: Test is disabled$/!s/^\[SKIP\]/    SKIPPED/p' "$output" >"$output.skipped"
    n_skipped=$(wc -l <"$output.skipped")
    why=''
    if [ -z "$tested" ] || [ -z "$ok" ] || [ -z "$lost" ]; then
        ok=0
        lost=1
        why=" (no report, exit status $code)"
        [ "$code" -ne 124 ] || why=" (stopped after $TIMEOUT s)"
    elif [ "$tested" -eq 0 ] && [ "$n_skipped" -eq 0 ]; then
        lost=1
        why=' (ran no test)'
    elif [ "$code" -ne 0 ] && [ "$lost" -eq 0 ]; then
        lost=1
        why=" (exit status $code)"
    elif [ "$lost" -eq 0 ] && grep -q 'ERROR: [A-Za-z]*Sanitizer' "$output"; then
        lost=1 # Criterion has passed a test by the time its leaks are found
        why=' (a sanitizer found a fault)'
    fi
    line="$ok passed"
    [ "$lost" -eq 0 ] || line="$line, $bad$lost FAILED$plain$why"
    [ "$n_skipped" -eq 0 ] || line="$line, $warn$n_skipped SKIPPED$plain"
    line=$(printf '%-40s %s, %ss' "${program#"${BUILD_DIR:-}"/}" "$line" "$seconds")
    echo "$line"
    [ "$lost" -eq 0 ] || { echo "$line" && assertions; } >>"$folder/failed"
    if [ "$lost" -ne 0 ] || [ -n "$V" ]; then
        sed 's/^/    /' "$output"
    else
        cat "$output.skipped"
    fi
    echo "$ok $lost $n_skipped" >>"$sums"
}

# One of those that run beside each other: what it has to say comes in one piece.
if [ "$1" = --one ]; then
    folder=$2 bad=$3 warn=$4 plain=$5
    sums=$folder/sums output=$folder/$$.output
    report "$6" >"$folder/$$.report"
    exec flock "$folder" cat "$folder/$$.report"
fi

if [ -t 1 ]; then
    bad=$(printf '\033[31m') warn=$(printf '\033[33m') plain=$(printf '\033[0m')
else
    bad='' warn='' plain=''
fi
# Tests share the cores: threads that spin at barriers, and ranks of Open MPI that spin where they wait,
# would cost several times the work.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"
folder=$(mktemp -d) || exit 1
RF_APART_TALLY=$folder/apart
export RF_APART_TALLY
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
: >"$folder/sums"
: >"$RF_APART_TALLY"
# From the last to the first: those of the trainer take longest, and nothing is to wait for them at the end.
printf '%s\n' "$@" | sort -r | xargs -d '\n' -P "$BESIDE" -n 1 sh "$0" --one "$folder" "$bad" "$warn" "$plain"

# A program that left no numbers, for it or its shell was killed, has failed.
n=$#
# shellcheck disable=SC2046  # four numbers
set -- $(awk '{ n++; ok += $1; lost += $2; skipped += $3 } END { print n + 0, ok + 0, lost + 0, skipped + 0 }' "$folder/sums")
passed=$2 failed=$(($3 + n - $1)) skipped=$4
status=0
[ "$failed" -eq 0 ] || status=1
if [ "${RF_BACKEND:-}" = apart ]; then
    n_apart=$(sort -u "$RF_APART_TALLY" | wc -l)
    echo "$n_apart tests used the backend apart"
    [ "$n_apart" -ne 0 ] || status=1
fi
[ ! -e "$folder/failed" ] || cat "$folder/failed"
if [ "$skipped" -ne 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
exit "$status"
