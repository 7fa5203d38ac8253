/* launch.sh --restart and the batch script: what is started again, from where, and when no more. */
#include "tests/train/tiny_run.h"

#include <sys/stat.h>

TestSuite(train_restart, .init = tiny_begin, .fini = leave_folder, .timeout = 600);

/* A program that says on which attempt it is (in the file `attempts`) and then trains, with a failpoint
 * of rank 1 as the attempt wants it: "1) ..." are lines of a case. */
static void write_program(const char *cases)
{
    char text[2048];
    snprintf(text, sizeof text,
             "#!/bin/sh\n"
             "for a; do [ $a != --folder ] || exec \"$TRAIN\" \"$@\"; done\n"
             "[ " MPI_RANK " = 0 ] && echo >>attempts\n"
             "until [ -s attempts ]; do sleep 0.02; done\n"
             "sleep 0.1\n"
             "case $(wc -l <attempts) in\n%sesac\n"
             "exec \"$TRAIN\" \"$@\"\n",
             cases);
    program_write("flaky", text);
    cr_assert(chmod("flaky", 0755) == 0);
}

static int launch(const char *arguments)
{
    char command[1024];
    snprintf(command, sizeof command,
             "export TRAIN RESTART_SECONDS=0; PROGRAM=./flaky sh \"$LAUNCH\" -n 2 %s", arguments);
    return tiny_shell(command);
}

/* Rank 1 dies after each checkpoint, three times: progress each time, so that --restart 1 suffices. */
Test(train_restart, goes_on_as_long_as_there_is_progress)
{
    mpi_need();
    tiny_train(0, "log.dir=whole", 0);
    write_program("[123]) [ " MPI_RANK " = 0 ] || export RF_FAILPOINT=train.nan:kill:6;;\n");
    const int status = launch("--restart 1 tiny.yaml checkpoint.every=2 checkpoint.async=no "
                              "--resume no");
    cr_assert(status == 0, "status %d\n%s", status, program_output);
    tiny_says("rank 1 was ended by signal 9");
    tiny_says("launch.sh: status 5: starting again with --resume auto");
    cr_assert(tiny_shell("test $(wc -l <attempts) = 4") == 0);
    tiny_same_curves("whole", "run");
    tiny_same_checkpoints("whole/step-000000008.h5", "run/step-000000008.h5");
}

/* Before its first checkpoint it begins again where it was told to, not with fresh weights. */
Test(train_restart, begins_again_where_it_began)
{
    mpi_need();
    tiny_train(2, "log.dir=whole", 0);
    tiny_train(2, "log.dir=first train.steps=4", 0);
    write_program("1) export RF_FAILPOINT=train.nan:kill:1;;\n"
                  "2) [ " MPI_RANK " = 0 ] || export RF_FAILPOINT=train.nan:kill:5;;\n");
    const int status =
        launch("--restart 2 tiny.yaml --resume first/step-000000004.h5 --change train.steps=8 "
               "log.dir=second checkpoint.every=2 checkpoint.async=no");
    cr_assert(status == 0, "status %d\n%s", status, program_output);
    tiny_says("going on from first/step-000000004.h5");
    tiny_says("going on from second/step-000000006.h5");
    cr_assert(tiny_shell("test $(wc -l <attempts) = 3") == 0);
    cr_assert(tiny_shell("! grep -q '\"event\":\"begin\"' second/metrics.jsonl") == 0);
    tiny_same_checkpoints("whole/step-000000008.h5", "second/step-000000008.h5");
    tiny_train(2, "--resume auto --resume first --resume whole log.dir=third", 2);
    tiny_says("a run goes on from one");
}

/* It dies at once, each time. */
Test(train_restart, gives_up_without_progress)
{
    mpi_need();
    write_program("*) export RF_FAILPOINT=train.nan:kill:1;;\n");
    const int status = launch("--restart 3 tiny.yaml checkpoint.every=2");
    cr_assert(status == 5, "status %d\n%s", status, program_output);
    tiny_says("no new checkpoint in 3 attempts: giving up");
    cr_assert(tiny_shell("test $(wc -l <attempts) = 3") == 0);
}

/* What a second attempt would not change is not tried again; nor is what was asked to stop. */
Test(train_restart, only_what_is_worth_it)
{
    mpi_need();
    write_program("");
    cr_assert(launch("--restart 3 tiny.yaml train.steps=1M train.max_seconds=0.5") == 3, "%s",
              program_output);
    cr_assert(launch("--restart 3 tiny.yaml data.train=missing.h5 log.dir=other") == 1, "%s",
              program_output);
    cr_assert(launch("--restart 3 tiny.yaml optim.lr=1e38 train.skip_limit=1 optim.clip=0 "
                     "log.dir=wild train.steps=50") == 4,
              "%s", program_output);
    cr_assert(tiny_shell("test $(wc -l <attempts) = 3") == 0);
    cr_assert(launch("--restart 0 tiny.yaml") == 2);
    cr_assert(launch("--restart 3 tiny.yaml train.step=1") == 2, "%s", program_output);
    tiny_says("did you mean 'train.steps'?");
}

