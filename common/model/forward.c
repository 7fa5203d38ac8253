/* forward.c: the forward pass, from a batch of places to the final norm.
 *
 * Read rf_model_forward first, then rf_model_block_forward, then its two halves.
 */
#include "common/model/model.h"

#include "common/model/lora.h"

#include <inttypes.h>

/* --- The batch -------------------------------------------------------------------------------- */

static int check_range(const char *what, const int32_t *value, int64_t n, int64_t min, int64_t end,
                       const char *remedy, rf_error *err)
{
    for (int64_t i = 0; i < n; i++) {
        if (value[i] < min || value[i] >= end) {
            return rf_error_set(err, RF_ERR,
                                "%s %" PRId32 " at place %" PRId64
                                " of the batch is outside [%" PRId64 ",%" PRId64 "): %s",
                                what, value[i], i, min, end, remedy);
        }
    }
    return RF_OK;
}

/* The first place of the batch whose cache place is taken by an earlier one, or -1. */
static int64_t find_repeated(uint8_t *taken, const int32_t *place, int64_t n)
{
    int64_t i = 0;
    while (i < n && !taken[place[i]]) {
        taken[place[i++]] = 1;
    }
    for (int64_t j = 0; j < i; j++) {
        taken[place[j]] = 0;
    }
    return i < n ? i : -1;
}

static int check_places(rf_acts *acts, const rf_batch *batch, int64_t length, rf_error *err)
{
    RF_TRY(check_range("cache place", batch->place, batch->n, 0, length,
                       "give the prompt a longer slab", err));
    int64_t repeated = find_repeated(acts->host_taken, batch->place, batch->n);
    if (repeated >= 0) {
        return rf_error_set(err, RF_ERR,
                            "cache place %" PRId32 " at place %" PRId64
                            " of the batch is written twice: give each place its own",
                            batch->place[repeated], repeated);
    }
    return RF_OK;
}

static int check_batch(const rf_model *model, rf_acts *acts, const rf_batch *batch,
                       const rf_cache *cache, rf_error *err)
{
    int64_t n = batch->n, vocab = model->config.vocab_size;
    if (n < 0 || n > acts->capacity || (cache != NULL && cache->length > acts->keys)) {
        return rf_error_set(err, RF_ERR,
                            "a batch of %" PRId64 " places and %" PRId64
                            " keys does not fit into activations made for %" PRId64 " and %" PRId64,
                            n, cache != NULL ? cache->length : n, acts->capacity, acts->keys);
    }
    RF_TRY(check_range("token", batch->token, n, 0, vocab,
                       "use the tokenizer that the model was trained with", err));
    RF_TRY(check_range("target", batch->target, n, -1, vocab,
                       "use the tokenizer that the model was trained with", err));
    RF_TRY(check_range("position", batch->position, n, 0, model->n_positions,
                       "shorten the text or make the model for more positions", err));
    return cache != NULL ? check_places(acts, batch, cache->length, err) : RF_OK;
}

/* *uploaded: until then neither the batch nor acts->host_... change. */
static int upload_batch(rf_event *uploaded, rf_model *model, rf_acts *acts, const rf_batch *batch,
                        const rf_cache *cache, rf_error *err)
{
    rf_ctx *ctx = model->ctx;
    int64_t n = batch->n, m = cache != NULL ? cache->length : n;
    RF_TRY(rf_spans_build(&acts->spans, ctx, acts->span_memory, acts->host_span, acts->span_size,
                          batch->span, n, m, acts->backward, err));
    rf_backend_upload(ctx, acts->token, RF_INDEX, batch->token, RF_I32, n);
    rf_backend_upload(ctx, acts->position, RF_INDEX, batch->position, RF_I32, n);
    rf_backend_upload(ctx, acts->target, RF_INDEX, batch->target, RF_I32, n);
    rf_backend_upload(ctx, acts->weight, RF_STATISTIC, batch->weight, RF_F32, n);
    if (cache != NULL) {
        rf_backend_upload(ctx, acts->place, RF_INDEX, batch->place, RF_I32, n);
    }
    acts->n_wanted = 0;
    for (int64_t i = 0; i < n; i++) {
        if (batch->target[i] >= 0) {
            acts->host_wanted[acts->n_wanted++] = (int32_t)i;
        }
    }
    rf_backend_upload(ctx, acts->wanted, RF_INDEX, acts->host_wanted, RF_I32, acts->n_wanted);
    *uploaded = rf_backend_record(ctx);
    acts->n = n;
    acts->cached = cache != NULL;
    return RF_OK;
}

