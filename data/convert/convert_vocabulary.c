#include "common/base/file.h"
#include "data/convert/convert_private.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- Tokens of the folder's tokenizer --------------------------------------------------------- */

/* The ids of a folder's files, without those that rf_tokenizer_load adds. */
typedef struct known_ids {
    int64_t end;        /* ids are below it */
    int32_t special[2]; /* begin and mask of the tokenizer; -1: none */
    bool found[2];      /* are they in the files? */
} known_ids;

static void count_id(known_ids *ids, json_int_t id)
{
    if (id < 0 || id >= INT32_MAX) {
        return;
    }
    ids->end = id >= ids->end ? (int64_t)id + 1 : ids->end;
    for (int i = 0; i < 2; i++) {
        ids->found[i] = ids->found[i] || ids->special[i] == id;
    }
}

/* -1: no number. */
static json_int_t whole(const json_t *number)
{
    if (!json_is_number(number)) {
        return -1;
    }
    const double value = json_number_value(number);
    return value >= 0 && value < INT32_MAX ? (json_int_t)value : -1;
}

/* {"content": id}, of tokenizer.json's vocabulary or added_tokens.json. */
static void count_values(known_ids *ids, json_t *object)
{
    for (void *at = json_object_iter(object); at != NULL; at = json_object_iter_next(object, at)) {
        const json_t *id = json_object_iter_value(at);
        count_id(ids, whole(id));
    }
}

static void count_tokenizer(known_ids *ids, const json_t *root)
{
    count_values(ids, json_object_get(json_object_get(root, "model"), "vocab"));
    const json_t *added = json_object_get(root, "added_tokens");
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *id = json_object_get(json_array_get(added, i), "id");
        count_id(ids, whole(id));
    }
}

/* {"added_tokens_decoder": {"151643": {...}}} */
static void count_config(known_ids *ids, const json_t *root)
{
    json_t *decoder = json_object_get(root, "added_tokens_decoder");
    for (void *at = json_object_iter(decoder); at != NULL;
         at = json_object_iter_next(decoder, at)) {
        char *end;
        const char *key = json_object_iter_key(at);
        long id = strtol(key, &end, 10);
        count_id(ids, end != key && *end == '\0' ? id : -1);
    }
}

/* NULL where the file may be missing and is. */
static int read_json(json_t **out, const char *path, bool optional, rf_error *err)
{
    char *text = NULL;
    size_t bytes = 0;
    json_error_t where;
    *out = NULL;
    if (optional && !rf_file_exists(path)) {
        return RF_OK;
    }
    int rc = rf_file_read(&text, &bytes, path, (size_t)1 << 30, err);
    if (rc != RF_OK) {
        return rc;
    }
    /* Whole numbers may be as large as 10^30: Transformers' "no limit". */
    *out = json_loadb(text, bytes, JSON_DECODE_INT_AS_REAL, &where);
    free(text);
    return *out != NULL ? RF_OK
                        : rf_error_set(err, RF_ERR, "%s: not valid JSON (%s): download it again",
                                       path, where.text);
}

/* name: a tokenizer.json or its folder. */
static int read_known(known_ids *ids, const char *name, rf_error *err)
{
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json",
                                        "added_tokens.json"};
    char folder[RF_CONVERT_PATH], path[RF_CONVERT_PATH];
    const bool is_folder = rf_file_is_folder(name);
    int rc = is_folder ? RF_OK : rf_file_folder(folder, sizeof folder, name, err);
    for (int i = 0; i < 3 && rc == RF_OK; i++) {
        json_t *root = NULL;
        rc = rf_file_join(path, sizeof path, is_folder ? name : folder, files[i], err);
        if (rc == RF_OK) {
            rc = read_json(&root, i == 0 && !is_folder ? name : path, i > 0, err);
        }
        if (i == 0) {
            count_tokenizer(ids, root);
        } else if (i == 1) {
            count_config(ids, root);
        } else {
            count_values(ids, root);
        }
        json_decref(root);
    }
    return rc;
}

/* --- Plan ------------------------------------------------------------------------------------- */

