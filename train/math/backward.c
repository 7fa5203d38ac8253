/* backward.c: the gradient of the whole model, by hand.
 *
 * Read rf_backward_run at the end first: it walks the forward pass (common/model/forward.c) from
 * its end to its beginning. Throughout, dX stands for the derivative of
 *
 *     E = sum over places i of weight_i * cross-entropy_i
 *
 * by the quantity X. Two rules do most of the work:
 *
 *   - A product y = x W^T + b (linear_forward) has  dx = dy W,  dW = dy^T x,
 *     db = sum of dy's rows.
 *   - A quantity that is used in several places gets the sum of what each use asks for. The
 *     residual stream is such a quantity: in  out = x + f(x)  the derivative dx is dout, from the
 *     term x, plus what f's own backward pass returns. So one buffer, dx, travels down the whole
 *     stack: every half block reads it as the derivative of its output, and adds its own share to
 *     make it the derivative of its input.
 *
 * Weight gradients add to the trainable space at the tensor's offset; a weight used twice (the
 * tied embedding: as head and as table) thereby gets the sum of both uses. Frozen weights have no
 * gradient, and the walk ends at the lowest block that has anything to train.
 */
#include "train/math/backward.h"

#include "common/base/alloc.h"
#include "common/base/arena.h"
#include "common/model/lora.h"

#include <inttypes.h>
#include <stdlib.h>

struct rf_backward {
    rf_ctx *ctx;        /* the model's */
    int64_t capacity;   /* places */
    void *dx;           /* [N,D] residual: derivative of the residual stream at this point */
    void *dnorm;        /* [N,D] product: derivative of a norm's output */
    void *dq, *dk, *dv; /* [N,H,K], [N,G,K], [N,G,K] product */
    void *d_o;          /* [N,H,K] */
    void *delta;        /* [N,H] statistic */
    void *dgate, *dup;  /* [N,F]; share their place with the five above */
    void *du;           /* [N,r] of an adapter; NULL without */
    void *dropped;      /* [N, widest input] of an adapter that drops; else NULL */
    void *memory;       /* backend memory, owned */
    int64_t (*offset)[RF_N_ROLES]; /* [L+1]: where a tensor begins in the trainable space, -1: none.
                                      The last is for what lies outside the blocks */
    rf_range *layer;               /* [L+2] of the trainable space */
    int64_t lowest;                /* block where the walk ends; L: none has anything to train */
};

/* What every step of the walk needs. */
typedef struct pass {
    rf_backward *own;
    rf_model *model;
    rf_ctx *ctx;
    const rf_kernels *kernel;
    rf_acts *acts;
    const rf_gradient *gradient;
    int64_t n, d, h, g, k, f; /* N, D, H, G, K, F */
} pass;

/* --- Memory ----------------------------------------------------------------------------------- */

/* Run twice: to measure, then to bind (arena.h). */
static void lay_out(rf_backward *b, rf_arena *arena, const rf_model_shape *shape)
{
    const rf_model_config *config = shape->config;
    const rf_backend *backend = shape->backend;
    int64_t n = b->capacity, h = config->num_attention_heads;
    int64_t hk = h * config->head_dim, gk = config->num_key_value_heads * config->head_dim;
    size_t residual = rf_backend_bytes(backend, RF_RESIDUAL, n * config->hidden_size);
    size_t wide = rf_backend_bytes(backend, RF_ACTIVATION, n * config->intermediate_size);
    b->dx = rf_arena_take(arena, residual);
    b->dnorm = rf_arena_take(arena, rf_backend_bytes(backend, RF_PRODUCT, n * config->hidden_size));
    if (shape->adaptation->rank > 0) {
        b->du = rf_arena_take(
            arena, rf_backend_bytes(backend, RF_ACTIVATION, n * shape->adaptation->rank));
    }
    if (shape->adaptation->rank > 0 && shape->adaptation->dropout > 0.0) {
        b->dropped = rf_arena_take(
            arena, rf_backend_bytes(backend, RF_ACTIVATION, n * rf_lora_widest(config)));
    }
    size_t mark = arena->used;
    b->dq = rf_arena_take(arena, rf_backend_bytes(backend, RF_PRODUCT, n * hk));
    b->dk = rf_arena_take(arena, rf_backend_bytes(backend, RF_PRODUCT, n * gk));
    b->dv = rf_arena_take(arena, rf_backend_bytes(backend, RF_PRODUCT, n * gk));
    b->d_o = rf_arena_take(arena, rf_backend_bytes(backend, RF_ACTIVATION, n * hk));
    b->delta = rf_arena_take(arena, rf_backend_bytes(backend, RF_STATISTIC, n * h));
    rf_arena_rewind(arena, mark);
    b->dgate = rf_arena_take(arena, wide);
    b->dup = rf_arena_take(arena, wide);
}