/* --- One block -------------------------------------------------------------------------------- */

/* One of a block's products, with its adapter. Operands as linear_forward's: o and down write to
 * the stream. */
static void project(rf_model *model, const rf_acts *acts, const rf_block_weights *w, rf_role role,
                    void *y, const void *x, const void *bias, const void *residual, int64_t in,
                    int64_t out)
{
    rf_ctx *ctx = model->ctx;
    const rf_array to = {y, residual != NULL ? RF_RESIDUAL : RF_ACTIVATION};
    ctx->backend->kernels->linear_forward(ctx, to, x, rf_block_matrix(w, role), bias, residual,
                                          acts->n, in, out);
    rf_lora_forward(model, acts, w, role, to, x, in, out);
    rf_model_poll(model);
}

/* q or k of every head from its projection: the norm of each head where the model has one, rotation by
 * the place's position. Without the norm raw is out (model.h). */
static void finish_heads(rf_model *model, const rf_acts *acts, void *out, void *raw, void *rstd,
                         const void *gain, int64_t n_heads)
{
    const rf_angles angles = rf_model_angles(model, acts);
    model->ctx->backend->kernels->heads_forward(model->ctx, out, rstd, raw, gain, &angles, acts->n,
                                                n_heads, model->config.head_dim,
                                                model->config.rms_norm_eps);
}

static void project_heads(rf_model *model, const rf_acts *acts, const rf_block_weights *w,
                          rf_role role, void *out, void *raw, void *rstd, const void *x,
                          const void *bias, const void *gain, int64_t n_heads)
{
    int64_t d = model->config.hidden_size, k = model->config.head_dim;
    project(model, acts, w, role, raw, x, bias, NULL, d, n_heads * k);
    finish_heads(model, acts, out, raw, rstd, gain, n_heads);
}

void rf_model_heads_forward(rf_model *model, rf_acts *acts, const rf_block_weights *w)
{
    const rf_block_acts *b = &acts->block[w->layer];
    RF_ASSERT(!acts->keeps_heads && b->q != b->q_raw);
    finish_heads(model, acts, b->q, b->q_raw, b->q_rstd, w->of[RF_ROLE_Q_NORM],
                 model->config.num_attention_heads);
    finish_heads(model, acts, b->k, b->k_raw, b->k_rstd, w->of[RF_ROLE_K_NORM],
                 model->config.num_key_value_heads);
}

/* mid = x + o_proj(attention(...)) of norm1(x). q is finished before k begins: k_raw may be q_raw
 * where nothing is kept (acts.c). */
static void attention_half(rf_model *model, const rf_acts *acts, const rf_block_acts *b,
                           const rf_block_weights *w, const rf_cache *cache)
{
    rf_ctx *ctx = model->ctx;
    const rf_kernels *kernel = ctx->backend->kernels;
    int64_t n = acts->n, d = model->config.hidden_size, k = model->config.head_dim;
    int64_t h = model->config.num_attention_heads, g = model->config.num_key_value_heads;
    const void *keys = b->k, *values = b->v;
    kernel->rmsnorm_forward(ctx, b->norm1, b->rstd1, (rf_const_array){b->x, RF_RESIDUAL},
                            w->of[RF_ROLE_ATTENTION_NORM], n, d, model->config.rms_norm_eps);
    project_heads(model, acts, w, RF_ROLE_Q, b->q, b->q_raw, b->q_rstd, b->norm1,
                  w->of[RF_ROLE_Q_BIAS], w->of[RF_ROLE_Q_NORM], h);
    project_heads(model, acts, w, RF_ROLE_K, b->k, b->k_raw, b->k_rstd, b->norm1,
                  w->of[RF_ROLE_K_BIAS], w->of[RF_ROLE_K_NORM], g);
    project(model, acts, w, RF_ROLE_V, b->v, b->norm1, w->of[RF_ROLE_V_BIAS], NULL, d, g * k);
    if (cache != NULL) {
        keys = cache->k[w->layer];
        values = cache->v[w->layer];
        kernel->scatter_rows(ctx, cache->k[w->layer], b->k, acts->place, n, g * k);
        kernel->scatter_rows(ctx, cache->v[w->layer], b->v, acts->place, n, g * k);
    }
    kernel->attention_forward(ctx, b->o, b->lse, b->q, keys, values, &acts->spans, h, g, k);
    rf_model_poll(model);
    project(model, acts, w, RF_ROLE_O, b->mid, b->o, w->of[RF_ROLE_O_BIAS], b->x, h * k, d);
}

