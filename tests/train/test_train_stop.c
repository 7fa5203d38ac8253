/* Requests to stop, kills, hanging ranks, and non-finite steps. */
#include "tests/train/tiny_run.h"

#include <math.h>
#include <sys/stat.h>

TestSuite(train_stop, .init = tiny_begin, .fini = leave_folder, .timeout = 600);

/* Waits until the run is about to make its first step. */
#define UNTIL_BEGUN "until [ -s run/metrics.jsonl ]; do sleep 0.05; done; "

/* Waits until the run has made some steps. */
#define UNTIL_STEPS                                                                                \
    "n=0; until [ \"$(grep -c '\"event\":\"step\"' run/metrics.jsonl 2>/dev/null)\" -ge 3 ] 2>"    \
    "/dev/null || [ $n -ge 400 ]; do n=$((n + 1)); sleep 0.05; done; "

/* The run in `run` stopped at a checkpoint: goes on for some steps, and equals a run that was never
 * stopped. */
static void goes_on(int ranks)
{
    char arguments[256];
    double step = tiny_last("run", "end", "step");
    cr_assert(step >= 1.0 && tiny_last("run", "checkpoint", "step") >= step, "%s", program_output);
    snprintf(arguments, sizeof arguments, "--resume auto train.steps=%d", (int)step + 5);
    tiny_train(ranks, arguments, 0);
    snprintf(arguments, sizeof arguments, "log.dir=whole train.steps=%d", (int)step + 5);
    tiny_train(0, arguments, 0);
    char *whole = tiny_curve("whole", "step"), *run = tiny_curve("run", "step");
    cr_assert(strcmp(whole, run) == 0, "%s\n%s", whole, run);
    free(whole);
    free(run);
}

Test(train_stop, sigusr1)
{
    int status = tiny_shell("\"$TRAIN\" tiny.yaml train.steps=1M & pid=$!; " UNTIL_STEPS
                            "kill -USR1 $pid; wait $pid");
    cr_assert(status == 3, "status %d\n%s", status, program_output);
    tiny_says("stopping after this step, then saving; again to quit without saving");
    tiny_says("asked to stop (SIGUSR1)");
    goes_on(0);
}

Test(train_stop, sigterm_through_the_launcher)
{
    mpi_need();
    int status = tiny_shell("sh \"$LAUNCH\" -n 2 tiny.yaml train.steps=1M & pid=$!; " UNTIL_STEPS
                            "kill -TERM $pid; wait $pid");
    cr_assert(status == 3, "status %d\n%s", status, program_output);
    goes_on(2);
}

Test(train_stop, launcher_passes_the_status_on)
{
    mpi_need();
    cr_assert(tiny_shell("sh \"$LAUNCH\" -n 2 tiny.yaml train.steps=2") == 0, "%s", program_output);
    cr_assert(tiny_shell("sh \"$LAUNCH\" -n 2 tiny.yaml train.steps=2") == 2, "%s", program_output);
    cr_assert(tiny_shell("sh \"$LAUNCH\" tiny.yaml") == 2, "%s", program_output);
    tiny_says("launch.sh -n RANKS");
    cr_assert(tiny_shell("PROGRAM=/no/such sh \"$LAUNCH\" -n 2 tiny.yaml") == 1, "%s",
              program_output);
    cr_assert(tiny_shell("TMPDIR=/no/such sh \"$LAUNCH\" -n 2 tiny.yaml") == 1, "%s",
              program_output);
    tiny_says("no pipes can be made in /no/such: set TMPDIR");
    cr_assert(tiny_shell("MPIRUN_SECONDS=1m sh \"$LAUNCH\" -n 2 tiny.yaml") == 2, "%s",
              program_output);
    tiny_says("MPIRUN_SECONDS is 1m: a whole number of seconds, below");
    cr_assert(tiny_shell("MPIRUN_SECONDS=08 sh \"$LAUNCH\" -n 2 tiny.yaml") == 2, "%s",
              program_output);
    cr_assert(tiny_shell("ln -s \"$LAUNCH\" begin; PATH=${PROGRAM%/*}:$PATH PROGRAM=refusion-train "
                         "./begin -n 1 tiny.yaml log.dir=b train.steps=2") == 0,
              "%s", program_output);
}

