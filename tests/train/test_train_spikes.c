/* Loss spikes: what is judged a spike, and that going back past them is the same for a run that was
 * interrupted; which samples are trained, on any ranks. */
#include "tests/train/tiny_run.h"
#include "train/spikes.h"

#include <math.h>

/* --- The judge alone -------------------------------------------------------------------------- */

static const rf_spike_settings both = {.of_loss = true, .of_norm = true, .zscore = 3, .window = 4};

static rf_verdict judge(rf_spikes *s, double loss, double norm)
{
    return rf_spikes_judge(s, loss, norm, (rf_position){0});
}

Test(spikes, stand_out)
{
    rf_spikes s;
    rf_spikes_new(&s, &both);
    cr_expect(judge(&s, 1.0, 1.0) == RF_STEP_TAKE);
    cr_expect(judge(&s, 900.0, 1.0) == RF_STEP_TAKE, "the window is not full");
    cr_expect(judge(&s, 3.0, 1.0) == RF_STEP_TAKE && judge(&s, 1.0, 1.0) == RF_STEP_TAKE);
    for (int i = 0; i < 4; i++) { /* the window is 1, 2, 1, 2: mean 1.5, deviation 0.5 */
        cr_expect(judge(&s, i % 2 == 0 ? 1.0 : 2.0, 1.0) == RF_STEP_TAKE);
    }
    cr_expect(judge(&s, 3.001, 1.0) == RF_STEP_SPIKE && judge(&s, 3.001, 1.0) == RF_STEP_SPIKE);
    cr_expect(s.in_a_row == 2 && s.n_skipped == 2);
    cr_expect(judge(&s, 1.5, 5.0) == RF_STEP_TAKE, "all norms were equal: nothing to judge by");
    cr_expect(s.in_a_row == 0);
    cr_expect(judge(&s, 1.0, (double)NAN) == RF_STEP_NOT_FINITE && s.n_skipped == 2);
    cr_expect(judge(&s, 1.0, 20.0) == RF_STEP_SPIKE, "by its norm");
    cr_expect(judge(&s, -90.0, 1.0) == RF_STEP_TAKE, "a low loss is no spike");
    rf_spikes_free(&s);
}

/* A judge that was written down and read again, at any moment, says the same with the same bits. */
Test(spikes, survive_as_text)
{
    rf_spikes whole, other;
    rf_error err = {0};
    const rf_spike_settings settings = {
        .of_loss = true, .of_norm = true, .zscore = 1.5, .window = 7};
    rf_spikes_new(&whole, &settings);
    rf_spikes_new(&other, &settings);
    int n_spikes = 0;
    for (int i = 0; i < 300; i++) {
        const double loss = 2.0 + sin(i * 1.7) / 3.0, norm = exp(cos(i * i * 0.3));
        const rf_position begin = {i / 100, i / 10, i};
        const rf_verdict a = rf_spikes_judge(&whole, loss, norm, begin);
        cr_assert(a == rf_spikes_judge(&other, loss, norm, begin), "step %d", i);
        n_spikes += a == RF_STEP_SPIKE;
        if (i == 120) {
            cr_assert(rf_spikes_leave_out(&whole, begin, &err) == RF_OK);
            cr_assert(rf_spikes_leave_out(&other, begin, &err) == RF_OK);
        }
        char *text = rf_spikes_text(&whole), *again = rf_spikes_text(&other);
        cr_assert(strcmp(text, again) == 0, "%s\n%s", text, again);
        cr_assert(i % 3 != 0 || rf_spikes_parse(&other, text, &err) == RF_OK, "%s", err.message);
        free(text);
        free(again);
    }
    cr_expect(n_spikes > 5 && n_spikes < 295, "%d", n_spikes);
    cr_expect(rf_spikes_parse(&other, "{\"in_a_row\": 1}", &err) == RF_ERR);
    rf_spikes_free(&whole);
    rf_spikes_free(&other);
}

/* --- The program ------------------------------------------------------------------------------ */

/* Three samples that nothing prepares a model for, among sixty sums: the loss of the steps that meet them
 * stands out as soon as the others have fallen. */
