/* refusion-eval over tasks: official files, shots, samples, choices, programs and commands. */
#include "common/base/log.h"
#include "infer/eval/judging.h"
#include "tests/infer/program_test.h"
#include "tests/mpi.h"

#include <jansson.h>

TestSuite(eval_tasks, .init = program_begin_model, .fini = leave_folder, .timeout = 600);

#define EVAL "\"$EVAL\" --model model.h5 --no-likelihood --out r.json --answers a.jsonl "

static json_t *read_answers(void)
{
    json_t *report = program_report("r.json");
    json_t *answers = json_incref(json_object_get(report, "answers"));
    json_decref(report);
    return answers;
}

static double number(const json_t *object, const char *field)
{
    const json_t *value = json_object_get(object, field);
    cr_assert(json_is_number(value), "%s", field);
    return json_number_value(value);
}

/* Line i of a.jsonl; the caller releases it. */
static json_t *answer(int i)
{
    static char text[1 << 16];
    program_read(text, sizeof text, "a.jsonl");
    return program_json(text, i);
}

static const char gsm8k[] = "{\"question\": \"1+1?\", \"answer\": \"it is <<1+1=2>>2\\n#### 2\"}\n"
                            "{\"question\": \"2+2?\", \"answer\": \"it is 4\\n#### 4\"}\n"
                            "{\"question\": \"3+3?\", \"answer\": \"it is 6\\n#### 6\"}\n";

/* --- Likelihood of choices -------------------------------------------------------------------- */

static const char arc[] =
    "{\"question\": \"Hot?\", \"choices\": {\"text\": [\"ice\", \"fire\", \"fi\"], \"label\": "
    "[\"A\", "
    "\"B\", \"C\"]}, \"answerKey\": \"B\"}\n"
    "{\"question\": {\"stem\": \"Wet?\", \"choices\": [{\"text\": \"sea\", \"label\": \"1\"}, "
    "{\"text\": \"sand\", \"label\": \"2\"}]}, \"answerKey\": \"1\"}\n";

/* The choice of the highest score; per byte of its text. */
static int best(const double *score, const char *const *text, int n, bool per_byte)
{
    int at = 0;
    for (int i = 1; i < n; i++) {
        double a = per_byte ? (double)strlen(text[i]) : 1,
               b = per_byte ? (double)strlen(text[at]) : 1;
        at = score[i] / a > score[at] / b ? i : at;
    }
    return at;
}

/* Short texts win in sum, another one per byte: each rule has its own verdict. */
Test(eval_tasks, choices_by_both_rules)
{
    static const char *const text[] = {"q", "rs", "ababab", "a", "777777", "ooo"};
    enum { N = sizeof text / sizeof text[0] };
    double score[N];
    int winner[2];
    for (int run = 0; run < 3;
         run++) { /* first to learn the scores, then with each as the answer */
        char record[512];
        int n = snprintf(record, sizeof record, "{\"question\": \"?\", \"choices\": {\"text\": [");
        for (int i = 0; i < N; i++) {
            n += snprintf(record + n, sizeof record - (size_t)n, "%s\"%s\"", i > 0 ? ", " : "",
                          text[i]);
        }
        snprintf(
            record + n, sizeof record - (size_t)n,
            "], \"label\": [\"A\", \"B\", \"C\", \"D\", \"E\", \"F\"]}, \"answerKey\": \"%c\"}\n",
            'A' + (run > 0 ? winner[run - 1] : 0));
        program_write("arc.jsonl", record);
        program_runs(EVAL "--data arc.jsonl --task arc-likelihood objective.kind=ar", 0);
        json_t *line = answer(0);
        for (size_t i = 0; i < N; i++) {
            score[i] = json_number_value(json_array_get(json_object_get(line, "choices"), i));
        }
        winner[0] = best(score, text, N, false);
        winner[1] = best(score, text, N, true);
        cr_assert(winner[0] != winner[1], "the rules agree on %s", text[winner[0]]);
        cr_assert(run == 0 ||
                  (json_is_true(json_object_get(line, "correct")) == (run == 1) &&
                   json_is_true(json_object_get(line, "correct_per_byte")) == (run == 2)));
        json_decref(line);
    }
}

