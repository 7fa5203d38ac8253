/* Ranks that share state, gradients or weights (train.shard) train as one that holds everything. */
#include "tests/train/tiny_run.h"

#include <math.h>

/* Blocks of three runs of RF_SUM_RUN elements, so that several ranks hold something of each. */
#define WIDE "model.hidden_size=96 model.intermediate_size=512 "

static const char *const kinds[] = {"state", "gradients", "weights"};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

TestSuite(train_shard, .init = tiny_begin, .fini = leave_folder, .timeout = 600);

/* A run in the folder `name`, with the data of its first step in name.h5. */
static void train(int ranks, const char *shard, const char *name, const char *more, int expected)
{
    char arguments[2048];
    snprintf(arguments, sizeof arguments,
             WIDE "train.steps=4 log.dir=%s debug.dump_step=%s.h5 train.shard=%s %s", name, name,
             shard, more);
    tiny_train(ranks, arguments, expected);
}

/* The same losses, and gradient and weights of the first step. */
static void same_passes(const char *a, const char *b)
{
    char command[256];
    snprintf(command, sizeof command, "cmp %s.h5 %s.h5", a, b);
    tiny_same_curves(a, b);
    cr_assert(tiny_shell(command) == 0, "%s", program_output);
}

/* And weights and moments of the last, bit for bit. */
static void same(const char *a, const char *b)
{
    char x[128], y[128];
    snprintf(x, sizeof x, "%s/step-000000004.h5", a);
    snprintf(y, sizeof y, "%s/step-000000004.h5", b);
    same_passes(a, b);
    tiny_same_checkpoints(x, y);
}

/* On 2 and 4 ranks, with one subtree of leaves and with three. */
Test(train_shard, equal_bits)
{
    static const char *const rows[] = {"train.batch_rows=8", "train.batch_rows=12"};
    mpi_need();
    for (int k = 0; k < 2; k++) {
        char alone[24];
        snprintf(alone, sizeof alone, "alone%d", k);
        train(0, "none", alone, rows[k], 0);
        for (int i = 0; i < N_KINDS; i++) {
            char name[32];
            const int ranks = 2 << (i + k) % 2;
            snprintf(name, sizeof name, "%s%d", kinds[i], k);
            train(ranks, kinds[i], name, rows[k], 0);
            same(alone, name);
        }
    }
}

Test(train_shard, equal_bits_on_eight_ranks)
{
    mpi_need();
    train(0, "none", "alone", "train.batch_rows=8", 0);
    train(8, "weights", "weights", "train.batch_rows=8", 0);
    same("alone", "weights");
}

/* A checkpoint knows nothing of ranks and their shares. */
Test(train_shard, resumed_with_other_shares)
{
    static const struct {
        int ranks[2];
        const char *shard[2];
    } runs[] = {{{2, 4}, {"weights", "state"}},
                {{0, 2}, {"none", "gradients"}},
                {{4, 0}, {"gradients", "weights"}}, /* one rank has nothing to share */
                {{2, 2}, {"state", "weights"}}};
    mpi_need();
    train(0, "none", "whole", "train.batch_rows=4", 0);
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char name[32], more[128];
        snprintf(name, sizeof name, "run%d", (int)i);
        train(runs[i].ranks[0], runs[i].shard[0], name, "train.batch_rows=4 train.steps=2", 0);
        snprintf(more, sizeof more, "train.batch_rows=4 debug.dump_step= --resume auto");
        train(runs[i].ranks[1], runs[i].shard[1], name, more, 0);
        char a[64];
        snprintf(a, sizeof a, "%s/step-000000004.h5", name);
        tiny_same_checkpoints("whole/step-000000004.h5", a);
    }
}

/* What else a pass may be: other heads, blocks run again, bf16, parts of a model, other objectives,
 * memory that only kernels may touch. */
