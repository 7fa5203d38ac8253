/* Checkpoints beside training: the same files as of a run that waits for them, whatever fails,
 * whoever dies, whenever somebody asks to stop. */
#include "tests/train/tiny_run.h"

TestSuite(train_saves, .init = tiny_begin, .fini = leave_folder, .timeout = 600);

/* refusion-train with a failpoint that rank 1 of two has alone, or all ranks. */
static void with_failpoint(const char *point, bool all, const char *arguments, int expected)
{
    char command[1024];
    snprintf(command, sizeof command,
             "$RUN -n 2 sh -c '[ %s = 0 ] || export RF_FAILPOINT=%s; exec \"$TRAIN\" tiny.yaml %s'",
             all ? "1" : MPI_RANK, point, arguments);
    const int status = tiny_shell(command);
    cr_assert(expected < 0 ? status != 0 : status == expected, "%s, %s: status %d\n%s", point,
              arguments, status, program_output);
}

/* Also where copying takes longer than the gradients of the next step, which then waits for it. */
Test(train_saves, beside_training_gives_the_same_files)
{
    mpi_need();
    tiny_train(2, "log.dir=waits checkpoint.every=2 checkpoint.keep=0 checkpoint.async=no", 0);
    with_failpoint("copy:sleep:2", true,
                   "checkpoint.every=2 checkpoint.keep=0 checkpoint.async=yes", 0);
    tiny_train(2,
               "log.dir=sharded checkpoint.every=2 checkpoint.keep=0 checkpoint.async=yes "
               "train.shard=weights",
               0);
    tiny_same_curves("waits", "run");
    tiny_same_curves("waits", "sharded");
    tiny_same_checkpoints("waits/step-000000006.h5", "sharded/step-000000006.h5");
    for (int step = 2; step <= 8; step += 2) {
        char a[64], b[64];
        snprintf(a, sizeof a, "waits/step-%09d.h5", step);
        snprintf(b, sizeof b, "run/step-%09d.h5", step);
        tiny_same_checkpoints(a, b);
    }
    cr_assert(tiny_shell("grep -c '\"async\":true' run/metrics.jsonl | grep -qx 3 && "
                         "! grep -q '\"async\":true' waits/metrics.jsonl && "
                         "test $(cat run/latest) = step-000000008.h5") == 0,
              "%s", program_output); /* nothing comes after the last one: all wait for it */
}

/* A disk that takes a second: steps go on meanwhile, and a save that is due waits for the one before. */
Test(train_saves, steps_go_on_while_a_disk_is_slow)
{
    mpi_need();
    with_failpoint("fsync:sleep:1", true,
                   "train.steps=12 checkpoint.every=2 checkpoint.keep=0 log.valid_every=0 "
                   "checkpoint.async=yes",
                   0);
    cr_assert(tiny_shell("ls run/step-*.h5 | wc -l | grep -qx 6 && "
                         "n=$(sed -n '/\"step\":3,/=;/\"event\":\"checkpoint\",\"step\":2,/=' "
                         "run/metrics.jsonl | tr '\\n' ' ') && set -- $n && test $1 -lt $2") == 0,
              "the third step is not before the checkpoint of the second\n%s", program_output);
}

/* --- A checkpoint that cannot be written ------------------------------------------------------ */

static const char *const phases[] = {"layout", "pwrite",   "fsync",  "agree",
                                     "copy",   "complete", "rename", "latest"};
enum { N_PHASES = sizeof phases / sizeof phases[0] };

/* The first of four saves fails: a warning, and the run ends as if nothing had been. */
Test(train_saves, a_failing_save_is_skipped)
{
    mpi_need();
    tiny_train(0, "log.dir=whole", 0);
    for (int i = 0; i < N_PHASES; i++) {
        char point[64], arguments[256];
        snprintf(point, sizeof point, "%s:error:1", phases[i]);
        snprintf(arguments, sizeof arguments, "log.dir=%s checkpoint.every=2 checkpoint.async=%s",
                 phases[i], i % 2 == 0 ? "yes" : "no");
        with_failpoint(point, true, arguments, 0);
        tiny_says("no checkpoint of step 2, training goes on (checkpoint.on_full)");
        tiny_same_curves("whole", phases[i]);
        snprintf(arguments, sizeof arguments, "%s/step-000000008.h5", phases[i]);
        tiny_same_checkpoints("whole/step-000000008.h5", arguments);
        snprintf(arguments, sizeof arguments,
                 "! ls %s/*.tmp-* && grep -q no_checkpoint %s/metrics.jsonl", phases[i], phases[i]);
        cr_assert(tiny_shell(arguments) == 0, "%s", program_output);
    }
}

