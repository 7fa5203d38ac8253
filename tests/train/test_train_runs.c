/* The same run on 1, 2, 4 ranks and threads; interrupted and resumed. */
#include "common/base/files/file.h"
#include "tests/train/tiny_run.h"
#include "train/sources.h"

#include <math.h>
#include <sys/stat.h>

TestSuite(train_runs, .init = tiny_begin, .fini = leave_folder, .timeout = 600);

Test(train_runs, ranks_have_equal_bits)
{
    mpi_need();
    tiny_train(1, "log.dir=one log.samples_every=8", 0);
    tiny_train(2, "log.dir=two log.samples_every=8", 0);
    tiny_train(4, "log.dir=four log.samples_every=8", 0);
    tiny_same_curves("one", "two");
    tiny_same_curves("one", "four");
    tiny_same_checkpoints("one/step-000000008.h5", "two/step-000000008.h5");
    tiny_same_checkpoints("one/step-000000008.h5", "four/step-000000008.h5");
    cr_assert(tiny_last("one", "samples", "n") >= 3.0);
    cr_assert(tiny_shell("test \"$(wc -l <one/samples.jsonl)\" = 3 && "
                         "sed 's/\"forwards.*//' one/samples.jsonl >a && "
                         "sed 's/\"forwards.*//' four/samples.jsonl | cmp - a") == 0,
              "%s", program_output);
}

/* 12 leaves: three subtrees of four, so three rounds on any number of ranks. */
Test(train_runs, odd_rounds_have_equal_bits)
{
    static const char *const folders[] = {"one", "two", "four"};
    mpi_need();
    for (int i = 0; i < 3; i++) {
        char arguments[256];
        snprintf(arguments, sizeof arguments,
                 "log.dir=%s debug.dump_step=%s.h5 train.batch_rows=12 train.steps=4", folders[i],
                 folders[i]);
        tiny_train(1 << i, arguments, 0);
    }
    tiny_same_curves("one", "two");
    tiny_same_curves("one", "four");
    cr_assert(tiny_shell("cmp one.h5 two.h5 && cmp one.h5 four.h5") == 0, "%s", program_output);
}

Test(train_runs, fast_is_close)
{
    mpi_need();
    tiny_train(1, "log.dir=exact", 0);
    tiny_train(4, "log.dir=fast train.reduce=fast", 0);
    double exact = tiny_last("exact", "step", "loss"), fast = tiny_last("fast", "step", "loss");
    cr_assert(fabs(exact - fast) <= 1e-4 * fabs(exact), "%.17g %.17g", exact, fast);
    tiny_train(3, "log.dir=three train.batch_rows=6", 2);
    tiny_says("train.reduce=fast");
    tiny_train(3, "log.dir=three train.batch_rows=6 train.reduce=fast", 0);
}

Test(train_runs, threads_and_recomputing_have_equal_bits)
{
    tiny_train(0, "log.dir=one", 0);
    tiny_train(0, "log.dir=two train.threads=2", 0);
    tiny_train(0, "log.dir=block train.recompute=block", 0);
    tiny_train(0, "log.dir=selective train.recompute=selective", 0);
    tiny_same_curves("one", "two");
    tiny_same_curves("one", "block");
    tiny_same_curves("one", "selective");
    tiny_same_checkpoints("one/step-000000008.h5", "two/step-000000008.h5");
}

Test(train_runs, bf16_is_close_and_has_equal_bits)
{
    mpi_need();
    tiny_train(0, "log.dir=f32", 0);
    tiny_train(0, "log.dir=one train.compute=bf16", 0);
    tiny_train(2, "log.dir=two train.compute=bf16 train.threads=2", 0);
    tiny_train(0, "log.dir=block train.compute=bf16 train.recompute=block", 0);
    tiny_train(0, "log.dir=selective train.compute=bf16 train.recompute=selective", 0);
    tiny_same_curves("one", "two");
    tiny_same_curves("one", "block");
    tiny_same_curves("one", "selective");
    double f32 = tiny_last("f32", "step", "loss"), bf16 = tiny_last("one", "step", "loss");
    cr_assert(fabs(f32 - bf16) <= 2e-2 * fabs(f32) && f32 != bf16, "%.17g %.17g", f32, bf16);
    tiny_train(0, "--resume auto log.dir=one train.steps=9 train.compute=f32", 2);
    tiny_says("train.compute");
}

