#include "train/sources.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/hash.h"
#include "common/store/checkpoint.h"
#include "data/rows.h"
#include "train/train_settings.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- Corpora ---------------------------------------------------------------------------------- */

static int64_t count(const rf_sources *s)
{
    return s->settings.n_train + s->settings.n_valid;
}

static int check_tokenizer(const rf_sources *s, const rf_corpus *corpus, rf_error *err)
{
    return rf_tokenizer_hash(corpus->tokenizer) == rf_tokenizer_hash(s->tokenizer)
               ? RF_OK
               : rf_error_set(err, RF_ERR,
                              "%s and %s were built with different tokenizers: build both with "
                              "the same one (refusion-data build --tokenizer)",
                              s->train[0]->path, corpus->path);
}

int rf_sources_open(rf_sources *out, const rf_config *config, uint64_t seed, rf_error *err)
{
    const rf_data_settings *s = &out->settings;
    *out = (rf_sources){0};
    RF_TRY(rf_data_settings_from_config(&out->settings, config, seed, err));
    if (s->n_train == 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "data.train is empty: name a corpus (refusion-data build makes one)");
    }
    out->train = rf_alloc((size_t)count(out), sizeof *out->train);
    out->valid = out->train + s->n_train;
    for (int64_t i = 0; i < count(out); i++) {
        const char *path = i < s->n_train ? s->train[i] : s->valid[i - s->n_train];
        if (!rf_path_exists(path)) {
            return rf_error_set(err, RF_ERR,
                                "%s: there is no such file (%s): make a corpus with refusion-data "
                                "build, or name another one",
                                path, i < s->n_train ? "data.train" : "data.valid");
        }
        RF_TRY(rf_corpus_open(&out->train[i], path, err));
    }
    out->tokenizer = out->train[0]->tokenizer;
    for (int64_t i = 1; i < count(out); i++) {
        RF_TRY(check_tokenizer(out, out->train[i], err));
    }
    for (int64_t i = 0; i < s->n_valid; i++) {
        const uint64_t before = i == 0 ? RF_HASH_BEGIN : out->held_out.hash;
        out->held_out.hash = rf_hash_number(before, out->valid[i]->hash);
    }
    return RF_OK;
}

void rf_sources_close(rf_sources *s)
{
    for (int64_t i = 0; s->train != NULL && i < count(s); i++) {
        rf_corpus_close(s->train[i]);
    }
    free(s->train);
    rf_data_settings_free(&s->settings);
    *s = (rf_sources){0};
}

int rf_sources_verify(const rf_sources *s, rf_error *err)
{
    for (int64_t i = 0; i < count(s); i++) {
        RF_TRY(rf_corpus_verify(s->train[i], err));
    }
    return RF_OK;
}

static void format_hash(char out[17], uint64_t hash)
{
    snprintf(out, 17, "%016" PRIx64, hash);
}

void rf_sources_describe(const rf_sources *s, rf_text *out)
{
    for (int64_t i = 0; i < count(s); i++) {
        rf_text_print(out, "%s %s with hash %016" PRIx64 "\n",
                      i < s->settings.n_train ? "data.train" : "data.valid", s->train[i]->path,
                      s->train[i]->hash);
    }
}

char *rf_sources_json(const rf_sources *s)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < s->settings.n_train; i++) {
        char hash[17];
        format_hash(hash, s->train[i]->hash);
        json_t *one =
            json_pack("{s:o,s:s,s:I,s:I,s:f}", "path", json_string_nocheck(s->train[i]->path),
                      "hash", hash, "samples", (json_int_t)s->train[i]->n_samples, "tokens",
                      (json_int_t)s->train[i]->n_tokens, "weight", s->settings.rows.weight[i]);
        json_array_append_new(list, one);
    }
    if (s->held_out.hash != 0) { /* not an entry of its own: earlier programs read this list */
        char hash[17];
        format_hash(hash, s->held_out.hash);
        json_object_set_new(
            json_array_get(list, 0), "held_out",
            json_pack("{s:s,s:I}", "hash", hash, "rows", (json_int_t)s->held_out.rows));
    }
    char *text = json_dumps(list, JSON_COMPACT | JSON_REAL_PRECISION(17));
    RF_ASSERT(text != NULL);
    json_decref(list);
    return text;
}

