#include "common/base/file.h"
#include "data/convert_private.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- Tokens of the folder's tokenizer --------------------------------------------------------- */

typedef struct known_ids {
    json_t *root; /* tokenizer.json */
    int64_t end;  /* ids are below it */
} known_ids;

static void count_id(known_ids *ids, const json_t *id)
{
    if (json_is_integer(id) && json_integer_value(id) < INT32_MAX &&
        json_integer_value(id) >= ids->end) {
        ids->end = (int64_t)json_integer_value(id) + 1;
    }
}

static int read_known(known_ids *out, const char *name, rf_error *err)
{
    char path[RF_CONVERT_PATH], *text = NULL;
    size_t bytes = 0;
    struct stat status;
    json_error_t where;
    bool is_folder = stat(name, &status) == 0 && S_ISDIR(status.st_mode);
    int rc = is_folder ? rf_convert_join(path, sizeof path, name, "tokenizer.json", err) : RF_OK;
    if (rc == RF_OK) {
        rc = rf_file_read(&text, &bytes, is_folder ? path : name, (size_t)1 << 30, err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    out->root = json_loadb(text, bytes, 0, &where);
    free(text);
    if (out->root == NULL) {
        return rf_error_set(err, RF_ERR, "%s: not valid JSON (%s): download it again", name,
                            where.text);
    }
    json_t *vocabulary = json_object_get(json_object_get(out->root, "model"), "vocab");
    for (void *at = json_object_iter(vocabulary); at != NULL;
         at = json_object_iter_next(vocabulary, at)) {
        count_id(out, json_object_iter_value(at));
    }
    const json_t *added = json_object_get(out->root, "added_tokens");
    for (size_t i = 0; i < json_array_size(added); i++) {
        count_id(out, json_object_get(json_array_get(added, i), "id"));
    }
    return RF_OK;
}

static bool is_added_token(const known_ids *ids, int32_t id, const char *content)
{
    const json_t *added = json_object_get(ids->root, "added_tokens");
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *entry = json_array_get(added, i);
        if (json_integer_value(json_object_get(entry, "id")) == id) {
            return true;
        }
    }
    const json_t *vocabulary = json_object_get(json_object_get(ids->root, "model"), "vocab");
    const json_t *found = content != NULL ? json_object_get(vocabulary, content) : NULL;
    return json_is_integer(found) && json_integer_value(found) == id;
}

/* --- Plan ------------------------------------------------------------------------------------- */

static void add_if_new(rf_vocabulary *v, const known_ids *ids, const rf_tokenizer *tokenizer,
                       int32_t id)
{
    if (id < 0 || is_added_token(ids, id, rf_tokenizer_special_name(tokenizer, id))) {
        return;
    }
    if (id < v->n_file) {
        v->fresh[v->n_fresh++] = id;
    }
    if (id < v->n_used) {
        v->n_used = id;
    }
}

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
    known_ids ids = {0};
    int rc = read_known(&ids, name, err);
    if (rc == RF_OK) {
        const rf_specials *specials = rf_tokenizer_specials(tokenizer);
        out->n_used = ids.end < n_file ? ids.end : n_file;
        add_if_new(out, &ids, tokenizer, specials->begin);
        add_if_new(out, &ids, tokenizer, specials->mask);
    }
    if (rc == RF_OK && rf_vocabulary_has_fresh(out) && out->n_used == 0) {
        rc = rf_error_set(err, RF_ERR, "%s: has no tokens: download it again", name);
    }
    json_decref(ids.root);
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
    size_t row_bytes = (size_t)width * rf_storage_bytes(t->type);
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