/* What mpirun cannot start is told by mpirun, and is no signal, nor worth a retry. */
Test(train_stop, launcher_tells_why_nothing_starts)
{
    mpi_need();
    if (strncmp(rf_dist_library(), "Open MPI", 8) != 0) {
        leave_folder();
        cr_skip("flags and statuses are Open MPI's\n");
    }
    cr_assert(tiny_shell("MPIRUN_FLAGS='--hostfile missing' sh \"$LAUNCH\" -n 2 tiny.yaml") == 1,
              "%s", program_output);
    tiny_says("missing");
    cr_assert(tiny_shell("RESTART_SECONDS=0 MPIRUN_FLAGS='--wdir /no/such' "
                         "sh \"$LAUNCH\" -n 2 --restart 2 tiny.yaml") == 1,
              "%s", program_output);
    tiny_says("/no/such");
    cr_assert(strstr(program_output, "signal") == NULL, "%s", program_output);
}

/* Before MPI has begun: the first step is made, then comes the checkpoint. */
Test(train_stop, before_mpi_begins)
{
    mpi_need();
    int status = tiny_shell("export RF_FAILPOINT=begin:usr1; $RUN -n 2 \"$TRAIN\" tiny.yaml");
    cr_assert(status == 3, "status %d\n%s", status, program_output);
    cr_assert(tiny_last("run", "checkpoint", "step") == 1.0);
    tiny_train(2, "log.dir=whole", 0);
    tiny_train(1, "--resume auto", 0);
    tiny_same_checkpoints("whole/step-000000008.h5", "run/step-000000008.h5");
}

/* A terminal that is closed; under nohup it is none of the run's business. */
Test(train_stop, hung_up)
{
    int status = tiny_shell("\"$TRAIN\" tiny.yaml train.steps=1M & pid=$!; " UNTIL_STEPS
                            "kill -HUP $pid; wait $pid");
    cr_assert(status == 3, "status %d\n%s", status, program_output);
    tiny_says("asked to stop (SIGHUP)");
    status = tiny_shell("trap '' HUP; \"$TRAIN\" tiny.yaml log.dir=b & pid=$!; "
                        "until [ -s b/metrics.jsonl ]; do sleep 0.05; done; kill -HUP $pid; "
                        "wait $pid");
    cr_assert(status == 0, "status %d\n%s", status, program_output);
}

/* A second request, two seconds later, in a step that takes long: at once, without saving. */
Test(train_stop, asked_twice)
{
    int status =
        tiny_shell("RF_FAILPOINT=train.nan:sleep:0 \"$TRAIN\" tiny.yaml train.batch_rows=12 & "
                   "pid=$!; " UNTIL_BEGUN "kill -TERM $pid; sleep 4; kill -TERM $pid; wait $pid");
    cr_assert(status == 143, "status %d\n%s", status, program_output);
    tiny_says("quitting without saving");
    cr_assert(tiny_shell("! ls run/step-*") == 0, "%s", program_output);
}

/* One request that comes twice in a moment, as launchers deliver it, is one request. */
Test(train_stop, doubled_signal)
{
    int status = tiny_shell("\"$TRAIN\" tiny.yaml train.steps=1M & pid=$!; " UNTIL_STEPS
                            "kill -USR1 $pid; kill -TERM $pid; wait $pid");
    cr_assert(status == 3, "status %d\n%s", status, program_output);
}

Test(train_stop, wall_clock)
{
    tiny_train(0, "train.steps=1M train.max_seconds=0.5", 3);
    tiny_says("train.max_seconds");
    goes_on(0);
}