rf_held_out rf_sources_held_out(const char *json)
{
    rf_held_out out = {0};
    const char *hash = NULL;
    json_int_t rows = 0;
    json_t *list = json_loads(json, 0, NULL);
    if (json_unpack(list, "[{s:{s:s,s:I}}]", "held_out", "hash", &hash, "rows", &rows) == 0) {
        out = (rf_held_out){strtoull(hash, NULL, 16), rows};
    }
    json_decref(list);
    return out;
}

bool rf_sources_validate_alike(const rf_sources *s, const char *json)
{
    const rf_held_out then = rf_sources_held_out(json), *now = &s->held_out;
    return then.hash == 0 || now->hash == 0 || (then.hash == now->hash && then.rows == now->rows);
}

int rf_sources_match(const rf_sources *s, const char *json, const char *origin, rf_error *err)
{
    json_t *list = json_loads(json, 0, NULL);
    int64_t n = s->settings.n_train;
    int rc = RF_OK;
    if ((int64_t)json_array_size(list) != n) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: trained on %zu corpora, data.train names %" PRId64
                          ": resume with the same corpora, or begin a new run with model.init",
                          origin, json_array_size(list), n);
        goto out;
    }
    for (int64_t i = 0; i < n; i++) {
        const json_t *one = json_array_get(list, (size_t)i);
        const char *then = json_string_value(json_object_get(one, "hash"));
        double weight = json_number_value(json_object_get(one, "weight"));
        double now_weight = s->settings.rows.weight[i];
        char now[17];
        format_hash(now, s->train[i]->hash);
        if (then == NULL || strcmp(then, now) != 0 || weight < now_weight || weight > now_weight) {
            const char *path = json_string_value(json_object_get(one, "path"));
            rc = rf_error_set(err, RF_ERR,
                              "%s: trained on %s (hash %s, weight %g), data.train has %s (hash %s, "
                              "weight %g): resume with the same corpora, or begin a new run with "
                              "model.init",
                              origin, path != NULL ? path : "?", then != NULL ? then : "?", weight,
                              s->train[i]->path, now, now_weight);
            goto out;
        }
    }
out:
    json_decref(list);
    return rc;
}

int rf_sources_steps(int64_t *steps, const rf_sources *s, const rf_objective *objective,
                     double epochs, int64_t batch_rows, rf_error *err)
{
    rf_rows *rows = NULL;
    double n_rows = 0.0;
    int rc = rf_rows_new(&rows, s->train, s->settings.n_train, objective, &s->settings.rows, err);
    for (int64_t epoch = 0; rc == RF_OK && (double)epoch < epochs; epoch++) {
        rf_rows_statistics statistics = {0};
        rc = rf_rows_measure(rows, epoch, &statistics, err);
        n_rows += fmin(1.0, epochs - (double)epoch) * (double)statistics.n_rows;
    }
    rf_rows_free(rows);
    *steps = (int64_t)fmax(1.0, ceil(n_rows / (double)batch_rows));
    return rc;
}

/* --- The model's shape ------------------------------------------------------------------------ */

/* Puts the shape into the configuration, so that the resolved file describes the whole model and
 * reads back as the same one. */
static int write_keys(rf_config *config, const rf_model_config *c, const char *origin,
                      rf_error *err)
{
    for (const rf_config_key *key = rf_model_keys; key->name != NULL; key++) {
        const void *field = (const char *)c + key->at;
        char text[128];
        if (key->bytes == 0) {
            continue;
        }
        if (key->type == RF_KEY_INT) {
            snprintf(text, sizeof text, "%s=%" PRId64, key->name, *(const int64_t *)field);
        } else if (key->type == RF_KEY_REAL) {
            snprintf(text, sizeof text, "%s=%.17g", key->name, *(const double *)field);
        } else {
            snprintf(text, sizeof text, "%s=%s", key->name,
                     *(const bool *)field ? "true" : "false");
        }
        RF_TRY(rf_config_derive(config, text, origin, err));
    }
    return RF_OK;
}

static int64_t round_up(int64_t x, int64_t multiple)
{
    return (x + multiple - 1) / multiple * multiple;
}

