/* How the passes get their weights: when each block's are asked for, what happens where they cannot
 * be had, and compute copies of another type than the masters. */
#include "common/base/alloc.h"
#include "common/kernels/quantize.h"
#include "tests/model/tiny_train.h"

#include <criterion/criterion.h>

/* --- A model, its passes, and all that they give ---------------------------------------------- */

typedef struct rig {
    tiny_train t;
    rf_batch batch;
} rig;

static rig rig_new(const rf_backend *backend, const rf_adaptation *adaptation,
                   rf_recompute recompute)
{
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true, .qkv_bias = true});
    return (rig){tiny_train_new(backend, &config, 1, adaptation, recompute),
                 tiny_packed(&config, 3)};
}

static void rig_free(rig *r)
{
    rf_batch_free(&r->batch);
    tiny_train_free(&r->t);
}

/* One of the passes, as a step of training or decoding would run it. */
enum { FORWARD, BACKWARD, LOSSES, QUERY, LOGITS, N_PASSES };

typedef struct results {
    double loss[TINY_PACKED], score[TINY_PACKED], logits[TINY_PACKED * 37];
    int32_t place[TINY_PACKED], token[TINY_PACKED];
} results;

static int run_pass(rig *r, int pass, results *to, rf_error *err)
{
    rf_model_question question = {.n = TINY_PACKED,
                                  .place = to->place,
                                  .n_usable = 37,
                                  .token = to->token,
                                  .score = to->score};
    for (int32_t i = 0; i < TINY_PACKED; i++) {
        to->place[i] = i;
    }
    switch (pass) {
    case FORWARD:
        return rf_model_forward(r->t.model, r->t.acts, &r->batch, NULL, err);
    case BACKWARD:
        rf_backend_zero(r->t.model->ctx, r->t.gradient, RF_MASTER, r->t.model->table.n_elements);
        return rf_backward_run(r->t.backward, r->t.model, r->t.acts,
                               &(rf_gradient){.whole = r->t.gradient}, to->loss, err);
    case LOSSES:
        return rf_model_losses(r->t.model, r->t.acts, to->loss, err);
    case QUERY:
        return rf_model_query(r->t.model, r->t.acts, &question, err);
    default:
        return rf_model_logits(r->t.model, r->t.acts, to->logits, to->place, TINY_PACKED, err);
    }
}

/* All of them, and the gradient, as it is in memory; caller frees. */
static float *run_all(rig *r, results *to)
{
    int64_t n = r->t.model->table.n_elements;
    float *gradient = rf_alloc((size_t)n, sizeof *gradient);
    *to = (results){0};
    for (int pass = 0; pass < N_PASSES; pass++) {
        TINY_MUST(run_pass(r, pass, to, tiny_error()));
    }
    rf_backend_download(r->t.model->ctx, gradient, RF_F32, r->t.gradient, RF_MASTER, n);
    TINY_MUST(rf_ctx_sync(r->t.model->ctx, tiny_error()));
    return gradient;
}

/* --- When weights are asked for --------------------------------------------------------------- */

/* A source that writes down the calls, "+1 " and "-1 " for block 1, and fails at one of them. */
typedef struct recorder {
    char text[256];
    int n_held, n_acquired, fail_at; /* fail_at: which acquire, from 1; 0: none */
    rf_direction direction;          /* that every call must name */
} recorder;

static void note(recorder *r, char what, int64_t layer, rf_direction direction)
{
    const size_t length = strlen(r->text);
    snprintf(r->text + length, sizeof r->text - length, "%c%d ", what, (int)layer);
    cr_assert(direction == r->direction);
}

static int acquire(void *user, int64_t layer, rf_direction direction, rf_error *err)
{
    recorder *r = user;
    note(r, '+', layer, direction);
    if (++r->n_acquired == r->fail_at) {
        return rf_error_set(err, RF_ERR_RETRY, "weights of layer %d are out of reach", (int)layer);
    }
    r->n_held++;
    return RF_OK;
}

static void release(void *user, int64_t layer, rf_direction direction)
{
    recorder *r = user;
    note(r, '-', layer, direction);
    r->n_held--;
}

/* The calls of one pass. */
static void expect_calls(rig *r, int pass, const char *expected)
{
    recorder calls = {.direction = pass == BACKWARD ? RF_BACKWARD : RF_FORWARD};
    results got;
    r->t.model->source = (rf_weight_source){acquire, release, &calls};
    TINY_MUST(run_pass(r, pass, &got, tiny_error()));
    r->t.model->source = (rf_weight_source){0};
    cr_assert(strcmp(calls.text, expected) == 0, "pass %d: %s", pass, calls.text);
    cr_assert(calls.n_held == 0);
}

