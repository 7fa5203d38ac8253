#include "infer/eval/subject.h"

#include "common/base/alloc.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "infer/decode/decoder.h"
#include "infer/values.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* --- Settings --------------------------------------------------------------------------------- */

static json_t *settings_json(const rf_config *config, const rf_decode_options *decode)
{
    json_t *object = json_object();
    for (const rf_config_key *key = rf_decode_keys; key->name != NULL; key++) {
        const char *name = key->name + strlen("decode.");
        if (rf_decoder_reads(decode->kind, name)) {
            json_object_set_new(object, name, rf_value_json(config, key));
        }
    }
    if (json_object_get(object, "block_length") != NULL) {
        json_object_set_new(object, "block_length", json_integer(decode->block_length));
    }
    return object;
}

static void free_setting(rf_setting *s)
{
    free(s->yaml);
    json_decref(s->json);
    *s = (rf_setting){0};
}

/* *fits: false where the decoder refuses the combination, or the model has too few positions for it,
 * which err then tells. A model is scored as its objective has it. */
static int read_setting(rf_setting *out, bool *fits, const rf_loaded *loaded,
                        const rf_eval_options *eval, char *const *assignment, int n, rf_error *err)
{
    rf_config *config = NULL;
    int rc;
    *out = (rf_setting){.eval = *eval};
    RF_TRY_OUT(rf_loaded_settings(&config, loaded, assignment, n, err));
    RF_TRY_OUT(rf_objective_from_config(&out->eval.objective, config,
                                        rf_tokenizer_specials(loaded->info.tokenizer),
                                        rf_config_int(config, "decode.gen_length"), err));
    *fits =
        rf_decode_options_from_config(&out->eval.decode, config, err) == RF_OK &&
        rf_eval_check_room(&out->eval, loaded->info.model.max_position_embeddings, err) == RF_OK;
    out->eval.slot_size =
        out->eval.objective.kind == &rf_objective_refusion ? out->eval.decode.slot_size : 0;
    out->yaml = rf_config_text(config, false);
    out->json = settings_json(config, &out->eval.decode);
out:
    rf_config_free(config);
    return rc;
}

static bool is_new(const rf_subject *s, const rf_setting *setting)
{
    for (int64_t i = 0; i < s->n_settings; i++) {
        if (json_equal(s->setting[i].json, setting->json)) {
            return false;
        }
    }
    return true;
}

static int read_settings(rf_subject *s, const rf_grid *grid, const rf_eval_options *eval,
                         rf_error *err)
{
    s->setting = rf_alloc((size_t)grid->n, sizeof *s->setting);
    for (int64_t i = 0; i < grid->n; i++) {
        rf_setting one;
        bool fits = false;
        int rc = read_setting(&one, &fits, &s->loaded, eval, rf_grid_setting(grid, i),
                              grid->n_assignments, err);
        if (rc == RF_OK && fits && is_new(s, &one)) {
            s->setting[s->n_settings++] = one;
            continue;
        }
        free_setting(&one);
        RF_TRY(rc);
        if (!fits && grid->n == 1) {
            return err->code;
        }
        if (!fits) {
            rf_log_warn("left out of the sweep: %s", err->message);
        }
    }
    return s->n_settings > 0
               ? RF_OK
               : rf_error_set(err, RF_ERR_USAGE, "no setting of the sweep is possible");
}

/* Those of a file, with which the options can do what they say. */
static int read_questions(rf_question **out, int64_t *n, const char *path,
                          const rf_tokenizer *tokenizer, const rf_subject_options *o,
                          bool likelihood, rf_error *err)
{
    rf_eval_options eval = o->eval;
    eval.likelihood &= likelihood;
    RF_TRY(rf_questions_read_styled(out, n, path, tokenizer, o->limit, &o->style, err));
    return rf_eval_check(*out, *n, path, &eval, err);
}

/* --- Opening ---------------------------------------------------------------------------------- */