/* Sizes that are 0 follow from others. */
static void derive_sizes(rf_model_config *c, const rf_sources *s)
{
    if (c->architecture[0] == '\0') {
        const char *name = c->qk_norm    ? "Qwen3ForCausalLM"
                           : c->qkv_bias ? "Qwen2ForCausalLM"
                                         : "LlamaForCausalLM";
        snprintf(c->architecture, sizeof c->architecture, "%s", name);
    }
    if (c->vocab_size == 0) {
        c->vocab_size = round_up(rf_tokenizer_size(s->tokenizer), 64);
    }
    if (c->intermediate_size == 0) {
        c->intermediate_size = round_up(8 * c->hidden_size / 3, 32);
    }
    if (c->num_key_value_heads == 0) {
        c->num_key_value_heads = c->num_attention_heads;
    }
    if (c->head_dim == 0) {
        c->head_dim = c->hidden_size / c->num_attention_heads;
    }
    if (c->max_position_embeddings == 0) {
        c->max_position_embeddings = s->settings.rows.row_length;
    }
}

static int read_config_json(rf_model_config *out, const char *path, rf_error *err)
{
    char *text = NULL;
    size_t bytes = 0;
    RF_TRY(rf_file_read(&text, &bytes, path, (size_t)1 << 20, err));
    int rc = rf_model_config_parse(out, text, bytes, path, err);
    free(text);
    return rc;
}

/* The header of the checkpoint to fine-tune or to go on from. */
static int read_checkpoint(rf_model_config *out, const char *path, const rf_sources *s,
                           rf_error *err)
{
    rf_checkpoint_info info = {0};
    RF_TRY(rf_checkpoint_info_read(&info, path, err));
    int rc = RF_OK;
    *out = info.model;
    if (info.tokenizer == NULL ||
        rf_tokenizer_hash(info.tokenizer) != rf_tokenizer_hash(s->tokenizer)) {
        rc = rf_error_set(err, RF_ERR,
                          "%s was built with another tokenizer than that of the model %s: build "
                          "the corpus with the model's tokenizer",
                          s->train[0]->path, path);
    }
    rf_checkpoint_info_free(&info);
    return rc;
}

static int check_fit(const rf_model_config *c, const rf_sources *s, rf_error *err)
{
    int64_t size = rf_tokenizer_size(s->tokenizer), row = s->settings.rows.row_length;
    if (c->vocab_size < size) {
        return rf_error_set(err, RF_ERR,
                            "vocab_size is %" PRId64 " and the tokenizer of %s has %" PRId64
                            " tokens: raise model.vocab_size",
                            c->vocab_size, s->train[0]->path, size);
    }
    if (c->max_position_embeddings < row) {
        return rf_error_set(err, RF_ERR,
                            "data.row_length is %" PRId64 " and max_position_embeddings %" PRId64
                            ": lower the first or set model.max_position_embeddings",
                            row, c->max_position_embeddings);
    }
    return RF_OK;
}

int rf_sources_model(rf_model_config *out, rf_config *config, const rf_sources *s,
                     const char *resume, rf_error *err)
{
    bool resumes = resume[0] != '\0';
    const char *checkpoint = resumes ? resume : rf_config_string(config, "model.init");
    const char *json = resumes ? "" : rf_config_string(config, "model.config");
    rf_model_config file = {0};
    char difference[256];
    *out = (rf_model_config){0};
    if (checkpoint[0] != '\0') {
        RF_TRY(read_checkpoint(&file, checkpoint, s, err));
        *out = file;
    }
    if (json[0] != '\0') {
        RF_TRY(read_config_json(out, json, err));
    }
    /* Without a file every key gives its field; with one, the keys that are set. */
    rf_config_fill(out, config, rf_model_keys, checkpoint[0] != '\0' || json[0] != '\0');
    derive_sizes(out, s);
    if (rf_model_config_check(out, err) != RF_OK) {
        return rf_error_prefix(err, "model");
    }
    if (checkpoint[0] != '\0' &&
        !rf_model_config_same_shape(out, &file, difference, sizeof difference)) {
        return rf_error_set(err, RF_ERR,
                            "%s: %s: take back the model.* settings that differ from the file's",
                            checkpoint, difference);
    }
    RF_TRY(check_fit(out, s, err));
    return write_keys(config, out,
                      checkpoint[0] != '\0' ? checkpoint
                      : json[0] != '\0'     ? json
                                            : "from other keys",
                      err);
}