Test(weights, each_pass_asks_once_for_each_block_in_its_order)
{
    const rf_adaptation ways[] = {{.rank = 0},
                                  {.only = "layers.1"},
                                  {.rank = 3, .alpha = 6, .targets = "*_proj", .dropout = 0.1}};
    const char *const backward[] = {"+2 -2 +1 -1 +0 -0 ", "+2 -2 +1 -1 ", "+2 -2 +1 -1 +0 -0 "};
    for (int i = 0; i < 9; i++) {
        rig r = rig_new(backend_default(), &ways[i % 3], (rf_recompute)(i / 3));
        expect_calls(&r, FORWARD, "+2 +0 -0 +1 -1 -2 ");
        expect_calls(&r, BACKWARD, backward[i % 3]);
        for (int pass = LOSSES; pass < N_PASSES; pass++) {
            expect_calls(&r, pass, "+2 -2 ");
        }
        rig_free(&r);
    }
}

/* --- Weights that cannot be had --------------------------------------------------------------- */

/* Every acquire of every pass fails once. `apart` shows that nothing reads the caller's memory
 * afterwards: it stops where the source of an upload changed before the upload was waited for. */
Test(weights, a_pass_that_fails_gives_everything_back_and_can_run_again)
{
    rig r = rig_new(backend_named("apart", ""), NULL, RF_RECOMPUTE_NONE);
    results expected, got;
    float *before = run_all(&r, &expected);
    for (int pass = 0; pass < N_PASSES; pass++) {
        int n_failed = 0;
        for (int k = 1; k <= 3; k++) {
            recorder calls = {.fail_at = k,
                              .direction = pass == BACKWARD ? RF_BACKWARD : RF_FORWARD};
            rf_error err = {0};
            r.t.model->source = (rf_weight_source){acquire, release, &calls};
            int rc = run_pass(&r, pass, &got, &err);
            r.t.model->source = (rf_weight_source){0};
            cr_assert(calls.n_held == 0, "pass %d, call %d: %s", pass, k, calls.text);
            if (rc == RF_OK) {
                cr_assert(calls.n_acquired < k);
                break;
            }
            n_failed++;
            cr_assert(rc == RF_ERR_RETRY && calls.n_acquired == k);
            cr_assert_not_null(strstr(err.message, "are out of reach"));
            cr_assert(r.t.acts->n == (pass == FORWARD ? 0 : TINY_PACKED));
            memset(got.place, 0, sizeof got.place);
            rf_batch_clear(&r.batch);
            memset(r.batch.token, 0, TINY_PACKED * sizeof *r.batch.token);
            TINY_MUST(rf_ctx_sync(r.t.model->ctx, tiny_error()));
            rf_batch_free(&r.batch);
            r.batch = tiny_packed(&r.t.model->config, 3);
        }
        cr_assert(n_failed == (pass <= BACKWARD ? 3 : 1));
        float *after = run_all(&r, &got);
        cr_assert(memcmp(&got, &expected, sizeof got) == 0);
        cr_assert(memcmp(before, after, (size_t)r.t.model->table.n_elements * sizeof *after) == 0);
        free(after);
    }
    free(before);
    rig_free(&r);
}

/* --- Copies of another type than the masters -------------------------------------------------- */

/* A backend like CUDA's: masters f32, matrices of weights bf16. Its kernels widen the matrix that
 * they are given and are those of ref32 then. */
static const void *widen(const void *matrix, int64_t n)
{
    static float wide[37 * 36];
    cr_assert(n <= (int64_t)(sizeof wide / sizeof *wide));
    for (int64_t i = 0; i < n; i++) {
        wide[i] = rf_quantize_from_bf16(((const uint16_t *)matrix)[i]);
    }
    return wide;
}

static void embedding_forward(rf_ctx *ctx, void *x, rf_matrix table, const int32_t *token,
                              int64_t n, int64_t d)
{
    table = rf_matrix_rows(widen(table.data, 37 * d));
    rf_ref32_kernels.embedding_forward(ctx, x, table, token, n, d);
}

static void linear_forward(rf_ctx *ctx, rf_array y, const void *x, rf_matrix w, const void *bias,
                           const void *residual, int64_t n, int64_t in, int64_t out)
{
    w = rf_matrix_rows(widen(w.data, in * out));
    rf_ref32_kernels.linear_forward(ctx, y, x, w, bias, residual, n, in, out);
}

static void linear_backward_input(rf_ctx *ctx, rf_array dx, rf_const_array dy, const void *w,
                                  int64_t n, int64_t in, int64_t out, bool accumulate)
{
    rf_ref32_kernels.linear_backward_input(ctx, dx, dy, widen(w, in * out), n, in, out, accumulate);
}

static void swiglu_up_forward(rf_ctx *ctx, void *h, void *up, const void *x, rf_matrix w,
                              const void *gate, int64_t n, int64_t in, int64_t out)
{
    w = rf_matrix_rows(widen(w.data, in * out));
    rf_ref32_kernels.swiglu_up_forward(ctx, h, up, x, w, gate, n, in, out);
}

static void swiglu_down_backward(rf_ctx *ctx, void *dgate, void *dup, void *h, const void *dy,
                                 const void *w, const void *gate, const void *up, int64_t n,
                                 int64_t in, int64_t out)
{
    rf_ref32_kernels.swiglu_down_backward(ctx, dgate, dup, h, dy, widen(w, in * out), gate, up, n,
                                          in, out);
}