Test(train_runs, objectives_and_sizes)
{
    tiny_train(0,
               "log.dir=ar objective.kind=ar train.steps=4 log.samples_every=2 "
               "model.tie_word_embeddings=false model.qk_norm=false model.qkv_bias=true",
               0);
    cr_assert(tiny_last("ar", "valid", "loss_ar") > 0.0);
    cr_assert(tiny_shell("grep -q loss_denoise ar/metrics.jsonl") == 1); /* no such part */
    cr_assert(tiny_shell("grep -q 'kind: .*ar' ar/config.yaml") == 0);
    tiny_train(0, "log.dir=epochs train.steps=0 train.epochs=2.5", 0);
    double per_epoch = tiny_last("epochs", "end", "step") * 4.0 / 2.5;
    cr_assert(per_epoch > 10.0 && per_epoch < 60.0, "%g rows an epoch", per_epoch);
    /* The loss falls. */
    tiny_train(0, "log.dir=long train.steps=60 log.valid_every=20", 0);
    cr_assert(tiny_last("long", "valid", "loss") < 8.0); /* about 11 at first */
}

Test(train_runs, resumed_equals_uninterrupted)
{
    mpi_need();
    tiny_train(2, "log.dir=whole", 0);
    /* A kill in the sixth of the second rank's steps: 2 leaves a step, after the save of step 4. */
    cr_assert(tiny_shell("$RUN -n 2 sh -c '[ " MPI_RANK " = 0 ] || "
                         "export RF_FAILPOINT=train.nan:kill:12; exec \"$TRAIN\" tiny.yaml "
                         "checkpoint.async=no'") != 0);
    cr_assert(tiny_shell("test -e run/step-000000004.h5 && ! test -e run/step-000000008.h5") == 0,
              "%s", program_output);
    tiny_train(4, "--resume auto", 0);
    tiny_same_curves("whole", "run");
    tiny_same_checkpoints("whole/step-000000008.h5", "run/step-000000008.h5");
    /* A finished run has nothing left to do. */
    tiny_train(0, "--resume auto", 0);
    tiny_same_curves("whole", "run");
}

/* The newest checkpoint is damaged: the one before it serves, and nothing is thrown away. */
Test(train_runs, resume_survives_a_damaged_checkpoint)
{
    tiny_train(0, "log.dir=whole", 0);
    tiny_train(0, "", 0);
    cr_assert(tiny_shell("printf x | dd of=run/step-000000008.h5 bs=1 seek=20000 conv=notrunc") ==
              0);
    tiny_train(0, "--resume auto", 0);
    tiny_says("damaged");
    tiny_same_checkpoints("whole/step-000000008.h5", "run/step-000000008.h5");
    cr_assert(tiny_shell("test -e run/step-000000008.h5.damaged") == 0);
    tiny_same_curves("whole", "run");
}

/* The newest checkpoint is elsewhere, and not to be had now: nothing is done without it. */
Test(train_runs, resume_waits_for_its_checkpoint)
{
    tiny_train(0, "checkpoint.every=4", 0);
    cr_assert(tiny_shell("mv run/step-000000008.h5 far.h5 && mkdir disk && "
                         "ln -s ../disk/far.h5 run/step-000000008.h5") == 0);
    tiny_train(0, "--resume auto train.steps=10", 1);
    tiny_says("run/step-000000008.h5: cannot open: No such file or directory: no older checkpoint");
    tiny_train(0, "--resume run train.steps=10", 1);
    cr_assert(tiny_shell("test -L run/step-000000008.h5 && mv far.h5 disk") == 0);
    tiny_train(0, "--resume auto train.steps=10", 0);
    tiny_says("going on from run/step-000000008.h5");
}

/* checkpoint.keep newest ones and the best; `latest` and `best` name files that are there. */
Test(train_runs, keeps_the_newest_and_the_best)
{
    tiny_train(0,
               "checkpoint.every=1 checkpoint.keep=2 train.steps=6 log.valid_every=3 "
               "optim.schedule=linear optim.min_lr=0",
               0);
    cr_assert(tiny_shell("ls run/step-* >list; cat list; test $(wc -l <list) -le 3 && "
                         "test -e run/step-000000006.h5 && test -e run/step-000000005.h5 && "
                         "test -e run/$(cat run/best) && test $(cat run/latest) = "
                         "step-000000006.h5") == 0,
              "%s", program_output);
    tiny_train(0, "log.dir=none checkpoint.every=0 checkpoint.best=false", 0);
    cr_assert(tiny_shell("ls none/step-* >list; cat list; test $(cat list) = "
                         "none/step-000000008.h5 && ! test -e none/best") == 0,
              "%s", program_output);
}

