/* train/compare.sh with models of a few steps: its report, going on, and what it refuses. */
#include "tests/mpi.h"

#include <jansson.h>

static void begin(void)
{
    char settings[4096], path[1024];
    program_begin();
    snprintf(settings, sizeof settings,
             "model=configs/compare/model.yaml\nout=%s/out\nranks=1\nobjectives='ar refusion'\n"
             "tasks='small'\nseeds='1 2'\nkind_small=sort\nsynth_small='--option parts=2'\n"
             "train_small=300 valid_small=3 test_small=4\n"
             "set_small='train.steps=2 train.batch_rows=2 train.micro_rows=1 train.compute=f32 "
             "model.hidden_size=32 model.num_hidden_layers=1 decode.gen_length=6'\n"
             "sweeps_ar='decode.kind=ar'\n"
             "sweeps_refusion='\ndecode.kind=refusion decode.slot_size=2,4\n"
             "decode.kind=refusion-left-to-right decode.slot_size=2'\n",
             folder);
    snprintf(path, sizeof path, "%s/settings.sh", folder);
    program_write(path, settings);
    setenv("FOLDER", folder, 1);
    setenv("OMP_NUM_THREADS", "1", 1);
}

TestSuite(compare, .init = begin, .fini = leave_folder, .timeout = 600);

#define COMPARE                                                                                    \
    "cd $ROOT && BUILD_DIR=$(dirname \"$EVAL\") sh train/compare.sh $FOLDER/settings.sh "

static json_t *read_report(void)
{
    char path[1024];
    json_error_t problem;
    snprintf(path, sizeof path, "%s/out/report.json", folder);
    json_t *report = json_load_file(path, 0, &problem);
    cr_assert(json_is_object(report), "%s", problem.text);
    return report;
}

static const char *word(const json_t *row, const char *field)
{
    const char *text = json_string_value(json_object_get(row, field));
    return text != NULL ? text : "";
}

static void expect_rows(const json_t *report)
{
    static const char *const expected[][2] = {
        {"ar", "ar"}, {"refusion", "refusion"}, {"refusion", "refusion-left-to-right"}};
    static const char *const numbers[] = {
        "accuracy",     "tokens_per_second", "tokens_per_forward", "forwards",     "places",
        "seed",         "train_seconds",     "train_samples",      "train_places", "latency_mean",
        "learning_rate"};
    const json_t *rows = json_object_get(report, "rows");
    cr_assert_eq(json_array_size(rows), 6);
    for (size_t i = 0; i < 6; i++) {
        const json_t *row = json_array_get(rows, i);
        cr_assert_str_eq(word(row, "task"), "small");
        cr_assert_str_eq(word(row, "objective"), expected[i % 3][0]);
        cr_assert_str_eq(word(row, "decoder"), expected[i % 3][1]);
        cr_assert_eq(json_integer_value(json_object_get(row, "seed")), 1 + (int)i / 3);
        cr_assert(json_is_object(json_object_get(row, "settings")));
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
            cr_assert(json_is_number(json_object_get(row, numbers[k])), "%s", numbers[k]);
        }
        /* 2 steps of 2 rows of 256 places */
        cr_assert_eq(json_integer_value(json_object_get(row, "train_places")), 1024);
    }
    cr_assert_eq(json_array_size(json_object_get(report, "sweep")), 8);
    const json_t *mean = json_array_get(json_object_get(report, "means"), 0);
    cr_assert(json_array_size(json_object_get(report, "means")) == 3 &&
              json_integer_value(json_object_get(mean, "seeds")) == 2 &&
              json_is_number(json_object_get(json_object_get(mean, "places"), "mean")));
}

/* What a finished comparison has measured stays as it is. */
Test(compare, reports_and_does_nothing_twice)
{
    mpi_need();
    program_runs(COMPARE, 0);
    cr_assert(strstr(program_output, "refusion-left-to-right") != NULL, "%s", program_output);
    json_t *first = read_report();
    expect_rows(first);
    program_runs("test $(wc -c <$FOLDER/out/report.html) -gt 20000", 0);
    program_runs(COMPARE, 0);
    json_t *second = read_report();
    cr_assert(json_equal(json_object_get(first, "rows"), json_object_get(second, "rows")));
    json_decref(first);
    json_decref(second);

    /* A part that was lost is made again, and only that. */
    program_runs("rm -r $FOLDER/out/settings/small-refusion-2", 0);
    program_runs(COMPARE, 0);
    second = read_report();
    expect_rows(second);
    json_decref(second);

    program_runs(COMPARE "floor=101", 1);
    cr_assert(strstr(program_messages, "below 101 %: small ar") != NULL, "%s", program_messages);
    program_runs(COMPARE "train_small=200", 1);
    cr_assert(strstr(program_messages, "other settings") != NULL, "%s", program_messages);
}

/* Each objective is trained at each of its learning rates with the first seed, and judged at the one
 * that leaves the lowest validation loss: not at one that moves nothing. */