/* The likelihoods are those of the choices as references, the end of text left out. */
Test(eval_tasks, choices_by_likelihood)
{
    program_write("arc.jsonl", arc);
    program_runs(EVAL "--data arc.jsonl --task arc-likelihood objective.kind=ar", 0);
    json_t *first = answer(0), *choices = json_object_get(first, "choices");
    cr_assert(json_array_size(choices) == 3 && number(first, "right") == 1.0);
    double score[3];
    for (size_t i = 0; i < 3; i++) {
        score[i] = json_number_value(json_array_get(choices, i));
        cr_assert(score[i] < 0);
    }
    cr_assert(score[2] > score[1]); /* a beginning is likelier than the whole */
    cr_assert_eq(json_is_true(json_object_get(first, "correct")),
                 score[1] > score[0] && score[1] > score[2]);
    cr_assert_eq(json_is_true(json_object_get(first, "correct_per_byte")),
                 score[1] / 4 > score[0] / 3 && score[1] / 4 > score[2] / 2);
    json_t *report = read_answers();
    json_t *second = answer(1);
    cr_assert_eq(number(report, "accuracy") * 2,
                 (double)(json_is_true(json_object_get(first, "correct")) +
                          json_is_true(json_object_get(second, "correct"))));
    cr_assert_eq(number(report, "accuracy_per_byte") * 2,
                 (double)(json_is_true(json_object_get(first, "correct_per_byte")) +
                          json_is_true(json_object_get(second, "correct_per_byte"))));
    json_decref(report);
    json_decref(second);
    json_decref(first);
    /* "f" then "i" of "fi" are scored by the likelihood of references too, which adds the end. */
    program_write("fi.jsonl", "{\"query\": \"Hot?\", \"response\": \"fi\"}\n");
    program_runs("\"$EVAL\" --model model.h5 --data fi.jsonl --task exact --answers a.jsonl "
                 "objective.kind=ar",
                 0);
    first = answer(0);
    cr_assert(number(first, "loglikelihood") < score[2] &&
              number(first, "loglikelihood_tokens") == 3.0);
    json_decref(first);
    program_refuses("\"$EVAL\" --model model.h5 --data fi.jsonl --task arc-likelihood", 1,
                    "has no choices");
}

Test(eval_tasks, an_empty_choice_has_no_likelihood)
{
    program_write("arc.jsonl", arc);
    program_runs("sed -i '1s/\"ice\"/\"\"/; 2s/sand//' arc.jsonl", 0);
    program_refuses(EVAL "--data arc.jsonl --task arc-likelihood", 1,
                    "arc.jsonl:1: the text of choice 1 is empty");
    program_refuses("sed -i 1d arc.jsonl; " EVAL "--data arc.jsonl --task arc-likelihood", 1,
                    "arc.jsonl:1: the text of choice 2 is empty");
    program_runs(EVAL "--data arc.jsonl --task arc", 0); /* its letter is there */
}

Test(eval_tasks, choices_on_ranks)
{
    json_t *line[2];
    mpi_need();
    program_write("arc.jsonl", arc);
    for (int i = 0; i < 2; i++) {
        program_runs(i == 0 ? EVAL "--data arc.jsonl --task arc-likelihood"
                            : "$RUN -n 2 " EVAL "--data arc.jsonl --task arc-likelihood",
                     0);
        line[i] = answer(1);
    }
    cr_assert(json_equal(line[0], line[1]));
    json_decref(line[0]);
    json_decref(line[1]);
}

/* --- Shots ------------------------------------------------------------------------------------ */