size_t rf_backward_bytes(const rf_model_shape *shape, int64_t places)
{
    rf_backward b = {.capacity = places};
    rf_arena arena = {0};
    if (places < 1 || places > RF_MODEL_MAX_PLACES) {
        return 0;
    }
    lay_out(&b, &arena, shape);
    return arena.peak;
}

static void find_offsets(rf_backward *b, const rf_model *model)
{
    int64_t n_layers = model->config.num_hidden_layers;
    b->offset = rf_alloc((size_t)n_layers + 1, sizeof *b->offset);
    b->layer = rf_alloc((size_t)n_layers + 2, sizeof *b->layer);
    b->lowest = n_layers;
    for (int64_t layer = 0; layer < n_layers + 2; layer++) {
        b->layer[layer] = rf_table_range(&model->table, layer, true);
    }
    for (int64_t slot = 0; slot <= n_layers; slot++) {
        for (int role = 0; role < RF_N_ROLES; role++) {
            b->offset[slot][role] = -1;
        }
    }
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        if (!t->trainable) {
            continue;
        }
        b->offset[t->layer >= 0 ? t->layer : n_layers][t->role] = t->offset;
        int64_t lowest = t->role == RF_ROLE_EMBED ? 0 : t->layer >= 0 ? t->layer : n_layers;
        b->lowest = lowest < b->lowest ? lowest : b->lowest;
    }
    if (model->config.tie_word_embeddings) {
        b->offset[n_layers][RF_ROLE_HEAD] = b->offset[n_layers][RF_ROLE_EMBED];
    }
}

int rf_backward_new(rf_backward **out, rf_model *model, int64_t places, rf_error *err)
{
    rf_arena arena = {0};
    const rf_model_shape shape = rf_model_shape_of(model);
    *out = NULL;
    if (places < 1 || places > model->ctx->limits.places || !model->ctx->limits.backward) {
        return rf_error_set(err, RF_ERR,
                            "a backward pass over %" PRId64
                            " places: the model was made for %" PRId64 "%s",
                            places, model->ctx->limits.places,
                            model->ctx->limits.backward ? "" : ", and without backward pass");
    }
    rf_backward *b = rf_alloc(1, sizeof *b);
    b->ctx = model->ctx;
    b->capacity = places;
    find_offsets(b, model);
    lay_out(b, &arena, &shape);
    arena = (rf_arena){.size = arena.peak};
    if (rf_backend_alloc(&b->memory, model->ctx, arena.size, err) != RF_OK) {
        rf_backward_free(b);
        return rf_error_prefix(err, "backward pass over %" PRId64 " places", places);
    }
    arena.base = b->memory;
    lay_out(b, &arena, &shape);
    *out = b;
    return RF_OK;
}

void rf_backward_free(rf_backward *backward)
{
    if (backward == NULL) {
        return;
    }
    rf_backend_free(backward->ctx, backward->memory);
    free(backward->layer);
    free(backward->offset);
    free(backward);
}

static void tell_done(const pass *p, int64_t layer)
{
    if (p->gradient->done != NULL) {
        p->gradient->done(p->gradient->user, layer);
    }
}