/* A kill between the best checkpoint and its mark. */
Test(train_runs, the_best_is_marked_after_a_kill)
{
    cr_assert(tiny_shell("RF_FAILPOINT=best:kill \"$TRAIN\" tiny.yaml train.steps=4") == 137);
    cr_assert(tiny_shell("test -e run/step-000000004.h5 && ! test -e run/best") == 0, "%s",
              program_output);
    tiny_train(0, "--resume auto train.steps=4", 0);
    cr_assert(tiny_shell("test $(cat run/best) = step-000000004.h5") == 0, "%s", program_output);
    /* The mark of an older one is replaced as well. */
    cr_assert(tiny_shell("RF_FAILPOINT=best:kill \"$TRAIN\" tiny.yaml --resume auto") == 137);
    cr_assert(tiny_shell("test $(cat run/best) = step-000000004.h5") == 0, "%s", program_output);
    tiny_train(0, "--resume auto", 0);
    cr_assert(tiny_shell("test $(cat run/best) = step-000000008.h5") == 0, "%s", program_output);
}

/* With other held-out rows the first validation is the best so far, however low those before were. */
Test(train_runs, best_is_of_its_validation_set)
{
    cr_assert(tiny_shell("for i in 1 2 3 4 5 6 7 8 9; do "
                         "echo '{\"query\": \"why?\", \"response\": \"ZQXJ<>~^|#@%&!\"}'; done "
                         ">hard.jsonl && \"$DATA\" build --out hard.h5 hard.jsonl && "
                         "cp valid.h5 same.h5") == 0,
              "%s", program_output);
    tiny_train(0, "", 0);
    const double easy = tiny_last("run", "valid", "loss");
    cr_assert(tiny_shell("test $(cat run/best) = step-000000008.h5 && cp -r run rows") == 0);
    tiny_train(0, "--resume auto --dry-run train.steps=12 data.valid=same.h5", 0);
    cr_assert(strstr(program_output, "best validation loss") == NULL, "%s", program_output);
    /* a kill between the best checkpoint and its mark */
    cr_assert(tiny_shell("RF_FAILPOINT=best:kill \"$TRAIN\" tiny.yaml --resume auto train.steps=12 "
                         "data.valid=hard.h5") == 137,
              "%s", program_output);
    tiny_says("data.valid or log.valid_rows is not what the best validation loss of "
              "run/step-000000008.h5");
    cr_assert(tiny_last("run", "valid", "loss") > easy);
    cr_assert(tiny_shell("test $(cat run/best) = step-000000008.h5") == 0);
    tiny_train(0, "--resume auto train.steps=12 data.valid=hard.h5", 0);
    cr_assert(strstr(program_output, "best validation loss") == NULL, "%s", program_output);
    cr_assert(tiny_shell("test $(cat run/best) = step-000000012.h5") == 0, "%s", program_output);
    tiny_train(0, "--resume auto train.steps=16 data.valid=", 0); /* says nothing of any */
    tiny_train(0, "--resume auto train.steps=17 data.valid=hard.h5 --dry-run", 0);
    cr_assert(strstr(program_output, "best validation loss") == NULL, "%s", program_output);
    tiny_train(0, "--resume auto train.steps=17 data.valid=valid.h5 --dry-run", 0);
    tiny_says("is not what the best validation loss of run/step-000000016.h5");
    tiny_train(0, "--resume auto log.dir=rows train.steps=9 log.valid_rows=3", 0);
    tiny_says("is not what the best validation loss of rows/step-000000008.h5");
    cr_assert(tiny_shell("test $(cat rows/best) = step-000000009.h5") == 0);
    tiny_train(0, "--resume auto log.dir=rows train.steps=10 log.valid_rows=4 --dry-run", 0);
    cr_assert(strstr(program_output, "best validation loss") == NULL, "batches of 4 in any case");
    const rf_held_out none = rf_sources_held_out("[{\"path\": \"as earlier programs wrote it\"}]");
    cr_assert(none.hash == 0 && none.rows == 0);
}