int rf_vocabulary_plan(rf_vocabulary *out, const rf_tokenizer *tokenizer, const char *name,
                       int64_t n_file, rf_error *err)
{
    *out = (rf_vocabulary){.n_file = n_file, .n_used = n_file, .n_rows = n_file};
    if (tokenizer == NULL) {
        return RF_OK;
    }
    if (rf_tokenizer_size(tokenizer) > n_file) {
        out->n_rows = rf_tokenizer_size(tokenizer);
    }
    if (strcmp(name, "byte") == 0) {
        return RF_OK; /* its special tokens are part of it: nothing was added */
    }
    const rf_specials *specials = rf_tokenizer_specials(tokenizer);
    known_ids ids = {.special = {specials->begin, specials->mask}};
    int rc = read_known(&ids, name, err);
    if (rc != RF_OK) {
        return rc;
    }
    out->n_used = ids.end < n_file ? ids.end : n_file;
    for (int i = 0; i < 2; i++) {
        int32_t id = ids.special[i];
        if (id >= 0 && !ids.found[i] && id < n_file) {
            out->fresh[out->n_fresh++] = id;
        }
        if (id >= 0 && !ids.found[i] && id < out->n_used) {
            out->n_used = id;
        }
    }
    if (rf_vocabulary_has_fresh(out) && out->n_used == 0) {
        rc = rf_error_set(err, RF_ERR, "%s: has no tokens: download it again", name);
    }
    return rc;
}

bool rf_vocabulary_is_fresh(const rf_vocabulary *v, int64_t row)
{
    bool fresh = row >= v->n_file;
    for (int i = 0; i < v->n_fresh; i++) {
        fresh = fresh || v->fresh[i] == row;
    }
    return fresh;
}

bool rf_vocabulary_has_fresh(const rf_vocabulary *v)
{
    return v->n_fresh > 0 || v->n_rows > v->n_file;
}

/* --- Means ------------------------------------------------------------------------------------ */

static int average(float *mean, const rf_safetensor *t, int64_t n_rows, rf_error *err)
{
    int64_t width = t->shape[1];
    size_t row_bytes = (size_t)width * rf_type_bytes(t->type);
    float *row = malloc((size_t)width * sizeof *row);
    double *sum = calloc((size_t)width, sizeof *sum);
    int rc = RF_OK;
    if (row == NULL || sum == NULL) {
        rc = rf_error_set(err, RF_ERR, "no memory for the mean of %s", t->name);
        goto out;
    }
    for (int64_t r = 0; r < n_rows; r++) {
        rf_storage_decode(row, t->data + (size_t)r * row_bytes, t->type, width);
        for (int64_t i = 0; i < width; i++) {
            sum[i] += (double)row[i];
        }
        rf_safetensors_forget(t, (size_t)r * row_bytes, row_bytes);
    }
    for (int64_t i = 0; i < width; i++) {
        mean[i] = (float)(sum[i] / (double)n_rows);
        if (!isfinite(mean[i])) {
            rc = rf_error_set(err, RF_ERR,
                              "%s: tensor %s: column %" PRId64 " has values that are not finite: "
                              "the model is damaged",
                              t->file, t->name, i);
            goto out;
        }
    }
out:
    free(row);
    free(sum);
    return rc;
}

int rf_vocabulary_average(rf_vocabulary *v, const rf_safetensors *set, rf_error *err)
{
    if (!rf_vocabulary_has_fresh(v)) {
        return RF_OK;
    }
    const rf_safetensor *embed = rf_safetensors_find(set, "model.embed_tokens.weight");
    const rf_safetensor *head = rf_safetensors_find(set, "lm_head.weight");
    v->embed = malloc((size_t)embed->shape[1] * sizeof *v->embed);
    v->head = head != NULL ? malloc((size_t)embed->shape[1] * sizeof *v->head) : NULL;
    if (v->embed == NULL || (head != NULL && v->head == NULL)) {
        return rf_error_set(err, RF_ERR, "no memory for new rows of the vocabulary");
    }
    int rc = average(v->embed, embed, v->n_used, err);
    if (rc == RF_OK && head != NULL) {
        rc = average(v->head, head, v->n_used, err);
    }
    return rc;
}

void rf_vocabulary_free(rf_vocabulary *v)
{
    free(v->embed);
    free(v->head);
    *v = (rf_vocabulary){0};
}
