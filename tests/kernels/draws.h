/* draws.h: tokens that head_query draws from given logits. */
#ifndef TESTS_KERNELS_DRAWS_H
#define TESTS_KERNELS_DRAWS_H

#include "tests/kernels/backends.h"

#include "common/kernels/kernels.h"

typedef struct draws {
    int64_t n;
    int32_t *token;
    double *score;
} draws;

/* How all tokens of a test are drawn. */
typedef struct sampling {
    rf_draw how;         /* key, seen and n_seen aside */
    const uint64_t *key; /* one for each draw; NULL: 0 */
    const int32_t *banned;
    int64_t n_banned, n_usable;
    const int32_t *seen; /* stands between others that are not to be looked at */
    int64_t n_seen;
} sampling;

/* Backend memory with these values; NULL: cleared. Caller frees. */
static inline void *draws_memory(rf_ctx *ctx, rf_class cls, const void *value, rf_type type,
                                 int64_t n)
{
    void *memory = NULL;
    rf_error err = {0};
    size_t bytes = rf_backend_bytes(ctx->backend, cls, n > 0 ? n : 1);
    cr_assert(rf_backend_alloc(&memory, ctx, bytes, &err) == RF_OK, "%s", err.message);
    rf_backend_upload(ctx, memory, cls, value, type, value != NULL ? n : 0);
    rf_backend_wait(ctx, rf_backend_record(ctx));
    return memory;
}

static inline void *draws_rules(rf_ctx *ctx, const sampling *rule, int64_t n)
{
    rf_draw *draw = calloc((size_t)n, sizeof *draw);
    cr_assert(draw != NULL);
    for (int64_t i = 0; i < n; i++) {
        draw[i] = rule->how;
        draw[i].key = rule->key != NULL ? rule->key[i] : 0;
        draw[i].seen = 1;
        draw[i].n_seen = (int32_t)rule->n_seen;
    }
    void *memory = draws_memory(ctx, RF_INDEX, draw, RF_I32, n * RF_DRAW_WORDS);
    free(draw);
    return memory;
}

static inline void *draws_seen(rf_ctx *ctx, const sampling *rule, int64_t v)
{
    int32_t *seen = calloc((size_t)rule->n_seen + 2, sizeof *seen);
    cr_assert(seen != NULL);
    seen[rule->n_seen + 1] = (int32_t)v - 1;
    for (int64_t i = 0; i < rule->n_seen; i++) {
        seen[i + 1] = rule->seen[i];
    }
    void *memory = draws_memory(ctx, RF_INDEX, seen, RF_I32, rule->n_seen + 2);
    free(seen);
    return memory;
}

/* n draws, all from the same logits [v] (a head of width 1). Caller frees with draws_free. */
static inline draws draws_take(const rf_backend *b, const double *logits, int64_t v,
                               const sampling *rule, int64_t n)
{
    rf_ctx *ctx = NULL;
    rf_error err = {0};
    rf_limits limits = {.places = 64, .width = 1, .vocab = v};
    cr_assert(rf_ctx_new(&ctx, b, 1, &limits, &err) == RF_OK, "%s", err.message);
    void *token = draws_memory(ctx, RF_INDEX, NULL, RF_I32, n);
    void *score = draws_memory(ctx, RF_STATISTIC, NULL, RF_F64, n);
    void *place = draws_memory(ctx, RF_INDEX, NULL, RF_I32, n); /* all 0 */
    void *x = draws_memory(ctx, RF_ACTIVATION, &(double){1}, RF_F64, 1);
    void *w = draws_memory(ctx, RF_WEIGHT, logits, RF_F64, v);
    void *banned = draws_memory(ctx, RF_INDEX, rule->banned, RF_I32, rule->n_banned);
    void *seen = draws_seen(ctx, rule, v), *how = draws_rules(ctx, rule, n);
    const rf_head_query query = {.place = place,
                                 .draw = how,
                                 .banned = banned,
                                 .n_banned = rule->n_banned,
                                 .n_usable = rule->n_usable,
                                 .seen = seen};
    b->kernels->head_query(ctx, &(rf_head_answer){.token = token, .score = score}, x,
                           rf_matrix_rows(w), &query, n, 1, v);
    draws result = {.n = n};
    result.token = calloc((size_t)n, sizeof *result.token);
    result.score = calloc((size_t)n, sizeof *result.score);
    cr_assert(result.token != NULL && result.score != NULL);
    rf_backend_download(ctx, result.token, RF_I32, token, RF_INDEX, n);
    rf_backend_download(ctx, result.score, RF_F64, score, RF_STATISTIC, n);
    void *const owned[] = {token, score, place, x, w, banned, seen, how};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) {
        rf_backend_free(ctx, owned[i]);
    }
    rf_ctx_free(ctx);
    return result;
}

static inline void draws_free(draws *d)
{
    free(d->token);
    free(d->score);
}

/* All backends, the truth last. */
static inline int draws_backends(const rf_backend *list[MAX_BACKENDS])
{
    int n = backends_available(list);
    list[n++] = backend_named("ref64", "");
    return n;
}

#endif