/* Weights for others: nothing of the run but its configuration, the same answers, and a base to train. */
Test(train_runs, publishes_weights_only)
{
    tiny_train(0, "train.spike_zscore=3", 0);
    cr_assert(tiny_shell("\"$CONVERT\" publish run/step-000000008.h5 w.h5 && \"$CONVERT\" publish "
                         "run/step-000000008.h5 half.h5 --dtype bf16 "
                         "&& h5diff -q w.h5 run/step-000000008.h5 /params && ! h5ls w.h5/adam && "
                         "! h5ls w.h5/state && ! h5dump -d /corpora w.h5 | grep train.h5 && "
                         "test $(($(stat -c %s w.h5) * 5)) -lt "
                         "$(($(stat -c %s run/step-000000008.h5) * 2)) && "
                         "test $(stat -c %s half.h5) -lt $(stat -c %s w.h5)") == 0,
              "%s", program_output);
    cr_assert(tiny_shell("for m in run w.h5; do \"$INFER\" --model $m --prompt 1+2= 2>/dev/null "
                         ">$(basename $m).txt || exit 1; done; cmp run.txt w.h5.txt") == 0,
              "%s", program_output);
    tiny_train(0, "log.dir=tuned model.init=w.h5 train.steps=1", 0);
    tiny_train(0, "log.dir=no --resume w.h5 train.steps=9", 1);
    tiny_says("without the optimizer's state");
}

/* Curves of runs that have a record torn by a kill, and names with what shells and gnuplot read. */
Test(train_runs, are_drawn)
{
    static const char step[] =
        "{\"event\": \"step\", \"step\": 1, \"loss\": null, \"lr\": 0.5, \"grad_norm\": 2, "
        "\"tokens_per_second\": 9, \"loss_ar\": 3}\n{\"event\": \"st";
    cr_assert(mkdir("it's_a|b&", 0777) == 0 && mkdir("other", 0777) == 0);
    cr_assert(rf_file_write("it's_a|b&/metrics.jsonl", step, strlen(step), NULL) == RF_OK);
    cr_assert(rf_file_write("other/metrics.jsonl", step, strlen(step), NULL) == RF_OK);
    cr_assert(tiny_shell("sh \"$ROOT/train/plot.sh\" --csv \"it's_a|b&\" other") == 0, "%s",
              program_output);
    cr_assert_str_eq(program_output, "run,step,loss,lr,grad_norm,tokens_per_second,loss_ar\n"
                                     "it's_a|b&,1,NaN,0.5,2,9,3\nother,1,NaN,0.5,2,9,3\n");
    cr_assert(tiny_shell("sh \"$ROOT/train/plot.sh\" \"it's_a|b&\" other && "
                         "test -s \"it's_a|b&/loss.png\"") == 0,
              "%s", program_output);
}

Test(train_runs, fine_tunes_from_a_checkpoint)
{
    tiny_train(0, "log.dir=base", 0);
    tiny_train(0, "log.dir=tuned model.init=base/step-000000008.h5 train.steps=2", 0);
    double before = tiny_last("base", "step", "loss"), after = tiny_last("tuned", "step", "loss");
    cr_assert(fabs(after - before) < 2.0, "%g %g", before, after);
    /* From the run's own resolved configuration. */
    cr_assert(tiny_shell("\"$TRAIN\" tuned/config.yaml log.dir=again") == 0, "%s", program_output);
    tiny_same_curves("tuned", "again");
    tiny_train(0, "log.dir=x model.init=base/step-000000008.h5 model.hidden_size=64", 1);
    tiny_says("hidden_size is 64 here and 32 there");
    /* A checkpoint stands for the file that the run began with, which may be elsewhere, or gone. */
    tiny_train(0, "log.dir=whole model.init=base/step-000000008.h5", 0);
    cr_assert(tiny_shell("mv base/step-000000008.h5 moved.h5 && cp -r tuned named && "
                         "cp -r tuned none") == 0);
    tiny_train(0, "log.dir=tuned model.init=base/step-000000008.h5 --resume auto", 0);
    tiny_train(2, "log.dir=named model.init=moved.h5 --resume auto", 0);
    tiny_says("model.init=moved.h5 is not read: the run, which began with base/step-000000008.h5");
    tiny_train(0, "log.dir=none --resume auto", 0);
    tiny_same_checkpoints("whole/step-000000008.h5", "tuned/step-000000008.h5");
    tiny_same_checkpoints("whole/step-000000008.h5", "named/step-000000008.h5");
    tiny_same_checkpoints("whole/step-000000008.h5", "none/step-000000008.h5");
    tiny_train(0, "log.dir=new model.init=base/step-000000008.h5 --resume auto", 1); /* begins */
    tiny_says("model.init: there is no base/step-000000008.h5");
}
