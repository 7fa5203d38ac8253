/* Packed weights on every backend, whatever memory it has: RF_PACKED_F32 and RF_PACKED_BF16 give the
 * bits of rows, RF_PACKED_INT8 is near what `ref` makes of them; rows do not depend on their number.
 * (test_packed.c says more of `cpu`.) */
#include "tests/kernels/kernel_case.h"

#include "tests/kernels/backends.h"

enum { N = 70, IN = 300, OUT = 139, MOST = N * IN > OUT *IN ? N *IN : OUT *IN };

typedef struct operands {
    rf_ctx *ctx;
    void *x, *w, *packed, *y, *residual, *token;
} operands;

static void *numbers(rf_ctx *ctx, rf_class cls, int64_t n, uint64_t stream)
{
    static float value[MOST];
    rf_rng rng = RF_RNG_STREAM(31, RF_RNG_TEST, stream);
    rf_error err = {0};
    void *memory = NULL;
    for (int64_t i = 0; i < n; i++) { /* what bf16 holds too, so that all backends have the same */
        value[i] = rf_quantize_from_bf16(rf_quantize_bf16((float)case_noise(&rng)));
    }
    cr_assert(rf_backend_alloc(&memory, ctx, rf_backend_bytes(ctx->backend, cls, n), &err) ==
              RF_OK);
    rf_backend_upload(ctx, memory, cls, value, RF_F32, n);
    rf_backend_wait(ctx, rf_backend_record(ctx));
    return memory;
}

static operands make(const rf_backend *backend, rf_layout layout, rf_compute compute)
{
    const rf_limits limits = {.places = N,
                              .keys = N,
                              .width = IN,
                              .ffn = OUT,
                              .vocab = OUT,
                              .compute = compute,
                              .weights = layout};
    const int64_t first_part = RF_PACK_ROWS;
    int32_t token[N];
    operands o = {0};
    rf_error err = {0};
    cr_assert(rf_ctx_new(&o.ctx, backend, 2, &limits, &err) == RF_OK, "%s", err.message);
    o.x = numbers(o.ctx, RF_ACTIVATION, N * IN, 1);
    o.w = numbers(o.ctx, RF_WEIGHT, OUT * IN, 2);
    o.y = numbers(o.ctx, RF_RESIDUAL, N * IN, 3);
    o.residual = numbers(o.ctx, RF_RESIDUAL, N * OUT, 4);
    for (int32_t i = 0; i < N; i++) {
        token[i] = i * 37 % OUT;
    }
    o.token = case_index_memory(o.ctx, token, N);
    if (layout != RF_ROWS) {
        const rf_backend *b = o.ctx->backend;
        void *master = numbers(o.ctx, RF_MASTER, OUT * IN, 2);
        cr_assert(rf_backend_alloc(&o.packed, o.ctx, b->kernels->pack_bytes(layout, IN, OUT),
                                   &err) == RF_OK);
        b->kernels->pack(o.ctx, o.packed, layout, master, 0, first_part, IN, OUT);
        b->kernels->pack(o.ctx, o.packed, layout,
                         rf_backend_at(b, RF_MASTER, master, first_part * IN), first_part,
                         OUT - first_part, IN, OUT);
        cr_assert(rf_ctx_sync(o.ctx, &err) == RF_OK, "%s", err.message);
        rf_backend_free(o.ctx, master);
    }
    return o;
}

static void drop(operands *o)
{
    void *const all[] = {o->x, o->w, o->packed, o->y, o->residual, o->token};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        rf_backend_free(o->ctx, all[i]);
    }
    rf_ctx_free(o->ctx);
}

/* y of n rows from `at`, and behind it the rows of the table that the tokens name. */
static void compute(double *out, const rf_backend *backend, rf_layout layout, rf_compute compute,
                    int64_t at, int64_t n)
{
    operands o = make(backend, layout, compute);
    const rf_backend *b = o.ctx->backend;
    const rf_matrix w = {layout == RF_ROWS ? o.w : o.packed, layout};
    rf_error err = {0};
    b->kernels->linear_forward(o.ctx, (rf_array){o.y, RF_RESIDUAL},
                               rf_backend_at(b, RF_ACTIVATION, o.x, at * IN), w, NULL,
                               rf_backend_at(b, RF_RESIDUAL, o.residual, at * OUT), n, IN, OUT);
    rf_backend_download(o.ctx, out, RF_F64, o.y, RF_RESIDUAL, n * OUT);
    b->kernels->embedding_forward(o.ctx, o.y, w, o.token, n, IN);
    rf_backend_download(o.ctx, out + n * OUT, RF_F64, o.y, RF_RESIDUAL, n * IN);
    cr_assert(rf_ctx_sync(o.ctx, &err) == RF_OK, "%s", err.message);
    drop(&o);
}

static void check(const rf_backend *b, rf_layout layout, rf_compute product, double tolerance)
{
    static double packed[N * (OUT + IN)], expected[N * (OUT + IN)], part[N * (OUT + IN)];
    const rf_backend *truth = tolerance > 0 ? backend_named("ref64", "") : b;
    compute(packed, b, layout, product, 0, N);
    compute(expected, truth, tolerance > 0 ? layout : RF_ROWS, product, 0, N);
    double error = relative_error(packed, expected, N * OUT, 0.1);
    double own = relative_error(packed + N * OUT, expected + N * OUT, N * IN, 0.1);
    cr_assert(error <= tolerance && own <= (tolerance > 0 ? 1e-6 : 0), "%s %s, %s: %g, %g", b->name,
              b->isa, rf_layout_name(layout), error, own);
    for (int64_t n = 1; n < N; n += 22) {
        compute(part, b, layout, product, 3, n < N - 3 ? n : N - 3);
        cr_assert(memcmp(part, packed + 3 * OUT, (size_t)(n * OUT) * sizeof *part) == 0,
                  "%s %s, %s: %d rows", b->name, b->isa, rf_layout_name(layout), (int)n);
    }
}

Test(layouts, packed_weights_are_what_they_were)
{
    const rf_backend *list[MAX_BACKENDS];
    int n = backends_available(list);
    for (int i = 0; i < n; i++) {
        check(list[i], RF_PACKED_F32, RF_COMPUTE_F32, 0);
        check(list[i], RF_PACKED_BF16, RF_COMPUTE_BF16, 0);
        check(list[i], RF_PACKED_INT8, RF_COMPUTE_F32, 0.02); /* `cpu` quantizes x as well */
    }
}
