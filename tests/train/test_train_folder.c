/* The folder of a run: what may be in it, who may use it, and going on from it. */
#include "tests/train/tiny_run.h"

TestSuite(train_folder, .init = tiny_begin, .fini = leave_folder, .timeout = 600);

Test(train_folder, run_folder_is_not_overwritten)
{
    tiny_train(0, "train.steps=4", 0);
    tiny_train(0, "train.steps=4", 2);
    tiny_says("--resume auto");
    tiny_says("log.dir");
    /* An older checkpoint, with newer ones beside it that would be lost. */
    tiny_train(0, "--resume auto train.steps=8", 0);
    tiny_train(0, "--resume run/step-000000004.h5", 2);
    tiny_says("overwrite");
    tiny_train(0, "--resume run/step-000000004.h5 log.dir=other", 0);
    tiny_same_checkpoints("run/step-000000008.h5", "other/step-000000008.h5");
    tiny_train(0, "--resume other train.steps=9", 2); /* a folder; log.dir is another run's */
    tiny_says("overwrite");
    tiny_train(0, "--resume other log.dir=third train.steps=9", 0);
    tiny_train(0, "--resume run train.steps=9", 0); /* its own folder */
}

/* Gone on from a file of the user's in the run folder, and killed before anything was saved. */
Test(train_folder, goes_on_from_a_file_of_another_name)
{
    tiny_train(0, "train.steps=4 log.dir=base", 0);
    cr_assert(tiny_shell("mkdir run && cp base/step-000000004.h5 run/start.h5") == 0);
    tiny_train(0, "train.steps=4",
               0); /* as long as no run went on from it, it is a file like any other */
    cr_assert(tiny_shell("rm run/step* run/latest run/best run/metrics.jsonl") == 0);
    tiny_train(0, "--resume run/start.h5 train.steps=4", 0); /* all is done: nothing is saved */
    cr_assert(tiny_shell("test $(cat run/latest) = start.h5") == 0);
    tiny_train(0, "", 2);
    tiny_says("run holds checkpoints of a run");
    tiny_train(0, "--resume auto", 0);
    tiny_says("going on from run/start.h5 (step 4)");
    tiny_train(0, "log.dir=whole", 0);
    tiny_same_checkpoints("whole/step-000000008.h5", "run/step-000000008.h5");
    /* What is no name of a checkpoint is never looked at, and keeps its name. */
    cr_assert(tiny_shell("cp base/step-000000004.h5 run/step-15.h5") == 0);
    tiny_train(0, "--resume auto train.steps=10", 0);
    tiny_says("going on from run/step-000000008.h5");
    cr_assert(tiny_shell("cmp base/step-000000004.h5 run/step-15.h5") == 0, "%s", program_output);
}

static void tiny_runs(const char *command, int expected)
{
    const int status = tiny_shell(command);
    cr_assert(status == expected, "%s: exit status %d\n%s", command, status, program_output);
}

/* A folder, as those of sweeps are called, or a file may have a = in its name; the run folder has the name of the
 * configuration without .yaml. */
Test(train_folder, names_of_configurations)
{
    tiny_runs("mkdir lr=1e-3 && cp tiny.yaml lr=1e-3/ && \"$TRAIN\" lr=1e-3/tiny.yaml --folder", 0);
    tiny_says("run\n");
    tiny_runs("grep -v log: tiny.yaml >b-0.6b.yaml && \"$TRAIN\" b-0.6b.yaml --folder", 0);
    tiny_says("runs/b-0.6b\n");
    tiny_runs("mkdir optim.lr=1e-3 && \"$TRAIN\" tiny.yaml optim.lr=1e-3 --folder", 0);
}

/* A checkpoint under the name of another step's is left alone. */
Test(train_folder, misnamed_checkpoint)
{
    tiny_train(0, "train.steps=2", 0);
    tiny_runs("cp run/step-000000002.h5 run/step-000000009.h5", 0);
    tiny_train(0, "train.steps=4 --resume auto", 2);
    tiny_says("run/step-000000009.h5 is of step 2: give it its own name, step-000000002.h5");
    tiny_runs("rm run/step-000000009.h5", 0);
    tiny_train(0, "train.steps=4 --resume auto", 0);
}