static void spiky_begin(void)
{
    rf_tokenizer *tokenizer = NULL;
    rf_corpus_writer *writer = NULL;
    rf_error err = {0};
    tiny_begin();
    cr_assert(rf_tokenizer_load(&tokenizer, "byte", &err) == RF_OK, "%s", err.message);
    cr_assert(rf_corpus_writer_new(&writer, "noise.h5", tokenizer, false, &err) == RF_OK);
    cr_assert(rf_corpus_writer_begin_source(writer, "noise", 1.0, &err) == RF_OK);
    for (int i = 0; i < 3; i++) {
        int32_t id[48];
        for (int k = 0; k < 48; k++) {
            id[k] = (i * 48 + k) * 89 % 199 + 50;
        }
        id[47] = rf_tokenizer_specials(tokenizer)->eos[0];
        cr_assert(rf_corpus_writer_tokens(writer, id, 48, &err) == RF_OK, "%s", err.message);
        cr_assert(rf_corpus_writer_end_turns(writer, (int64_t[]){0, 2}, 2, &err) == RF_OK, "%s",
                  err.message);
    }
    rf_corpus_writer_end_source(writer, 3, 1);
    cr_assert(rf_corpus_writer_commit(writer, &err) == RF_OK, "%s", err.message);
    rf_corpus_writer_free(writer);
    rf_tokenizer_free(tokenizer);
}

TestSuite(train_spikes, .init = spiky_begin, .fini = leave_folder, .timeout = 600);

#define SPIKY                                                                                      \
    "data.train=[train.h5,noise.h5] train.steps=40 checkpoint.every=4 train.spike_zscore=1.5 "     \
    "train.spike_window=8 train.spike_of=loss log.valid_every=8 debug.log_samples=true "
#define BACK_AFTER_ONE SPIKY "train.spike_rollback=1 "
#define BACK_AFTER_TWO                                                                             \
    SPIKY "train.spike_rollback=2 train.spike_of=norm train.spike_zscore=4 train.batch_rows=8 "    \
          "optim.lr=6e-3 "

/* Of moments that are alike to a sanitizer, in whose builds a run takes ten times as long, every second. */
#if defined(__SANITIZE_ADDRESS__)
enum { EVERY = 2 };
#else
enum { EVERY = 1 };
#endif

/* What each step trained, without the ranks; the rows of a step in their order. */
static char *trained(const char *run_folder)
{
    char path[256], *text = NULL, line[1 << 14];
    size_t bytes = 0;
    snprintf(path, sizeof path, "%s/trained.jsonl", run_folder);
    FILE *in = fopen(path, "r"), *out = open_memstream(&text, &bytes);
    cr_assert(in != NULL && out != NULL, "%s is missing", path);
    while (fgets(line, sizeof line, in) != NULL) {
        json_t *json = json_loads(line, 0, NULL);
        const json_t *samples = json_object_get(json, "samples");
        cr_assert(json != NULL && json_array_size(samples) > 0, "%s", line);
        fprintf(out, "step %d:", (int)json_integer_value(json_object_get(json, "step")));
        for (int row = 0; row < 64; row++) {
            for (size_t i = 0; i < json_array_size(samples); i++) {
                const json_t *s = json_array_get(samples, i);
                for (size_t k = 2; json_integer_value(json_array_get(s, 0)) == row && k < 7; k++) {
                    fprintf(out, "%s%d", k == 2 ? " " : ".",
                            (int)json_integer_value(json_array_get(s, k)));
                }
            }
        }
        fputc('\n', out);
        json_decref(json);
    }
    fclose(in);
    fclose(out);
    return text;
}

static void same_samples(const char *a, const char *b)
{
    char *x = trained(a), *y = trained(b);
    cr_assert(strcmp(x, y) == 0, "samples of %s:\n%sand of %s:\n%s", a, x, b, y);
    free(x);
    free(y);
}

static void same_runs(const char *a, const char *b)
{
    char x[256], y[256];
    static const char *const counts[] = {"skipped", "spikes", "rollbacks"};
    const int last = (int)tiny_last(a, "checkpoint", "step");
    for (int i = 0; i < 3; i++) {
        const double n = tiny_last(a, "end", counts[i]), m = tiny_last(b, "end", counts[i]);
        cr_assert(n == m, "%s of %s: %g, of %s: %g", counts[i], a, n, b, m);
    }
    tiny_same_curves(a, b);
    same_samples(a, b);
    snprintf(x, sizeof x, "%s/step-%09d.h5", a, last);
    snprintf(y, sizeof y, "%s/step-%09d.h5", b, last);
    tiny_same_checkpoints(x, y);
}

