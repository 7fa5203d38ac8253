#include "train/sources.h"

#include "common/base/file.h"
#include "common/store/checkpoint.h"
#include "data/rows.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- Corpora ---------------------------------------------------------------------------------- */

static int open_all(rf_corpus ***out, char *const *path, int64_t n, rf_error *err)
{
    rf_corpus **corpus = calloc((size_t)n + 1, sizeof *corpus);
    *out = corpus;
    if (corpus == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for %" PRId64 " corpora", n);
    }
    for (int64_t i = 0; i < n; i++) {
        int rc = rf_corpus_open(&corpus[i], path[i], err);
        if (rc != RF_OK) {
            return rc;
        }
    }
    return RF_OK;
}

static int check_tokenizers(const rf_sources *s, rf_corpus *const *corpus, int64_t n, rf_error *err)
{
    for (int64_t i = 0; i < n; i++) {
        if (rf_tokenizer_hash(rf_corpus_tokenizer(corpus[i])) != rf_tokenizer_hash(s->tokenizer)) {
            return rf_error_set(err, RF_ERR,
                                "%s and %s were built with different tokenizers: build both with "
                                "the same one (refusion-data build --tokenizer)",
                                rf_corpus_path(s->train[0]), rf_corpus_path(corpus[i]));
        }
    }
    return RF_OK;
}

int rf_sources_open(rf_sources *out, const rf_config *config, uint64_t seed, rf_error *err)
{
    *out = (rf_sources){0};
    int rc = rf_data_settings_from_config(&out->settings, config, seed, err);
    if (rc != RF_OK) {
        return rc;
    }
    if (out->settings.n_train == 0) {
        rc = rf_error_set(err, RF_ERR_USAGE,
                          "data.train is empty: name a corpus (refusion-data build makes one)");
        goto out;
    }
    rc = open_all(&out->train, out->settings.train, out->settings.n_train, err);
    if (rc == RF_OK) {
        rc = open_all(&out->valid, out->settings.valid, out->settings.n_valid, err);
    }
    if (rc != RF_OK) {
        goto out;
    }
    out->tokenizer = rf_corpus_tokenizer(out->train[0]);
    rc = check_tokenizers(out, out->train, out->settings.n_train, err);
    if (rc == RF_OK) {
        rc = check_tokenizers(out, out->valid, out->settings.n_valid, err);
    }
out:
    if (rc != RF_OK) {
        rf_sources_close(out);
    }
    return rc;
}

void rf_sources_close(rf_sources *s)
{
    for (int64_t i = 0; s->train != NULL && i < s->settings.n_train; i++) {
        rf_corpus_close(s->train[i]);
    }
    for (int64_t i = 0; s->valid != NULL && i < s->settings.n_valid; i++) {
        rf_corpus_close(s->valid[i]);
    }
    free(s->train);
    free(s->valid);
    rf_data_settings_free(&s->settings);
    *s = (rf_sources){0};
}

static int verify_all(rf_corpus *const *corpus, int64_t n, rf_error *err)
{
    int rc = RF_OK;
    for (int64_t i = 0; i < n && rc == RF_OK; i++) {
        rc = rf_corpus_verify(corpus[i], err);
    }
    return rc;
}

int rf_sources_verify(const rf_sources *s, rf_error *err)
{
    int rc = verify_all(s->train, s->settings.n_train, err);
    return rc == RF_OK ? verify_all(s->valid, s->settings.n_valid, err) : rc;
}

static void format_hash(char out[17], const rf_corpus *corpus)
{
    snprintf(out, 17, "%016" PRIx64, rf_corpus_hash(corpus));
}