Test(train_saves, a_failing_save_may_end_the_run)
{
    mpi_need();
    with_failpoint("rename:error:1", true, "checkpoint.every=2 checkpoint.on_full=stop", 1);
    tiny_says("failpoint rename");
    cr_assert(tiny_shell("! ls run/step-* run/*.tmp-*") == 0, "%s", program_output);
    /* the last one, whatever the setting */
    with_failpoint("pwrite:error:4", false, "log.dir=last checkpoint.every=2 log.valid_every=0", 1);
    tiny_says("rank 1: failpoint pwrite");
    cr_assert(tiny_shell("ls last/step-* | wc -l | grep -qx 3") == 0, "%s", program_output);
}

/* One that would have been the best: the next is, though its loss is higher, for none was saved before. */
Test(train_saves, the_best_is_not_forgotten)
{
    mpi_need();
    for (int i = 0; i < N_PHASES; i++) {
        char point[64], arguments[256];
        if (strcmp(phases[i], "copy") == 0) {
            continue; /* of saves beside training only */
        }
        snprintf(point, sizeof point, "%s:error:1", phases[i]);
        snprintf(arguments, sizeof arguments,
                 "log.dir=%s checkpoint.every=0 checkpoint.async=no log.valid_every=1 optim.lr=1 "
                 "train.steps=2",
                 phases[i]);
        with_failpoint(point, true, arguments, 0);
        tiny_says("no checkpoint of step 1");
        snprintf(arguments, sizeof arguments, "grep -qx step-000000002.h5 %s/best", phases[i]);
        cr_assert(tiny_shell(arguments) == 0, "%s: %s", phases[i], program_output);
    }
}

/* One fails while a better one is judged: that one stays the mark for those after it. */
Test(train_saves, a_better_best_outlives_a_save_that_fails)
{
    mpi_need();
    with_failpoint("rename:error:2", true,
                   "checkpoint.every=0 checkpoint.async=yes log.valid_every=1 train.steps=6 "
                   "optim.lr=0.05",
                   0);
    tiny_says("no checkpoint of step 2");
    const char *lowest = "sed -n 's/.*\"event\":\"valid\",\"step\":\\([0-9]*\\),\"loss\":"
                         "\\([^,]*\\),.*/\\2 \\1/p' run/metrics.jsonl | sort -g | head -n 1 | "
                         "{ read loss step && test -n \"$loss\" && test $step -gt 2 && "
                         "grep -qx step-00000000$step.h5 run/best; }";
    cr_assert(tiny_shell(lowest) == 0, "%s", program_output);
}

/* A run that goes on without marking its best has none: an old mark would outlive better ones. */
Test(train_saves, no_best_is_named_where_none_is_kept)
{
    tiny_train(0, "checkpoint.every=4 log.valid_every=2 train.steps=4", 0);
    cr_assert(tiny_shell("test -e run/best") == 0);
    tiny_train(0, "--resume auto checkpoint.every=4 log.valid_every=2 checkpoint.best=false", 0);
    cr_assert(tiny_shell("test ! -e run/best && grep -qx step-000000008.h5 run/latest") == 0, "%s",
              program_output);
    tiny_train(0, "--resume auto checkpoint.every=4 log.valid_every=2 train.steps=10", 0);
    cr_assert(tiny_shell("grep -qx step-000000010.h5 run/best") == 0, "%s", program_output);
}