/* h = swiglu(gate, up(norm2)): up and h at once, where no adapter adds to up. */
static void up_half(rf_model *model, const rf_acts *acts, const rf_block_acts *b,
                    const rf_block_weights *w)
{
    rf_ctx *ctx = model->ctx;
    const rf_kernels *kernel = ctx->backend->kernels;
    int64_t n = acts->n, d = model->config.hidden_size, f = model->config.intermediate_size;
    if (w->of[rf_table_adapter_a(RF_ROLE_UP)] == NULL) {
        kernel->swiglu_up_forward(ctx, b->h, b->up, b->norm2, rf_block_matrix(w, RF_ROLE_UP),
                                  b->gate, n, d, f);
    } else {
        project(model, acts, w, RF_ROLE_UP, b->up, b->norm2, NULL, NULL, d, f);
        kernel->swiglu_forward(ctx, b->h, b->gate, b->up, n * f);
    }
}

/* out = mid + down(swiglu(gate, up)) of norm2(mid). */
static void mlp_half(rf_model *model, const rf_acts *acts, const rf_block_acts *b,
                     const rf_block_weights *w, void *out)
{
    rf_ctx *ctx = model->ctx;
    int64_t d = model->config.hidden_size, f = model->config.intermediate_size;
    ctx->backend->kernels->rmsnorm_forward(
        ctx, b->norm2, b->rstd2, (rf_const_array){b->mid, RF_RESIDUAL}, w->of[RF_ROLE_MLP_NORM],
        acts->n, d, model->config.rms_norm_eps);
    project(model, acts, w, RF_ROLE_GATE, b->gate, b->norm2, NULL, NULL, d, f);
    if (out == NULL) {
        project(model, acts, w, RF_ROLE_UP, b->up, b->norm2, NULL, NULL, d, f);
    } else {
        up_half(model, acts, b, w);
        project(model, acts, w, RF_ROLE_DOWN, out, b->h, NULL, b->mid, f, d);
    }
}

/* The block of layer w->layer as the backend's block_forward takes it. */
static rf_block describe_block(const rf_model *model, const rf_acts *acts,
                               const rf_block_weights *w, const rf_cache *cache)
{
    const rf_block_acts *b = &acts->block[w->layer];
    const rf_model_config *c = &model->config;
    return (rf_block){.n = acts->n,
                      .d = c->hidden_size,
                      .h = c->num_attention_heads,
                      .g = c->num_key_value_heads,
                      .k = c->head_dim,
                      .f = c->intermediate_size,
                      .is_first = w->layer == 0,
                      .is_last = w->layer + 1 == c->num_hidden_layers,
                      .eps = c->rms_norm_eps,
                      .q_w = rf_block_matrix(w, RF_ROLE_Q),
                      .k_w = rf_block_matrix(w, RF_ROLE_K),
                      .v_w = rf_block_matrix(w, RF_ROLE_V),
                      .o_w = rf_block_matrix(w, RF_ROLE_O),
                      .gate_w = rf_block_matrix(w, RF_ROLE_GATE),
                      .up_w = rf_block_matrix(w, RF_ROLE_UP),
                      .down_w = rf_block_matrix(w, RF_ROLE_DOWN),
                      .q_bias = w->of[RF_ROLE_Q_BIAS],
                      .k_bias = w->of[RF_ROLE_K_BIAS],
                      .v_bias = w->of[RF_ROLE_V_BIAS],
                      .o_bias = w->of[RF_ROLE_O_BIAS],
                      .attention_gain = w->of[RF_ROLE_ATTENTION_NORM],
                      .q_gain = w->of[RF_ROLE_Q_NORM],
                      .k_gain = w->of[RF_ROLE_K_NORM],
                      .mlp_gain = w->of[RF_ROLE_MLP_NORM],
                      .angles = rf_model_angles(model, acts),
                      .place = cache != NULL ? acts->place : NULL,
                      .keys = cache != NULL ? cache->k[w->layer] : b->k,
                      .values = cache != NULL ? cache->v[w->layer] : b->v,
                      .spans = &acts->spans,
                      .x = acts->x,
                      .normed = b->norm1,
                      .q = b->q,
                      .o = b->o,
                      .hidden = b->h};
}