/* Prompts are looked at through what they cost: a byte is a token, and a mark stands before each
 * message. */
static double prompt_places(const char *options)
{
    char command[1024];
    snprintf(command, sizeof command,
             EVAL "--data q.jsonl --limit 1 --task gsm8k decode.kind=ar decode.gen_length=1 %s",
             options);
    program_runs(command, 0);
    json_t *report = read_answers();
    double places = number(report, "places");
    json_decref(report);
    return places;
}

Test(eval_tasks, shots)
{
    program_write("q.jsonl", gsm8k);
    program_write("two.jsonl", "{\"query\": \"ab\", \"response\": \"cde\"}\n"
                               "{\"query\": \"xy\", \"response\": \"zzz\"}\n");
    const double bare = prompt_places(""), raw = prompt_places("--raw");
    cr_assert_eq(bare, 6.0); /* user, 1+1?, assistant */
    cr_assert_eq(raw, 1.0 + (double)strlen("Question: 1+1?\nAnswer:"));
    cr_assert_eq(prompt_places("--shots 1 --shots-from two.jsonl"),
                 bare + (double)strlen("<ab<cde>")); /* three marks */
    cr_assert_eq(prompt_places("--shots 1 --shots-from two.jsonl --raw"),
                 raw + (double)strlen("ab cde\n\n"));
    /* Of two one is the question itself, whichever is drawn first. */
    program_write("own.jsonl", "{\"query\": \"1+1?\", \"response\": \"2\"}\n"
                               "{\"query\": \"xyz\", \"response\": \"zz12\"}\n");
    for (int seed = 0; seed < 5; seed++) {
        char options[128];
        snprintf(options, sizeof options, "--shots 1 --shots-from own.jsonl --seed %d", seed);
        cr_assert_eq(prompt_places(options), bare + (double)strlen("<xyz<zz12>"));
    }
    cr_assert_eq(prompt_places("--instruction Hm."), bare + (double)strlen("\nHm."));
    program_refuses(EVAL "--data q.jsonl --task gsm8k --shots 2 --shots-from two.jsonl", 1,
                    "2 questions with answers");
    program_refuses(EVAL "--data q.jsonl --task gsm8k --shots-from two.jsonl", 1,
                    "for 5 shots"); /* as many as are usual */
    program_refuses(EVAL "--data q.jsonl --task exact --shots-from two.jsonl", 2, "--shots N");
}

/* HumanEval's solutions stand behind their prompts as they are: a blank more is no Python. */
Test(eval_tasks, raw_programs_bring_their_blanks)
{
    static const char prompt[] = "def f():\n", solution[] = "    return 1\n";
    program_write("code.jsonl",
                  "{\"prompt\": \"def f():\\n\", \"canonical_solution\": \"    return 1\\n\", "
                  "\"test\": \"def check(f): pass\", \"entry_point\": \"f\"}\n"
                  "{\"prompt\": \"def g():\\n\", \"canonical_solution\": \"    return 2\\n\", "
                  "\"test\": \"def check(g): pass\", \"entry_point\": \"g\"}\n");
    program_runs("\"$EVAL\" --model model.h5 --data code.jsonl --limit 1 --raw --shots 1 "
                 "--task humaneval --check true --out r.json --answers a.jsonl decode.kind=ar "
                 "decode.gen_length=1",
                 0);
    json_t *report = read_answers(), *line = answer(0);
    cr_assert_eq(number(report, "places"), 1.0 + 2.0 * (double)strlen(prompt) +
                                               (double)strlen(solution) + (double)strlen("\n\n"));
    cr_assert_eq(number(line, "loglikelihood_tokens"), (double)strlen(solution) + 1.0);
    json_decref(report);
    json_decref(line);
}

