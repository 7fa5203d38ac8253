/* head.c: what is read off the final norm: losses, tokens, probabilities, logits. */
#include "common/model/model.h"

#include <inttypes.h>

/* Before anything is uploaded: where it fails nothing is on its way. */
static int acquire_head(rf_matrix *out, rf_model *model, rf_error *err)
{
    const rf_block_weights *outside;
    RF_TRY(rf_model_acquire(&outside, model, model->config.num_hidden_layers, RF_FORWARD, err));
    *out = rf_block_matrix(outside, RF_ROLE_HEAD);
    return RF_OK;
}

static void release_head(rf_model *model)
{
    rf_model_release(model, model->config.num_hidden_layers, RF_FORWARD);
}

int rf_model_losses(rf_model *model, rf_acts *acts, double *loss, rf_error *err)
{
    rf_ctx *ctx = model->ctx;
    rf_matrix head;
    RF_TRY(acquire_head(&head, model, err));
    ctx->backend->kernels->head_loss(ctx, acts->loss, NULL, NULL, acts->final, head, acts->target,
                                     acts->weight, acts->wanted, acts->n_wanted, acts->n,
                                     model->config.hidden_size, model->config.vocab_size);
    release_head(model);
    if (loss == NULL) {
        return RF_OK;
    }
    rf_backend_download(ctx, loss, RF_F64, acts->loss, RF_STATISTIC, acts->n);
    return rf_ctx_sync(ctx, err);
}

static int check_places(const rf_acts *acts, const int32_t *place, int64_t n, rf_error *err)
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
    return RF_OK;
}

/* Ids from `least` on, which is 0, or what stands for none. */
static int check_ids(const int32_t *id, int64_t n, int32_t least, int64_t vocab, rf_error *err)
{
    for (int64_t i = 0; i < n; i++) {
        if (id[i] < least || id[i] >= vocab) {
            return rf_error_set(err, RF_ERR,
                                "token %" PRId32 " is outside the vocabulary of %" PRId64
                                ": use the tokenizer that the model was trained with",
                                id[i], vocab);
        }
    }
    return RF_OK;
}

/* What a penalty looks at. */
static int check_seen(const rf_acts *acts, const rf_model_question *q, int64_t vocab, rf_error *err)
{
    if (q->n_seen < 0 || q->n_seen > acts->keys) {
        return rf_error_set(
            err, RF_ERR, "%" PRId64 " seen tokens: the activations were made for %" PRId64 " keys",
            q->n_seen, acts->keys);
    }
    for (int64_t i = 0; q->draw != NULL && i < q->n; i++) {
        const rf_draw *draw = &q->draw[i];
        if (draw->n_seen < 0 || draw->seen < 0 || draw->n_seen > q->n_seen - draw->seen) {
            return rf_error_set(err, RF_ERR,
                                "place %" PRId64 " has seen %" PRId32 " tokens from %" PRId32
                                " on: there are %" PRId64,
                                i, draw->n_seen, draw->seen, q->n_seen);
        }
    }
    return check_ids(q->seen, q->n_seen, 0, vocab, err);
}

static int check_query(const rf_acts *acts, const rf_model_question *q, int64_t vocab,
                       rf_error *err)
{
    RF_TRY(check_places(acts, q->place, q->n, err));
    RF_TRY(check_ids(q->target, q->logprob != NULL ? q->n : 0, INT32_MIN, vocab, err));
    if (q->token != NULL && (q->n_usable < 1 || q->n_usable > vocab)) {
        return rf_error_set(err, RF_ERR,
                            "%" PRId64 " usable tokens and a vocabulary of %" PRId64
                            ": use the tokenizer that the model was trained with",
                            q->n_usable, vocab);
    }
    if (q->n_banned < 0 || q->n_banned > RF_MODEL_MAX_BANNED) {
        return rf_error_set(err, RF_ERR, "%" PRId64 " banned tokens: at most %d are supported",
                            q->n_banned, RF_MODEL_MAX_BANNED);
    }
    return check_seen(acts, q, vocab, err);
}