/* Ends as `whole` did, also where that is with status 4. */
static void goes_on(int ranks, const char *name, const char *arguments, int status)
{
    char command[1024];
    snprintf(command, sizeof command, "--resume auto log.dir=%s %s%s", name, arguments,
             ranks == 2 ? "train.shard=weights" : "");
    tiny_train(ranks, command, status);
    same_runs("whole", name);
}

/* Stopped after any step, and going on on other ranks. */
Test(train_spikes, interrupted_is_uninterrupted)
{
    mpi_need();
    tiny_train(0, "log.dir=whole " BACK_AFTER_ONE, 0);
    cr_assert(tiny_last("whole", "end", "rollbacks") >= 1.0, "%s", program_output);
    static const int steps[] = {6, 11, 19, 23, 27, 31, 33, 38};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i += EVERY) {
        char command[1024], name[32];
        snprintf(name, sizeof name, "run%d", steps[i]);
        snprintf(command, sizeof command,
                 "RF_FAILPOINT=train.nan:usr1:%d \"$TRAIN\" tiny.yaml log.dir=%s " BACK_AFTER_ONE,
                 4 * steps[i], name);
        cr_assert(tiny_shell(command) == 3, "%s", program_output);
        goes_on(i / 2 % 2 == 0 ? 0 : 2, name, BACK_AFTER_ONE, 0);
    }
}

/* Killed anywhere, also in the middle of going back (the seventh and eighth renaming, on a machine with
 * AVX512), and between two steps that are skipped. */
Test(train_spikes, killed_is_uninterrupted)
{
    static const char *const points[] = {"train.nan:kill:212", "train.nan:kill:225",
                                         "rename:kill:7",      "rename:kill:8",
                                         "latest:kill:7",      "train.nan:kill:281"};
    const int status =
        tiny_shell("\"$TRAIN\" tiny.yaml log.dir=whole checkpoint.async=no " BACK_AFTER_TWO);
    cr_assert(status == 0 || status == 4, "status %d\n%s", status, program_output);
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i += EVERY) {
        char command[1024], name[32];
        snprintf(name, sizeof name, "run%zu", i);
        snprintf(
            command, sizeof command,
            "RF_FAILPOINT=%s \"$TRAIN\" tiny.yaml log.dir=%s checkpoint.async=no " BACK_AFTER_TWO,
            points[i], name);
        cr_assert(tiny_shell(command) == 137, "%s: %s", points[i], program_output);
        goes_on(0, name, BACK_AFTER_TWO, status);
    }
}

/* Killed or asked to stop (usr1) between the decision to go back and the step that passes over the rows that
 * are left out: at the failpoints of going back, and in the first and the last of the steps that follow. */
Test(train_spikes, interrupted_while_going_back)
{
    enum { LEAVES = 4, N_PLACES = 5 }; /* of a step; failpoints of going back */
    char point[N_PLACES + 6][40];
    int n = 0, from = 0, to = 0;
    mpi_need();
    tiny_train(0, "log.dir=whole checkpoint.async=no " BACK_AFTER_ONE, 0);
    const char *back = strstr(program_output, "back from step ");
    cr_assert(back != NULL && sscanf(back, "back from step %d to %d", &from, &to) == 2, "%s",
              program_output);
    for (int i = 1; i <= N_PLACES; i++) {
        snprintf(point[n++], sizeof point[0], "rollback:kill:%d", i);
    }
    snprintf(point[n++], sizeof point[0], "rollback:usr1:1");
    snprintf(point[n++], sizeof point[0], "rollback:usr1:%d", N_PLACES);
    for (int i = 0; i < 2; i++) {
        const int visit = LEAVES * (i == 0 ? from : from + (from - to) - 1) + 2;
        snprintf(point[n++], sizeof point[0], "train.nan:kill:%d", visit);
        snprintf(point[n++], sizeof point[0], "train.nan:usr1:%d", visit);
    }
    for (int i = 0; i < n; i += EVERY) {
        char command[1024], name[32];
        snprintf(name, sizeof name, "run%d", i);
        snprintf(
            command, sizeof command,
            "RF_FAILPOINT=%s \"$TRAIN\" tiny.yaml log.dir=%s checkpoint.async=no " BACK_AFTER_ONE,
            point[i], name);
        const int status = tiny_shell(command);
        cr_assert(status == (strstr(point[i], "kill") != NULL ? 137 : 3), "%s: status %d\n%s",
                  point[i], status, program_output);
        goes_on(i == 2 ? 2 : 0, name, BACK_AFTER_ONE, 0);
    }
}