/* Does the backend make whole blocks of this model? For inference only, where all blocks have one set of
 * activations, and the stream is rewritten in place. The same whatever the batch is, as bits are. */
static bool has_whole_blocks(const rf_model *model, const rf_acts *acts)
{
    const rf_ctx *ctx = model->ctx;
    if (ctx->backend->kernels->takes_blocks == NULL || ctx->limits.backward ||
        model->adaptation.rank > 0 || model->source.acquire != NULL) {
        return false;
    }
    const rf_block block = describe_block(model, acts, &model->block[0], NULL);
    return ctx->backend->kernels->takes_blocks(ctx, &block);
}

void rf_model_block_forward(rf_model *model, rf_acts *acts, const rf_block_weights *w, void *out,
                            rf_cache *cache)
{
    const rf_block_acts *b = &acts->block[w->layer];
    attention_half(model, acts, b, w, cache);
    mlp_half(model, acts, b, w, out);
}

/* --- The whole model -------------------------------------------------------------------------- */

/* From the tokens to the final norm, over what upload_batch brought. */
static int run(rf_model *model, rf_acts *acts, rf_cache *cache, bool whole_blocks, rf_error *err)
{
    rf_ctx *ctx = model->ctx;
    const rf_kernels *kernel = ctx->backend->kernels;
    int64_t n_layers = model->config.num_hidden_layers, d = model->config.hidden_size;
    const rf_block_weights *outside, *w;
    int rc = RF_OK;
    RF_TRY(rf_model_acquire(&outside, model, n_layers, RF_FORWARD, err));
    kernel->embedding_forward(ctx, acts->block[0].x, rf_block_matrix(outside, RF_ROLE_EMBED),
                              acts->token, acts->n, d);
    for (int64_t layer = 0; layer < n_layers; layer++) {
        RF_TRY_OUT(rf_model_acquire(&w, model, layer, RF_FORWARD, err));
        void *out = layer + 1 < n_layers ? acts->block[layer + 1].x : acts->x;
        if (whole_blocks) {
            const rf_block block = describe_block(model, acts, w, cache);
            kernel->block_forward(ctx, &block);
        } else {
            rf_model_block_forward(model, acts, w, out, cache);
        }
        rf_model_release(model, layer, RF_FORWARD);
    }
    kernel->rmsnorm_forward(ctx, acts->final, acts->final_rstd,
                            (rf_const_array){acts->x, RF_RESIDUAL}, outside->of[RF_ROLE_FINAL_NORM],
                            acts->n, d, model->config.rms_norm_eps);
out:
    rf_model_release(model, n_layers, RF_FORWARD);
    return rc;
}

/* The same, as one series where the backend makes whole blocks: all that their kernels are given follows
 * from where the memory lies, its sizes, and n. */
static int run_series(rf_model *model, rf_acts *acts, rf_cache *cache, rf_error *err)
{
    if (!has_whole_blocks(model, acts)) {
        return run(model, acts, cache, false, err);
    }
    const int64_t key[RF_SERIES_KEY] = {(intptr_t)acts->memory,
                                        acts->capacity,
                                        acts->keys,
                                        cache != NULL ? (intptr_t)cache->memory : 0,
                                        cache != NULL ? cache->length : 0,
                                        acts->n};
    if (rf_backend_replay(model->ctx, key)) {
        return RF_OK;
    }
    int rc = run(model, acts, cache, true, err);
    rf_backend_keep(model->ctx);
    return rc;
}

int rf_model_forward(rf_model *model, rf_acts *acts, const rf_batch *batch, rf_cache *cache,
                     rf_error *err)
{
    rf_event uploaded = 0;
    acts->n = 0;
    RF_TRY(check_batch(model, acts, batch, cache, err));
    RF_TRY(upload_batch(&uploaded, model, acts, batch, cache, err));
    int rc = run_series(model, acts, cache, err);
    acts->n = rc == RF_OK ? acts->n : 0;
    rf_backend_wait(model->ctx, uploaded); /* last, when the backend has work in hand */
    return rc;
}