char *rf_sources_json(const rf_sources *s)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < s->settings.n_train; i++) {
        char hash[17];
        format_hash(hash, s->train[i]);
        json_t *one = json_pack(
            "{s:o,s:s,s:I,s:I,s:f}", "path", json_string_nocheck(rf_corpus_path(s->train[i])),
            "hash", hash, "samples", (json_int_t)rf_corpus_n_samples(s->train[i]), "tokens",
            (json_int_t)rf_corpus_n_tokens(s->train[i]), "weight", s->settings.rows.weight[i]);
        if (json_array_append_new(list, one) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    char *text = json_dumps(list, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(list);
    return text;
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
        format_hash(now, s->train[i]);
        if (then == NULL || strcmp(then, now) != 0 || weight < now_weight || weight > now_weight) {
            const char *path = json_string_value(json_object_get(one, "path"));
            rc = rf_error_set(err, RF_ERR,
                              "%s: trained on %s (hash %s, weight %g), data.train has %s (hash %s, "
                              "weight %g): resume with the same corpora, or begin a new run with "
                              "model.init",
                              origin, path != NULL ? path : "?", then != NULL ? then : "?", weight,
                              rf_corpus_path(s->train[i]), now, now_weight);
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
    if (rc != RF_OK) {
        return rc;
    }
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

enum { N_SIZE_KEYS = 8, N_REAL_KEYS = 3, N_SWITCH_KEYS = 4 };

/* The keys of section model, and where their values go. */
typedef struct model_keys {
    struct {
        const char *key;
        int64_t *field;
    } size[N_SIZE_KEYS];
    struct {
        const char *key;
        double *field;
    } real[N_REAL_KEYS];
    struct {
        const char *key;
        bool *field;
    } is[N_SWITCH_KEYS];
} model_keys;

static model_keys keys_of(rf_model_config *c)
{
    return (model_keys){
        .size = {{"model.vocab_size", &c->vocab_size},
                 {"model.hidden_size", &c->hidden_size},
                 {"model.intermediate_size", &c->intermediate_size},
                 {"model.num_hidden_layers", &c->num_hidden_layers},
                 {"model.num_attention_heads", &c->num_attention_heads},
                 {"model.num_key_value_heads", &c->num_key_value_heads},
                 {"model.head_dim", &c->head_dim},
                 {"model.max_position_embeddings", &c->max_position_embeddings}},
        .real = {{"model.rms_norm_eps", &c->rms_norm_eps},
                 {"model.rope_theta", &c->rope_theta},
                 {"model.initializer_range", &c->initializer_range}},
        .is = {{"model.tie_word_embeddings", &c->tie_word_embeddings},
               {"model.qk_norm", &c->qk_norm},
               {"model.qkv_bias", &c->qkv_bias},
               {"model.output_bias", &c->output_bias}},
    };
}

/* Without a file every key gives its field; with one, the keys that are set. */
static void read_keys(rf_model_config *c, const rf_config *config, bool all)
{
    model_keys k = keys_of(c);
    for (int i = 0; i < N_SIZE_KEYS; i++) {
        if (all || rf_config_is_set(config, k.size[i].key)) {
            *k.size[i].field = rf_config_int(config, k.size[i].key);
        }
    }
    for (int i = 0; i < N_REAL_KEYS; i++) {
        if (all || rf_config_is_set(config, k.real[i].key)) {
            *k.real[i].field = rf_config_real(config, k.real[i].key);
        }
    }
    for (int i = 0; i < N_SWITCH_KEYS; i++) {
        if (all || rf_config_is_set(config, k.is[i].key)) {
            *k.is[i].field = rf_config_bool(config, k.is[i].key);
        }
    }
}

/* Puts the shape into the configuration, so that the resolved file describes the whole model and
 * reads back as the same one. */
static int write_keys(rf_config *config, rf_model_config *c, const char *origin, rf_error *err)
{
    model_keys k = keys_of(c);
    char text[2048];
    size_t used = (size_t)snprintf(text, sizeof text, "model:\n");
    for (int i = 0; i < N_SIZE_KEYS; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "  %s: %" PRId64 "\n",
                                 strchr(k.size[i].key, '.') + 1, *k.size[i].field);
    }
    for (int i = 0; i < N_REAL_KEYS; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "  %s: %.17g\n",
                                 strchr(k.real[i].key, '.') + 1, *k.real[i].field);
    }
    for (int i = 0; i < N_SWITCH_KEYS; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "  %s: %s\n",
                                 strchr(k.is[i].key, '.') + 1, *k.is[i].field ? "true" : "false");
    }
    RF_ASSERT(used < sizeof text);
    return rf_config_load_text(config, text, origin, err);
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
    int rc = rf_file_read(&text, &bytes, path, (size_t)1 << 20, err);
    if (rc == RF_OK) {
        rc = rf_model_config_parse(out, text, bytes, path, err);
    }
    free(text);
    return rc;
}

/* The header of the checkpoint to fine-tune or to go on from. */
static int read_checkpoint(rf_model_config *out, const char *path, const rf_sources *s,
                           rf_error *err)
{
    rf_checkpoint_info info = {0};
    int rc = rf_checkpoint_info_read(&info, path, err);
    if (rc != RF_OK) {
        return rc;
    }
    *out = info.model;
    if (info.tokenizer == NULL ||
        rf_tokenizer_hash(info.tokenizer) != rf_tokenizer_hash(s->tokenizer)) {
        rc = rf_error_set(err, RF_ERR,
                          "%s was built with another tokenizer than that of the model %s: build "
                          "the corpus with the model's tokenizer",
                          rf_corpus_path(s->train[0]), path);
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
                            c->vocab_size, rf_corpus_path(s->train[0]), size);
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
    int rc = RF_OK;
    *out = (rf_model_config){0};
    if (checkpoint[0] != '\0') {
        rc = read_checkpoint(&file, checkpoint, s, err);
        *out = file;
    }
    if (rc == RF_OK && json[0] != '\0') {
        rc = read_config_json(out, json, err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    read_keys(out, config, checkpoint[0] == '\0' && json[0] == '\0');
    derive_sizes(out, s);
    rc = rf_model_config_check(out, err);
    if (rc != RF_OK) {
        return rf_error_prefix(err, "model");
    }
    if (checkpoint[0] != '\0' &&
        !rf_model_config_same_shape(out, &file, difference, sizeof difference)) {
        return rf_error_set(err, RF_ERR,
                            "%s: %s: take back the model.* settings that differ from the file's",
                            checkpoint, difference);
    }
    rc = check_fit(out, s, err);
    if (rc != RF_OK) {
        return rc;
    }
    return write_keys(config, out, "derived", err);
}