/* MATH as it was published: a folder of files, a record over several lines in each. */
Test(eval_tasks, folder_of_records)
{
    program_runs("mkdir -p MATH/algebra MATH/geometry; touch MATH/algebra/README", 0);
    program_write("MATH/geometry/1.json", "{\"problem\": \"$1+1$?\",\n\"level\": \"Level 1\",\n"
                                          "\"solution\": \"$\\\\boxed{2}$\"}\n");
    program_runs("sed s/1+1/2+2/ MATH/geometry/1.json >MATH/algebra/2.json", 0);
    program_runs(EVAL "--data MATH --task math decode.gen_length=4", 0);
    json_t *first = answer(0), *second = answer(1);
    cr_assert_str_eq(json_string_value(json_object_get(first, "query")), "$2+2$?");
    cr_assert_str_eq(json_string_value(json_object_get(second, "query")), "$1+1$?");
    cr_assert_str_eq(json_string_value(json_object_get(second, "expected")), "$\\boxed{2}$");
    json_decref(first);
    json_decref(second);
    program_refuses(EVAL "--data MATH/none --task math", 1, "MATH/none");
    program_refuses("mkdir bare; " EVAL "--data bare --task math", 1, "ends with .json");
}

/* --- Samples ---------------------------------------------------------------------------------- */

Test(eval_tasks, pass_at_k)
{
    cr_assert(!!(fabs(rf_pass_at(5, 1, 1) - 0.2) < 1e-12));
    cr_assert(!!(fabs(rf_pass_at(5, 2, 3) - 0.9) < 1e-12)); /* 1 - 1/10 */
    cr_assert(!!(fabs(rf_pass_at(200, 17, 100) - 1 +
                      exp(lgamma(184) - lgamma(84) - lgamma(201) + lgamma(101))) < 1e-9));
    cr_assert(rf_pass_at(5, 3, 3) == 1.0 && rf_pass_at(5, 0, 5) == 0.0 &&
              rf_pass_at(1, 1, 1) == 1.0);
}

/* The first sample is the answer of a run with one; samples differ, and do not depend on ranks. */
Test(eval_tasks, samples)
{
    static const char *const commands[] = {
        EVAL "--data q.jsonl --task gsm8k decode.temperature=1",
        EVAL "--data q.jsonl --task gsm8k decode.temperature=1 --samples 4 --batch 3",
        "$RUN -n 2 " EVAL "--data q.jsonl --task gsm8k decode.temperature=1 --samples 4"};
    char text[3][3][4][256];
    program_write("q.jsonl", gsm8k);
    for (int c = 0; c < (strcmp(rf_dist_library(), "none") == 0 ? 2 : 3); c++) {
        int n = c == 0 ? 1 : 4;
        program_runs(commands[c], 0);
        for (int i = 0; i < 3 * n; i++) {
            json_t *line = answer(i);
            cr_assert(number(line, "index") == (double)(i / n) &&
                      number(line, "sample") == (double)(i % n));
            snprintf(text[c][i / n][i % n], 256, "%s",
                     json_string_value(json_object_get(line, "text")));
            json_decref(line);
        }
        for (int q = 0; q < 3; q++) {
            cr_assert_str_eq(text[c][q][0], text[0][q][0]);
            for (int s = 0; s < 4 && c == 2; s++) {
                cr_assert_str_eq(text[2][q][s], text[1][q][s]);
            }
        }
    }
    int n_same = 0;
    for (int q = 0; q < 3; q++) {
        n_same += strcmp(text[1][q][0], text[1][q][1]) == 0;
    }
    cr_assert_lt(n_same, 3);
    json_t *report = read_answers();
    cr_assert(number(report, "samples_per_question") == 4.0 && number(report, "pass_at_1") >= 0 &&
              number(report, "pass_at_4") >= number(report, "pass_at_2") &&
              number(report, "majority") >= 0);
    json_decref(report);
    program_refuses(EVAL "--data q.jsonl --task gsm8k --samples 4", 2, "decode.temperature");
}