/* Where the gradient of a tensor is added; NULL where the model has no such tensor, or it is
 * frozen. */
static void *gradient_of(const pass *p, int64_t slot, rf_role role)
{
    const rf_backend *backend = p->ctx->backend;
    const rf_gradient *g = p->gradient;
    int64_t offset = p->own->offset[slot][role], layer = 0;
    if (offset < 0) {
        return NULL;
    }
    if (g->whole != NULL) {
        return rf_backend_at(backend, RF_MASTER, g->whole, offset);
    }
    while (offset >= p->own->layer[layer].end) {
        layer++;
    }
    return rf_backend_at(backend, RF_MASTER, g->find(g->user, layer),
                         offset - p->own->layer[layer].begin);
}

/* --- The walk, from the last operation to the first ------------------------------------------- */

/* Back through a norm that reads the residual stream: its share of the stream's derivative dx. */
static void stream_norm_backward(const pass *p, const rf_block_weights *w, rf_role norm,
                                 rf_const_array dnorm, const void *x, const void *rstd,
                                 bool accumulate)
{
    p->kernel->rmsnorm_backward(
        p->ctx, (rf_array){p->own->dx, RF_RESIDUAL}, gradient_of(p, w->layer, norm), dnorm,
        (rf_const_array){x, RF_RESIDUAL}, w->of[norm], rstd, p->n, p->d, accumulate);
}

/* Forward:  norm = rmsnorm(x_L, gain);  logits_i = head norm_i;
 *           E = sum of weight_i * (log sum_v exp logits_iv - logits_i,target)
 *
 * The derivative of the cross-entropy by the logits is softmax(logits) - onehot(target), times the
 * place's weight; places without a target have none. head_loss forms it chunk by chunk and gives
 * dnorm and dhead. rmsnorm_backward, in place, turns dnorm into the derivative of the last block's
 * output: nothing else uses that output, so that dx is set here, not added to. */
static int head_backward(const pass *p, rf_error *err)
{
    int64_t outside = p->model->config.num_hidden_layers;
    const rf_block_weights *w;
    RF_TRY(rf_model_acquire(&w, p->model, outside, RF_BACKWARD, err));
    p->kernel->head_loss(p->ctx, p->acts->loss, p->own->dx, gradient_of(p, outside, RF_ROLE_HEAD),
                         p->acts->final, rf_matrix_rows(w->of[RF_ROLE_HEAD]), p->acts->target,
                         p->acts->weight, p->acts->wanted, p->acts->n_wanted, p->n, p->d,
                         p->model->config.vocab_size);
    stream_norm_backward(p, w, RF_ROLE_FINAL_NORM, (rf_const_array){p->own->dx, RF_RESIDUAL},
                         p->acts->x, p->acts->final_rstd, false);
    rf_model_release(p->model, outside, RF_BACKWARD);
    tell_done(p, outside + 1);
    return RF_OK;
}

/* Forward:  y = x W^T + u B^T,  u = s x' A^T,  x' = dropout(x),  s = alpha/r
 *
 * Beside what x W^T asks for, with the rules of a product applied twice:
 *   dB  = dy^T u
 *   du  = s dy B                     (into the derivative of x' A^T)
 *   dA  = du^T x'
 *   dx += dropout'(du A)
 *
 * Dropping is a product with 0 or 1/(1-rate), element by element, so that its derivative is the same
 * product. u and x' are computed again: r is small beside the widths. */
