/* Sweeps of refusion-eval as a user meets them. */
#include "tests/infer/program_test.h"
#include "tests/mpi.h"

#include <jansson.h>

enum { N_QUESTIONS = 6 };

/* Two models, and questions whose references are what the first one answers, but for one. */
static void begin(void)
{
    static const char *const queries[N_QUESTIONS] = {"12+30,7+5", "1+2,3+4",  "90+9,8+8",
                                                     "5+5,60+6",  "4+4,5+50", "0+9,9+0"};
    program_begin_model();
    program_save_model("other.h5", 7, 1.4, "decode:\n  slot_size: 4\n  gen_length: 12\n");
    FILE *out = fopen("p.jsonl", "w");
    cr_assert_not_null(out);
    for (int i = 0; i < N_QUESTIONS; i++) {
        fprintf(out, "{\"query\": \"%s\"}\n", queries[i]);
    }
    cr_assert(fclose(out) == 0);
    program_runs("\"$INFER\" --model model.h5 --prompts p.jsonl", 0);
    out = fopen("q.jsonl", "w");
    cr_assert_not_null(out);
    for (int i = 0; i < N_QUESTIONS; i++) {
        json_t *o = program_json(program_output, i);
        const char *text = i == 2 ? "not this" : json_string_value(json_object_get(o, "text"));
        json_t *line = json_pack("{s:s, s:s}", "query", queries[i], "response", text);
        cr_assert(json_dumpf(line, out, JSON_COMPACT) == 0 && fputc('\n', out) == '\n');
        json_decref(line);
        json_decref(o);
    }
    cr_assert(fclose(out) == 0);
}

TestSuite(sweep_program, .init = begin, .fini = leave_folder, .timeout = 600);

#define SWEEP "\"$EVAL\" --model model.h5 --data q.jsonl --task exact --no-likelihood --out r.json "

static const json_t *row_of(const json_t *report, const char *set, size_t i)
{
    const json_t *row = json_array_get(json_object_get(report, set), i);
    cr_assert(json_is_object(row));
    return row;
}

static double number(const json_t *row, const char *field)
{
    const json_t *value = json_object_get(row, field);
    return json_is_number(value) ? json_number_value(value) : strtod("nan", NULL);
}

static double setting(const json_t *row, const char *key)
{
    return number(json_object_get(row, "settings"), key);
}

static const char *word(const json_t *row, const char *key)
{
    const char *text = json_string_value(json_object_get(row, key));
    return text != NULL ? text : "";
}

/* Every row is what the evaluation of that setting alone gives. */
Test(sweep_program, rows_are_evaluations)
{
    static const char *const alone[] = {"decode.slot_threshold=0.2", "decode.slot_threshold=0.3",
                                        "decode.slot_threshold=0.4"};
    program_runs(SWEEP "--csv r.csv decode.slot_threshold=0.2:0.4:0.1 decode.token_threshold=0.4",
                 0);
    json_t *r = program_report("r.json");
    cr_assert(json_is_true(json_object_get(r, "complete")) &&
              json_array_size(json_object_get(r, "rows")) == 3 &&
              json_object_get(r, "sweep") == NULL && json_is_string(json_object_get(r, "machine")));
    cr_assert(strstr(program_output, "slot_threshold") != NULL &&
                  strstr(program_output, "token_threshold") == NULL &&
                  strstr(program_output, "best") != NULL,
              "%s", program_output);
    for (int i = 0; i < 3; i++) {
        char command[512];
        const json_t *row = row_of(r, "rows", (size_t)i);
        snprintf(command, sizeof command,
                 "\"$EVAL\" --model model.h5 --data q.jsonl --task exact --no-likelihood --out "
                 "one.json decode.token_threshold=0.4 %s",
                 alone[i]);
        program_runs(command, 0);
        json_t *one = program_report("one.json");
        static const char *const same[] = {"accuracy", "correct",    "tokens",
                                           "forwards", "places",     "tokens_per_forward",
                                           "ended",    "cache_bytes"};
        for (size_t k = 0; k < sizeof same / sizeof *same; k++) {
            cr_assert(json_equal(json_object_get(row, same[k]),
                                 json_object_get(json_object_get(one, "answers"), same[k])),
                      "%s", same[k]);
        }
        cr_assert(json_equal(json_object_get(row, "settings"), json_object_get(one, "decode")));
        json_decref(one);
    }
    /* The run's own threshold answers as the references do, but for one. */
    cr_assert(!!(fabs(number(row_of(r, "rows", 1), "accuracy") - 5.0 / 6) < 1e-12));
    json_decref(r);
    program_read(program_output, sizeof program_output, "r.csv");
    cr_assert(program_count_lines(program_output) == 4 &&
                  strncmp(program_output, "set,model,", 10) == 0 &&
                  strstr(program_output, "decode.slot_threshold") != NULL &&
                  strstr(program_output, "\nrows,model.h5,") != NULL,
              "%s", program_output);
}