/* What a report shows of a question is its first answer, with the verdict on that one. */
Test(eval_tasks, first_samples_are_shown)
{
    program_write("q.jsonl", gsm8k);
    program_runs(EVAL "--data q.jsonl --samples 4 decode.temperature=1 "
                      "--check 'grep -Eq \"sample.: ?1\"'",
                 0);
    json_t *report = program_report("r.json");
    const json_t *samples = json_object_get(report, "samples");
    cr_assert_eq(json_array_size(samples), 3);
    cr_assert_eq(number(json_object_get(report, "answers"), "correct"), 3.0);
    for (int i = 0; i < 3; i++) {
        const json_t *sample = json_array_get(samples, (size_t)i);
        json_t *line = answer(4 * i);
        cr_assert(json_equal(json_object_get(sample, "text"), json_object_get(line, "text")) &&
                      json_equal(json_object_get(sample, "query"), json_object_get(line, "query")),
                  "sample %d", i);
        cr_assert(json_is_false(json_object_get(sample, "correct")), "sample %d", i);
        json_decref(line);
    }
    json_decref(report);
}

/* Votes: of two answers that say 4 and one that says 5, four is what most say. */
Test(eval_tasks, majority)
{
    char *text[6] = {(char[]){"#### 5"}, (char[]){"so 4."},   (char[]){"#### 4.0"},
                     (char[]){"#### 2"}, (char[]){"nothing"}, (char[]){"#### 9"}};
    bool correct[6] = {0};
    rf_eval_record record[2] = {0};
    rf_question question[2] = {{.item = {.query = (char[]){"q"}, .expected = (char[]){"#### 4"}}},
                               {.item = {.query = (char[]){"q"}, .expected = (char[]){"#### 9"}}}};
    rf_eval_result result = {
        .n = 2, .n_samples = 3, .record = record, .text = text, .correct = correct};
    const rf_judge judge = {.task = rf_task_find("gsm8k")};
    rf_error err;
    cr_assert_eq(rf_eval_judge(&result, question, &judge, 0, 1, &err), RF_OK);
    cr_assert(record[0].correct == 1.0 && record[0].also == 2.0 && record[0].majority == 1.0);
    cr_assert(!correct[0] && !correct[1] && correct[2]);
    cr_assert(record[1].correct == 1.0 && record[1].majority == 0.0); /* 2 was said first */
}

/* --- Stop strings ----------------------------------------------------------------------------- */

static bool has_no_b(const char *query, const char *expected, const char *said)
{
    (void)query;
    (void)expected;
    return strchr(said, 'b') == NULL;
}

/* Answers to the questions of q.jsonl by a decoder and a task that ends them at these strings. */
static rf_eval_result answers_of(const rf_decoder *decoder, const char *const *stops, rf_dist *dist)
{
    const rf_task task = {.name = "until", .stops = stops, .check = has_no_b};
    rf_eval_options o = {.task = &task,
                         .judge = {.task = &task},
                         .n_samples = 1,
                         .decode = plain_options(decoder, 40, 1),
                         .batch = 2,
                         .n_threads = 1};
    rf_loaded loaded = {0};
    rf_question *question = NULL;
    rf_eval_result result;
    int64_t n = 0;
    TINY_MUST(rf_loaded_open(&loaded, &(rf_loaded_source){.model = "model.h5"}, tiny_error()));
    TINY_MUST(rf_questions_read(&question, &n, "q.jsonl", loaded.info.tokenizer, 0, tiny_error()));
    TINY_MUST(rf_eval_run(&result, &loaded, question, n, &o, dist, tiny_error()));
    rf_questions_free(question, n);
    rf_loaded_close(&loaded);
    return result;
}