/* kill -9 of mpirun: its ranks end, then the job is started again. */
Test(train_restart, killed_mpirun)
{
    mpi_need();
    tiny_train(0, "log.dir=whole train.steps=100 log.valid_every=100", 0);
    write_program("1) [ " MPI_RANK " = 0 ] && ps -o ppid= -p $PPID >mpirun.pid\n"
                  "   export RF_FAILPOINT=fsync:sleep:2;;\n");
    const int status = tiny_shell(
        "export TRAIN RESTART_SECONDS=0; PROGRAM=./flaky sh \"$LAUNCH\" -n 2 --restart 2 tiny.yaml "
        "train.steps=100 checkpoint.every=20 checkpoint.async=yes log.valid_every=100 & pid=$!; "
        "until test -e run/latest; do sleep 0.05; done; kill -9 $(cat mpirun.pid); wait $pid");
    cr_assert(status == 0, "status %d\n%s", status, program_output);
    tiny_says("launch.sh: mpirun was ended by signal 9");
    tiny_says("launch.sh: status 5: starting again");
    tiny_says("going on from run/step-");
    tiny_same_curves("whole", "run");
    tiny_same_checkpoints("whole/step-000000100.h5", "run/step-000000100.h5");
}

/* An mpirun that hangs though its rank has died, as Open MPI's may where one dies while the two connect: this
 * one starts one rank and never looks at it again; from the second time on it is the real one. */
Test(train_restart, hanging_mpirun)
{
    mpi_need();
    write_program("1) kill -KILL $$;;\n");
    program_write("hangs", "#!/bin/sh\n"
                           "[ \"$1\" != --version ] && ! test -e attempts || exec mpirun \"$@\"\n"
                           "until [ \"$1\" = sh ]; do shift; done\n"
                           "export OMPI_COMM_WORLD_RANK=0\n"
                           "\"$@\" &\n"
                           "exec sleep 1000\n");
    cr_assert(chmod("hangs", 0755) == 0);
    const int status = tiny_shell("export TRAIN RESTART_SECONDS=0 MPIRUN=./hangs MPIRUN_SECONDS=1; "
                                  "PROGRAM=./flaky sh \"$LAUNCH\" -n 2 --restart 2 tiny.yaml");
    cr_assert(status == 0, "status %d\n%s", status, program_output);
    tiny_says("launch.sh: rank 0 was ended by signal 9");
    tiny_says("launch.sh: mpirun was ended by signal 9");
    tiny_says("launch.sh: status 5: starting again with --resume auto");
    cr_assert(tiny_last("run", "end", "step") >= 8.0, "%s", program_output);
}

/* The batch script as Slurm runs it: USR1 before the time limit, a requeue, the second job ends. */
Test(train_restart, slurm_requeues)
{
    mpi_need();
    program_write("scontrol", "#!/bin/sh\necho \"$@\" >>requeued\n");
    cr_assert(chmod("scontrol", 0755) == 0);
    const char *job = "export PATH=$PWD:$PATH SLURM_NTASKS=2 SLURM_JOB_ID=7 SLURM_CPUS_PER_TASK=1; "
                      "ln -sfn \"$ROOT/train\" train; ";
    char command[2048];
    snprintf(command, sizeof command,
             "%sbash \"$ROOT/configs/slurm.sbatch\" tiny.yaml train.steps=1M & pid=$!; "
             "until grep -q '\"step\":3,' run/metrics.jsonl 2>/dev/null; do sleep 0.05; done; "
             "kill -USR1 $pid; wait $pid",
             job);
    cr_assert(tiny_shell(command) == 3, "%s", program_output);
    cr_assert(tiny_shell("test \"$(cat requeued)\" = 'requeue 7'") == 0);
    const int step = (int)tiny_last("run", "end", "step");
    snprintf(command, sizeof command,
             "%sbash \"$ROOT/configs/slurm.sbatch\" tiny.yaml train.steps=%d", job, step + 2);
    cr_assert(tiny_shell(command) == 0, "%s", program_output);
    cr_assert(tiny_shell("test $(wc -l <requeued) = 1") == 0);
    snprintf(command, sizeof command, "log.dir=whole train.steps=%d", step + 2);
    tiny_train(0, command, 0);
    char *whole = tiny_curve("whole", "step"), *run = tiny_curve("run", "step");
    cr_assert(strcmp(whole, run) == 0, "%s\n%s", whole, run);
    free(whole);
    free(run);
}

/* --- Slow and hanging ranks ------------------------------------------------------------------- */

static int rank_1(const char *point, const char *arguments)
{
    char command[1024];
    snprintf(command, sizeof command,
             "$RUN -n 2 sh -c '[ " MPI_RANK " = 0 ] || export RF_FAILPOINT=%s; "
             "exec \"$TRAIN\" tiny.yaml %s'",
             point, arguments);
    return tiny_shell(command);
}

/* Rank 1 takes a second for its first leaf. */
Test(train_restart, a_slow_rank_is_named)
{
    mpi_need();
    cr_assert(rank_1("train.nan:sleep:1", "train.steps=2 log.every=2 log.valid_every=0") == 0, "%s",
              program_output);
    tiny_says("step 2  rank 1 is the slowest: ");
    cr_assert(tiny_last("run", "ranks", "slowest") == 1.0);
    cr_assert(tiny_last("run", "ranks", "max_seconds") >= 0.5);
    cr_assert(tiny_last("run", "ranks", "min_seconds") < 0.5);
}

/* A disk that hangs has a limit of its own. */
Test(train_restart, a_hanging_save)
{
    mpi_need();
    const int status = rank_1("fsync:sleep:0", "train.watchdog=60 train.watchdog_save=0.3");
    cr_assert(status == 5, "status %d\n%s", status, program_output);
    tiny_says("hangs in section save of step");
}