/* What a decoder does not read makes no further row; what does not go together is left out. */
Test(sweep_program, settings_that_make_no_row)
{
    program_runs(SWEEP "decode.kind=ar,refusion decode.slot_size=2,4 decode.block_length=4,6", 0);
    cr_assert(strstr(program_messages, "left out of the sweep: decode.block_length 6 is not a") !=
                  NULL,
              "%s", program_messages);
    json_t *r = program_report("r.json");
    cr_assert(json_array_size(json_object_get(r, "rows")) == 4);
    const json_t *first = json_object_get(row_of(r, "rows", 0), "settings");
    cr_assert_str_eq(word(first, "kind"), "ar");
    cr_assert_null(json_object_get(first, "slot_size"));
    json_decref(r);
    program_runs("rm r.json; " SWEEP "decode.gen_length=16,500 decode.slot_size=2,4", 0);
    cr_assert(strstr(program_messages, "left out of the sweep: decode.gen_length 500 leaves no") !=
                  NULL,
              "%s", program_messages);
    r = program_report("r.json");
    cr_assert(json_is_true(json_object_get(r, "complete")) &&
              json_array_size(json_object_get(r, "rows")) == 2);
    json_decref(r);
    program_runs("rm r.json; " SWEEP "decode.gen_length=500,600", 2);
    cr_assert(strstr(program_messages, "no setting of the sweep is possible") != NULL);
    program_refuses(SWEEP "decode.kind=ar,refuson", 2, "refuson");
    program_refuses(SWEEP "decode.slot_threshold=0.5:0.9", 2, "from:to:step");
    program_refuses(SWEEP "--answers a.jsonl decode.slot_size=2,4", 2, "--answers goes with one");
    program_refuses("\"$EVAL\" --model model.h5 --data q.jsonl decode.slot_size=2,4", 2,
                    "give a --task");
    program_refuses(SWEEP "--csv r.csv", 2, "--csv holds the rows of a sweep");
    program_refuses(SWEEP "--within 1", 2, "--within chooses among the rows of a sweep");
}

/* The best of each model and decoder by accuracy, then by speed; within some points by speed. */
Test(sweep_program, the_best_is_marked)
{
    for (int within = 0; within <= 100; within += 100) {
        char command[512];
        snprintf(command, sizeof command,
                 SWEEP "--model other.h5 --within %d decode.kind=ar,refusion "
                       "decode.slot_threshold=0,0.3,1",
                 within);
        program_shell("rm -f r.json");
        program_runs(command, 0);
        json_t *r = program_report("r.json");
        cr_assert(json_array_size(json_object_get(r, "rows")) == 8);
        for (size_t group = 0; group < 4; group++) {
            size_t from = (size_t[]){0, 1, 4, 5}[group], to = (size_t[]){1, 4, 5, 8}[group];
            int n_best = 0;
            for (size_t i = from; i < to; i++) {
                const json_t *best = row_of(r, "rows", i);
                if (!json_is_true(json_object_get(best, "best"))) {
                    continue;
                }
                n_best++;
                for (size_t j = from; j < to; j++) {
                    const json_t *row = row_of(r, "rows", j);
                    double more = number(row, "accuracy") - number(best, "accuracy");
                    bool faster =
                        number(row, "tokens_per_second") > number(best, "tokens_per_second");
                    cr_assert(within == 100 ? !faster : !(more > 0) && !(more >= 0 && faster));
                }
            }
            cr_assert_eq(n_best, 1);
        }
        json_decref(r);
    }
}