/* A real full disk, where this user may mount one. A checkpoint has about 330 KB. */
Test(train_saves, full_disk)
{
#define ON_A_DISK(command)                                                                         \
    "unshare -m sh -c 'mkdir -p run && mount -t tmpfs -o size=1m none run && " command "'"
    if (tiny_shell(ON_A_DISK("true")) != 0) {
        leave_folder();
        cr_skip("a full disk needs the right to mount one (root)\n");
    }
    /* One fits, two do not: those of steps 4, 6 are skipped, and the last, skipped too, is an error. */
    const int status = tiny_shell(
        ON_A_DISK("dd if=/dev/zero of=run/ballast bs=1k count=400 2>/dev/null && "
                  "{ \"$TRAIN\" tiny.yaml checkpoint.every=2 log.valid_every=0; s=$?; ls run; rm "
                  "run/ballast; "
                  "\"$TRAIN\" tiny.yaml --resume auto log.valid_every=0 && ls run && exit $s; }"));
    cr_assert(status == 1, "status %d\n%s", status, program_output);
    tiny_says("No space left on device");
    tiny_says("no checkpoint of step 4");
    tiny_says("going on from run/step-000000002.h5");
    tiny_says("step-000000008.h5");
    cr_assert(tiny_shell("unshare -m sh -c 'mkdir ro && mount -t tmpfs -o ro none ro && \"$TRAIN\" "
                         "tiny.yaml log.dir=ro'") == 1);
    tiny_says("the run folder: ro/config.yaml");
    tiny_says("Read-only file system");
}

/* --- Kills and requests to stop --------------------------------------------------------------- */

/* kill -9 of a rank in every phase of the second save, beside training: goes on to the same end. */
Test(train_saves, killed_in_every_phase)
{
    static const char *const more[] = {"prune"};
    mpi_need();
    tiny_train(0, "log.dir=whole", 0);
    for (int i = 0; i < N_PHASES + 1; i++) {
        const char *phase = i < N_PHASES ? phases[i] : more[0];
        char point[64], arguments[256];
        snprintf(point, sizeof point, "%s:kill:2", phase);
        snprintf(arguments, sizeof arguments, "log.dir=%s checkpoint.every=2 checkpoint.async=yes",
                 phase);
        with_failpoint(point, true, arguments, -1);
        snprintf(arguments, sizeof arguments,
                 "test -e %s/step-000000002.h5 && ! test -e "
                 "%s/step-000000008.h5",
                 phase, phase);
        cr_assert(tiny_shell(arguments) == 0, "%s", program_output);
        snprintf(arguments, sizeof arguments, "log.dir=%s checkpoint.every=2 --resume auto", phase);
        tiny_train(1, arguments, 0);
        tiny_same_curves("whole", phase);
        snprintf(arguments, sizeof arguments, "%s/step-000000008.h5", phase);
        tiny_same_checkpoints("whole/step-000000008.h5", arguments);
        snprintf(arguments, sizeof arguments, "! ls %s/*.tmp-*", phase);
        cr_assert(tiny_shell(arguments) == 0, "%s", program_output);
    }
}

/* A request that comes in a save, or while another save is under way: a checkpoint of that step. */
Test(train_saves, asked_to_stop_in_a_save)
{
    static const char *const points[] = {"pwrite:usr1:1", "rename:term:1", "fsync:usr1:1"};
    mpi_need();
    tiny_train(0, "log.dir=whole", 0);
    for (int i = 0; i < 3; i++) {
        const char *async = i < 2 ? "yes" : "no";
        char arguments[256];
        snprintf(arguments, sizeof arguments, "log.dir=r%d checkpoint.every=2 checkpoint.async=%s",
                 i, async);
        with_failpoint(points[i], i == 1, arguments, 3); /* the renaming is rank 0's */
        snprintf(arguments, sizeof arguments, "log.dir=r%d checkpoint.every=2 --resume auto", i);
        tiny_train(2, arguments, 0);
        snprintf(arguments, sizeof arguments, "r%d", i);
        tiny_same_curves("whole", arguments);
        snprintf(arguments, sizeof arguments, "r%d/step-000000008.h5", i);
        tiny_same_checkpoints("whole/step-000000008.h5", arguments);
    }
}

/* A run that ends by an error ends the save that is under way. */
Test(train_saves, an_error_waits_for_the_save)
{
    int status = tiny_shell("RF_FAILPOINT=fsync:sleep \"$TRAIN\" tiny.yaml checkpoint.every=1 "
                            "checkpoint.async=yes optim.lr=1e38 optim.clip=0 train.steps=50 "
                            "train.skip_limit=1 log.valid_every=0");
    cr_assert(status == 4, "status %d\n%s", status, program_output);
    cr_assert(tiny_shell("test -e run/step-000000001.h5 && ! ls run/*.tmp-*") == 0, "%s",
              program_output);
}
