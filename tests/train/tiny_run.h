/* tiny_run.h: runs the real refusion-train on a tiny model, in the folder of a test, which is its
 * working directory. */
#ifndef RF_TESTS_TRAIN_TINY_RUN_H
#define RF_TESTS_TRAIN_TINY_RUN_H

#include "common/store/checkpoint.h"
#include "data/corpus/corpus_writer.h"
#include "tests/mpi.h"
#include "tests/program.h"

#include <jansson.h>

/* --- Data ------------------------------------------------------------------------------------- */

static inline void tiny_add_sample(rf_corpus_writer *writer, const rf_tokenizer *tokenizer, int i)
{
    char prompt[64], response[64];
    rf_ids ids = {0};
    rf_error err = {0};
    int a = i * 7 % 23, b = i * 5 % 19;
    snprintf(prompt, sizeof prompt, "%d+%d=", a, b);
    snprintf(response, sizeof response, "%d, that is %d and %d", a + b, a, b);
    cr_assert(rf_tokenizer_encode(tokenizer, &ids, prompt, strlen(prompt), &err) == RF_OK);
    int64_t n_prompt = ids.n;
    cr_assert(rf_tokenizer_encode(tokenizer, &ids, response, strlen(response), &err) == RF_OK);
    rf_ids_push(&ids, rf_tokenizer_specials(tokenizer)->eos[0]);
    cr_assert(rf_corpus_writer_tokens(writer, ids.id, ids.n, &err) == RF_OK, "%s", err.message);
    cr_assert(rf_corpus_writer_end_turns(writer, (int64_t[]){0, n_prompt}, 2, &err) == RF_OK, "%s",
              err.message);
    rf_ids_free(&ids);
}

/* Samples begin .. end of an endless list of sums, in a given tokenizer's ids. Frees it. */
static inline void tiny_corpus_of(const char *path, int begin, int end, rf_tokenizer *tokenizer)
{
    rf_corpus_writer *writer = NULL;
    rf_error err = {0};
    cr_assert(rf_corpus_writer_new(&writer, path, tokenizer, false, &err) == RF_OK, "%s",
              err.message);
    cr_assert(rf_corpus_writer_begin_source(writer, "sums", 1.0, &err) == RF_OK);
    for (int i = begin; i < end; i++) {
        tiny_add_sample(writer, tokenizer, i);
    }
    rf_corpus_writer_end_source(writer, end - begin, (uint32_t)(begin * 31 + end));
    cr_assert(rf_corpus_writer_commit(writer, &err) == RF_OK, "%s", err.message);
    rf_corpus_writer_free(writer);
    rf_tokenizer_free(tokenizer);
}

static inline void tiny_corpus(const char *path, int begin, int end)
{
    rf_tokenizer *tokenizer = NULL;
    rf_error err = {0};
    cr_assert(rf_tokenizer_load(&tokenizer, "byte", &err) == RF_OK, "%s", err.message);
    tiny_corpus_of(path, begin, end, tokenizer);
}

static const char tiny_config[] = "data: {train: train.h5, valid: valid.h5, row_length: 64}\n"
                                  "model: {hidden_size: 32, num_hidden_layers: 2,\n"
                                  "        num_attention_heads: 4, num_key_value_heads: 2}\n"
                                  "objective: {slot_sizes: [2, 4]}\n"
                                  "train: {steps: 8, batch_rows: 4, seed: 5, threads: 1}\n"
                                  "optim: {lr: 3e-3, schedule: constant}\n"
                                  "decode: {slot_size: 4, gen_length: 8}\n"
                                  "log: {dir: run, valid_every: 4, n_samples: 3}\n";

/* --- The folder and the program --------------------------------------------------------------- */

static inline void tiny_begin(void)
{
    program_begin();
    cr_assert(chdir(folder) == 0);
    tiny_corpus("train.h5", 0, 60);
    tiny_corpus("valid.h5", 100, 120);
    program_write("tiny.yaml", tiny_config);
}

/* A command of the shell, in the folder; its exit status. program_output has what it printed on
 * stdout and stderr, in the order in which it came. */
static inline int tiny_shell(const char *command)
{
    char all[8192];
    snprintf(all, sizeof all, "exec 2>&1\n%s", command);
    return program_shell(all);
}

/* refusion-train tiny.yaml ARGUMENTS on some ranks (0: without mpirun) ends with this status. */
static inline void tiny_train(int ranks, const char *arguments, int expected)
{
    char command[4096];
    if (ranks > 0) {
        snprintf(command, sizeof command, "$RUN -n %d \"$TRAIN\" tiny.yaml %s\n", ranks, arguments);
    } else {
        snprintf(command, sizeof command, "\"$TRAIN\" tiny.yaml %s\n", arguments);
    }
    int status = tiny_shell(command);
    cr_assert(status == expected, "%d ranks, %s: exit status %d, not %d\n%s", ranks, arguments,
              status, expected, program_output);
}

static inline void tiny_says(const char *words)
{
    cr_assert(strstr(program_output, words) != NULL, "\"%s\" is not in:\n%s", words,
              program_output);
}

/* --- What a run left behind ------------------------------------------------------------------- */

/* Every figure of a run's steps (or validations) that does not depend on the clock, as text that
 * the caller frees. */