int rf_subject_open(rf_subject *out, const char *name, const rf_grid *grid,
                    const rf_subject_options *o, rf_error *err)
{
    rf_loaded_source source = o->source;
    source.model = name;
    *out = (rf_subject){.name = name};
    RF_TRY(rf_loaded_open(&out->loaded, &source, err));
    const rf_tokenizer *tokenizer = out->loaded.info.tokenizer;
    RF_TRY(read_settings(out, grid, &o->eval, err));
    RF_TRY(read_questions(&out->question, &out->n, o->data, tokenizer, o, true, err));
    return o->pick_on == NULL
               ? RF_OK
               : read_questions(&out->pick, &out->n_pick, o->pick_on, tokenizer, o, false, err);
}

void rf_subject_close(rf_subject *s)
{
    for (int64_t i = 0; i < s->n_settings; i++) {
        free_setting(&s->setting[i]);
    }
    free(s->setting);
    rf_questions_free(s->question, s->n);
    rf_questions_free(s->pick, s->n_pick);
    rf_loaded_close(&s->loaded);
    *s = (rf_subject){0};
}

/* --- What results follow from ----------------------------------------------------------------- */

static void describe_questions(rf_text *out, const rf_question *question, int64_t n)
{
    uint64_t hash = RF_HASH_BEGIN;
    for (int64_t i = 0; i < n; i++) {
        hash = rf_question_hash(hash, &question[i]);
    }
    rf_text_print(out, "%" PRId64 " questions with hash %016" PRIx64 "\n", n, hash);
}

static void describe_settings(rf_text *out, const rf_subject *s)
{
    static const char *const code[] = {[RF_CODE_OFF] = "are not run",
                                       [RF_CODE_ISOLATED] = "isolated",
                                       [RF_CODE_UNSAFE] = "not isolated"};
    uint64_t hash = RF_HASH_BEGIN;
    for (int64_t i = 0; i < s->n_settings; i++) {
        hash = rf_hash_bytes(hash, s->setting[i].yaml, strlen(s->setting[i].yaml) + 1);
    }
    const rf_eval_options *eval = &s->setting[0].eval;
    const char *command = eval->judge.command;
    rf_text_print(out, "task %s, %" PRId64 " answers to a question%s%s\n",
                  eval->task != NULL ? eval->task->name : "none", eval->n_samples,
                  command != NULL ? ", judged by " : "", command != NULL ? command : "");
    rf_text_print(out, "programs %s, %g seconds for each\n", code[eval->judge.code],
                  eval->judge.seconds);
    rf_text_print(out, "%" PRId64 " settings with hash %016" PRIx64 "\n%s", s->n_settings, hash,
                  s->setting[0].yaml);
}

/* How one question is asked, whatever the others are. */
static int describe_one(rf_text *out, const rf_subject *s, rf_error *err)
{
    const rf_eval_options *eval = &s->setting[0].eval;
    RF_TRY(rf_loaded_describe(out, &s->loaded, err));
    rf_text_print(out, "likelihood %s\n", eval->likelihood ? "too" : "left out");
    rf_text_print(out, "weights %s, %" PRId64 " draws, %" PRId64 " masks of seed %" PRIu64 "\n",
                  rf_layout_name(s->loaded.weights), eval->n_draws, eval->n_masks, eval->seed);
    return RF_OK;
}

int rf_subject_hash(uint64_t *out, const rf_subject *subject, rf_error *err)
{
    rf_text text = {0};
    int rc = describe_one(&text, subject, err);
    rf_text_add_string(&text, subject->setting[0].yaml);
    *out = rf_hash_bytes(RF_HASH_BEGIN, text.data, text.bytes);
    rf_text_free(&text);
    return rc;
}

int rf_subjects_describe(rf_text *out, const rf_subject *subject, int n, rf_error *err)
{
    for (const rf_subject *s = subject; s < subject + n; s++) {
        RF_TRY(describe_one(out, s, err));
        describe_questions(out, s->question, s->n);
        if (s->pick != NULL) {
            describe_questions(out, s->pick, s->n_pick);
        }
        describe_settings(out, s);
    }
    return RF_OK;
}