/* Settings are picked on some questions and judged on others. */
Test(sweep_program, picked_on_other_questions)
{
    cr_assert(program_shell("head -n 2 q.jsonl >pick.jsonl") == 0);
    program_runs("\"$EVAL\" --model model.h5 --data q.jsonl --pick-on pick.jsonl --task exact "
                 "--out r.json decode.kind=refusion,ar decode.slot_threshold=0.3,1",
                 0);
    json_t *r = program_report("r.json");
    cr_assert(json_array_size(json_object_get(r, "sweep")) == 3 &&
              json_array_size(json_object_get(r, "rows")) == 2);
    for (size_t i = 0; i < 3; i++) {
        cr_assert((int)number(row_of(r, "sweep", i), "questions") == 2 &&
                  json_object_get(row_of(r, "sweep", i), "likelihood") == NULL);
    }
    const json_t *judged = row_of(r, "rows", 0);
    for (size_t i = 0; i < 2; i++) {
        const json_t *tried = row_of(r, "sweep", i);
        cr_assert(
            json_is_true(json_object_get(tried, "best")) ==
            json_equal(json_object_get(tried, "settings"), json_object_get(judged, "settings")));
    }
    cr_assert((int)number(judged, "questions") == N_QUESTIONS);
    cr_assert_str_eq(word(json_object_get(row_of(r, "rows", 1), "settings"), "kind"), "ar");
    /* Likelihoods are the model's, whatever decodes. */
    cr_assert(json_is_object(json_object_get(judged, "likelihood")) &&
              !json_object_get(row_of(r, "rows", 1), "likelihood"));
    json_decref(r);
}

/* --- Going on --------------------------------------------------------------------------------- */

static void forget_last_rows(size_t keep)
{
    json_t *r = program_report("r.json");
    json_t *rows = json_object_get(r, "rows");
    while (json_array_size(rows) > keep) {
        json_array_remove(rows, json_array_size(rows) - 1);
    }
    json_object_set_new(json_array_get(rows, 0), "tokens_per_second", json_real(123456.5));
    json_object_set_new(r, "complete", json_false());
    cr_assert(json_dump_file(r, "r.json", 0) == 0);
    json_decref(r);
}

/* A file as a killed sweep leaves it: what it holds is kept, what it lacks is computed. */
Test(sweep_program, an_interrupted_sweep_goes_on)
{
    program_runs(SWEEP "decode.slot_threshold=0.2:0.4:0.1", 0);
    forget_last_rows(1);
    program_runs(SWEEP "decode.slot_threshold=0.2:0.4:0.1", 0);
    cr_assert(strstr(program_messages, "holds 1 settings already") != NULL, "%s", program_messages);
    json_t *r = program_report("r.json");
    cr_assert(json_array_size(json_object_get(r, "rows")) == 3 &&
              json_is_true(json_object_get(r, "complete")));
    for (size_t i = 0; i < 3; i++) {
        cr_assert(!!(fabs(setting(row_of(r, "rows", i), "slot_threshold") - 0.2 - 0.1 * (double)i) <
                     1e-9));
        cr_assert((number(row_of(r, "rows", i), "tokens_per_second") >= 123456) == (i == 0));
    }
    json_decref(r);
}

Test(sweep_program, another_sweep_is_refused)
{
    program_runs(SWEEP "decode.slot_threshold=0.2,0.4", 0);
    program_refuses(SWEEP "decode.slot_threshold=0.2,0.5", 1, "was not written by this sweep");
    program_refuses(SWEEP "--limit 3 decode.slot_threshold=0.2,0.4", 1, "remove it");
    program_refuses(SWEEP "--model other.h5 decode.slot_threshold=0.2,0.4", 1, "remove it");
    program_refuses(SWEEP "--check true decode.slot_threshold=0.2,0.4", 1, "remove it");
    program_save_model("model.h5", 9, 1.4, "decode:\n  slot_size: 4\n  gen_length: 12\n");
    program_refuses(SWEEP "decode.slot_threshold=0.2,0.4", 1, "remove it");
    program_write("r.json", "precious");
    program_refuses(SWEEP "decode.slot_threshold=0.2,0.4", 1, "remove it");
}

