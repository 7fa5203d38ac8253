/* refusion-eval as a user meets it. */
#include "tests/infer/eval/eval_test.h"

#include "common/kernels/machine.h"
#include "infer/score/score.h"

TestSuite(eval_program, .init = begin, .fini = leave_folder, .timeout = 600);

/* --- What is in a report ---------------------------------------------------------------------- */

static double nats_of_all(int64_t slot_size, int64_t *tokens)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_model *model = sharp_model(backend_named("ref64", ""), 1, 48, 1.4);
    rf_scorer *scorer = NULL;
    double total = 0;
    *tokens = 0;
    const rf_objective objective = {
        .kind = slot_size > 0 ? &rf_objective_refusion : &rf_objective_ar, .mask = 257};
    const rf_scoring how = {.objective = &objective, .slot_size = slot_size};
    TINY_MUST(rf_scorer_new(&scorer, model, &how, 40, tiny_error()));
    for (int i = 0; i < N_QUESTIONS; i++) {
        const rf_turn message = {
            .role = "user", .content = questions[i], .bytes = strlen(questions[i])};
        rf_ids ids = {0};
        double nats;
        TINY_MUST(rf_tokenizer_render_prompt(tokenizer, &ids, &message, 1, tiny_error()));
        int64_t n = ids.n;
        TINY_MUST(
            rf_tokenizer_encode(tokenizer, &ids, answers[i], strlen(answers[i]), tiny_error()));
        rf_ids_push(&ids, 256);
        TINY_MUST(rf_scorer_run(scorer, &nats, NULL, ids.id, n, ids.n - n, NULL, tiny_error()));
        total += nats;
        *tokens += ids.n - n;
        rf_ids_free(&ids);
    }
    rf_scorer_free(scorer);
    rf_model_free(model);
    rf_tokenizer_free(tokenizer);
    return total;
}

Test(eval_program, likelihood)
{
    int64_t tokens;
    double nats = nats_of_all(4, &tokens);
    program_runs(EVAL, 0);
    cr_assert(strstr(program_output, "-log likelihood") && strstr(program_output, "AR loss") &&
              !strstr(program_output, "accuracy"));
    json_t *r = program_report("r.json");
    cr_assert(!!(fabs(number(r, "likelihood", "nats_per_token") - nats / (double)tokens) < 1e-4));
    cr_assert(!!(fabs(number(r, "likelihood", "nats_per_byte") -
                      nats / (double)(tokens - N_QUESTIONS)) < 1e-4));
    cr_assert(!!(fabs(number(r, "likelihood", "bits_per_byte") * log(2) -
                      number(r, "likelihood", "nats_per_byte")) < 1e-9));
    cr_assert((int64_t)number(r, "likelihood", "samples") == N_QUESTIONS &&
              (int64_t)number(r, "likelihood", "tokens") == tokens &&
              (int64_t)number(r, "likelihood", "bytes") == tokens - N_QUESTIONS &&
              (int64_t)number(r, "likelihood", "slot_size") == 4);
    cr_assert(number(r, "likelihood", "loss_ar") > 0 &&
              number(r, "likelihood", "loss_denoise") > 0);
    cr_assert((int)number(r, NULL, "step") == 7 && (int)number(r, NULL, "ranks") == 1 &&
              (int)number(r, NULL, "questions") == N_QUESTIONS);
    cr_assert(!json_object_get(r, "answers") && !json_object_get(r, "decode"));
    json_decref(r);
}

