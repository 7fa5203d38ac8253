/* kernel_times.h: where time goes, kernel by kernel.                               all local
 *
 * A copy of a backend whose kernels are timed. Rows of its table are kernels; products are told
 * apart by their shapes.
 */
#ifndef TESTS_BENCH_KERNEL_TIMES_H
#define TESTS_BENCH_KERNEL_TIMES_H

#include "tests/bench/bench.h"

#include "common/kernels/kernels.h"

#include <inttypes.h>

enum { KERNEL_TIMES = 64 };

static struct kernel_times {
    const rf_kernels *inner;
    rf_kernels timed;
    rf_backend backend;
    int n;
    struct kernel_time {
        const char *name;
        int64_t in, out, calls;
        double seconds;
    } row[KERNEL_TIMES];
} kernel_times;

static inline void kernel_times_add(const char *name, int64_t in, int64_t out, double begin)
{
    double seconds = bench_seconds() - begin;
    int i = 0;
    while (i < kernel_times.n && (strcmp(kernel_times.row[i].name, name) != 0 ||
                                  kernel_times.row[i].in != in || kernel_times.row[i].out != out)) {
        i++;
    }
    if (i < KERNEL_TIMES) {
        kernel_times.n = i == kernel_times.n ? i + 1 : kernel_times.n;
        struct kernel_time *row = &kernel_times.row[i];
        *row = (struct kernel_time){name, in, out, row->calls + 1, row->seconds + seconds};
    }
}