/* The rows of a sweep took long: a single evaluation is not written over them, nor over those to come. */
Test(sweep_program, a_single_evaluation_spares_a_sweep)
{
    program_runs(SWEEP "decode.slot_threshold=0.2,0.4", 0);
    cr_assert(program_shell("cp r.json kept.json") == 0);
    program_refuses(SWEEP "decode.slot_threshold=0.2", 1, "r.json: holds the rows of a sweep");
    program_runs("cmp r.json kept.json", 0);
    forget_last_rows(1);
    program_refuses(SWEEP, 1, "give another --out");
    program_runs("rm r.json; for i in 1 2; do " SWEEP "|| exit; done", 0); /* its own it replaces */
}

/* All that verdicts follow from: choices that are wrong, which one is right, how long a judge has. */
Test(sweep_program, another_judgement_is_refused)
{
#define CHOICES(texts, key)                                                                        \
    "{\"question\": \"Hot?\", \"choices\": {\"text\": [" texts                                     \
    "], \"label\": [\"A\", \"B\", \"C\"]}, "                                                       \
    "\"answerKey\": \"" key "\"}\n"
    static const char likeliest[] =
        "\"$EVAL\" --model model.h5 --model other.h5 --data c.jsonl --task arc-likelihood "
        "--no-likelihood --out c.json";
    program_write("c.jsonl", CHOICES("\"fire\", \"ice\", \"fire\"", "A"));
    program_runs(likeliest, 0);
    program_write("c.jsonl", CHOICES("\"fire\", \"sea\", \"fire\"", "A"));
    program_refuses(likeliest, 1, "was not written by this sweep");
    program_write("c.jsonl", CHOICES("\"fire\", \"ice\", \"fire\"", "C"));
    program_refuses(likeliest, 1, "was not written by this sweep");
    program_write("c.jsonl", CHOICES("\"fire\", \"ice\", \"fire\"", "A"));
    program_runs(likeliest, 0);
    cr_assert(strstr(program_messages, "going on") != NULL, "%s", program_messages);
#define CHECKED SWEEP "--check true decode.slot_threshold=0.2,0.4 "
    program_runs(CHECKED, 0);
    program_refuses(CHECKED "--judge-seconds 5", 1, "was not written by this sweep");
    program_refuses(CHECKED "--unsafe-run", 2, "without --check");
    program_runs(CHECKED "--judge-seconds 10", 0); /* the default */
}

/* Several ranks write what one does, and go on from what another number of ranks did not write. */
Test(sweep_program, on_ranks)
{
    mpi_need();
    program_runs(SWEEP "decode.slot_threshold=0.2,0.4", 0);
    json_t *alone = program_report("r.json");
    program_runs("mpirun -n 2 " SWEEP "decode.slot_threshold=0.2,0.4", 1);
    cr_assert(strstr(program_messages, "remove it") != NULL, "%s", program_messages);
    program_shell("rm r.json");
    program_runs("mpirun -n 2 " SWEEP "decode.slot_threshold=0.2,0.4", 0);
    json_t *r = program_report("r.json");
    for (size_t i = 0; i < 2; i++) {
        const json_t *a = row_of(alone, "rows", i), *b = row_of(r, "rows", i);
        cr_assert(json_equal(json_object_get(a, "correct"), json_object_get(b, "correct")) &&
                  json_equal(json_object_get(a, "tokens"), json_object_get(b, "tokens")) &&
                  json_equal(json_object_get(a, "places"), json_object_get(b, "places")));
    }
    json_decref(r);
    program_runs("mpirun -n 2 " SWEEP "decode.slot_threshold=0.2,0.4", 0);
    cr_assert(strstr(program_messages, "holds 2 settings already") != NULL);
    json_decref(alone);
}