static void adapter_backward(const pass *p, const rf_block_weights *w, rf_role role, rf_array dx,
                             rf_const_array dy, const void *x, int64_t in, int64_t out)
{
    rf_role a = rf_table_adapter_a(role), b = rf_table_adapter_b(role);
    if (w->of[a] == NULL) {
        return;
    }
    const rf_adaptation *adaptation = &p->model->adaptation;
    const rf_array du = {p->own->du, RF_ACTIVATION}, dropped = {p->own->dropped, RF_ACTIVATION};
    const rf_const_array made_du = {p->own->du, RF_ACTIVATION};
    int64_t r = adaptation->rank;
    const void *taken = rf_lora_narrow(p->model, p->acts, w, role, x, in);
    p->kernel->linear_backward_weight(p->ctx, gradient_of(p, w->layer, b), NULL, dy,
                                      p->acts->adapter_u, p->n, r, out);
    p->kernel->linear_backward_input(p->ctx, du, dy, w->of[b], p->n, r, out, false);
    p->kernel->scale_dropout(p->ctx, du, du.data, adaptation->alpha / (double)r, 0.0, 0, p->n * r,
                             false);
    p->kernel->linear_backward_weight(p->ctx, gradient_of(p, w->layer, a), NULL, made_du, taken,
                                      p->n, in, r);
    if (rf_lora_drops(p->model)) {
        p->kernel->linear_backward_input(p->ctx, dropped, made_du, w->of[a], p->n, in, r, false);
        rf_lora_undrop(p->model, p->acts, w->layer, role, dx, dropped.data, in);
    } else {
        p->kernel->linear_backward_input(p->ctx, dx, made_du, w->of[a], p->n, in, r, true);
    }
}

/* Derivative of a linear product's operands: dW and, where the model has one, dbias add; dx sets,
 * or adds where the same x has other uses too. */
static void linear_backward(const pass *p, const rf_block_weights *w, rf_role role, rf_role bias,
                            rf_array dx, rf_const_array dy, const void *x, int64_t in, int64_t out,
                            bool accumulate)
{
    void *dbias = bias == RF_N_ROLES ? NULL : gradient_of(p, w->layer, bias);
    void *dw = gradient_of(p, w->layer, role);
    if (dw != NULL || dbias != NULL) {
        p->kernel->linear_backward_weight(p->ctx, dw, dbias, dy, x, p->n, in, out);
    }
    p->kernel->linear_backward_input(p->ctx, dx, dy, w->of[role], p->n, in, out, accumulate);
    adapter_backward(p, w, role, dx, dy, x, in, out);
    rf_model_poll(p->model);
}

/* dgate and dup from dx, the derivative of h Wd^T; dWd. dh lies in dup's place. h, which forward
 * did not keep, is made again: beside dgate and dup, where no adapter has a part in dh. */
static void down_backward(const pass *p, const rf_block_weights *w)
{
    const rf_block_acts *b = &p->acts->block[w->layer];
    void *dgate = p->own->dgate, *dup = p->own->dup;
    const rf_const_array dx = {p->own->dx, RF_RESIDUAL};
    if (w->of[rf_table_adapter_a(RF_ROLE_DOWN)] != NULL) {
        p->kernel->swiglu_forward(p->ctx, b->h, b->gate, b->up, p->n * p->f);
        linear_backward(p, w, RF_ROLE_DOWN, RF_N_ROLES, (rf_array){dup, RF_ACTIVATION}, dx, b->h,
                        p->f, p->d, false);
        p->kernel->swiglu_backward(p->ctx, dgate, dup, dup, b->gate, b->up, p->n * p->f);
        return;
    }
    p->kernel->swiglu_down_backward(p->ctx, dgate, dup, b->h, dx.data, w->of[RF_ROLE_DOWN], b->gate,
                                    b->up, p->n, p->f, p->d);
    void *dw = gradient_of(p, w->layer, RF_ROLE_DOWN);
    if (dw != NULL) {
        p->kernel->linear_backward_weight(p->ctx, dw, NULL, dx, b->h, p->n, p->f, p->d);
    }
}

/* Forward:  norm2 = rmsnorm(mid);  gate = norm2 Wg^T;  up = norm2 Wu^T;
 *           h = silu(gate) * up;   out = mid + h Wd^T
 *
 *   dh     = dout Wd                      dWd = dout^T h
 *   dgate, dup from dh                    (down_backward)
 *   dnorm2 = dgate Wg + dup Wu            dWg = dgate^T norm2,  dWu = dup^T norm2
 *   dmid   = dout + rmsnorm'(dnorm2)      on entry dx is dout, on return dmid */