Test(train_shard, equal_bits_of_other_passes)
{
    static const char *const passes[][2] = {
        {"model.tie_word_embeddings=false train.recompute=block log.samples_every=4", ""},
        {"train.compute=bf16 objective.kind=ar model.qk_norm=false model.qkv_bias=true", ""},
        {"train.only=layers.1.mlp,norm objective.kind=mdm objective.random_length=0", ""},
        {"objective.kind=block objective.block_size=4 train.micro_rows=2", "apart"}};
    mpi_need();
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        setenv("RF_BACKEND", passes[i][1], 1);
        for (int k = -1; k < N_KINDS; k++) {
            char name[32];
            snprintf(name, sizeof name, "%s%d", k < 0 ? "none" : kinds[k], (int)i);
            train(k < 0 ? 0 : 2, k < 0 ? "none" : kinds[k], name, passes[i][0], 0);
            char alone[32];
            snprintf(alone, sizeof alone, "none%d", (int)i);
            same_passes(alone, name);
        }
    }
}

/* Frozen weights are shared too; adapters drop their inputs alike. */
Test(train_shard, adapters)
{
    mpi_need();
    train(0, "none", "base", "", 0);
    for (int k = -1; k < N_KINDS; k++) {
        const char *name = k < 0 ? "none" : kinds[k];
        train(k < 0 ? 0 : 2, name, name,
              "model.init=base/step-000000004.h5 lora.rank=2 lora.dropout=0.2 train.batch_rows=8",
              0);
        same_passes("none", name);
    }
}

/* Any number of ranks; sums in another order. */
Test(train_shard, fast_is_close)
{
    mpi_need();
    train(0, "none", "none", "train.batch_rows=6", 0);
    for (int i = 0; i < N_KINDS; i++) {
        train(3, kinds[i], kinds[i], "train.batch_rows=6 train.reduce=fast", 0);
        const double is = tiny_last(kinds[i], "step", "loss"),
                     exact = tiny_last("none", "step", "loss");
        cr_assert(fabs(is - exact) <= 1e-4 * fabs(exact), "%s: %.17g %.17g", kinds[i], is, exact);
    }
}

/* Gradients in bf16 on their way: near to f32, and the same for any ranks that share. */
Test(train_shard, wire_in_bf16)
{
    mpi_need();
    train(0, "none", "none", "train.batch_rows=8", 0);
    train(2, "state", "two", "train.batch_rows=8 train.wire=bf16", 0);
    train(4, "weights", "four", "train.batch_rows=8 train.wire=bf16", 0);
    same("two", "four");
    const double is = tiny_last("two", "step", "loss"), f32 = tiny_last("none", "step", "loss");
    cr_assert(fabs(is - f32) <= 1e-2 * fabs(f32) && is != f32, "%.17g %.17g", is, f32);
    train(2, "none", "refused", "train.wire=bf16", 2);
    tiny_says("train.wire=bf16 is for what ranks share: set train.shard");
}

/* An overflow on one rank skips the step on all, and no rank's share changes. */
Test(train_shard, overflow_skips_on_all)
{
    mpi_need();
    for (int i = 0; i < N_KINDS; i++) {
        char command[512];
        snprintf(command, sizeof command,
                 "$RUN -n 2 sh -c '[ " MPI_RANK " = 0 ] || export RF_FAILPOINT=train.nan:error:3; "
                 "exec \"$TRAIN\" tiny.yaml " WIDE
                 "train.steps=4 train.batch_rows=2 log.dir=%s train.shard=%s'",
                 kinds[i], kinds[i]);
        cr_assert(tiny_shell(command) == 0, "%s", program_output);
        cr_assert(tiny_last(kinds[i], "end", "skipped") == 1.0, "%s", program_output);
        tiny_same_curves("state", kinds[i]);
        snprintf(command, sizeof command, "%s/step-000000004.h5", kinds[i]);
        tiny_same_checkpoints("state/step-000000004.h5", command);
    }
}

