/* Scaling and dropout: the definition, the same choices on every backend and for any cut. */
#include "common/kernels/kernels.h"

#include "common/kernels/gumbel.h"
#include "tests/kernels/backends.h"

#include <criterion/criterion.h>
#include <string.h>

enum { MOST = 4099 };

static rf_ctx *ctx_of(const rf_backend *backend, int n_threads)
{
    rf_ctx *ctx = NULL;
    rf_error err = {0};
    rf_limits limits = {.places = 1,
                        .keys = 1,
                        .width = 1,
                        .n_heads = 1,
                        .n_kv_heads = 1,
                        .head_dim = 2,
                        .ffn = 1,
                        .vocab = 1};
    cr_assert(rf_ctx_new(&ctx, backend, n_threads, &limits, &err) == RF_OK, "%s", err.message);
    return ctx;
}

/* MOST numbers of class residual on the backend; freed by rf_backend_free. */
static void *upload(rf_ctx *ctx, const float x[MOST])
{
    void *memory = NULL;
    rf_error err = {0};
    size_t bytes = rf_backend_bytes(ctx->backend, RF_RESIDUAL, MOST);
    cr_assert(rf_backend_alloc(&memory, ctx, bytes, &err) == RF_OK, "%s", err.message);
    rf_backend_upload(ctx, memory, RF_RESIDUAL, x, RF_F32, MOST);
    rf_backend_wait(ctx, rf_backend_record(ctx));
    return memory;
}

static void download(rf_ctx *ctx, float x[MOST], void *memory)
{
    rf_error err = {0};
    rf_backend_download(ctx, x, RF_F32, memory, RF_RESIDUAL, MOST);
    cr_assert(rf_ctx_sync(ctx, &err) == RF_OK, "%s", err.message);
    rf_backend_free(ctx, memory);
}

Test(scale_dropout, definition)
{
    static const int64_t sizes[] = {0, 1, 7, 16, 33, MOST};
    static float x[MOST], y[MOST], expected[MOST];
    const rf_backend *list[MAX_BACKENDS];
    int n_backends = backends_available(list);
    for (int b = 0; b < n_backends; b++) {
        rf_ctx *ctx = ctx_of(list[b], 1 + b % 3);
        for (size_t k = 0; k < 4 * sizeof sizes / sizeof *sizes; k++) {
            int64_t n = sizes[k / 4];
            double rate = k % 4 < 2 ? 0.0 : 0.25, factor = 1.0 / (1.0 - 0.25);
            bool adds = k % 2 == 1;
            for (int64_t i = 0; i < MOST; i++) {
                x[i] = (float)(i % 13) - 5.5F;
                y[i] = (float)(i % 7);
                bool keep = rate <= 0.0 || rf_gumbel_uniform(99, i) >= rate;
                float value = keep ? (float)factor * x[i] : 0.0F;
                expected[i] = i >= n ? y[i] : adds ? y[i] + value : value;
            }
            void *from = upload(ctx, x), *to = upload(ctx, y);
            list[b]->kernels->scale_dropout(ctx, (rf_array){to, RF_RESIDUAL}, from, factor, rate,
                                            99, n, adds);
            download(ctx, y, to);
            rf_backend_free(ctx, from);
            cr_assert(memcmp(y, expected, sizeof y) == 0, "%s %s: %lld elements, rate %g",
                      list[b]->name, list[b]->isa, (long long)n, rate);
        }
        rf_ctx_free(ctx);
    }
}

Test(scale_dropout, drops_the_fraction_asked_for)
{
    static float x[MOST];
    rf_ctx *ctx = ctx_of(backend_named("ref32", ""), 1);
    int64_t dropped = 0, n_runs = 20;
    for (uint64_t key = 1; key <= 20; key++) {
        for (int64_t i = 0; i < MOST; i++) {
            x[i] = 1.0F;
        }
        ctx->backend->kernels->scale_dropout(ctx, (rf_array){x, RF_RESIDUAL}, x, 2.0, 0.1, key,
                                             MOST, false);
        for (int64_t i = 0; i < MOST; i++) {
            cr_assert(x[i] <= 0.0F || x[i] >= 2.0F);
            dropped += x[i] <= 0.0F;
        }
    }
    double rate = (double)dropped / (double)(n_runs * MOST);
    cr_assert(!(rate < 0.09) && !(rate > 0.11), "%g", rate); /* 10 deviations */
    rf_ctx_free(ctx);
}