static inline char *tiny_curve(const char *run_folder, const char *event)
{
    static const char *const fields[] = {"step",      "loss",    "loss_ar", "loss_denoise",
                                         "grad_norm", "lr",      "n_ar",    "n_denoise",
                                         "n_samples", "skipped", "tokens",  "fill"};
    char path[256], *text = NULL, line[4096];
    size_t bytes = 0;
    snprintf(path, sizeof path, "%s/metrics.jsonl", run_folder);
    FILE *in = fopen(path, "r"), *out = open_memstream(&text, &bytes);
    cr_assert(in != NULL && out != NULL, "%s is missing", path);
    while (fgets(line, sizeof line, in) != NULL) {
        json_t *json = json_loads(line, 0, NULL);
        cr_assert(json != NULL, "%s: not JSON: %s", path, line);
        const char *name = json_string_value(json_object_get(json, "event"));
        for (size_t i = 0; strcmp(name, event) == 0 && i < sizeof fields / sizeof *fields; i++) {
            const json_t *value = json_object_get(json, fields[i]);
            fprintf(out, "%s=%.17g%s", fields[i], json_number_value(value),
                    json_is_true(value) ? "true " : " ");
        }
        fprintf(out, "%s", strcmp(name, event) == 0 ? "\n" : "");
        json_decref(json);
    }
    fclose(in);
    fclose(out);
    return text;
}

static inline void tiny_same_curves(const char *a, const char *b)
{
    static const char *const events[] = {"step", "valid"};
    for (int i = 0; i < 2; i++) {
        char *x = tiny_curve(a, events[i]), *y = tiny_curve(b, events[i]);
        cr_assert(x[0] != '\0' && strcmp(x, y) == 0, "%s of %s:\n%sand of %s:\n%s", events[i], a, x,
                  b, y);
        free(x);
        free(y);
    }
}

/* A number of the last line of an event; NaN where it is null or missing. */
static inline double tiny_last(const char *run_folder, const char *event, const char *field)
{
    char path[256], line[4096];
    double value = strtod("nan", NULL);
    snprintf(path, sizeof path, "%s/metrics.jsonl", run_folder);
    FILE *in = fopen(path, "r");
    while (in != NULL && fgets(line, sizeof line, in) != NULL) {
        json_t *json = json_loads(line, 0, NULL);
        const json_t *number = json_object_get(json, field);
        if (strcmp(json_string_value(json_object_get(json, "event")), event) == 0) {
            value = json_is_number(number) ? json_number_value(number) : strtod("nan", NULL);
        }
        json_decref(json);
    }
    if (in != NULL) {
        fclose(in);
    }
    return value;
}

/* Weights and moments of a checkpoint, one after the other; *n elements each. Caller frees. */
static inline float *tiny_state(rf_progress *progress, int64_t *n, const char *path)
{
    rf_checkpoint_info info = {0};
    rf_model *model = NULL;
    const rf_backend *backend = NULL;
    rf_error err = {0};
    void *moment[2] = {NULL, NULL};
    rf_model_limits limits = {.places = 1, .keys = 1, .positions = 1};
    cr_assert(rf_checkpoint_info_read(&info, path, &err) == RF_OK, "%s", err.message);
    cr_assert(rf_backend_choose(&backend, "ref32", &err) == RF_OK);
    cr_assert(rf_model_new(&model, &info.model, backend, 1, &limits, &err) == RF_OK, "%s",
              err.message);
    *n = model->table.n_elements;
    for (int i = 0; i < 2; i++) {
        cr_assert(rf_backend_alloc(&moment[i], model->ctx, (size_t)*n * sizeof(float), &err) ==
                  RF_OK);
    }
    cr_assert(rf_checkpoint_load(path, model, moment[0], moment[1], &err) == RF_OK, "%s",
              err.message);
    float *all = malloc(3 * (size_t)*n * sizeof *all);
    cr_assert(all != NULL);
    memcpy(all, model->master, (size_t)*n * sizeof *all);
    memcpy(all + *n, moment[0], (size_t)*n * sizeof *all);
    memcpy(all + 2 * *n, moment[1], (size_t)*n * sizeof *all);
    *progress = info.progress;
    for (int i = 0; i < 2; i++) {
        rf_backend_free(model->ctx, moment[i]);
    }
    rf_model_free(model);
    rf_checkpoint_info_free(&info);
    return all;
}

/* Two checkpoints agree in every bit but the wall clock's. */
static inline void tiny_same_checkpoints(const char *a, const char *b)
{
    rf_progress p, q;
    int64_t n = 0, m = 0;
    float *x = tiny_state(&p, &n, a), *y = tiny_state(&q, &m, b);
    cr_assert(n == m && memcmp(x, y, 3 * (size_t)n * sizeof *x) == 0,
              "weights or moments of %s and %s differ", a, b);
    cr_assert(p.step == q.step && p.updates == q.updates && p.tokens == q.tokens &&
                  p.seed == q.seed && p.epoch == q.epoch && p.window == q.window &&
                  p.row == q.row && p.skipped == q.skipped &&
                  memcmp(&p.best_valid_loss, &q.best_valid_loss, sizeof(double)) == 0,
              "progress of %s and %s differs", a, b);
    free(x);
    free(y);
}

#endif