/* --- Memory ----------------------------------------------------------------------------------- */

/* 33 M parameters. */
#define LARGE                                                                                      \
    "model.vocab_size=4096 model.hidden_size=512 model.num_hidden_layers=8 "                       \
    "model.num_attention_heads=8 model.intermediate_size=2048 log.valid_every=0 "                  \
    "checkpoint.async=no checkpoint.best=false "

#ifndef __SANITIZE_ADDRESS__ /* which takes memory of its own, and reserves more than any limit */
/* MiB of a line of the plan that --dry-run printed last. */
static double planned(const char *line)
{
    const char *at = strstr(program_output, line);
    cr_assert(at != NULL, "%s", program_output);
    return strtod(at + strlen(line), NULL);
}

static double plan_total(const char *shard, const char *more)
{
    char arguments[1024];
    snprintf(arguments, sizeof arguments, LARGE "train.steps=1 --dry-run train.shard=%s %s", shard,
             more);
    tiny_train(0, arguments, 0);
    return planned("\n  total ");
}

/* Everything that is shared lessens the plan. */
Test(train_shard, plans_shrink)
{
    double before = plan_total("none", "--ranks 4 train.batch_rows=16");
    for (int i = 0; i < N_KINDS; i++) {
        const double now = plan_total(kinds[i], "--ranks 4 train.batch_rows=16");
        cr_assert(now < 0.95 * before, "%s: %g MiB, %g before", kinds[i], now, before);
        before = now;
    }
}

/* Ranks that have no prompt make no pass, but have shares of the weights. */
Test(train_shard, fewer_samples_than_ranks)
{
    mpi_need();
    setenv("RF_BACKEND", "cpu", 1); /* as below */
    setenv("RF_FAILPOINT", "layout:error", 1);
    for (int i = 0; i < N_KINDS; i++) {
        char arguments[1024];
        snprintf(arguments, sizeof arguments,
                 LARGE "train.steps=1 log.dir=%s train.shard=%s log.samples_every=1 "
                       "log.n_samples=1 train.watchdog=60",
                 kinds[i], kinds[i]);
        tiny_train(2, arguments, 1);
        tiny_says("failpoint layout");
        cr_assert(tiny_last(kinds[i], "samples", "n") == 1.0);
    }
}

/* A rank takes what --dry-run says. (The file that would be saved takes longer than all else.) */
Test(train_shard, memory_is_as_planned)
{
    mpi_need();
    /* apart protects and frees all of this memory at every kernel, which takes minutes */
    setenv("RF_BACKEND", "cpu", 1);
    setenv("RF_FAILPOINT", "layout:error", 1);
    for (int i = 1; i < N_KINDS; i++) {
        char arguments[1024];
        const double wanted = plan_total(kinds[i], "--ranks 2");
        snprintf(arguments, sizeof arguments, LARGE "train.steps=1 log.dir=%s train.shard=%s",
                 kinds[i], kinds[i]);
        tiny_train(2, arguments, 1);
        const double is = tiny_last(kinds[i], "end", "peak_mib");
        cr_assert(fabs(is - wanted) <= 0.03 * is, "%s: planned %g MiB, peak %g", kinds[i], wanted,
                  is);
    }
}

/* A plan is held against what the system allows a process. */
Test(train_shard, plan_knows_the_limit_of_a_process)
{
    static const char command[] = "ulimit -d 500000; \"$TRAIN\" tiny.yaml " LARGE
                                  "train.steps=1 --dry-run --ranks 4 train.shard=%s";
    char one[1024];
    snprintf(one, sizeof one, command, "none");
    cr_assert(tiny_shell(one) == 1, "%s", program_output);
    tiny_says("does not fit into the memory of a process (ulimit -d, ulimit -v, ");
    tiny_says("train.shard");
    snprintf(one, sizeof one, command, "weights");
    cr_assert(tiny_shell(one) == 0, "%s", program_output);
}
#endif