/* The stop strings of a task end decoding: the same texts and verdicts, fewer forwards. */
MPI_TEST(eval_tasks, stop_strings_end_decoding, 1)
{
    program_write("q.jsonl", gsm8k);
    rf_eval_result whole = answers_of(&rf_decoder_ar, NULL, dist);
    rf_eval_result cut = answers_of(&rf_decoder_ar, (const char *const[]){"b", NULL}, dist);
    for (int64_t i = 0; i < whole.n; i++) {
        const size_t n = strcspn(whole.text[i], "b");
        cr_assert(strlen(cut.text[i]) == n && strncmp(whole.text[i], cut.text[i], n) == 0, "%s, %s",
                  whole.text[i], cut.text[i]);
        cr_assert(cut.correct[i] && whole.correct[i] == (whole.text[i][n] == '\0'));
    }
    cr_assert(cut.sum.ended == (double)cut.n && cut.sum.forwards < whole.sum.forwards,
              "%g and %g forwards", whole.sum.forwards, cut.sum.forwards);
    rf_eval_result_free(&whole);
    rf_eval_result_free(&cut);
}

/* --- Times ------------------------------------------------------------------------------------ */

static int64_t n_asked;    /* for places of a pass */
static double first_asked; /* rf_log_seconds() */

/* What comes once takes a second. */
static void ask_slowly_once(rf_sequence *s, rf_batch *batch)
{
    if (n_asked++ == 0) {
        first_asked = rf_log_seconds();
        sleep(1);
    }
    rf_decoder_ar.ask(s, batch);
}

/* It is in no time, and the passes of the warm-up are in no count. */
MPI_TEST(eval_tasks, times_begin_behind_a_warm_up, 1)
{
    rf_decoder decoder = rf_decoder_ar;
    decoder.ask = ask_slowly_once;
    program_write("q.jsonl", gsm8k);
    rf_eval_result plain = answers_of(&rf_decoder_ar, NULL, dist);
    rf_eval_result result = answers_of(&decoder, NULL, dist);
    const double seconds = rf_log_seconds() - first_asked;
    cr_assert(result.decode_seconds <= seconds - 1, "%g of %g s", result.decode_seconds, seconds);
    cr_assert(result.sum.forwards == plain.sum.forwards && result.sum.places == plain.sum.places);
    cr_assert_eq(n_asked, (int64_t)result.sum.forwards + 2);
    for (int64_t i = 0; i < plain.n; i++) {
        cr_assert_str_eq(result.text[i], plain.text[i]);
    }
    rf_eval_result_free(&plain);
    rf_eval_result_free(&result);
}

/* --- Judges ----------------------------------------------------------------------------------- */

Test(eval_tasks, commands)
{
    program_write("q.jsonl", gsm8k);
    program_runs(EVAL "--data q.jsonl --check 'grep -q 2+2'", 0);
    json_t *report = read_answers();
    cr_assert(!!(fabs(number(report, "accuracy") - 1.0 / 3) < 1e-12));
    json_decref(report);
    program_runs(EVAL "--data q.jsonl --check 'exit 7'", 1);
    cr_assert(strstr(program_messages, "question 1, sample 1: --check exit 7 failed") != NULL, "%s",
              program_messages);
}

static bool says(const json_t *object, const char *field, const char *text)
{
    const json_t *value = json_object_get(object, field);
    return text == NULL ? value == NULL
                        : json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

/* What a command has judged is not told as the verdict of a task's rules. */
Test(eval_tasks, who_judged_is_told)
{
    static const struct {
        const char *options, *words, *task, *check, *of;
    } rows[] = {
        {"--task gsm8k", "(gsm8k: ", "gsm8k", NULL, NULL},
        {"--check true", "judged by             true\n", "check", "true", NULL},
        {"--task gsm8k --check true", "true   (questions of gsm8k)", "check", "true", "gsm8k"}};
    program_write("q.jsonl", gsm8k);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char command[512];
        snprintf(command, sizeof command, EVAL "--data q.jsonl %s", rows[i].options);
        program_runs(command, 0);
        json_t *report = read_answers();
        cr_assert(says(report, "task", rows[i].task) && says(report, "check", rows[i].check) &&
                      says(report, "questions_of", rows[i].of) &&
                      strstr(program_output, rows[i].words) != NULL,
                  "%s: %s", rows[i].options, program_output);
        json_decref(report);
    }
}