Test(train_stop, killed_and_resumed)
{
    cr_assert(tiny_shell("\"$TRAIN\" tiny.yaml train.steps=1M checkpoint.every=2 "
                         "checkpoint.keep=0 & pid=$!; "
                         "until grep -q '\"event\":\"checkpoint\"' run/metrics.jsonl 2>/dev/null; "
                         "do sleep 0.05; done; " UNTIL_STEPS "kill -9 $pid; wait $pid") == 137,
              "%s", program_output);
    double step = tiny_last("run", "checkpoint", "step");
    char arguments[256];
    cr_assert(step >= 2.0);
    snprintf(arguments, sizeof arguments, "--resume auto train.steps=%d", (int)step + 3);
    tiny_train(0, arguments, 0);
    snprintf(arguments, sizeof arguments, "log.dir=whole train.steps=%d", (int)step + 3);
    tiny_train(0, arguments, 0);
    tiny_same_curves("whole", "run"); /* no step twice, none missing */
}

/* A rank that hangs is noticed by the other one, which ends alone; mpirun ends the job, and both it
 * and launch.sh return the status. */
static void hang(const char *start)
{
    char command[1024];
    mpi_need();
    snprintf(command, sizeof command,
             "%s & mpi=$!; " UNTIL_STEPS "kill -STOP $(cat pid); wait $mpi; s=$?; "
             "n=0; while kill -0 $(cat pid); do n=$((n + 1)); sleep 0.05; "
             "[ $n -lt 200 ] || { kill -9 $(cat pid); s=99; }; done; exit $s",
             start);
    int status = tiny_shell(command);
    cr_assert(status == 5, "status %d\n%s", status, program_output);
    tiny_says("rank 1 hangs in section");
}

Test(train_stop, watchdog)
{
    hang("$RUN -n 2 sh -c '[ " MPI_RANK " = 1 ] || echo $$ >pid; "
         "exec \"$TRAIN\" tiny.yaml train.steps=1M train.watchdog=6'");
}

Test(train_stop, watchdog_under_the_launcher)
{
    program_write("wrapped", "#!/bin/sh\n[ " MPI_RANK " = 1 ] || echo $$ >pid\n"
                             "exec \"$TRAIN\" \"$@\"\n");
    cr_assert(chmod("wrapped", 0755) == 0);
    hang("export TRAIN; PROGRAM=./wrapped sh \"$LAUNCH\" -n 2 tiny.yaml train.steps=1M "
         "train.watchdog=6");
}

/* A rank that is killed leaves a line, and the status that says that a retry is worth it. */
Test(train_stop, killed_rank_under_the_launcher)
{
    mpi_need();
    program_write("wrapped", "#!/bin/sh\n[ " MPI_RANK " = 0 ] || echo $$ >pid\n"
                             "exec \"$TRAIN\" \"$@\"\n");
    cr_assert(chmod("wrapped", 0755) == 0);
    int status =
        tiny_shell("export TRAIN; PROGRAM=./wrapped sh \"$LAUNCH\" -n 2 tiny.yaml train.steps=1M & "
                   "mpi=$!; " UNTIL_STEPS "kill -KILL $(cat pid); wait $mpi");
    cr_assert(status == 5, "status %d\n%s", status, program_output);
    tiny_says("rank 1 was ended by signal 9");
    tiny_says("--resume auto");
}

/* Tells the mpirun that the launcher `pid` has started to end; the launcher's status. */
#define END_MPIRUN                                                                                 \
    "for child in $(cat /proc/$pid/task/$pid/children); do "                                       \
    "if grep -q mpirun /proc/$child/comm; then kill -TERM $child; fi; done; wait $pid"

/* mpirun itself is told to end: the ranks save in the time that it gives them, by default two seconds, in
 * which a busy disk may not write a checkpoint. Nobody reads what they print meanwhile: not more than a pipe
 * holds. */
Test(train_stop, mpirun_under_the_launcher)
{
    mpi_need();
    int status =
        tiny_shell("export OMPI_MCA_odls_base_sigkill_timeout=5; "
                   "sh \"$LAUNCH\" -n 2 tiny.yaml train.steps=10M log.every=1M log.valid_every=0 & "
                   "pid=$!; " UNTIL_STEPS END_MPIRUN);
    cr_assert(status == 3, "status %d\n%s", status, program_output);
    cr_assert(tiny_last("run", "end", "status") == 3.0);
}

