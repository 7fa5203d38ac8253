/* Every objective is trained as any other: equal bits on ranks, resumed, with adapters, validated. */
#include "tests/train/tiny_run.h"

#include <math.h>

TestSuite(train_objectives, .init = tiny_begin, .fini = leave_folder, .timeout = 600);

/* Of the tiny run: responses of 20 to 24 tokens behind prompts of 4 to 6, rows of 64 places. */
static const char *const kinds[] = {"mdm", "block"};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static void train(int ranks, int kind, const char *folder_suffix, const char *settings,
                  int expected)
{
    char arguments[512];
    snprintf(arguments, sizeof arguments, "objective.kind=%s log.dir=%s-%s %s", kinds[kind],
             kinds[kind], folder_suffix, settings);
    tiny_train(ranks, arguments, expected);
}

static const char *path(int kind, const char *suffix)
{
    static char paths[4][128];
    static int next = 0;
    next = (next + 1) % 4;
    snprintf(paths[next], sizeof paths[next], "%s-%s", kinds[kind], suffix);
    return paths[next];
}

Test(train_objectives, ranks_have_equal_bits)
{
    mpi_need();
    for (int k = 0; k < N_KINDS; k++) {
        train(1, k, "one", "log.samples_every=8", 0);
        train(2, k, "two", "log.samples_every=8", 0);
        train(4, k, "four", "", 0);
        tiny_same_curves(path(k, "one"), path(k, "two"));
        tiny_same_curves(path(k, "one"), path(k, "four"));
        tiny_same_checkpoints(path(k, "one/step-000000008.h5"), path(k, "four/step-000000008.h5"));
        cr_assert(tiny_last(path(k, "one"), "samples", "n") >= 3.0); /* of its own decoder */
        cr_assert(tiny_last(path(k, "one"), "step", "loss_denoise") > 0.0 &&
                  tiny_last(path(k, "one"), "valid", "loss_denoise") > 0.0);
    }
}

Test(train_objectives, resumed_equals_uninterrupted)
{
    for (int k = 0; k < N_KINDS; k++) {
        train(0, k, "whole", "", 0);
        train(0, k, "cut", "train.steps=4", 0);
        train(0, k, "cut", "--resume auto", 0);
        tiny_same_curves(path(k, "whole"), path(k, "cut"));
        tiny_same_checkpoints(path(k, "whole/step-000000008.h5"), path(k, "cut/step-000000008.h5"));
    }
}

/* The loss falls, whole or with adapters. */
Test(train_objectives, learn)
{
    for (int k = 0; k < N_KINDS; k++) {
        train(0, k, "long", "train.steps=60 log.valid_every=20", 0);
        cr_assert(tiny_last(path(k, "long"), "valid", "loss") < 4.0); /* about 5.5 at first */
        char settings[256];
        snprintf(settings, sizeof settings, "model.init=%s lora.rank=2 data.train=valid.h5",
                 path(k, "long/step-000000060.h5"));
        train(0, k, "lora", settings, 0);
        cr_assert(tiny_last(path(k, "lora"), "step", "loss") > 0.0);
    }
}

/* Validation of `block` is over all noise whatever it is trained on, so that the figures compare. */
Test(train_objectives, validation_does_not_clip)
{
    train(0, 1, "whole", "optim.lr=1e-30", 0);
    train(0, 1, "clipped", "optim.lr=1e-30 objective.noise_low=0.45 objective.noise_high=0.95", 0);
    double a = tiny_last("block-whole", "valid", "loss"),
           b = tiny_last("block-clipped", "valid", "loss");
    cr_assert(fabs(a - b) <= 1e-6 * a, "%.17g %.17g", a, b);
    cr_assert(fabs(tiny_last("block-whole", "step", "loss") -
                   tiny_last("block-clipped", "step", "loss")) > 1e-6);
}

/* --- The length that `mdm` pads to ------------------------------------------------------------ */

/* pad_length follows decode.gen_length when the run begins, and stays. */
Test(train_objectives, pad_length_is_fixed_when_the_run_begins)
{
    train(0, 0, "whole", "decode.gen_length=30", 0);
    train(0, 0, "given", "objective.pad_length=30", 0);
    train(0, 0, "cut", "decode.gen_length=30 train.steps=4", 0);
    cr_assert(tiny_shell("grep -q 'pad_length: 30' mdm-cut/config.yaml") == 0);
    train(0, 0, "cut", "--resume auto objective.pad_length=40", 2);
    tiny_says("objective.pad_length is not what the checkpoint");
    train(0, 0, "cut", "--resume auto decode.gen_length=40", 0);
    tiny_same_curves("mdm-whole", "mdm-cut");
    tiny_same_curves("mdm-whole", "mdm-given");
    cr_assert(tiny_shell("grep -q 'pad_length: 30' mdm-cut/config.yaml") == 0);
    /* Every sample of this corpus has fewer than 30 tokens, so all take as many as that. */
    double tokens = tiny_last("mdm-whole", "step", "tokens"),
           samples = tiny_last("mdm-whole", "step", "n_samples");
    cr_assert(tokens >= 35.0 * samples && tokens <= 40.0 * samples, "%g of %g", tokens, samples);
}

/* Given without decode.gen_length, it is also how long samples are. */
Test(train_objectives, samples_have_the_length_that_is_trained)
{
    program_write("short.yaml", "data: {train: train.h5, row_length: 64}\n"
                                "model: {hidden_size: 32, num_hidden_layers: 1,\n"
                                "        num_attention_heads: 4, num_key_value_heads: 2}\n"
                                "objective: {kind: mdm, pad_length: 30}\n"
                                "train: {steps: 2, batch_rows: 4}\n"
                                "log: {dir: short, samples_every: 2}\n");
    cr_assert(tiny_shell("\"$TRAIN\" short.yaml") == 0, "%s", program_output);
    cr_assert(
        tiny_shell("grep -q 'gen_length: 30' short/config.yaml && "
                   "grep -q 'kind: \"mdm\"' short/config.yaml && test -s short/samples.jsonl") == 0,
        "%s", program_output);
}

Test(train_objectives, what_does_not_fit_is_said)
{
    train(0, 0, "wide", "decode.gen_length=64", 1);
    tiny_says("padded response (objective.pad, objective.pad_length)");
    tiny_says("data.row_length = 64");
    train(0, 0, "wide", "--dry-run", 0);
    train(0, 1, "wide", "objective.block_size=64", 1);
    tiny_says("twice the response in blocks of objective.block_size");
    train(0, 1, "wide", "--dry-run objective.block_size=24", 0); /* 6 + 2 * 24 - 24 */
}