int rf_model_query(rf_model *model, rf_acts *acts, const rf_model_question *q, rf_error *err)
{
    rf_ctx *ctx = model->ctx;
    rf_matrix head;
    RF_TRY(check_query(acts, q, model->config.vocab_size, err));
    RF_TRY(acquire_head(&head, model, err));
    const bool drawn = q->draw != NULL, scored = q->logprob != NULL;
    rf_backend_upload(ctx, acts->chosen, RF_INDEX, q->place, RF_I32, q->n);
    rf_backend_upload(ctx, acts->chosen_target, RF_INDEX, q->target, RF_I32, scored ? q->n : 0);
    rf_backend_upload(ctx, acts->draw, RF_INDEX, q->draw, RF_I32, drawn ? q->n * RF_DRAW_WORDS : 0);
    rf_backend_upload(ctx, acts->banned, RF_INDEX, q->banned, RF_I32, q->n_banned);
    rf_backend_upload(ctx, acts->seen, RF_INDEX, q->seen, RF_I32, q->n_seen);
    const rf_head_query query = {.place = acts->chosen,
                                 .target = scored ? acts->chosen_target : NULL,
                                 .draw = drawn ? acts->draw : NULL,
                                 .banned = acts->banned,
                                 .n_banned = q->n_banned,
                                 .n_usable = q->n_usable,
                                 .seen = acts->seen};
    const rf_head_answer answer = {.token = q->token != NULL ? acts->answer.token : NULL,
                                   .score = acts->answer.score,
                                   .logprob = scored ? acts->answer.logprob : NULL,
                                   .second = q->second != NULL ? acts->answer.second : NULL,
                                   .entropy = q->entropy != NULL ? acts->answer.entropy : NULL};
    ctx->backend->kernels->head_query(ctx, &answer, acts->final, head, &query, q->n,
                                      model->config.hidden_size, model->config.vocab_size);
    release_head(model);
    if (q->token != NULL) {
        rf_backend_download_later(ctx, q->token, RF_I32, answer.token, RF_INDEX, q->n);
        rf_backend_download_later(ctx, q->score, RF_F64, answer.score, RF_STATISTIC, q->n);
    }
    if (scored) {
        rf_backend_download_later(ctx, q->logprob, RF_F64, answer.logprob, RF_STATISTIC, q->n);
    }
    if (q->second != NULL) {
        rf_backend_download_later(ctx, q->second, RF_F64, answer.second, RF_STATISTIC, q->n);
    }
    if (q->entropy != NULL) {
        rf_backend_download_later(ctx, q->entropy, RF_F64, answer.entropy, RF_STATISTIC, q->n);
    }
    return rf_ctx_sync(ctx, err);
}

void rf_model_guide(rf_model *model, rf_acts *acts, int64_t row, int64_t other, int64_t n, double w)
{
    rf_ctx *ctx = model->ctx;
    const rf_kernels *kernel = ctx->backend->kernels;
    const int64_t d = model->config.hidden_size;
    RF_ASSERT(row >= 0 && other >= row + n && other + n <= acts->n);
    const rf_array x = {rf_backend_at(ctx->backend, RF_ACTIVATION, acts->final, row * d),
                        RF_ACTIVATION};
    const void *y = rf_backend_at(ctx->backend, RF_ACTIVATION, acts->final, other * d);
    kernel->scale_dropout(ctx, x, x.data, 1 + w, 0, 0, n * d, false);
    kernel->scale_dropout(ctx, x, y, -w, 0, 0, n * d, true);
}

int rf_model_logits(rf_model *model, rf_acts *acts, double *logits, const int32_t *place, int64_t n,
                    rf_error *err)
{
    rf_ctx *ctx = model->ctx;
    const rf_backend *backend = ctx->backend;
    int64_t vocab = model->config.vocab_size;
    void *chunk = NULL;
    rf_matrix head;
    RF_TRY(check_places(acts, place, n, err));
    /* Not a function of training or decoding: its buffer lives for this call only. */
    const int64_t budget = (int64_t)1 << 21; /* elements */
    int64_t rows = vocab < budget ? budget / vocab : 1;
    rows = rows < n ? rows : n;
    int rc =
        rf_backend_alloc(&chunk, ctx, rf_backend_bytes(backend, RF_STATISTIC, rows * vocab), err);
    if (rc != RF_OK) {
        return rf_error_prefix(err, "logits of %" PRId64 " places", rows);
    }
    RF_TRY_OUT(acquire_head(&head, model, err));
    rf_backend_upload(ctx, acts->chosen, RF_INDEX, place, RF_I32, n);
    for (int64_t first = 0; first < n; first += rows) {
        int64_t count = n - first < rows ? n - first : rows;
        backend->kernels->head_logits(ctx, chunk, acts->final, head, acts->chosen + first, count,
                                      model->config.hidden_size, vocab);
        rf_backend_download(ctx, logits + first * vocab, RF_F64, chunk, RF_STATISTIC,
                            count * vocab);
    }
    release_head(model);
    rc = rf_ctx_sync(ctx, err);
out:
    rf_backend_free(ctx, chunk);
    return rc;
}
