/* bench_packed.c: products of few rows with packed weights from memory, as decoding makes them,
 * beside the bandwidth of reading. f32 and bf16 are verified against ref first; for int8, whose
 * activations ref does not quantize, that is tests/kernels/test_packed.c. RF_ISA, OMP_NUM_THREADS.
 * Usage: bench_packed [part of a name] */
#include "tests/bench/set_up.h"

enum { IN = 1024, OUT = 3072, MOST_ROWS = 64 };
static const size_t all_bytes = (size_t)512 << 20; /* of one layout's matrices: beyond the caches */

typedef struct packed_work {
    rf_ctx *ctx;
    rf_layout layout;
    char *weights; /* n matrices of `bytes` */
    size_t bytes;
    int64_t n, rows;
    void *x;  /* activations */
    float *y; /* stream */
} packed_work;

static void multiply(packed_work *p, int64_t i)
{
    rf_matrix w = {p->weights + (size_t)i * p->bytes, p->layout};
    p->ctx->backend->kernels->linear_forward(p->ctx, (rf_array){p->y, RF_RESIDUAL}, p->x, w, NULL,
                                             NULL, p->rows, IN, OUT);
}

static void run_all(void *work)
{
    packed_work *p = work;
    for (int64_t i = 0; i < p->n; i++) {
        multiply(p, i);
    }
}

static packed_work open_work(const char *backend, rf_layout layout, const float *w, int64_t n)
{
    const rf_limits limits = {.places = MOST_ROWS,
                              .width = IN,
                              .compute =
                                  layout == RF_PACKED_BF16 ? RF_COMPUTE_BF16 : RF_COMPUTE_F32,
                              .weights = layout};
    packed_work p = {.ctx = open_context(backend, &limits), .layout = layout};
    const rf_kernels *kernels = p.ctx->backend->kernels;
    p.bytes = kernels->pack_bytes(layout, IN, OUT);
    p.n = n > 0 ? n : (int64_t)(all_bytes / p.bytes);
    p.weights = take(p.bytes * (size_t)p.n);
    kernels->pack(p.ctx, p.weights, layout, w, 0, OUT, IN, OUT);
    for (int64_t i = 1; i < p.n; i++) {
        memcpy(p.weights + (size_t)i * p.bytes, p.weights, p.bytes);
    }
    p.x = random_operand(p.ctx, RF_ACTIVATION, MOST_ROWS * IN);
    p.y = take(MOST_ROWS * OUT * sizeof(float));
    p.rows = MOST_ROWS;
    return p;
}

static void close_work(packed_work *p)
{
    free(p->weights);
    free(p->x);
    free(p->y);
    rf_ctx_free(p->ctx);
}

static void verify(rf_layout layout, const float *w)
{
    packed_work own = open_work(NULL, layout, w, 1), ref = open_work("ref32", layout, w, 1);
    multiply(&own, 0);
    multiply(&ref, 0);
    expect_close(own.y, ref.y, MOST_ROWS * OUT, rf_layout_name(layout));
    close_work(&own);
    close_work(&ref);
}

static void time_layout(bench *report, rf_layout layout, const float *w, const char *filter)
{
    static const int64_t rows[] = {1, 2, 4, 8, 16, 64};
    packed_work p = open_work(NULL, layout, w, 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char name[64];
        snprintf(name, sizeof(name), "weights in %s, %d rows", rf_layout_name(layout),
                 (int)rows[i]);
        if (strstr(name, filter) != NULL) {
            p.rows = rows[i];
            double read = bench_read((const float *)(const void *)p.weights,
                                     p.n * (int64_t)(p.bytes / sizeof(float)));
            double seconds = bench_time(run_all, &p, 0.5);
            bench_report(report, name, (double)p.n * (double)p.bytes / seconds * 1e-9, "GB/s", read,
                         0.0);
        }
    }
    close_work(&p);
}

int main(int argc, char **argv)
{
    const char *filter = argc > 1 ? argv[1] : "";
    float *w = random_floats((int64_t)IN * OUT);
    verify(RF_PACKED_F32, w);
    verify(RF_PACKED_BF16, w);
    bench_layouts(time_layout, w, filter);
    free(w);
    return 0;
}