/* And it never ends, after it has killed all that its one rank had started. */
Test(train_stop, mpirun_hangs_when_it_is_told_to_end)
{
    mpi_need();
    program_write("mpirun-hangs",
                  "#!/bin/sh\n"
                  "[ \"$1\" != --version ] || exec mpirun \"$@\"\n"
                  "until [ \"$1\" = sh ]; do shift; done\n"
                  "export OMPI_COMM_WORLD_RANK=0\n"
                  "setsid \"$@\" & rank=$!\n"
                  "trap 'kill -TERM -$rank; until test -e ended; do sleep 0.05; done\n"
                  "    kill -KILL -$rank; exec sleep 1000' TERM\n"
                  "wait\n");
    program_write("wrapped", "#!/bin/sh\ntrap '' TERM\n\"$TRAIN\" \"$@\"\n"
                             "case \"$*\" in *--folder*) ;; *) >ended; exec sleep 1000;; esac\n");
    cr_assert(chmod("mpirun-hangs", 0755) == 0 && chmod("wrapped", 0755) == 0);
    const int status = tiny_shell(
        "export TRAIN MPIRUN=./mpirun-hangs MPIRUN_SECONDS=1; PROGRAM=./wrapped "
        "sh \"$LAUNCH\" -n 1 tiny.yaml train.steps=1M & pid=$!; " UNTIL_STEPS END_MPIRUN);
    cr_assert(status == 3, "status %d\n%s", status, program_output);
    cr_assert(tiny_last("run", "end", "status") == 3.0);
}

/* Ctrl-Z: the ranks stand still, until the launcher is continued. (Its own state is looked at first: it stops
 * last.) */
Test(train_stop, launcher_is_suspended)
{
    if (strncmp(rf_dist_library(), "Open MPI 4", 10) != 0) {
        leave_folder();
        cr_skip("whether other MPIs pass SIGTSTP on is not known\n");
    }
    program_write("wrapped", "#!/bin/sh\necho $$ >pid." MPI_RANK "\nexec \"$TRAIN\" \"$@\"\n");
    cr_assert(chmod("wrapped", 0755) == 0);
    const int status = tiny_shell(
        "export TRAIN; PROGRAM=./wrapped sh \"$LAUNCH\" -n 2 tiny.yaml train.steps=1M & "
        "pid=$!; " UNTIL_STEPS "all=\"$pid $(cat pid.0) $(cat pid.1)\"; "
        "stopped() { [ \"$(cut -d' ' -f3 /proc/$1/stat)\" = T ]; }; kill -TSTP $pid; "
        "for p in $all; do until stopped $p; do sleep 0.05; done; done; kill -CONT $pid; "
        "for p in $all; do while stopped $p; do sleep 0.05; done; done; "
        "kill -TERM $pid; wait $pid");
    cr_assert(status == 3, "status %d\n%s", status, program_output);
    cr_assert(tiny_last("run", "end", "step") == tiny_last("run", "checkpoint", "step"));
}

/* A signal that comes before mpirun is there. */
Test(train_stop, launcher_is_stopped_before_it_starts)
{
    mpi_need();
    program_write("slow", "#!/bin/sh\ncase \"$*\" in *--folder*) >asked; sleep 1;; esac\n"
                          "exec \"$TRAIN\" \"$@\"\n");
    cr_assert(chmod("slow", 0755) == 0);
    int status =
        tiny_shell("export TRAIN; PROGRAM=./slow sh \"$LAUNCH\" -n 2 tiny.yaml train.steps=1M & "
                   "pid=$!; until test -e asked; do sleep 0.05; done; kill -TERM $pid; wait $pid");
    cr_assert(status == 3, "status %d\n%s", status, program_output);
    cr_assert(tiny_last("run", "end", "status") == 3.0);
}

/* A signal that comes while a short run ends by itself: the run's status. */
Test(train_stop, launcher_returns_the_status_whatever_signal_comes)
{
    mpi_need();
    int status = tiny_shell(
        "sh \"$LAUNCH\" -n 1 tiny.yaml train.steps=2 log.valid_every=0 & pid=$!; " UNTIL_BEGUN
        "kill -USR1 $pid; wait $pid");
    cr_assert(status == (int)tiny_last("run", "end", "status"), "status %d\n%s", status,
              program_output);
}