static void mlp_backward(const pass *p, const rf_block_weights *w)
{
    const rf_block_acts *b = &p->acts->block[w->layer];
    const rf_array dnorm = {p->own->dnorm, RF_PRODUCT};
    const rf_const_array dgate = {p->own->dgate, RF_ACTIVATION};
    const rf_const_array dup = {p->own->dup, RF_ACTIVATION};
    down_backward(p, w);
    rf_model_poll(p->model);
    linear_backward(p, w, RF_ROLE_GATE, RF_N_ROLES, dnorm, dgate, b->norm2, p->d, p->f, false);
    linear_backward(p, w, RF_ROLE_UP, RF_N_ROLES, dnorm, dup, b->norm2, p->d, p->f, true);
    stream_norm_backward(p, w, RF_ROLE_MLP_NORM, (rf_const_array){dnorm.data, dnorm.cls}, b->mid,
                         b->rstd2, true);
}

/* Forward:  raw = x W^T + bias;  normed = rmsnorm of each head (where the model has it);
 *           out = normed turned by the angles of the place's position
 *
 * A rotation's derivative is its transpose, the turn back. Both steps work in place: on entry dy is
 * the derivative of out, on return that of raw. */
static void heads_backward(const pass *p, const rf_block_weights *w, rf_role norm, void *dy,
                           const void *raw, const void *rstd, int64_t n_heads)
{
    const rf_angles angles = rf_model_angles(p->model, p->acts);
    p->kernel->heads_backward(p->ctx, dy, gradient_of(p, w->layer, norm), raw, w->of[norm], rstd,
                              &angles, p->n, n_heads, p->k);
}

/* Forward:  norm1 = rmsnorm(x);  q, k = heads of norm1;  v = norm1 Wv^T + bv;
 *           o = attention(q, k, v);  mid = x + o Wo^T + bo
 *
 *   do = dmid Wo                             dWo = dmid^T o,  dbo = sum of dmid's rows
 *   dq, dk, dv from do                       (attention_backward; the probabilities come again from
 *                                             q, k and lse)
 *   dq, dk back through rotation and norm    (heads_backward)
 *   dnorm1 = dq Wq + dk Wk + dv Wv           dWq = dq^T norm1, ... and the biases
 *   dx     = dmid + rmsnorm'(dnorm1)         on entry dx is dmid, on return the derivative of the
 *                                            block's input */
static void attention_backward(const pass *p, const rf_block_weights *w)
{
    const rf_block_acts *b = &p->acts->block[w->layer];
    rf_backward *own = p->own;
    const rf_array dnorm = {own->dnorm, RF_PRODUCT}, d_o = {own->d_o, RF_ACTIVATION};
    const rf_const_array dx = {own->dx, RF_RESIDUAL}, dq = {own->dq, RF_PRODUCT};
    const rf_const_array dk = {own->dk, RF_PRODUCT}, dv = {own->dv, RF_PRODUCT};
    int64_t hk = p->h * p->k, gk = p->g * p->k;
    linear_backward(p, w, RF_ROLE_O, RF_ROLE_O_BIAS, d_o, dx, b->o, hk, p->d, false);
    p->kernel->attention_backward(p->ctx, own->dq, own->dk, own->dv, own->delta, own->d_o, b->q,
                                  b->k, b->v, b->o, b->lse, &p->acts->spans, p->h, p->g, p->k);
    rf_model_poll(p->model);
    heads_backward(p, w, RF_ROLE_Q_NORM, own->dq, b->q_raw, b->q_rstd, p->h);
    heads_backward(p, w, RF_ROLE_K_NORM, own->dk, b->k_raw, b->k_rstd, p->g);
    linear_backward(p, w, RF_ROLE_Q, RF_ROLE_Q_BIAS, dnorm, dq, b->norm1, p->d, hk, false);
    linear_backward(p, w, RF_ROLE_K, RF_ROLE_K_BIAS, dnorm, dk, b->norm1, p->d, gk, true);
    linear_backward(p, w, RF_ROLE_V, RF_ROLE_V_BIAS, dnorm, dv, b->norm1, p->d, gk, true);
    stream_norm_backward(p, w, RF_ROLE_ATTENTION_NORM, (rf_const_array){dnorm.data, dnorm.cls},
                         b->x, b->rstd1, true);
}

