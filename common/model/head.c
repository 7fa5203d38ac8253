/* head.c: what is read off the final norm: losses, tokens, probabilities, logits. */
#include "common/model/model.h"

#include <inttypes.h>
#include <stdlib.h>

static rf_matrix acquire_head(rf_model *model)
{
    return rf_block_matrix(rf_model_acquire(model, model->config.num_hidden_layers), RF_ROLE_HEAD);
}

static void release_head(rf_model *model)
{
    rf_model_release(model, model->config.num_hidden_layers);
}

int rf_model_losses(rf_model *model, rf_acts *acts, double *loss, rf_error *err)
{
    rf_ctx *ctx = model->ctx;
    rf_matrix head = acquire_head(model);
    ctx->backend->kernels->head_loss(ctx, acts->loss, NULL, NULL, acts->final, head, acts->target,
                                     acts->weight, acts->host_target, acts->n,
                                     model->config.hidden_size, model->config.vocab_size);
    release_head(model);
    if (loss == NULL) {
        return RF_OK;
    }
    rf_backend_download(ctx, loss, RF_F64, acts->loss, RF_STATISTIC, acts->n);
    return rf_ctx_sync(ctx, err);
}

/* Checks the chosen places and brings them to acts->chosen. */
static int choose(rf_model *model, rf_acts *acts, const int32_t *place, int64_t n, rf_error *err)
{
    if (n < 0 || n > acts->capacity) {
        return rf_error_set(err, RF_ERR,
                            "%" PRId64 " places chosen: the activations were made for %" PRId64, n,
                            acts->capacity);
    }
    for (int64_t i = 0; i < n; i++) {
        if (place[i] < 0 || place[i] >= acts->n) {
            return rf_error_set(err, RF_ERR,
                                "chosen place %" PRId32 " is not one of the batch's %" PRId64,
                                place[i], acts->n);
        }
    }
    rf_backend_upload(model->ctx, acts->chosen, RF_INDEX, place, RF_I32, n);
    return RF_OK;
}

int rf_model_sample(rf_model *model, rf_acts *acts, int32_t *token, double *score,
                    const int32_t *place, int64_t n, const rf_sampling *sampling, rf_error *err)
{
    rf_ctx *ctx = model->ctx;
    RF_ASSERT(sampling->temperature >= 0.0);
    RF_ASSERT(!(sampling->temperature > 0.0) || sampling->key != NULL);
    if (sampling->n_usable < 1 || sampling->n_usable > model->config.vocab_size) {
        return rf_error_set(err, RF_ERR,
                            "%" PRId64 " usable tokens and a vocabulary of %" PRId64
                            ": use the tokenizer that the model was trained with",
                            sampling->n_usable, model->config.vocab_size);
    }
    int rc = choose(model, acts, place, n, err);
    if (rc != RF_OK) {
        return rc;
    }
    rf_matrix head = acquire_head(model);
    ctx->backend->kernels->head_sample(ctx, acts->chosen_token, acts->chosen_score, acts->final,
                                       head, acts->chosen, sampling, n, model->config.hidden_size,
                                       model->config.vocab_size);
    release_head(model);
    rf_backend_download(ctx, token, RF_I32, acts->chosen_token, RF_INDEX, n);
    rf_backend_download(ctx, score, RF_F64, acts->chosen_score, RF_STATISTIC, n);
    return rf_ctx_sync(ctx, err);
}

int rf_model_logprob(rf_model *model, rf_acts *acts, double *logprob, const int32_t *place,
                     const int32_t *target, int64_t n, rf_error *err)
{
    rf_ctx *ctx = model->ctx;
    int rc = choose(model, acts, place, n, err);
    if (rc != RF_OK) {
        return rc;
    }
    for (int64_t i = 0; i < n; i++) {
        if (target[i] < 0 || target[i] >= model->config.vocab_size) {
            return rf_error_set(err, RF_ERR,
                                "token %" PRId32 " is outside the vocabulary of %" PRId64
                                ": use the tokenizer that the model was trained with",
                                target[i], model->config.vocab_size);
        }
    }
    rf_backend_upload(ctx, acts->chosen_token, RF_INDEX, target, RF_I32, n);
    rf_matrix head = acquire_head(model);
    ctx->backend->kernels->head_logprob(ctx, acts->chosen_score, acts->final, head, acts->chosen,
                                        acts->chosen_token, n, model->config.hidden_size,
                                        model->config.vocab_size);
    release_head(model);
    rf_backend_download(ctx, logprob, RF_F64, acts->chosen_score, RF_STATISTIC, n);
    return rf_ctx_sync(ctx, err);
}

int rf_model_logits(rf_model *model, rf_acts *acts, double *logits, const int32_t *place, int64_t n,
                    rf_error *err)
{
    rf_ctx *ctx = model->ctx;
    const rf_backend *backend = ctx->backend;
    int64_t vocab = model->config.vocab_size;
    void *chunk = NULL;
    int rc = choose(model, acts, place, n, err);
    if (rc != RF_OK) {
        return rc;
    }
    /* Not a function of training or decoding: its buffer lives for this call only. */
    const int64_t budget = (int64_t)1 << 21; /* elements */
    int64_t rows = vocab < budget ? budget / vocab : 1;
    rows = rows < n ? rows : n;
    rc = rf_backend_alloc(&chunk, ctx, rf_backend_bytes(backend, RF_STATISTIC, rows * vocab), err);
    if (rc != RF_OK) {
        return rf_error_prefix(err, "logits of %" PRId64 " places", rows);
    }
    rf_matrix head = acquire_head(model);
    for (int64_t first = 0; first < n; first += rows) {
        int64_t count = n - first < rows ? n - first : rows;
        backend->kernels->head_logits(ctx, chunk, acts->final, head, acts->chosen + first, count,
                                      model->config.hidden_size, vocab);
        rf_backend_download(ctx, logits + first * vocab, RF_F64, chunk, RF_STATISTIC,
                            count * vocab);
    }
    release_head(model);
    rc = rf_ctx_sync(ctx, err);
    rf_backend_free(ctx, chunk);
    return rc;
}