/* The run folder's own files go over nothing that the run reads, but for a config.yaml of a run. */
Test(train_folder, run_folder_holds_inputs)
{
    tiny_runs("mkdir run && cp tiny.yaml run/config.yaml && cp tiny.yaml run/metrics.jsonl && "
              "cp train.h5 run/latest",
              0);
    tiny_runs("\"$TRAIN\" run/config.yaml train.steps=1", 2);
    tiny_says("log.dir: run/config.yaml: would be written over an input");
    tiny_runs("\"$TRAIN\" run/metrics.jsonl train.steps=1 --dry-run", 2);
    tiny_says("log.dir: run/metrics.jsonl: would be written over an input");
    tiny_train(0, "train.steps=1 data.train=run/latest", 2);
    tiny_says("log.dir: run/latest: would be written over an input");
    tiny_runs("cmp tiny.yaml run/config.yaml && cmp tiny.yaml run/metrics.jsonl && "
              "cmp train.h5 run/latest && rm -r run",
              0);
    tiny_train(0, "train.steps=1 debug.dump_step=tiny.yaml", 2);
    tiny_says("debug.dump_step: tiny.yaml: would be written over an input");
    tiny_train(0, "train.steps=1", 0);
    tiny_runs("\"$TRAIN\" run/config.yaml train.steps=2 --resume auto", 0);
    tiny_runs("cp run/config.yaml kept && printf '# tried: 3e-4\\n' >> run/config.yaml", 0);
    tiny_runs("\"$TRAIN\" run/config.yaml train.steps=3 --resume auto", 2);
    tiny_says("log.dir: run/config.yaml: would be written over an input");
    tiny_runs("grep -v beta1 kept > run/config.yaml", 0); /* as a version without the key had it */
    tiny_runs("\"$TRAIN\" run/config.yaml train.steps=3 --resume auto", 0);
}

Test(train_folder, run_folder_is_a_link)
{
    tiny_runs("ln -s far run", 0); /* to a folder that is not there yet */
    tiny_train(0, "train.steps=1 --dry-run", 0);
    tiny_runs("test ! -e far", 0);
    tiny_train(0, "train.steps=1", 0);
    tiny_runs(
        "test -L run && test -f far/step-000000001.h5 && rm -r far/* && "
        "ln -s /dev/null run/metrics.jsonl && echo old >old && ln -s ../old run/samples.jsonl",
        0);
    tiny_train(0, "train.steps=1", 0);
    tiny_train(0, "train.steps=2 --resume auto", 0);
    tiny_runs("test -c run/metrics.jsonl && test -L run/samples.jsonl && test ! -s old && "
              "test -s old.old",
              0);
}

Test(train_folder, two_runs_in_one_folder)
{
    int status = tiny_shell("\"$TRAIN\" tiny.yaml train.steps=1M checkpoint.every=2 & pid=$!; "
                            "until test -e run/latest; do sleep 0.05; done; "
                            "\"$TRAIN\" tiny.yaml --resume auto train.steps=9M; s=$?; "
                            "kill -9 $pid; exit $s");
    cr_assert(status == 1, "status %d\n%s", status, program_output);
    tiny_says("another process");
}

/* Who trains in the folder makes and removes checkpoints all the time: nobody else looks at them. */
Test(train_folder, checkpoints_of_a_folder_in_use)
{
    tiny_train(0, "train.steps=2", 0);
    tiny_runs(": >run/step-000000002.h5\n" /* half removed */
              "flock run sh -c '\n"
              "for how in auto run run/step-000000002.h5 \"auto --dry-run\"; do\n"
              "{ \"$TRAIN\" tiny.yaml train.steps=4 --resume $how; echo status $?; } &\n"
              "done; wait' >said 2>&1; cat said\n"
              "test $(grep -c '^status 1$' said) = 4 && "
              "test $(grep -c 'run: another process trains in this folder' said) = 4",
              0);
}

Test(train_folder, resume_is_the_same_run)
{
    tiny_train(0, "train.steps=4", 0);
    tiny_train(0, "--resume auto optim.lr=0.1", 2);
    tiny_says("optim.lr");
    tiny_train(0, "--resume auto model.hidden_size=64", 1);
    tiny_says("hidden_size is 64 here and 32 there");
    tiny_train(0, "--resume auto data.train=valid.h5", 1);
    tiny_says("data.train");
    tiny_train(0, "--resume auto data.train=train.h5:2", 1);
    tiny_says("weight 2");
    /* The same content may lie elsewhere. */
    cr_assert(tiny_shell("cp -r run here; cp -r run moved; cp train.h5 elsewhere.h5") == 0);
    tiny_train(0, "log.dir=here --resume auto", 0);
    tiny_train(0, "log.dir=moved --resume auto data.train=elsewhere.h5", 0);
    tiny_same_checkpoints("here/step-000000008.h5", "moved/step-000000008.h5");
    tiny_corpus("train.h5", 1, 61); /* another content under the same name */
    tiny_train(0, "--resume auto", 1);
    tiny_says("resume with the same corpora");
    cr_assert(tiny_shell("for f in run/step-*.h5; do printf x | dd of=$f bs=1 seek=20000 "
                         "conv=notrunc; done") == 0);
    tiny_corpus("train.h5", 0, 60);
    tiny_train(0, "--resume auto", 1);
    tiny_says("none of its");
    tiny_train(0, "--resume auto log.dir=empty", 0); /* begins */
}

