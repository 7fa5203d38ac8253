/* Packed weights on every backend, whatever memory it has: RF_PACKED_F32 and RF_PACKED_BF16 give the
 * bits of rows, RF_PACKED_INT8 is near what `ref` makes of them; rows do not depend on their number.
 * (test_packed.c says more of `cpu`.) */
#include "tests/kernels/kernel_case.h"

#include "tests/kernels/backends.h"

enum { N = 70, MOST_IN = 1160, MOST_OUT = 140 };

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

/* What bf16 holds too, so that all backends have the same. Caller frees. */
static float *random_floats(int64_t n, uint64_t stream)
{
    float *value = malloc((size_t)n * sizeof *value);
    rf_rng rng = RF_RNG_STREAM(31, RF_RNG_TEST, stream);
    cr_assert(value != NULL);
    for (int64_t i = 0; i < n; i++) {
        value[i] = rf_quantize_from_bf16(rf_quantize_bf16((float)case_noise(&rng)));
    }
    return value;
}

/* n numbers of random_floats in backend memory. */
static void *numbers(rf_ctx *ctx, rf_class cls, int64_t n, uint64_t stream)
{
    float *value = random_floats(n, stream);
    rf_error err = {0};
    void *memory = NULL;
    cr_assert(rf_backend_alloc(&memory, ctx, rf_backend_bytes(ctx->backend, cls, n), &err) ==
              RF_OK);
    rf_backend_upload(ctx, memory, cls, value, RF_F32, n);
    rf_backend_wait(ctx, rf_backend_record(ctx));
    free(value);
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

/* --- Many rows, wide matrices ----------------------------------------------------------------- */

/* What a backend may cut into tiles and slices in several ways, by the number of rows and of weights: the same
 * bits, and near what plain loops make of what is packed. */
enum { MANY = 520, IN = 264, WIDE = 6400, WIDEST = 16896 };

/* The row of w as packing leaves it. */
static void unpack_row(float *row, const float *w, rf_layout layout)
{
    for (int begin = 0; begin < IN; begin += RF_QUANTIZE_GROUP) {
        const int n = IN - begin < RF_QUANTIZE_GROUP ? IN - begin : RF_QUANTIZE_GROUP;
        int8_t q[RF_QUANTIZE_GROUP];
        const float scale = rf_quantize(q, w + begin, n);
        for (int i = 0; i < n; i++) {
            row[begin + i] = layout == RF_PACKED_INT8 ? scale * (float)q[i] : w[begin + i];
        }
    }
}

static void check_first_row(const float *y, const float *x, const float *w, rf_layout layout,
                            int64_t out, double tolerance)
{
    double gap = 0.0, size = 0.0;
    for (int64_t o = 0; o < out; o++) {
        float row[IN];
        double sum = 0.0;
        unpack_row(row, w + o * IN, layout);
        for (int i = 0; i < IN; i++) {
            sum += (double)x[i] * (double)row[i];
        }
        const double off = (double)y[o] - sum;
        gap += off * off;
        size += sum * sum;
    }
    cr_assert(sqrt(gap / size) < tolerance, "%s: %g", rf_layout_name(layout), sqrt(gap / size));
}

static void check_cuts(rf_layout layout, int64_t out, const int64_t *rows, int n_rows)
{
    const rf_backend *backend = backend_default();
    const rf_compute compute = rf_backend_compute(backend, layout, RF_COMPUTE_F32);
    const int64_t most = rows[n_rows - 1];
    const rf_limits limits = {.places = most,
                              .keys = most,
                              .width = IN,
                              .ffn = out,
                              .compute = compute,
                              .weights = layout};
    float *x = random_floats(most * IN, 1), *w = random_floats(out * IN, 2);
    float *all = malloc((size_t)(most * out) * sizeof *all),
          *some = malloc((size_t)(most * out) * sizeof *some);
    rf_error err = {0};
    rf_ctx *ctx = NULL;
    cr_assert(all != NULL && some != NULL);
    cr_assert(rf_ctx_new(&ctx, backend, 2, &limits, &err) == RF_OK, "%s", err.message);
    const rf_kernels *k = ctx->backend->kernels;
    void *x_there = numbers(ctx, RF_ACTIVATION, most * IN, 1);
    void *w_there = numbers(ctx, RF_MASTER, out * IN, 2);
    void *y = numbers(ctx, RF_RESIDUAL, most * out, 3), *packed = NULL;
    cr_assert(rf_backend_alloc(&packed, ctx, k->pack_bytes(layout, IN, out), &err) == RF_OK);
    k->pack(ctx, packed, layout, w_there, 0, out, IN, out);
    for (int i = n_rows - 1; i >= 0; i--) {
        float *to = i == n_rows - 1 ? all : some;
        k->linear_forward(ctx, (rf_array){y, RF_RESIDUAL}, x_there, (rf_matrix){packed, layout},
                          NULL, NULL, rows[i], IN, out);
        rf_backend_download(ctx, to, RF_F32, y, RF_RESIDUAL, rows[i] * out);
        cr_assert(rf_ctx_sync(ctx, &err) == RF_OK, "%s", err.message);
        cr_assert(to == all || memcmp(to, all, (size_t)(rows[i] * out) * sizeof *to) == 0,
                  "%s: %d of %d rows", rf_layout_name(layout), (int)rows[i], (int)most);
    }
    check_first_row(all, x, w, layout, out,
                    layout == RF_PACKED_INT8 && compute == RF_COMPUTE_F32 ? 0.02 : 1e-5);
    void *const memory[] = {x_there, w_there, y, packed};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        rf_backend_free(ctx, memory[i]);
    }
    rf_ctx_free(ctx);
    free(x);
    free(w);
    free(all);
    free(some);
}

Test(layouts, many_rows_and_wide_matrices)
{
    const rf_layout layouts[] = {RF_PACKED_BF16, RF_PACKED_INT8};
    for (int i = 0; i < 2; i++) {
        check_cuts(layouts[i], WIDE, (const int64_t[]){1, 40, 100, MANY}, 4);
        check_cuts(layouts[i], WIDEST, (const int64_t[]){1, 12, 40}, 3);
    }
}