/* One timed kernel: what it takes, what it hands on, and its shape. */
#define KERNEL_TIMES_WRAP(kernel, parameters, arguments, in, out)                                  \
    static inline void kernel_times_##kernel parameters                                            \
    {                                                                                              \
        double begin = bench_seconds();                                                            \
        kernel_times.inner->kernel arguments;                                                      \
        kernel_times_add(#kernel, in, out, begin);                                                 \
    }

KERNEL_TIMES_WRAP(embedding_forward,
                  (rf_ctx * c, void *x, rf_matrix t, const int32_t *i, int64_t n, int64_t d),
                  (c, x, t, i, n, d), 0, d)
KERNEL_TIMES_WRAP(embedding_backward,
                  (rf_ctx * c, void *t, const void *x, const int32_t *i, int64_t n, int64_t d),
                  (c, t, x, i, n, d), 0, d)
KERNEL_TIMES_WRAP(rmsnorm_forward,
                  (rf_ctx * c, void *y, void *r, const void *x, const void *g, int64_t n, int64_t d,
                   double e, rf_class xc),
                  (c, y, r, x, g, n, d, e, xc), 0, d)
KERNEL_TIMES_WRAP(rmsnorm_backward,
                  (rf_ctx * c, void *dx, void *dg, const void *dy, const void *x, const void *g,
                   const void *r, int64_t n, int64_t d, bool a, rf_class xc),
                  (c, dx, dg, dy, x, g, r, n, d, a, xc), 0, d)
KERNEL_TIMES_WRAP(linear_forward,
                  (rf_ctx * c, void *y, const void *x, rf_matrix w, const void *b, const void *r,
                   int64_t n, int64_t i, int64_t o, rf_class yc),
                  (c, y, x, w, b, r, n, i, o, yc), i, o)
KERNEL_TIMES_WRAP(linear_backward_input,
                  (rf_ctx * c, void *dx, const void *dy, const void *w, int64_t n, int64_t i,
                   int64_t o, bool a, rf_class yc, rf_class xc),
                  (c, dx, dy, w, n, i, o, a, yc, xc), i, o)
KERNEL_TIMES_WRAP(linear_backward_weight,
                  (rf_ctx * c, void *dw, void *db, const void *dy, const void *x, int64_t n,
                   int64_t i, int64_t o, rf_class yc),
                  (c, dw, db, dy, x, n, i, o, yc), i, o)
KERNEL_TIMES_WRAP(rope,
                  (rf_ctx * c, void *x, const void *co, const void *si, const int32_t *p, int64_t n,
                   int64_t h, int64_t k, bool i, rf_class xc),
                  (c, x, co, si, p, n, h, k, i, xc), 0, h *k)
KERNEL_TIMES_WRAP(attention_forward,
                  (rf_ctx * c, void *o, void *l, const void *q, const void *k, const void *v,
                   const rf_spans *s, int64_t h, int64_t g, int64_t d),
                  (c, o, l, q, k, v, s, h, g, d), 0, h *d)
KERNEL_TIMES_WRAP(attention_backward,
                  (rf_ctx * c, void *dq, void *dk, void *dv, void *de, const void *d_o,
                   const void *q, const void *k, const void *v, const void *o, const void *l,
                   const rf_spans *s, int64_t h, int64_t g, int64_t d),
                  (c, dq, dk, dv, de, d_o, q, k, v, o, l, s, h, g, d), 0, h *d)
KERNEL_TIMES_WRAP(swiglu_forward, (rf_ctx * c, void *h, const void *g, const void *u, int64_t n),
                  (c, h, g, u, n), 0, n)
KERNEL_TIMES_WRAP(swiglu_backward,
                  (rf_ctx * c, void *dg, void *du, const void *dh, const void *g, const void *u,
                   int64_t n),
                  (c, dg, du, dh, g, u, n), 0, n)
KERNEL_TIMES_WRAP(swiglu_up_forward,
                  (rf_ctx * c, void *h, void *u, const void *x, rf_matrix w, const void *g,
                   int64_t n, int64_t i, int64_t o),
                  (c, h, u, x, w, g, n, i, o), i, o)
KERNEL_TIMES_WRAP(swiglu_down_backward,
                  (rf_ctx * c, void *dg, void *du, void *h, const void *dy, const void *w,
                   const void *g, const void *u, int64_t n, int64_t i, int64_t o),
                  (c, dg, du, h, dy, w, g, u, n, i, o), i, o)
KERNEL_TIMES_WRAP(head_loss,
                  (rf_ctx * c, void *l, void *dx, void *dw, const void *x, rf_matrix w,
                   const int32_t *t, const void *we, const int32_t *ht, int64_t n, int64_t d,
                   int64_t v),
                  (c, l, dx, dw, x, w, t, we, ht, n, d, v), d, v)
KERNEL_TIMES_WRAP(head_sample,
                  (rf_ctx * c, int32_t *t, void *s, const void *x, rf_matrix w, const int32_t *p,
                   const rf_sampling *sa, int64_t n, int64_t d, int64_t v),
                  (c, t, s, x, w, p, sa, n, d, v), d, v)
KERNEL_TIMES_WRAP(scatter_rows,
                  (rf_ctx * c, void *y, const void *x, const int32_t *p, int64_t n, int64_t d),
                  (c, y, x, p, n, d), 0, d)
KERNEL_TIMES_WRAP(sum_squares, (rf_ctx * c, double *o, const void *x, int64_t n), (c, o, x, n), 0,
                  n)
KERNEL_TIMES_WRAP(adamw,
                  (rf_ctx * c, void *w, void *m, void *v, const void *g, int64_t n,
                   const rf_adamw *s),
                  (c, w, m, v, g, n, s), 0, n)

/* The backend with timed kernels; it begins to count. */
static inline const rf_backend *kernel_times_of(const rf_backend *backend)
{
    kernel_times.inner = backend->kernels;
    kernel_times.timed = *backend->kernels;
#define KERNEL_TIMES_TAKE(kernel) kernel_times.timed.kernel = kernel_times_##kernel
    KERNEL_TIMES_TAKE(embedding_forward);
    KERNEL_TIMES_TAKE(embedding_backward);
    KERNEL_TIMES_TAKE(rmsnorm_forward);
    KERNEL_TIMES_TAKE(rmsnorm_backward);
    KERNEL_TIMES_TAKE(linear_forward);
    KERNEL_TIMES_TAKE(linear_backward_input);
    KERNEL_TIMES_TAKE(linear_backward_weight);
    KERNEL_TIMES_TAKE(rope);
    KERNEL_TIMES_TAKE(attention_forward);
    KERNEL_TIMES_TAKE(attention_backward);
    KERNEL_TIMES_TAKE(swiglu_forward);
    KERNEL_TIMES_TAKE(swiglu_backward);
    KERNEL_TIMES_TAKE(swiglu_up_forward);
    KERNEL_TIMES_TAKE(swiglu_down_backward);
    KERNEL_TIMES_TAKE(head_loss);
    KERNEL_TIMES_TAKE(head_sample);
    KERNEL_TIMES_TAKE(scatter_rows);
    KERNEL_TIMES_TAKE(sum_squares);
    KERNEL_TIMES_TAKE(adamw);
#undef KERNEL_TIMES_TAKE
    kernel_times.backend = *backend;
    kernel_times.backend.kernels = &kernel_times.timed;
    kernel_times.n = 0;
    memset(kernel_times.row, 0, sizeof(kernel_times.row));
    return &kernel_times.backend;
}

static inline void kernel_times_print(int64_t steps, double seconds)
{
    double sum = 0.0;
    printf("%-24s %7s %8s %6s %9s %7s\n", "kernel", "in", "out", "calls", "ms", "share");
    for (int i = 0; i < kernel_times.n; i++) {
        const struct kernel_time *row = &kernel_times.row[i];
        sum += row->seconds;
        printf("%-24s %7" PRId64 " %8" PRId64 " %6" PRId64 " %9.2f %6.1f%%\n", row->name, row->in,
               row->out, row->calls / steps, row->seconds / (double)steps * 1e3,
               row->seconds / seconds * 100.0);
    }
    printf("%-24s %7s %8s %6s %9.2f %6.1f%%\n", "the rest", "", "", "",
           (seconds - sum) / (double)steps * 1e3, (seconds - sum) / seconds * 100.0);
}

#endif
