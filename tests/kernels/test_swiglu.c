/* SwiGLU beside a product gives the bits of the product and of SwiGLU in a row: in each layout of
 * the weights, on each instruction set, for few rows and many, on one thread and three. */
#include "tests/kernels/cpu_exact.h"

enum { MAX_N = 300, NARROW = 137, WIDE = 203 };

typedef struct gates {
    rf_ctx *ctx;
    const rf_kernels *kernel;
    int64_t n;
    const char *what;
} gates;

static void *upload(const gates *g, rf_class cls, int64_t count, uint64_t stream)
{
    float *x = exact_random(count, stream);
    void *memory = exact_upload(g->ctx, cls, x, count);
    free(x);
    return memory;
}

static void expect_same(const gates *g, void *a, void *b, int64_t count, const char *name)
{
    float *x = exact_nan(count), *y = exact_nan(count);
    exact_download(g->ctx, x, RF_ACTIVATION, a, count);
    exact_download(g->ctx, y, RF_ACTIVATION, b, count);
    EXPECT_SAME(x, y, count, "%s, %ld rows: %s", g->what, (long)g->n, name);
    free(x);
    free(y);
}

static void check_forward(const gates *g, rf_layout layout)
{
    const int64_t count = g->n * WIDE;
    float *rows = exact_random(WIDE * NARROW, 1);
    void *packed = NULL, *x = upload(g, RF_ACTIVATION, g->n * NARROW, 2);
    void *gate = upload(g, RF_ACTIVATION, count, 3);
    void *up[2], *h[2];
    for (int i = 0; i < 2; i++) {
        up[i] = upload(g, RF_ACTIVATION, count, 4 + (uint64_t)i);
        h[i] = upload(g, RF_ACTIVATION, count, 6 + (uint64_t)i);
    }
    rf_matrix w = rf_matrix_rows(rows);
    if (layout != RF_ROWS) {
        packed = exact_take(g->kernel->pack_bytes(layout, NARROW, WIDE));
        g->kernel->pack(g->ctx, packed, layout, rows, 0, WIDE, NARROW, WIDE);
        w = (rf_matrix){packed, layout};
    }
    g->kernel->swiglu_up_forward(g->ctx, h[0], up[0], x, w, gate, g->n, NARROW, WIDE);
    g->kernel->linear_forward(g->ctx, (rf_array){up[1], RF_ACTIVATION}, x, w, NULL, NULL, g->n,
                              NARROW, WIDE);
    g->kernel->swiglu_forward(g->ctx, h[1], gate, up[1], count);
    expect_same(g, up[0], up[1], count, "up");
    expect_same(g, h[0], h[1], count, "h");
    free(rows);
    free(packed);
    free(x);
    free(gate);
}

static void check_backward(const gates *g)
{
    const int64_t count = g->n * WIDE;
    float *dy = exact_random(g->n * NARROW, 1), *w = exact_random(NARROW * WIDE, 2);
    void *gate = upload(g, RF_ACTIVATION, count, 3), *up = upload(g, RF_ACTIVATION, count, 4);
    void *dgate[2], *dup[2], *h[2];
    for (int i = 0; i < 2; i++) {
        dgate[i] = upload(g, RF_ACTIVATION, count, 5 + (uint64_t)i);
        dup[i] = upload(g, RF_ACTIVATION, count, 7 + (uint64_t)i);
        h[i] = upload(g, RF_ACTIVATION, count, 9 + (uint64_t)i);
    }
    g->kernel->swiglu_down_backward(g->ctx, dgate[0], dup[0], h[0], dy, w, gate, up, g->n, WIDE,
                                    NARROW);
    g->kernel->linear_backward_input(g->ctx, (rf_array){dup[1], RF_ACTIVATION},
                                     (rf_const_array){dy, RF_RESIDUAL}, w, g->n, WIDE, NARROW,
                                     false);
    g->kernel->swiglu_backward(g->ctx, dgate[1], dup[1], dup[1], gate, up, count);
    g->kernel->swiglu_forward(g->ctx, h[1], gate, up, count);
    expect_same(g, dgate[0], dgate[1], count, "dgate");
    expect_same(g, dup[0], dup[1], count, "dup");
    expect_same(g, h[0], h[1], count, "h again");
    free(dy);
    free(w);
    free(gate);
    free(up);
}

static void check_layout(const rf_backend *backend, rf_layout layout, rf_compute compute,
                         int n_threads)
{
    const int64_t rows[] = {1, 3, 8, 32, 70, MAX_N};
    const rf_limits limits = {.places = MAX_N,
                              .keys = MAX_N,
                              .width = NARROW,
                              .n_heads = 1,
                              .n_kv_heads = 1,
                              .head_dim = NARROW,
                              .ffn = WIDE,
                              .vocab = 64,
                              .backward = layout == RF_ROWS,
                              .compute = compute,
                              .weights = layout};
    gates g = {.ctx = exact_context(backend, n_threads, &limits), .kernel = backend->kernels};
    char what[64];
    snprintf(what, sizeof(what), "%s, %s, %s", backend->isa, rf_layout_name(layout),
             compute == RF_COMPUTE_BF16 ? "bf16" : "f32");
    g.what = what;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        g.n = rows[i];
        check_forward(&g, layout);
        if (layout == RF_ROWS) {
            check_backward(&g);
        }
    }
    rf_ctx_free(g.ctx);
}

Test(swiglu, beside_a_product_has_the_bits_of_both_in_a_row)
{
    const rf_backend *list[MAX_CPU];
    int n_backends = cpu_backends(list);
    for (int b = 0; b < n_backends; b++) {
        for (int threads = 1; threads <= 3; threads += 2) {
            check_layout(list[b], RF_ROWS, RF_COMPUTE_F32, threads);
            check_layout(list[b], RF_ROWS, RF_COMPUTE_BF16, threads);
            check_layout(list[b], RF_PACKED_F32, RF_COMPUTE_F32, threads);
            check_layout(list[b], RF_PACKED_BF16, RF_COMPUTE_BF16, threads);
            check_layout(list[b], RF_PACKED_INT8, RF_COMPUTE_F32, threads);
        }
    }
}