/* What is counted in nats is counted in bytes: of plain texts the blank before a response too. */
Test(eval_program, bytes_are_those_of_what_was_scored)
{
    program_runs(EVAL "--raw", 0);
    json_t *r = program_report("r.json");
    const double tokens = number(r, "likelihood", "tokens");
    size_t letters = 0;
    for (int i = 0; i < N_QUESTIONS; i++) {
        letters += strlen(answers[i]);
    }
    cr_assert_eq((int)tokens, (int)letters + 2 * N_QUESTIONS); /* the blank, the end of text */
    cr_assert_eq((int)number(r, "likelihood", "bytes"), (int)letters + N_QUESTIONS);
    cr_assert(!!(fabs(number(r, "likelihood", "nats_per_byte") * (tokens - N_QUESTIONS) -
                      number(r, "likelihood", "nats_per_token") * tokens) < 1e-9));
    json_decref(r);
}

/* One report for each kind of weights, side by side. */
Test(eval_program, kinds_of_weights)
{
    program_runs(EVAL, 0);
    json_t *plain = program_report("r.json");
    cr_assert_str_eq(json_string_value(json_object_get(plain, "weights")), "f32");
    program_runs(EVAL "--weights f32,bf16,int8", 0);
    cr_assert(strstr(program_output, "nats per token      change") != NULL, "%s", program_output);
    json_t *r = program_report("r.json");
    const json_t *list = json_object_get(r, "comparison"), *int8 = json_array_get(list, 2);
    cr_assert(json_array_size(list) == 3 && !json_object_get(plain, "comparison"));
    cr_assert(json_equal(json_object_get(json_array_get(list, 0), "nats_per_token"),
                         json_object_get(json_object_get(plain, "likelihood"), "nats_per_token")));
    double change = number(int8, NULL, "change"), nats = number(int8, NULL, "nats_per_token");
    cr_assert_str_eq(json_string_value(json_object_get(int8, "weights")), "int8");
    cr_assert(change != 0.0 && !!(fabs(change) < 0.1), "%g", change);
    cr_assert(!!(fabs(nats / number(plain, "likelihood", "nats_per_token") - 1.0 - change) < 1e-9));
    json_decref(r);
    program_runs(EVAL "--weights int8 --date 2028-02-29", 0);
    r = program_report("r.json");
    cr_assert(number(r, "likelihood", "nats_per_token") == nats);
    cr_assert_str_eq(json_string_value(json_object_get(r, "date")), "2028-02-29");
    cr_assert_null(json_object_get(plain, "date"));
    json_decref(r);
    json_decref(plain);
    program_refuses(EVAL "--weights f32,f32", 2, "f32 twice");
    program_refuses(EVAL "--weights f32,", 2, "must be f32, bf16 or int8");
    program_refuses(EVAL "--weights f32,int8 --task sort", 2, "leave out --task");
}

/* Trained with `ar`, the loss on responses is their likelihood; there is nothing to denoise. */
Test(eval_program, loss_of_ar_is_its_likelihood)
{
    int64_t tokens;
    double nats = nats_of_all(0, &tokens);
    program_runs(EVAL "objective.kind=ar", 0);
    json_t *r = program_report("r.json");
    double per_token = number(r, "likelihood", "nats_per_token");
    cr_assert(!!(fabs(per_token - nats / (double)tokens) < 1e-4));
    cr_assert(!!(fabs(per_token - number(r, "likelihood", "loss_ar")) < 1e-5));
    cr_assert_null(json_object_get(json_object_get(r, "likelihood"), "loss_denoise"));
    cr_assert((int)number(r, "likelihood", "slot_size") == 0);
    json_decref(r);
}

