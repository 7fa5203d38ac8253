/* program_test.h: a small random checkpoint for refusion-infer and refusion-eval, in the folder of a
 * test, which is its working directory. */
#ifndef RF_TESTS_INFER_PROGRAM_TEST_H
#define RF_TESTS_INFER_PROGRAM_TEST_H

#include "common/store/checkpoint.h"
#include "tests/infer/infer_test.h"
#include "tests/program.h"
#include "tests/store/save.h"

#include <jansson.h>

/* A checkpoint as the trainer leaves it, of a model that answers: slots of 4, 12 tokens at most. */
static inline void program_save_model(const char *path, uint64_t seed, double sharpness,
                                      const char *run_config)
{
    char config[512];
    rf_model *model = sharp_model(backend_default(), 1, seed, sharpness);
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_checkpoint_info info = {.model = model->config,
                               .progress = {.step = 7},
                               .run_config = config,
                               .corpora = (char[]){"[]"},
                               .isa = "portable",
                               .written_by = "a test",
                               .tokenizer = tokenizer};
    snprintf(config, sizeof config, "%s", run_config);
    TINY_MUST(save_checkpoint(path, NULL, model, NULL, NULL, &info, tiny_error()));
    rf_tokenizer_free(tokenizer);
    rf_model_free(model);
}

static inline void program_begin_model(void)
{
    program_begin();
    cr_assert(chdir(folder) == 0);
    setenv("OMP_NUM_THREADS", "1", 1);
    program_save_model(
        "model.h5", 48, 1.4,
        "decode:\n  slot_size: 4\n  gen_length: 12\n  slot_threshold: 0.3\n  plan: whole\n"
        "objective:\n  slot_sizes: [2, 4]\ntrain:\n  steps: 9\n");
}

/* A copy of what the last command wrote to stdout; caller frees. */
static inline char *program_keep(void)
{
    char *copy = strdup(program_output);
    cr_assert_not_null(copy);
    return copy;
}

/* Line i of a text of JSON lines; the caller releases it. */
static inline json_t *program_json(const char *text, int i)
{
    json_error_t problem;
    for (; i > 0; i--) {
        text = strchr(text, '\n');
        cr_assert_not_null(text);
        text++;
    }
    json_t *object = json_loadb(text, strcspn(text, "\n"), 0, &problem);
    cr_assert(json_is_object(object), "%s: %s", problem.text, text);
    return object;
}

/* A report.json; the caller releases it. */
static inline json_t *program_report(const char *path)
{
    json_error_t problem;
    json_t *report = json_load_file(path, 0, &problem);
    cr_assert(json_is_object(report), "%s: %s", path, problem.text);
    return report;
}

static inline int program_count_lines(const char *text)
{
    int n = 0;
    for (; *text; text++) {
        n += *text == '\n';
    }
    return n;
}

#endif
