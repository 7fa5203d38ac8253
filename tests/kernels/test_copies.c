/* Copies to, from and within a backend's memory, in any order and of any size, beside the same on an array. */
#include "tests/kernels/backends.h"

#include "common/base/rng.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

/* MEMORY: elements on the backend. Most copies are small; some are larger than what waits for others. */
enum { MEMORY = 20000, SMALL = 40, LARGE = 6000, CALLS = 600, MOST_FETCHED = 40 };

typedef struct copies {
    rf_ctx *ctx;
    void *memory;
    int32_t expected[MEMORY];
    int32_t *source; /* of all uploads: none may change before a sync */
    int64_t n_source;
    /* What was asked for since the last sync. */
    struct fetched {
        int64_t n;
        int32_t *found, *wanted;
    } fetched[MOST_FETCHED];
    int n_fetched;
    rf_rng rng;
} copies;

static int64_t below(copies *c, int64_t n)
{
    return (int64_t)rf_rng_below(&c->rng, (uint64_t)n);
}

static void *at(const copies *c, int64_t i)
{
    return rf_backend_at(c->ctx->backend, RF_INDEX, c->memory, i);
}

static void upload(copies *c, int64_t first, int64_t n)
{
    int32_t *own = c->source + c->n_source;
    for (int64_t i = 0; i < n; i++) {
        own[i] = (int32_t)rf_rng_u32(&c->rng);
    }
    c->n_source += n;
    rf_backend_upload(c->ctx, at(c, first), RF_INDEX, own, RF_I32, n);
    memcpy(c->expected + first, own, (size_t)n * sizeof *own);
}

static void fetch(copies *c, int64_t first, int64_t n)
{
    struct fetched *f = &c->fetched[c->n_fetched++];
    const size_t bytes = (size_t)n * sizeof *f->found;
    *f = (struct fetched){n, malloc(bytes), malloc(bytes)};
    cr_assert(f->found != NULL && f->wanted != NULL);
    rf_backend_download_later(c->ctx, f->found, RF_I32, at(c, first), RF_INDEX, n);
    memcpy(f->wanted, c->expected + first, bytes);
}

/* By an event or by a sync. */
static void wait_for_all(copies *c)
{
    rf_error err = {0};
    if (below(c, 2) == 0) {
        rf_backend_wait(c->ctx, rf_backend_record(c->ctx));
    }
    cr_assert(rf_ctx_sync(c->ctx, &err) == RF_OK, "%s", err.message);
    for (int i = 0; i < c->n_fetched; i++) {
        struct fetched *f = &c->fetched[i];
        cr_assert(memcmp(f->found, f->wanted, (size_t)f->n * sizeof *f->found) == 0);
        free(f->found);
        free(f->wanted);
    }
    c->n_fetched = 0;
}

static void call_any(copies *c)
{
    const int64_t n = 1 + below(c, below(c, 20) == 0 ? LARGE : SMALL);
    const int64_t first = below(c, MEMORY / 2 - n), second = MEMORY / 2 + below(c, MEMORY / 2 - n);
    switch (below(c, 10)) {
    case 0:
        rf_backend_zero(c->ctx, at(c, first), RF_INDEX, n);
        memset(c->expected + first, 0, (size_t)n * sizeof *c->expected);
        break;
    case 1:
        rf_backend_copy(c->ctx, at(c, second), at(c, first), RF_INDEX, n);
        memcpy(c->expected + second, c->expected + first, (size_t)n * sizeof *c->expected);
        break;
    case 2:
    case 3:
    case 4:
        fetch(c, below(c, 2) == 0 ? first : second, n);
        break;
    default:
        upload(c, below(c, 2) == 0 ? first : second, n);
        break;
    }
    if (c->n_fetched == MOST_FETCHED || below(c, 30) == 0) {
        wait_for_all(c);
    }
}

static void check(const rf_backend *backend, uint64_t seed)
{
    copies *c = calloc(1, sizeof *c);
    rf_error err = {0};
    cr_assert(c != NULL);
    c->source = malloc((size_t)CALLS * LARGE * sizeof *c->source);
    c->rng = RF_RNG_STREAM(seed, RF_RNG_TEST);
    cr_assert(c->source != NULL && rf_ctx_new(&c->ctx, backend, 1, &(rf_limits){0}, &err) == RF_OK);
    const size_t bytes = rf_backend_bytes(backend, RF_INDEX, MEMORY);
    cr_assert(rf_backend_alloc(&c->memory, c->ctx, bytes, &err) == RF_OK);
    for (int i = 0; i < CALLS; i++) {
        call_any(c);
    }
    fetch(c, 0, MEMORY);
    wait_for_all(c);
    rf_backend_free(c->ctx, c->memory);
    rf_ctx_free(c->ctx);
    free(c->source);
    free(c);
}

Test(copies, any_order)
{
    const rf_backend *list[MAX_BACKENDS];
    const int n = backends_available(list);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        for (int i = 0; i < n; i++) {
            check(list[i], seed);
        }
        check(backend_named("apart", ""), seed);
    }
}

static rf_ctx *open_apart(void)
{
    rf_ctx *ctx = NULL;
    rf_error err = {0};
    cr_assert(rf_ctx_new(&ctx, backend_named("apart", ""), 1, &(rf_limits){0}, &err) == RF_OK);
    return ctx;
}

static char *take(rf_ctx *ctx, size_t bytes)
{
    void *memory = NULL;
    rf_error err = {0};
    cr_assert(rf_backend_alloc(&memory, ctx, bytes, &err) == RF_OK);
    return memory;
}

/* On `apart` what is fetched is not there before somebody has waited for it. */
Test(copies, later)
{
    const float sent[] = {1.5F, -2.0F};
    float found[2] = {0};
    rf_ctx *ctx = open_apart();
    void *memory = take(ctx, 64);
    rf_backend_upload(ctx, memory, RF_MASTER, sent, RF_F32, 2);
    rf_backend_download_later(ctx, found, RF_F32, memory, RF_MASTER, 2);
    cr_assert(found[0] != found[0] && found[1] != found[1]);
    rf_backend_wait(ctx, rf_backend_record(ctx));
    cr_assert(memcmp(found, sent, sizeof sent) == 0);
    rf_backend_download(ctx, found, RF_F32, memory, RF_MASTER, 1);
    cr_assert(found[0] == sent[0]);
    rf_backend_free(ctx, memory);
    rf_ctx_free(ctx);
}

/* Its memory is not malloc's: it looks for leaks itself. */
Test(copies, memory_that_is_not_freed, .signal = SIGABRT)
{
    rf_ctx *ctx = open_apart();
    (void)take(ctx, 100);
    rf_ctx_free(ctx);
}

/* And it tells the address sanitizer what no array has. */
#if defined(__SANITIZE_ADDRESS__)
Test(copies, what_no_array_has)
{
    enum { BYTES = 100 };
    rf_ctx *ctx = open_apart();
    char *one = take(ctx, BYTES), *two = take(ctx, BYTES);
    for (int i = 0; i < BYTES; i++) {
        cr_assert(!__asan_address_is_poisoned(one + i) && !__asan_address_is_poisoned(two + i));
    }
    cr_assert(__asan_address_is_poisoned(one + BYTES) && __asan_address_is_poisoned(two - 1));
    rf_backend_free(ctx, one);
    cr_assert(__asan_address_is_poisoned(one));
    rf_backend_free(ctx, two);
    rf_ctx_free(ctx);
}
#endif