Test(eval_tasks, what_does_not_go_together)
{
    program_write("arc.jsonl", arc);
    program_refuses(EVAL "--data arc.jsonl --task arc-likelihood --check true", 2, "has none");
    program_refuses(EVAL "--data arc.jsonl --task arc-likelihood --samples 2", 2, "scores");
    program_refuses("\"$EVAL\" --model model.h5 --data arc.jsonl --samples 2", 2, "--samples goes");
    program_refuses(EVAL "--data arc.jsonl --task arc-likelihood --batch 2", 2, "scores");
    program_refuses(EVAL "--data arc.jsonl --task gsm8k --run-code", 2,
                    "--run-code goes with a task");
    program_refuses(EVAL "--data arc.jsonl --task mbpp --check true --unsafe-run", 2,
                    "--unsafe-run goes with a task");
    program_refuses(EVAL "--data arc.jsonl --task gsm8k --judge-seconds 3", 2,
                    "--judge-seconds goes with --check, or");
    program_refuses(EVAL "--data arc.jsonl --task arc-likelihood --masks 9", 2,
                    "--masks goes with a bound");
}

Test(eval_tasks, programs)
{
    program_write("mbpp.jsonl", "{\"task_id\": 1, \"text\": \"Add.\", \"code\": \"def add(a, b): "
                                "return a + b\", \"test_list\": [\"assert add(1, 2) == 3\"]}\n");
    program_refuses(EVAL "--data mbpp.jsonl --task mbpp", 2, "--run-code allows it");
    program_runs(EVAL "--data mbpp.jsonl --task mbpp --unsafe-run decode.gen_length=4 --limit 1 "
                      "--shots 0",
                 0);
    json_t *report = read_answers();
    cr_assert(number(report, "failures") + number(report, "correct") + number(report, "timeouts") <=
                  1.0 &&
              number(report, "accuracy") == 0.0);
    json_decref(report);
    program_write("other.jsonl", "{\"query\": \"Add.\", \"response\": \"a + b\"}\n");
    program_refuses(EVAL "--data other.jsonl --task humaneval --unsafe-run", 1, "has no tests");
}

/* Where no namespace may be made, programs are not run in any lesser way. */
Test(eval_tasks, denied_isolation_is_said)
{
    static const char deny[] = "unshare -Ur sh -c 'echo 0 >/proc/sys/user/max_user_namespaces && ";
    char command[1024];
    snprintf(command, sizeof command, "%strue'", deny);
    if (program_shell(command) != 0) {
        cr_skip("namespaces cannot be denied here: what is said then was not tested\n");
    }
    program_write("mbpp.jsonl",
                  "{\"text\": \"Add.\", \"code\": \"c\", \"test_list\": [\"assert 1\"]}\n");
    for (int unsafe = 0; unsafe < 2; unsafe++) {
        snprintf(command, sizeof command,
                 "%s\"$EVAL\" --model model.h5 --no-likelihood --data mbpp.jsonl --task mbpp %s'",
                 deny, unsafe ? "--unsafe-run" : "--run-code");
        program_runs(command, unsafe ? 0 : 1);
        cr_assert(unsafe || (strstr(program_messages, "user namespaces are denied here") != NULL &&
                             strstr(program_messages, "--unsafe-run") != NULL),
                  "%s", program_messages);
    }
}

/* --- Going on --------------------------------------------------------------------------------- */

static int n_partial(void)
{
    return program_shell("ls a.jsonl.partial.* >/dev/null 2>&1") == 0;
}