/* Of masks there is a bound; the report says so. */
Test(eval_program, says_which_likelihood_it_is)
{
    static const struct {
        const char *arguments, *is, *words;
        int masks;
    } cases[] = {
        {"", "exact", "(exact, slots of 4, left to right)", 0},
        {"objective.kind=ar", "exact", "(exact)", 0},
        {"objective.kind=mdm objective.pad=none", "bound", "(upper bound, 128 masks)", 128},
        {"objective.kind=mdm --masks 9", "bound", "(upper bound, 9 masks, without the padding)", 9},
        {"objective.kind=block", "bound", "(upper bound, all masks)", 0},
        {"objective.kind=block objective.block_size=9 --masks 3", "bound", "3 masks)", 3},
        {"objective.kind=block objective.block_size=1", "exact", "(exact)", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char command[256];
        snprintf(command, sizeof command, EVAL "%s", cases[i].arguments);
        program_runs(command, 0);
        json_t *r = program_report("r.json");
        const json_t *likelihood = json_object_get(r, "likelihood");
        cr_assert(strstr(program_output, cases[i].words) != NULL, "%s: %s", cases[i].arguments,
                  program_output);
        cr_assert_str_eq(json_string_value(json_object_get(likelihood, "is")), cases[i].is);
        cr_assert_eq((int)number(r, "likelihood", "masks"), cases[i].masks);
        cr_assert_eq((int)number(r, "likelihood", "samples"), N_QUESTIONS);
        cr_assert(number(r, "likelihood", "nats_per_token") > 0 &&
                  number(r, "likelihood", i < 2 ? "loss_ar" : "loss_denoise") > 0);
        json_decref(r);
    }
}

Test(eval_program, noise_follows_the_seed)
{
    double loss[4];
    static const char *const seeds[] = {"", "--seed 0", "--seed 1", "--draws 40"};
    for (int i = 0; i < 4; i++) {
        char command[256];
        snprintf(command, sizeof command, EVAL "%s", seeds[i]);
        program_runs(command, 0);
        json_t *r = program_report("r.json");
        loss[i] = number(r, "likelihood", "loss_denoise");
        json_decref(r);
    }
    cr_assert(memcmp(&loss[0], &loss[1], sizeof(double)) == 0 && fabs(loss[0] - loss[2]) > 0 &&
              fabs(loss[0] - loss[3]) > 0);
}

/* What refusion-infer answers, given as references: all right. */
Test(eval_program, answers_are_judged)
{
    program_runs("\"$INFER\" --model model.h5 --prompts q.jsonl", 0);
    FILE *out = fopen("q.jsonl", "w");
    int64_t tokens = 0, forwards = 0;
    cr_assert_not_null(out);
    for (int i = 0; i < N_QUESTIONS; i++) {
        json_t *o = program_json(program_output, i);
        json_object_set_new(o, "query", json_string(questions[i]));
        json_object_set(o, "response", json_object_get(o, "text"));
        json_object_del(o, "text"); /* a record has one form */
        tokens += (int64_t)json_array_size(json_object_get(o, "ids"));
        forwards += json_integer_value(json_object_get(o, "forwards"));
        cr_assert(json_dumpf(o, out, JSON_COMPACT) == 0 && fputc('\n', out) == '\n');
        json_decref(o);
    }
    fprintf(out, "{\"query\": \"1+1\", \"response\": \"not what it says\"}\n");
    cr_assert(fclose(out) == 0);
    program_runs(EVAL "--no-likelihood --task exact --limit 9", 0);
    cr_assert(strstr(program_output, "9 of 9 right") && !strstr(program_output, "AR loss"));
    json_t *r = program_report("r.json");
    cr_assert((int64_t)number(r, "answers", "tokens") == tokens &&
              (int64_t)number(r, "answers", "forwards") == forwards &&
              (int)number(r, "answers", "correct") == 9 && !json_object_get(r, "likelihood"));
    cr_assert(!!(fabs(number(r, "answers", "tokens_per_forward") -
                      (double)tokens / (double)forwards) < 1e-9));
    cr_assert(number(r, "answers", "seconds") > 0 && number(r, "answers", "cache_bytes") > 0 &&
              number(r, "answers", "latency_p95") >= number(r, "answers", "latency_p50"));
    json_decref(r);
    program_runs(EVAL "--no-likelihood --task exact --answers a.jsonl", 0);
    r = program_report("r.json");
    cr_assert(!!(fabs(number(r, "answers", "accuracy") - 0.9) < 1e-12));
    cr_assert(!!(fabs(number(r, "answers", "accuracy_stderr") - 0.1) < 1e-12)); /* 0.09/9 */
    cr_assert(strstr(program_output, "± 10.00") != NULL, "%s", program_output);
    json_decref(r);
    program_read(program_output, sizeof program_output, "a.jsonl");
    cr_assert_eq(program_count_lines(program_output), N_QUESTIONS + 1);
    for (int i = 0; i <= N_QUESTIONS; i++) {
        json_t *o = program_json(program_output, i);
        cr_assert(json_integer_value(json_object_get(o, "index")) == i &&
                  json_is_true(json_object_get(o, "correct")) == (i < N_QUESTIONS) &&
                  json_is_string(json_object_get(o, "expected")));
        json_decref(o);
    }
}

Test(eval_program, settings_reach_the_report)
{
    program_runs(EVAL "--task arithmetic --no-likelihood decode.kind=refusion-left-to-right "
                      "decode.verify=paper decode.kv=recompute decode.gen_length=10 "
                      "decode.token_threshold=0.25",
                 0);
    json_t *r = program_report("r.json");
    const json_t *d = json_object_get(r, "decode");
    cr_assert_str_eq(json_string_value(json_object_get(d, "kind")), "refusion-left-to-right");
    cr_assert_str_eq(json_string_value(json_object_get(d, "verify")), "paper");
    cr_assert_str_eq(json_string_value(json_object_get(d, "kv")), "recompute");
    cr_assert((int)number(r, "decode", "gen_length") == 10 &&
              !!(fabs(number(r, "decode", "token_threshold") - 0.25) < 1e-12));
    cr_assert_str_eq(json_string_value(json_object_get(json_object_get(r, "answers"), "task")),
                     "arithmetic");
    json_decref(r);
}

Test(eval_program, questions_that_are_too_long_count)
{
    char text[256], word[121];
    memset(word, '7', 120);
    word[120] = '\0';
    snprintf(text, sizeof text,
             "{\"query\": \"1+1\", \"response\": \"2\"}\n"
             "{\"query\": \"%s\", \"response\": \"2\"}\n",
             word);
    program_write("q.jsonl", text);
    program_runs(EVAL "--task arithmetic --answers a.jsonl", 0);
    cr_assert(strstr(program_output, "too long"));
    json_t *r = program_report("r.json");
    cr_assert((int)number(r, NULL, "too_long") == 1 &&
              (int)number(r, "likelihood", "too_long") == 1 &&
              (int)number(r, "likelihood", "samples") == 1);
    json_decref(r);
    program_read(program_output, sizeof program_output, "a.jsonl");
    r = program_json(program_output, 1);
    cr_assert(json_is_true(json_object_get(r, "too_long")) &&
              json_is_false(json_object_get(r, "correct")));
    json_decref(r);
}

/* A reference that does not fit leaves the answer what it is: decoded and judged, or chosen. */
Test(eval_program, references_that_are_too_long_count_apart)
{
    char text[512], word[101];
    memset(word, '7', 100);
    word[100] = '\0';
    snprintf(text, sizeof text, "{\"query\": \"1+1\", \"response\": \"%s\"}\n", word);
    program_write("q.jsonl", text);
    program_runs(EVAL "--check true", 0);
    cr_assert(strstr(program_output, "references too long            1   not scored") != NULL &&
                  strstr(program_output, "1 of 1 right") != NULL &&
                  strstr(program_output, "count as wrong") == NULL,
              "%s", program_output);
    json_t *r = program_report("r.json");
    cr_assert((int)number(r, NULL, "too_long") == 0 &&
              (int)number(r, "likelihood", "too_long") == 1 &&
              (int)number(r, "likelihood", "samples") == 0);
    json_decref(r);
    /* Six tokens and 90 fit the model's 96 positions, an end of text behind them does not. */
    snprintf(text, sizeof text,
             "{\"question\": \"Hot?\", \"choices\": {\"text\": [\"%.90s\", \"ice\"], "
             "\"label\": [\"A\", \"B\"]}, \"answerKey\": \"A\"}\n",
             word);
    program_write("q.jsonl", text);
    program_runs(EVAL "--task arc-likelihood objective.kind=ar", 0);
    r = program_report("r.json");
    cr_assert((int)number(r, NULL, "too_long") == 0 &&
              (int)number(r, "likelihood", "too_long") == 1);
    json_decref(r);
}

/* Of one question there is no spread. */
Test(eval_program, a_single_answer_has_no_error)
{
    program_runs(EVAL "--no-likelihood --task exact --limit 1", 0);
    cr_assert(strstr(program_output, "±") == NULL, "%s", program_output);
    json_t *r = program_report("r.json");
    cr_assert(json_is_null(json_object_get(json_object_get(r, "answers"), "accuracy_stderr")));
    json_decref(r);
}

/* No mean of nothing: neither a zero, which would read as perfection, nor a nan. */
Test(eval_program, nothing_scored_is_said)
{
    char text[256], sums[121] = "1+1", results[61] = "2";
    for (int i = 1; i < 30; i++) {
        strcat(sums, ",1+1");
        strcat(results, ",2");
    }
    snprintf(text, sizeof text, "{\"query\": \"%s\", \"response\": \"%s\"}\n", sums, results);
    program_write("q.jsonl", text);
    for (int i = 0; i < 2; i++) {
        program_runs(i == 0 ? EVAL "--weights f32,bf16" : EVAL "--task arithmetic", 0);
        cr_assert(strstr(program_output, "nothing was scored") != NULL &&
                      strstr(program_messages, "warning: nothing was scored: 1 of 1") != NULL,
                  "%s%s", program_output, program_messages);
        cr_assert(strstr(program_output, "nan") == NULL && strstr(program_output, "0.000") == NULL,
                  "%s", program_output);
        cr_assert((i == 1) == (strstr(program_messages, "nothing was decoded") != NULL));
    }
    program_runs("\"$EVAL\" --model model.h5 --data q.jsonl --task arithmetic "
                 "decode.slot_threshold=0.5,0.9",
                 0); /* a sweep says it too */
    cr_assert(strstr(program_messages, "warning: nothing was scored: 1 of 1") != NULL &&
                  strstr(program_messages, "nothing was decoded") != NULL,
              "%s", program_messages);
    json_t *r = program_report("r.json");
    const json_t *judged = json_object_get(r, "answers"),
                 *scored = json_object_get(r, "likelihood");
    cr_assert(json_is_null(json_object_get(scored, "nats_per_token")) &&
              json_is_null(json_object_get(scored, "loss_ar")) &&
              json_is_null(json_object_get(judged, "latency_mean")) &&
              json_is_null(json_object_get(judged, "tokens_per_forward")));
    json_decref(r);
}

Test(eval_program, a_run_folder_and_a_decoder_that_does_not_fit)
{
    cr_assert(program_shell("mkdir run && cp model.h5 run/step-000000004.h5 && "
                            "echo step-000000004.h5 >run/latest && cp q.jsonl s.jsonl") == 0);
    program_runs("\"$EVAL\" --model run --data q.jsonl --limit 2 --task exact", 0);
    cr_assert(strstr(program_output, "run/step-000000004.h5 on q.jsonl") != NULL &&
                  strstr(program_messages, "its latest checkpoint is") != NULL &&
                  strstr(program_messages, "does not fit") == NULL,
              "%s%s", program_output, program_messages);
    program_runs("\"$EVAL\" --model run --data q.jsonl --limit 2 --task exact decode.kind=ar", 0);
    cr_assert(strstr(program_messages, "decode.kind=ar does not fit") != NULL, "%s",
              program_messages);
    /* What a run's folder is read for is an input; a report may be written again. */
    program_write("run/metrics.jsonl",
                  "{\"event\": \"step\", \"step\": 1, \"loss\": 2, \"tokens\": 3}\n");
    program_refuses("\"$EVAL\" --model run/step-000000004.h5 --data q.jsonl --out run/latest", 2,
                    "over an input");
    program_refuses("\"$EVAL\" --page run --html run/metrics.jsonl", 2, "over an input");
    program_refuses(EVAL "--task exact --shots 1 --shots-from s.jsonl --answers s.jsonl", 2,
                    "over an input");
    program_runs("for i in 1 2; do \"$EVAL\" --page run --html run/report.html || exit; done", 0);
}

/* The weights that the program chooses for a run with this train.compute, on this ISA. */
static void expect_weights(const char *compute, const char *isa, const char *weights)
{
    char text[256];
    snprintf(text, sizeof text, "train:\n  steps: 9\n  compute: \"%s\"\n", compute);
    program_save_model("b.h5", 48, 1.4, text);
    snprintf(text, sizeof text,
             "RF_ISA=%s \"$EVAL\" --model b.h5 --data q.jsonl --out r.json --limit 1", isa);
    program_runs(text, 0);
    json_t *r = program_report("r.json");
    cr_assert_str_eq(json_string_value(json_object_get(r, "weights")), weights);
    json_decref(r);
}

Test(eval_program, weights_are_those_of_training_where_the_machine_multiplies_them)
{
    expect_weights("bf16", "portable", "f32");
    if (rf_machine_has_isa("avx512bf16")) {
        expect_weights("bf16", "avx512bf16", "bf16");
        expect_weights("f32", "avx512bf16", "f32");
    }
}

/* --- Bad input -------------------------------------------------------------------------------- */

Test(eval_program, mistakes_in_use)
{
    program_refuses("\"$EVAL\" --model model.h5", 2, "--data is missing");
    program_refuses("\"$EVAL\" --data q.jsonl", 2, "--model is missing");
    program_refuses(TO "q.jsonl", 2, "over an input");
    program_refuses(TO "./model.h5", 2, "over an input");
    program_refuses(TO "r --task arithmetic --answers ./r", 2, "two outputs");
    program_refuses(EVAL "--task chess", 2, "--task chess: must be one of arithmetic, sort,");
    static const char *const of_tasks[] = {"--answers a.jsonl", "--batch 2",  "--samples 2",
                                           "--judge-seconds 3", "--run-code", "--unsafe-run"};
    for (size_t i = 0; i < sizeof of_tasks / sizeof *of_tasks; i++) {
        char command[256], words[64];
        snprintf(command, sizeof command, EVAL "%s", of_tasks[i]);
        snprintf(words, sizeof words, "%.*s goes with ", (int)strcspn(of_tasks[i], " "),
                 of_tasks[i]);
        program_refuses(command, 2, words);
        snprintf(command, sizeof command, "\"$EVAL\" --html p.html --page r.json %s", of_tasks[i]);
        program_refuses(command, 2, words);
    }
    program_refuses(EVAL "--title T", 2, "--title is that of a page: give --html");
    program_refuses(EVAL "--masks 9", 2, "--masks goes with a bound"); /* refusion: exact */
    program_refuses(EVAL "--masks 9 objective.kind=ar", 2, "here is none");
    program_refuses(EVAL "--masks 9 objective.kind=mdm --no-likelihood --task exact", 2,
                    "here is none");
    program_refuses(EVAL "--data p.jsonl", 2, "--data: given twice, q.jsonl and p.jsonl");
    program_refuses(EVAL "--out s.json", 2, "--out: given twice, r.json and s.json");
    program_refuses("\"$EVAL\" --data q.jsonl --html p.html --page r.json", 2,
                    "--data goes with --model");
    program_refuses("\"$EVAL\" --task sort --html p.html --page r.json", 2,
                    "--task goes with --model");
    program_refuses("\"$EVAL\" --html p.html --page r.json decode.kind=ar", 2,
                    "decode.kind=ar goes with --model");
    program_refuses(EVAL "--no-likelihood", 2, "nothing to do");
    program_refuses(EVAL "--no-likelihood --task exact --draws 2", 2, "--draws is of the losses");
    program_refuses(EVAL "--limit 0", 2, "--limit 0");
    program_refuses(EVAL "--no-likelihood=1 --task exact", 2, "takes no value");
    program_refuses(EVAL "decode.slotsize=1", 2, "decode.slot_size");
    program_refuses(EVAL "decode.gen_length=96 --task arithmetic", 2, "leaves no room");
    program_runs("\"$EVAL\" --help", 0);
    cr_assert(strstr(program_output, "countdown") && strstr(program_output, "objective.epsilon"));
    program_runs("\"$EVAL\" --version", 0);
}

/* Rules judge whatever the reference is: that no answer is right would say nothing of the model. */
Test(eval_program, questions_of_another_task)
{
    program_refuses(EVAL "--no-likelihood --task sudoku4", 1,
                    "q.jsonl: task sudoku4 would judge every");
    program_refuses(EVAL "--no-likelihood --task sort --limit 1", 1, "question 1's first");
    program_runs("sed -i '2s/3,7/3,8/; 4s/10,66/9,66/' q.jsonl; " EVAL
                 "--no-likelihood --task arithmetic",
                 0);
    cr_assert(strstr(program_messages, "warning: q.jsonl: task arithmetic would judge 2 of 9 "
                                       "reference responses wrong, question 2's first") != NULL,
              "%s", program_messages);
    program_runs(EVAL "--no-likelihood --task sudoku4 --check true", 0); /* which judges instead */
}

Test(eval_program, bad_files)
{
    program_refuses("\"$EVAL\" --model none.h5 --data q.jsonl", 1, "none.h5");
    program_write("bad.jsonl", "{\"query\": \"1+1\", \"response\": \"2\"}\n{\"query\": 1}\n");
    program_refuses("\"$EVAL\" --model model.h5 --data bad.jsonl", 1, "bad.jsonl:2: ");
    program_write("bad.jsonl", "{\"query\": \"1+1\"}\n");
    program_refuses("\"$EVAL\" --model model.h5 --data bad.jsonl", 1,
                    "bad.jsonl: question 1 has no reference response");
    program_refuses("\"$EVAL\" --model model.h5 --data bad.jsonl --task exact --no-likelihood", 1,
                    "task exact compares with it");
    program_write("bad.jsonl", "{\"question\": \"1+1?\", \"answer\": \"two\"}\n");
    program_refuses(
        "\"$EVAL\" --model model.h5 --data bad.jsonl --task gsm8k --no-likelihood", 1,
        "bad.jsonl: question 1: its own reference response would be judged wrong by task gsm8k");
    program_write("bad.jsonl", "{\"query\": \"1+1\"}\n");
    program_runs("\"$EVAL\" --model model.h5 --data bad.jsonl --task arithmetic --no-likelihood",
                 0);
    program_refuses("\"$EVAL\" --model model.h5 --data q.jsonl --out no/r.json", 1, "no/r.json");
    program_refuses(EVAL "--task exact --answers no/a.jsonl", 1, "no/a.jsonl");
    /* A folder that is there, but in which nobody makes a file: noticed before the work is begun. */
    program_refuses(TO "/proc/r.json", 1, "/proc/r.json");
    program_refuses(EVAL "--html /proc/r.html", 1, "/proc/r.html");
    program_refuses(EVAL "--task exact --csv /proc/r.csv decode.slot_size=2,4", 1, "/proc/r.csv");
    if (access("/dev/full", W_OK) == 0) {
        program_runs(EVAL ">/dev/full", 1);
        cr_assert(strstr(program_messages, "cannot write to standard output"));
    }
}