/* The reader of the log goes away. */
Test(train_stop, without_a_reader)
{
    int status =
        tiny_shell("{ \"$TRAIN\" tiny.yaml train.steps=60 log.every=1 2>&1; echo $? >status; }"
                   " | head -n 1; exit $(cat status)");
    cr_assert(status == 0, "status %d\n%s", status, program_output);
    cr_assert(tiny_last("run", "end", "step") >= 60.0);
}

/* mpirun dies of that: the launcher reads on in the reader's place. */
Test(train_stop, launcher_without_a_reader)
{
    mpi_need();
    int status = tiny_shell("{ sh \"$LAUNCH\" -n 2 tiny.yaml train.steps=100 log.every=1 2>&1; "
                            "echo $? >status; } | head -n 1; exit $(cat status)");
    cr_assert(status == 0, "status %d\n%s", status, program_output);
    cr_assert(tiny_last("run", "end", "step") >= 100.0);
}

/* Its log is on a disk that is full: nobody can read it, and the run goes on. */
Test(train_stop, launcher_with_a_full_log)
{
#define ON_A_DISK(command)                                                                         \
    "unshare -m sh -c 'mkdir -p log && mount -t tmpfs -o size=64k none log && " command "'"
    mpi_need();
    if (tiny_shell(ON_A_DISK("true")) != 0) {
        leave_folder();
        cr_skip("a full disk needs the right to mount one (root)\n");
    }
    const int status =
        tiny_shell(ON_A_DISK("! dd if=/dev/zero of=log/ballast bs=1k count=99 && "
                             "sh \"$LAUNCH\" -n 2 tiny.yaml >log/log 2>&1 && ! test -s log/log"));
    cr_assert(status == 0, "status %d\n%s", status, program_output);
    cr_assert(tiny_last("run", "end", "step") >= 8.0);
}

/* --- Non-finite values ------------------------------------------------------------------------ */

static int with_nan(const char *arguments)
{
    char command[1024];
    /* The third leaf of the second rank: its second step (two leaves a step). */
    snprintf(command, sizeof command,
             "$RUN -n 2 sh -c '[ " MPI_RANK " = 0 ] || export RF_FAILPOINT=train.nan:error:3; "
             "exec \"$TRAIN\" tiny.yaml %s'",
             arguments);
    return tiny_shell(command);
}

Test(train_stop, nan_on_one_rank_is_skipped_by_all)
{
    mpi_need();
    int status = with_nan("train.skip_limit=2");
    cr_assert(status == 0, "status %d\n%s", status, program_output);
    tiny_says("skipped (1 in a row, 1 in all)");
    const char *said = strstr(program_output, "skipped (1 in a row");
    cr_assert(strstr(said + 1, "skipped (1 in a row") == NULL, "%s", program_output); /* once */
    char *curve = tiny_curve("run", "step");
    cr_assert(strstr(curve, "skipped=0true") != NULL && strstr(curve, "step=8") != NULL, "%s",
              curve);
    free(curve);
    rf_progress progress;
    int64_t n = 0;
    free(tiny_state(&progress, &n, "run/step-000000008.h5"));
    cr_assert(progress.skipped == 1 && progress.updates == 7 && progress.step == 8);
}

Test(train_stop, diverged)
{
    mpi_need();
    int status = with_nan("train.skip_limit=1");
    cr_assert(status == 4, "status %d\n%s", status, program_output);
    tiny_says("not finite or stood out 1 times in a row");
    tiny_train(0, "log.dir=wild optim.lr=1e38 train.steps=50 train.skip_limit=3", 4);
    tiny_says("3 in a row");
    tiny_says("there is no checkpoint to go back to");
    cr_assert(tiny_last("wild", "end", "status") > 3.5);
    /* one that is being written counts */
    cr_assert(
        tiny_shell("RF_FAILPOINT=fsync:sleep:1 \"$TRAIN\" tiny.yaml log.dir=saved optim.lr=1e38 "
                   "train.steps=50 train.skip_limit=3 checkpoint.every=3 checkpoint.async=yes "
                   "log.valid_every=0") == 4,
        "%s", program_output);
    tiny_says("go back to a checkpoint with a lower rate");
}