/* a.jsonl without what a clock has measured. */
static json_t *all_answers(void)
{
    json_t *list = json_array();
    for (int i = 0; i < 6; i++) {
        json_t *line = answer(i);
        json_object_del(line, "seconds");
        json_array_append_new(list, line);
    }
    return list;
}

#define SAMPLES                                                                                    \
    "\"$EVAL\" --model model.h5 --data q.jsonl --samples 2 decode.temperature=1 --answers "        \
    "a.jsonl "                                                                                     \
    "--out r.json "

/* A judge that fails ends the run behind the decoding: all is there, and no pass is run again. */
Test(eval_tasks, goes_on_from_answers)
{
    program_write("q.jsonl", gsm8k);
    program_runs(SAMPLES "--task gsm8k", 0);
    json_t *whole = all_answers(), *report = read_answers();
    cr_assert_eq(n_partial(), 0);
    program_runs(SAMPLES "--task gsm8k --check 'exit 7'", 1);
    cr_assert_eq(n_partial(), 1);

    /* Of nine lines (three scores, six answers) two are left, and half of one. */
    program_runs("head -n 2 a.jsonl.partial.0 >p; sed -n 5p a.jsonl.partial.0 >>p; "
                 "sed -n 7p a.jsonl.partial.0 | head -c 60 >>p; mv p a.jsonl.partial.0",
                 0);
    program_refuses(SAMPLES "--task gsm8k decode.slot_threshold=0.7", 1, "other settings");
    program_refuses(SAMPLES "--task gsm8k --seed 3", 1, "other settings");
    program_refuses(SAMPLES "--task gsm8k --no-likelihood", 1, "other settings");
    const char *const commands[] = {SAMPLES "--task gsm8k", "$RUN -n 2 " SAMPLES "--task gsm8k"};
    cr_assert_eq(program_shell("cp a.jsonl.partial.0 keep"), 0);
    for (int i = 0; i < (strcmp(rf_dist_library(), "none") == 0 ? 1 : 2); i++) {
        cr_assert_eq(program_shell("cp keep a.jsonl.partial.0"), 0);
        program_runs(commands[i], 0);
        cr_assert(strstr(program_messages, "going on") != NULL &&
                      strstr(program_messages, "3 answers and scores") != NULL,
                  "%s", program_messages);
        json_t *again = all_answers(), *second = read_answers();
        cr_assert(json_equal(again, whole), "answers differ");
        cr_assert(
            json_equal(json_object_get(second, "forwards"), json_object_get(report, "forwards")) &&
            json_equal(json_object_get(second, "accuracy"), json_object_get(report, "accuracy")));
        cr_assert_eq(n_partial(), 0);
        json_decref(again);
        json_decref(second);
    }
    json_decref(whole);
    json_decref(report);
}

/* Another question under the same number is asked; what is known of the others is kept. */
Test(eval_tasks, goes_on_with_other_questions)
{
    program_write("q.jsonl", gsm8k);
    program_runs(SAMPLES "--task gsm8k --check 'exit 7'", 1);
    program_runs(SAMPLES "--task gsm8k --limit 2", 0);
    cr_assert_eq(n_partial(), 1); /* of the third */
    program_runs(
        "sed -i 's/2+2/2+5/' q.jsonl; "
        "sed -i '/\"kind\":\"answer\"/s/\"text\":.*/\"text\":\"taken\"}/' a.jsonl.partial.0",
        0);
    program_runs(SAMPLES "--task gsm8k", 0);
    json_t *line = answer(2), *kept = answer(0), *report = read_answers();
    cr_assert_str_eq(json_string_value(json_object_get(line, "query")), "2+5?");
    cr_assert_str_neq(json_string_value(json_object_get(line, "text")), "taken");
    cr_assert_str_eq(json_string_value(json_object_get(kept, "text")), "taken");
    json_decref(kept);
    const double seconds = number(report, "seconds");
    cr_assert(seconds > 0);
    json_decref(line);
    json_decref(report);
}
