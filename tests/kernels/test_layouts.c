/* Packed weights on every backend, whatever memory it has: RF_PACKED_F32 and RF_PACKED_BF16 give the
 * bits of rows, RF_PACKED_INT8 is near what `ref` makes of them; rows do not depend on their number.
 * (test_packed.c says more of `cpu`.) */
#include "tests/kernels/kernel_case.h"

#include "tests/kernels/backends.h"

enum { N = 70, MOST_IN = 1160, MOST_OUT = 140, MOST = MOST_OUT * MOST_IN };

/* Of a matrix. A backend may have kernels of its own for the even ones, whose rows have several groups
 * (quantize.h) and a last one that is shorter. */
typedef struct sizes {
    int64_t in, out;
} sizes;
static const sizes all_sizes[] = {{300, 139}, {296, 140}, {MOST_IN, MOST_OUT}};

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

static operands make(const rf_backend *backend, sizes s, rf_layout layout, rf_compute compute)
{
    const rf_limits limits = {.places = N,
                              .keys = N,
                              .width = s.in,
                              .ffn = s.out,
                              .vocab = s.out,
                              .compute = compute,
                              .weights = layout};
    const int64_t first_part = RF_PACK_ROWS;
    int32_t token[N];
    operands o = {0};
    rf_error err = {0};
    cr_assert(rf_ctx_new(&o.ctx, backend, 2, &limits, &err) == RF_OK, "%s", err.message);
    o.x = numbers(o.ctx, RF_ACTIVATION, N * s.in, 1);
    o.w = numbers(o.ctx, RF_WEIGHT, s.out * s.in, 2);
    o.y = numbers(o.ctx, RF_RESIDUAL, N * s.in, 3);
    o.residual = numbers(o.ctx, RF_RESIDUAL, N * s.out, 4);
    for (int32_t i = 0; i < N; i++) {
        token[i] = i * 37 % (int32_t)s.out;
    }
    o.token = case_index_memory(o.ctx, token, N);
    if (layout != RF_ROWS) {
        const rf_backend *b = o.ctx->backend;
        void *master = numbers(o.ctx, RF_MASTER, s.out * s.in, 2);
        cr_assert(rf_backend_alloc(&o.packed, o.ctx, b->kernels->pack_bytes(layout, s.in, s.out),
                                   &err) == RF_OK);
        b->kernels->pack(o.ctx, o.packed, layout, master, 0, first_part, s.in, s.out);
        b->kernels->pack(o.ctx, o.packed, layout,
                         rf_backend_at(b, RF_MASTER, master, first_part * s.in), first_part,
                         s.out - first_part, s.in, s.out);
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
static void compute(double *out, const rf_backend *backend, sizes s, rf_layout layout,
                    rf_compute compute, int64_t at, int64_t n)
{
    operands o = make(backend, s, layout, compute);
    const rf_backend *b = o.ctx->backend;
    const rf_matrix w = {layout == RF_ROWS ? o.w : o.packed, layout};
    rf_error err = {0};
    b->kernels->linear_forward(
        o.ctx, (rf_array){o.y, RF_RESIDUAL}, rf_backend_at(b, RF_ACTIVATION, o.x, at * s.in), w,
        NULL, rf_backend_at(b, RF_RESIDUAL, o.residual, at * s.out), n, s.in, s.out);
    rf_backend_download(o.ctx, out, RF_F64, o.y, RF_RESIDUAL, n * s.out);
    b->kernels->embedding_forward(o.ctx, o.y, w, o.token, n, s.in);
    rf_backend_download(o.ctx, out + n * s.out, RF_F64, o.y, RF_RESIDUAL, n * s.in);
    cr_assert(rf_ctx_sync(o.ctx, &err) == RF_OK, "%s", err.message);
    drop(&o);
}

static void check(const rf_backend *b, sizes s, rf_layout layout, rf_compute product,
                  double tolerance)
{
    enum { ALL = N * (MOST_OUT + MOST_IN) };
    static double packed[ALL], expected[ALL], part[ALL];
    const rf_backend *truth = tolerance > 0 ? backend_named("ref64", "") : b;
    compute(packed, b, s, layout, product, 0, N);
    compute(expected, truth, s, tolerance > 0 ? layout : RF_ROWS,
            tolerance > 0 ? RF_COMPUTE_F32 : product, 0, N);
    double error = relative_error(packed, expected, N * s.out, 0.1);
    double own = relative_error(packed + N * s.out, expected + N * s.out, N * s.in, 0.1);
    cr_assert(error <= tolerance && own <= (tolerance > 0 ? 1e-6 : 0), "%s %s, %s: %g, %g", b->name,
              b->isa, rf_layout_name(layout), error, own);
    for (int64_t n = 1; n < N; n += 22) {
        compute(part, b, s, layout, product, 3, n < N - 3 ? n : N - 3);
        cr_assert(memcmp(part, packed + 3 * s.out, (size_t)(n * s.out) * sizeof *part) == 0,
                  "%s %s, %s: %d rows", b->name, b->isa, rf_layout_name(layout), (int)n);
    }
}

Test(layouts, packed_weights_are_what_they_were)
{
    const rf_backend *list[MAX_BACKENDS];
    int n = backends_available(list);
    for (int i = 0; i < n; i++) {
        const rf_compute int8 = rf_backend_compute(list[i], RF_PACKED_INT8, RF_COMPUTE_F32);
        for (size_t k = 0; k < sizeof all_sizes / sizeof all_sizes[0]; k++) {
            check(list[i], all_sizes[k], RF_PACKED_F32, RF_COMPUTE_F32, 0);
            check(list[i], all_sizes[k], RF_PACKED_BF16, RF_COMPUTE_BF16, 0);
            check(list[i], all_sizes[k], RF_PACKED_INT8, int8,
                  int8 == RF_COMPUTE_BF16 ? 1e-4 : 0.02); /* `cpu` quantizes x as well */
        }
    }
}