/* Settings that a run may change on the way, and no others, where it is asked for by name. */
Test(train_folder, changes_on_resume)
{
    tiny_train(0, "train.steps=4 checkpoint.every=2", 0);
    tiny_train(0, "train.steps=8 --resume auto optim.lr=1e-3", 2);
    tiny_says("optim.lr is not what the checkpoint");
    tiny_says("or give it by --change");
    tiny_train(0, "train.steps=8 --resume auto --change model.hidden_size=8", 2);
    tiny_says("--change model.hidden_size=8: the run so far stands on model.hidden_size");
    tiny_train(0, "train.steps=8 --resume auto --change optim.lr=fast", 2);
    tiny_train(0, "train.steps=8 --change optim.lr=1e-3", 2);
    tiny_says("--change is for a run that goes on: give --resume");
    tiny_train(0, "--resume auto --change optim.lr=1e-3 --change optim.lr=1e-4", 2);
    tiny_says("--change optim.lr=1e-3 and --change optim.lr=1e-4: give one of them");
    tiny_train(0, "--resume auto --change train.steps=3 --dry-run", 2);
    tiny_says("the run would have 3 steps, but run/step-000000004.h5 is of step 4");
    tiny_train(0, "--resume auto train.steps=3 --dry-run", 0);
    tiny_says("is of step 4 and the run has 3 steps: nothing is left to do");
    cr_assert_float_eq(tiny_last("run", "step", "lr"), 3e-3, 1e-15);
    tiny_train(0, "--resume auto --change train.steps=8 --change optim.lr=1e-3", 0);
    tiny_says("--change: optim.lr=1e-3 from here on");
    cr_assert_float_eq(tiny_last("run", "step", "lr"), 1e-3, 1e-15);
    cr_assert(tiny_last("run", "step", "step") == 8);
    /* As often as one likes, on any ranks; the new value is the run's. */
    tiny_train(2, "--resume auto train.steps=10 --change optim.lr=1e-3 --change train.batch_rows=8",
               0);
    cr_assert(tiny_last("run", "step", "step") == 10);
    tiny_train(0, "--resume auto train.steps=12", 2);
    tiny_says("train.batch_rows is not what the checkpoint");
    cr_assert(tiny_shell("grep -q 'lr: 0.001' run/config.yaml") == 0);
    /* Back to where all was well, at a lower rate. */
    tiny_train(0,
               "--resume run/step-000000008.h5 train.steps=9 --change optim.lr=1e-4 "
               "log.dir=back",
               0);
    cr_assert_float_eq(tiny_last("back", "step", "lr"), 1e-4, 1e-15);
    /* Epochs are as many steps as they have batches. */
    tiny_train(0, "train.steps=0 train.epochs=1 optim.schedule=cosine log.dir=epochs", 0);
    tiny_train(0,
               "train.steps=0 train.epochs=2 optim.schedule=cosine log.dir=epochs --resume auto "
               "--dry-run",
               0);
    tiny_says("train.epochs is 2 and was 1: the learning rate goes on by the schedule");
    tiny_train(0, "train.steps=99 optim.schedule=cosine log.dir=epochs --resume auto --dry-run", 0);
    tiny_says("train.steps is 99 and train.epochs was 1: the learning rate");
    tiny_train(0,
               "train.steps=0 train.epochs=2 optim.schedule=cosine log.dir=epochs --resume auto "
               "--change train.batch_rows=8 --dry-run",
               2);
    tiny_says("--change train.batch_rows where train.epochs gives the length of the run");
    cr_assert(tiny_last("back", "step", "step") == 9);
}

Test(train_folder, resumes_speak)
{
    tiny_train(0, "optim.schedule=cosine checkpoint.every=4", 0);
    program_write("run/latest", "step-000000004.h5\n");
    tiny_train(0, "optim.schedule=cosine --resume auto", 0);
    tiny_says("all 8 steps are done: nothing is left to do");
    cr_assert(tiny_shell("test $(cat run/latest) = step-000000008.h5 && rm run/latest") == 0);
    tiny_train(0, "optim.schedule=cosine --resume auto train.steps=9", 0);
    tiny_says("train.steps is 9 and was 8: the learning rate");
    cr_assert(tiny_shell("test $(cat run/latest) = step-000000009.h5") == 0);
}