Test(compare, chooses_a_learning_rate)
{
    mpi_need();
    program_runs(COMPARE "objectives=ar rates_ar='1e-9 3e-3'", 0);
    json_t *report = read_report();
    const json_t *rows = json_object_get(report, "rows");
    cr_assert_eq(json_array_size(rows), 2);
    for (size_t i = 0; i < 2; i++) {
        double rate = json_number_value(json_object_get(json_array_get(rows, i), "learning_rate"));
        cr_assert(rate > 1e-6 && rate <= 3e-3, "%g", rate);
    }
    json_decref(report);
    program_runs(
        "cd $FOLDER/out/settings && test -d small-ar-1-1e-9 && test ! -d small-ar-2-1e-9 && "
        "test -d small-ar-2-3e-3",
        0);
}

/* Models that are trained beside each other are those that are trained one by one; one that fails ends it. */
Test(compare, trains_side_by_side)
{
    mpi_need();
    program_runs(COMPARE "rates_ar='1e-9 3e-3'", 0);
    json_t *report = read_report();
    program_runs("mv $FOLDER/out $FOLDER/alone; " COMPARE "objectives= beside=3", 0);
    cr_assert(strstr(program_output, "compare: data of small (") != NULL, "%s", program_output);
    program_runs(
        "test ! -e $FOLDER/out/report.json && test -f $FOLDER/out/settings/data-small/train.h5", 0);
    program_runs(COMPARE "rates_ar='1e-9 3e-3' beside=3 gpus=1", 0);
    cr_assert(strstr(program_output, "small: data (") != NULL &&
                  strstr(program_output, "small-ar-1-3e-3: train (") != NULL &&
                  strstr(program_output, "small-refusion-2: judge (") != NULL,
              "%s", program_output);
    program_runs("cd $FOLDER/out/settings/data-small && "
                 "test \"$(cat train.jsonl valid.jsonl test.jsonl | sort -u | wc -l)\" = 307 && "
                 "\"$DATA\" synth sort --option parts=2 --seed 1 --unique --n 4 --skip 303 "
                 "--out last && cmp last test.jsonl",
                 0);
    json_t *beside = read_report();
    expect_rows(report);
    expect_rows(beside);
    for (size_t i = 0; i < 6; i++) { /* one by one, on as many questions as there are */
        const json_t *row = json_array_get(json_object_get(beside, "rows"), i);
        cr_assert_eq(json_integer_value(json_object_get(row, "timed_questions")), 4);
    }
    json_decref(report);
    json_decref(beside);
    program_runs("cd $FOLDER && for run in small-ar-1-1e-9 small-ar-1-3e-3 small-ar-2-3e-3 "
                 "small-refusion-2; do "
                 "for f in alone out; do grep -o '\"loss\": *[^,]*' $f/settings/$run/metrics.jsonl "
                 ">$f.losses; "
                 "done; test -s out.losses && cmp alone.losses out.losses || exit 1; done",
                 0);
    program_runs(COMPARE "beside=2 out=$FOLDER/bad set_refusion=optim.lr=fast", 2);
    cr_assert(strstr(program_messages, "optim.lr") != NULL, "%s", program_messages);
    cr_assert(strstr(program_output, "compare: small, ") == NULL, "nothing is judged: %s",
              program_output);
}

/* GSM8K=FILE: every objective is trained on nine tenths of the file, and its likelihoods of the rest
 * are reported. */
Test(compare, likelihoods_of_a_file)
{
    mpi_need();
    program_runs("for i in $(seq 40); do echo \"{\\\"question\\\": \\\"What is $i and 1?\\\", "
                 "\\\"answer\\\": \\\"#### $((i + 1))\\\"}\"; done >$FOLDER/gsm8k.jsonl",
                 0);
    program_runs("export GSM8K=$FOLDER/gsm8k.jsonl; " COMPARE
                 "seeds=1 set_gsm8k='train.steps=2 train.batch_rows=2 train.micro_rows=1 "
                 "train.compute=f32 model.hidden_size=32 model.num_hidden_layers=1'",
                 0);
    json_t *report = read_report();
    const json_t *list = json_object_get(report, "likelihood");
    cr_assert_eq(json_array_size(list), 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *one = json_array_get(list, i);
        cr_assert_str_eq(word(one, "task"), "gsm8k");
        cr_assert_str_eq(word(one, "objective"), i == 0 ? "ar" : "refusion");
        cr_assert(json_number_value(json_object_get(one, "nats_per_byte")) > 1);
    }
    json_decref(report);
    program_runs("test $(wc -l <$FOLDER/out/settings/data-gsm8k/valid.jsonl) -eq 4", 0);
}

/* No question fits beside such an answer: that is no accuracy of 0 %. */
Test(compare, nothing_is_decoded)
{
    mpi_need();
    program_runs(COMPARE "objectives=ar seeds=1 sweeps_ar='decode.kind=ar decode.gen_length=252'",
                 1);
    cr_assert(strstr(program_messages, "ar decoded no answer") != NULL, "%s", program_messages);
    program_runs("test ! -e $FOLDER/out/report.json", 0);
}

Test(compare, refuses)
{
    program_runs(COMPARE "nonsense", 2);
    cr_assert(strstr(program_messages, "not NAME=VALUE") != NULL);
    program_runs("sh $ROOT/train/compare.sh nowhere.sh", 2);
    cr_assert(strstr(program_messages, "no such settings file") != NULL);
    program_runs("sh $ROOT/train/compare.sh", 2);
    program_runs("sh $ROOT/train/compare.sh --help", 0);
    cr_assert(strstr(program_output, "SETTINGS.sh") != NULL);
}