static void head_loss(rf_ctx *ctx, void *loss, void *dx, void *dw, const void *x, rf_matrix w,
                      const int32_t *target, const void *weight, const int32_t *place, int64_t m,
                      int64_t n, int64_t d, int64_t v)
{
    w = rf_matrix_rows(widen(w.data, v * d));
    rf_ref32_kernels.head_loss(ctx, loss, dx, dw, x, w, target, weight, place, m, n, d, v);
}

static void head_query(rf_ctx *ctx, const rf_head_answer *out, const void *x, rf_matrix w,
                       const rf_head_query *query, int64_t n, int64_t d, int64_t v)
{
    w = rf_matrix_rows(widen(w.data, v * d));
    rf_ref32_kernels.head_query(ctx, out, x, w, query, n, d, v);
}

static void head_logits(rf_ctx *ctx, void *logits, const void *x, rf_matrix w, const int32_t *place,
                        int64_t n, int64_t d, int64_t v)
{
    w = rf_matrix_rows(widen(w.data, v * d));
    rf_ref32_kernels.head_logits(ctx, logits, x, w, place, n, d, v);
}

static const rf_backend *narrow_backend(void)
{
    static rf_kernels kernels;
    static rf_backend backend;
    kernels = rf_ref32_kernels;
    kernels.embedding_forward = embedding_forward;
    kernels.linear_forward = linear_forward;
    kernels.linear_backward_input = linear_backward_input;
    kernels.swiglu_up_forward = swiglu_up_forward;
    kernels.swiglu_down_backward = swiglu_down_backward;
    kernels.head_loss = head_loss;
    kernels.head_query = head_query;
    kernels.head_logits = head_logits;
    backend = *backend_named("ref32", "");
    backend.kernels = &kernels;
    backend.type[RF_WEIGHT] = RF_BF16;
    return &backend;
}

/* Rounds the matrices among the masters to what bf16 holds. */
static void round_matrices(rf_model *model)
{
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        float *w = (float *)model->master + t->offset;
        for (int64_t j = 0; t->n_dims == 2 && j < t->count; j++) {
            w[j] = rf_quantize_from_bf16(rf_quantize_bf16(w[j]));
        }
    }
    rf_model_prepare(model);
}

static void expect_same(rig *narrow, rig *wide)
{
    const size_t bytes = (size_t)wide->t.model->table.n_elements * sizeof(float);
    results a, b;
    float *da = run_all(narrow, &a), *db = run_all(wide, &b);
    cr_assert(memcmp(&a, &b, sizeof a) == 0);
    cr_assert(memcmp(da, db, bytes) == 0);
    free(da);
    free(db);
}

Test(weights, copies_of_another_type_are_what_the_passes_read)
{
    const rf_adaptation ways[] = {{.rank = 0}, {.rank = 3, .alpha = 6, .targets = "*_proj"}};
    for (int i = 0; i < 2; i++) {
        rig narrow = rig_new(narrow_backend(), &ways[i], RF_RECOMPUTE_NONE);
        rig wide = rig_new(backend_named("ref32", ""), &ways[i], RF_RECOMPUTE_NONE);
        const rf_table *table = &wide.t.model->table;
        const size_t bytes = (size_t)table->n_stored * sizeof(float);
        cr_assert(memcmp(narrow.t.model->master, wide.t.model->master, bytes) == 0);
        round_matrices(wide.t.model);
        expect_same(&narrow, &wide);
        /* Masters that changed are seen after prepare, not before. */
        tiny_randomize(wide.t.model, 2);
        memcpy(narrow.t.model->master, wide.t.model->master, bytes);
        round_matrices(wide.t.model);
        results a, b;
        float *old = run_all(&narrow, &a), *new = run_all(&wide, &b);
        cr_assert(memcmp(a.logits, b.logits, sizeof a.logits) != 0);
        free(old);
        free(new);
        rf_model_prepare(narrow.t.model);
        expect_same(&narrow, &wide);
        rig_free(&narrow);
        rig_free(&wide);
    }
}

Test(weights, copies_are_in_the_plan)
{
    rig r = rig_new(narrow_backend(), NULL, RF_RECOMPUTE_NONE);
    const rf_model_limits limits = {.places = TINY_PACKED, .keys = TINY_PACKED, .backward = true};
    const rf_model_config *config = &r.t.model->config;
    size_t wide = rf_model_bytes(config, backend_named("ref32", ""), &limits), copies = 0;
    for (int64_t i = 0; i < r.t.model->table.n_tensors; i++) {
        const rf_tensor *t = &r.t.model->table.tensor[i];
        const size_t bytes = t->n_dims == 2 ? 2 * (size_t)t->count : 0;
        copies += (bytes + RF_ALIGNMENT - 1) / RF_ALIGNMENT * RF_ALIGNMENT;
    }
    cr_assert(r.t.model->bytes == wide + copies);
    cr_assert(r.t.model->bytes == rf_model_bytes(config, narrow_backend(), &limits));
    rig_free(&r);
}
