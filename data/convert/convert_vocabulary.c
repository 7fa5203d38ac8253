#include "common/base/alloc.h"
#include "data/convert/convert_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* --- Plan ------------------------------------------------------------------------------------- */

static bool has_fresh(const rf_vocabulary *v)
{
    return v->n_fresh > 0 || v->n_rows > v->n_file;
}

int rf_vocabulary_plan(rf_vocabulary *out, const rf_tokenizer *tokenizer, int64_t n_file,
                       rf_error *err)
{
    const rf_specials *specials = rf_tokenizer_specials(tokenizer);
    const int32_t id[2] = {specials->begin, specials->mask};
    int64_t n_own = rf_tokenizer_n_own(tokenizer), size = rf_tokenizer_size(tokenizer);
    *out = (rf_vocabulary){.n_file = n_file,
                           .n_used = n_own < n_file ? n_own : n_file,
                           .n_rows = size > n_file ? size : n_file};
    for (int i = 0; i < 2; i++) {
        if (id[i] >= n_own && id[i] < n_file) {
            out->fresh[out->n_fresh++] = id[i];
        }
    }
    return has_fresh(out) && out->n_used == 0
               ? rf_error_set(err, RF_ERR, "the tokenizer has no tokens: download it again")
               : RF_OK;
}

bool rf_vocabulary_is_fresh(const rf_vocabulary *v, int64_t row)
{
    bool fresh = row >= v->n_file;
    for (int i = 0; i < v->n_fresh; i++) {
        fresh = fresh || v->fresh[i] == row;
    }
    return fresh;
}

/* --- Means ------------------------------------------------------------------------------------ */

static int average(float *mean, const rf_safetensor *t, int64_t n_rows, rf_error *err)
{
    int64_t width = t->shape[1];
    size_t row_bytes = (size_t)width * rf_type_bytes(t->type);
    float *row = rf_alloc((size_t)width, sizeof *row);
    double *sum = rf_alloc((size_t)width, sizeof *sum);
    int rc = RF_OK;
    for (int64_t r = 0; r < n_rows; r++) {
        rf_storage_decode(row, t->data + (size_t)r * row_bytes, t->type, width);
        for (int64_t i = 0; i < width; i++) {
            sum[i] += (double)row[i];
        }
        rf_safetensors_forget(t, (size_t)r * row_bytes, row_bytes);
    }
    for (int64_t i = 0; i < width && rc == RF_OK; i++) {
        mean[i] = (float)(sum[i] / (double)n_rows);
        if (!isfinite(mean[i])) {
            rc = rf_error_set(err, RF_ERR,
                              "%s: tensor %s: column %" PRId64 " has values that are not finite: "
                              "the model is damaged",
                              t->file, t->name, i);
        }
    }
    free(row);
    free(sum);
    return rc;
}

int rf_vocabulary_average(rf_vocabulary *v, const rf_safetensors *set, rf_error *err)
{
    if (!has_fresh(v)) {
        return RF_OK;
    }
    const rf_safetensor *embed = rf_safetensors_find(set, "model.embed_tokens.weight");
    const rf_safetensor *head = rf_safetensors_find(set, "lm_head.weight");
    v->embed = rf_alloc((size_t)embed->shape[1], sizeof *v->embed);
    RF_TRY(average(v->embed, embed, v->n_used, err));
    if (head != NULL) {
        v->head = rf_alloc((size_t)head->shape[1], sizeof *v->head);
        RF_TRY(average(v->head, head, v->n_used, err));
    }
    return RF_OK;
}

void rf_vocabulary_free(rf_vocabulary *v)
{
    free(v->embed);
    free(v->head);
    *v = (rf_vocabulary){0};
}