/* Forward:  x_0 = table[token]. Each place adds its derivative to its token's row. */
static void embedding_backward(const pass *p)
{
    int64_t outside = p->model->config.num_hidden_layers;
    void *dtable = gradient_of(p, outside, RF_ROLE_EMBED);
    if (dtable != NULL) {
        p->kernel->embedding_backward(p->ctx, dtable, p->own->dx, p->acts->token, p->n, p->d);
    }
}

static int check(const rf_backward *backward, const rf_acts *acts, rf_error *err)
{
    if (!acts->backward || acts->cached) {
        return rf_error_set(err, RF_ERR,
                            "backward pass: the forward pass %s: run one that keeps activations, "
                            "without a cache",
                            acts->cached ? "read a cache" : "kept no activations");
    }
    if (acts->n > backward->capacity) {
        return rf_error_set(
            err, RF_ERR, "backward pass over %" PRId64 " places: its memory was made for %" PRId64,
            acts->n, backward->capacity);
    }
    return RF_OK;
}

/* What the forward pass had and did not keep: of the whole block, or only norms and heads. */
static void make_again(const pass *p, const rf_block_weights *w)
{
    if (p->acts->recompute == RF_RECOMPUTE_BLOCK) {
        rf_model_block_forward(p->model, p->acts, w, NULL, NULL);
        return;
    }
    if (!p->acts->keeps_heads) {
        rf_model_heads_forward(p->model, p->acts, w);
    }
    if (p->acts->keeps_norms) {
        return;
    }
    const rf_block_acts *b = &p->acts->block[w->layer];
    double eps = p->model->config.rms_norm_eps;
    p->kernel->rmsnorm_forward(p->ctx, b->norm1, b->rstd1, (rf_const_array){b->x, RF_RESIDUAL},
                               w->of[RF_ROLE_ATTENTION_NORM], p->n, p->d, eps);
    p->kernel->rmsnorm_forward(p->ctx, b->norm2, b->rstd2, (rf_const_array){b->mid, RF_RESIDUAL},
                               w->of[RF_ROLE_MLP_NORM], p->n, p->d, eps);
}

int rf_backward_run(rf_backward *backward, rf_model *model, rf_acts *acts,
                    const rf_gradient *gradient, double *loss, rf_error *err)
{
    const rf_model_config *config = &model->config;
    pass p = {.own = backward,
              .model = model,
              .ctx = model->ctx,
              .kernel = model->ctx->backend->kernels,
              .acts = acts,
              .gradient = gradient,
              .n = acts->n,
              .d = config->hidden_size,
              .h = config->num_attention_heads,
              .g = config->num_key_value_heads,
              .k = config->head_dim,
              .f = config->intermediate_size};
    RF_TRY(check(backward, acts, err));
    RF_TRY(head_backward(&p, err));
    for (int64_t layer = config->num_hidden_layers - 1; layer >= 0; layer--) {
        if (layer < backward->lowest) {
            tell_done(&p, layer + 1);
            continue;
        }
        const rf_block_weights *w;
        RF_TRY(rf_model_acquire(&w, model, layer, RF_BACKWARD, err));
        make_again(&p, w);
        mlp_backward(&p, w);
        attention_backward(&p, w);
        rf_model_release(model, layer, RF_BACKWARD);
        tell_done(&p, layer + 1);
    }
    embedding_backward(&p);
    tell_done(&p, 0);
    if (loss == NULL) {
        return RF_OK;
    }
    rf_backend_download(model->ctx, loss, RF_F64, acts->loss, RF_STATISTIC, acts->n);
    return rf_ctx_sync(model->ctx, err);
}