/* The rows of the spike are not trained after going back; those before them are trained again. */
Test(train_spikes, rows_are_left_out)
{
    tiny_train(0, BACK_AFTER_ONE, 0);
    const char *back = strstr(program_output, "back from step ");
    int from = 0, to = 0;
    cr_assert(back != NULL && sscanf(back, "back from step %d to %d", &from, &to) == 2 &&
                  from > to && to % 4 == 0,
              "%s", program_output);
    tiny_train(0, SPIKY "log.dir=plain train.spike_zscore=0", 0);
    char *with = trained("run"), *without = trained("plain");
    char step[32];
    snprintf(step, sizeof step, "step %d:", from);
    const char *left_out = strstr(without, step); /* no spike before: the same rows */
    cr_assert(left_out != NULL);
    char first[64];
    cr_assert(sscanf(left_out + strlen(step), " %60s", first) == 1);
    cr_assert(strstr(with, first) == NULL, "%s is trained in\n%s", first, with);
    free(with);
    free(without);
}

Test(train_spikes, settings_are_checked)
{
    tiny_train(0, "train.spike_rollback=2 checkpoint.every=0", 2);
    tiny_says("checkpoint.every");
    tiny_train(0, "train.spike_rollback=9", 2);
    tiny_says("train.skip_limit");
    tiny_train(0, "train.spike_window=1", 2);
}

/* Before the first checkpoint there is nowhere to go: the run ends as it does without. */
Test(train_spikes, nowhere_to_go)
{
    tiny_train(0, SPIKY "train.spike_rollback=2 train.spike_zscore=0 optim.lr=1e38 optim.clip=0",
               4);
    tiny_says("there is no checkpoint of step 0 to go back to");
    tiny_says("5 times in a row");
}

/* --- Samples ---------------------------------------------------------------------------------- */

/* Stopped on N ranks in the middle of an epoch and gone on with on M: every sample of an epoch once, in
 * the same steps. 30 rows an epoch, 4 a step. */
Test(train_spikes, no_sample_is_missing_or_repeated)
{
    static const int ranks[] = {1, 2, 4};
    mpi_need();
    tiny_train(0, "log.dir=whole debug.log_samples=true train.steps=16", 0);
    char *all = trained("whole");
    for (int sample = 0; sample < 60; sample++) {
        char id[32];
        snprintf(id, sizeof id, " 0.0.%d.0.0", sample);
        const char *at = strstr(all, id);
        cr_assert(at != NULL && strchr(" \n", at[strlen(id)]) != NULL, "%s in\n%s", id, all);
    }
    cr_assert(strstr(all, " 0.0.60.") == NULL && strstr(all, ".1.0 ") == NULL, "%s", all);
    free(all);
    for (int i = 0; i < 9; i++) {
        char command[512];
        if (i % 3 == 0) {
            snprintf(command, sizeof command, "log.dir=from%d debug.log_samples=true train.steps=5",
                     ranks[i / 3]);
            tiny_train(ranks[i / 3], command, 0);
        }
        snprintf(command, sizeof command, "cp -r from%d to%d", ranks[i / 3], i);
        cr_assert(tiny_shell(command) == 0);
        snprintf(command, sizeof command,
                 "log.dir=to%d debug.log_samples=true train.steps=16 --resume auto", i);
        tiny_train(ranks[i % 3], command, 0);
        snprintf(command, sizeof command, "to%d", i);
        same_samples("whole", command);
        snprintf(command, sizeof command, "to%d/step-000000016.h5", i);
        tiny_same_checkpoints("whole/step-000000016.h5", command);
    }
}
