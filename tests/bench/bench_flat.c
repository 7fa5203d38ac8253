/* bench_flat.c: kernels that wait for memory, beside the bandwidth of reading (a sum) or of reading
 * and writing (the others), each verified against ref first. RF_BACKEND, RF_ISA, OMP_NUM_THREADS.
 * Usage: bench_flat [part of a name] */
#include "tests/bench/set_up.h"

enum { ROW = 512, HEAD = 64, FLAT = 1 << 24 }; /* FLAT: 64 MiB a stream */

typedef struct flat_work {
    rf_ctx *ctx;
    int64_t n;                /* elements, whole rows */
    float *a, *b, *c, *d, *e; /* c: all 1 */
    float *cos, *sin;         /* of one angle */
    int32_t *index;
} flat_work;

static const rf_kernels *kernels_of(const flat_work *f)
{
    return f->ctx->backend->kernels;
}

static void run_adamw(void *work)
{
    flat_work *f = work;
    rf_adamw step = {1e-3, 0.9, 0.95, 1e-8, 0.1, 1.0, 0.5, 0.5};
    kernels_of(f)->adamw(f->ctx, f->a, f->b, f->c, f->d, f->n, &step);
}

static void run_sum_squares(void *work)
{
    flat_work *f = work;
    kernels_of(f)->sum_squares(f->ctx, f->a, f->d, 0, f->n);
}

static void run_add(void *work)
{
    flat_work *f = work;
    kernels_of(f)->add(f->ctx, f->a, f->d, f->n);
}

static void run_zero(void *work)
{
    flat_work *f = work;
    rf_backend_zero(f->ctx, f->a, RF_MASTER, f->n);
}

static void run_swiglu_forward(void *work)
{
    flat_work *f = work;
    kernels_of(f)->swiglu_forward(f->ctx, f->a, f->b, f->d, f->n);
}

static void run_swiglu_backward(void *work)
{
    flat_work *f = work;
    kernels_of(f)->swiglu_backward(f->ctx, f->a, f->e, f->c, f->b, f->d, f->n);
}

static void run_rmsnorm_forward(void *work)
{
    flat_work *f = work;
    kernels_of(f)->rmsnorm_forward(f->ctx, f->a, f->e, (rf_const_array){f->b, RF_RESIDUAL}, f->d,
                                   f->n / ROW, ROW, 1e-6);
}

static void run_rmsnorm_backward(void *work)
{
    flat_work *f = work;
    kernels_of(f)->rmsnorm_backward(
        f->ctx, (rf_array){f->a, RF_RESIDUAL}, f->e, (rf_const_array){f->b, RF_RESIDUAL},
        (rf_const_array){f->d, RF_RESIDUAL}, f->c, f->c, f->n / ROW, ROW, true);
}

static void run_heads_forward(void *work)
{
    flat_work *f = work;
    const rf_angles angles = {f->cos, f->sin, f->index};
    kernels_of(f)->heads_forward(f->ctx, f->a, f->e, f->b, f->d, &angles, f->n / ROW, ROW / HEAD,
                                 HEAD, 1e-6);
}

static void run_heads_backward(void *work)
{
    flat_work *f = work;
    const rf_angles angles = {f->cos, f->sin, f->index};
    kernels_of(f)->heads_backward(f->ctx, f->a, f->e, f->d, f->c, f->c, &angles, f->n / ROW,
                                  ROW / HEAD, HEAD);
}

static void run_embedding_forward(void *work)
{
    flat_work *f = work;
    kernels_of(f)->embedding_forward(f->ctx, f->a, rf_matrix_rows(f->b), f->index, f->n / ROW, ROW);
}

static void run_embedding_backward(void *work)
{
    flat_work *f = work;
    kernels_of(f)->embedding_backward(f->ctx, f->a, f->b, f->index, f->n / ROW, ROW);
}

/* streams: operands read or written once; one of them: read only. */
static const struct flat_case {
    const char *name;
    bench_function run;
    int streams;
} cases[] = {{"adamw", run_adamw, 7},
             {"sum_squares", run_sum_squares, 1},
             {"add", run_add, 3},
             {"zero", run_zero, 1},
             {"swiglu forward", run_swiglu_forward, 3},
             {"swiglu backward", run_swiglu_backward, 5},
             {"rmsnorm forward", run_rmsnorm_forward, 2},
             {"rmsnorm backward", run_rmsnorm_backward, 4},
             {"heads forward", run_heads_forward, 2},
             {"heads backward", run_heads_backward, 3},
             {"embedding forward", run_embedding_forward, 2},
             {"embedding backward", run_embedding_backward, 3}};

static void open_work(flat_work *f, const char *backend, int64_t n)
{
    const rf_limits limits = {.places = n / ROW,
                              .width = ROW,
                              .n_heads = ROW / HEAD,
                              .n_kv_heads = ROW / HEAD,
                              .head_dim = HEAD,
                              .backward = 1};
    *f = (flat_work){.ctx = open_context(backend, &limits), .n = n};
    float **all[] = {&f->a, &f->b, &f->c, &f->d, &f->e, &f->cos, &f->sin};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        *all[i] = random_floats(n);
    }
    f->index = take((size_t)(n / ROW) * sizeof(*f->index));
    for (int64_t i = 0; i < n / ROW; i++) {
        f->index[i] = (int32_t)(i * 7919 % (n / ROW));
    }
    for (int64_t i = 0; i < n; i++) {
        f->c[i] = 1.0F; /* gains, reciprocal norms, derivatives */
        f->cos[i] = 0.6F;
        f->sin[i] = 0.8F;
    }
}

static void close_work(flat_work *f)
{
    float *all[] = {f->a, f->b, f->c, f->d, f->e, f->cos, f->sin};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        free(all[i]);
    }
    free(f->index);
    rf_ctx_free(f->ctx);
}

static void verify(const struct flat_case *c)
{
    enum { SMALL = 37 * ROW };
    flat_work own, ref;
    open_work(&own, NULL, SMALL);
    open_work(&ref, "ref32", SMALL);
    c->run(&own);
    c->run(&ref);
    expect_close(own.a, ref.a, SMALL, c->name);
    expect_close(own.b, ref.b, SMALL, c->name);
    expect_close(own.c, ref.c, SMALL, c->name);
    expect_close(own.e, ref.e, SMALL, c->name);
    close_work(&own);
    close_work(&ref);
}

/* A stream of 64 MiB comes from memory, one of 1 MiB from the caches. */
static void time_cases(bench *report, const char *filter, int64_t n, const char *where)
{
    flat_work f;
    open_work(&f, NULL, n);
    omp_set_num_threads(f.ctx->n_threads);
    double read = bench_read(f.d, n), triad = bench_triad(f.a, f.b, f.d, n);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char name[64];
        snprintf(name, sizeof(name), "%s, %s", cases[i].name, where);
        if (strstr(name, filter) != NULL) {
            double seconds = bench_time(cases[i].run, &f, 0.3);
            double bytes = cases[i].streams * (double)n * (double)sizeof(float);
            bench_report(report, name, bytes / seconds * 1e-9, "GB/s",
                         cases[i].run == run_sum_squares ? read : triad, 0.0);
        }
    }
    close_work(&f);
}

int main(int argc, char **argv)
{
    const char *filter = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (strstr(cases[i].name, filter) != NULL) {
            verify(&cases[i]);
        }
    }
    bench report;
    bench_begin(&report, omp_get_max_threads());
    time_cases(&report, filter, FLAT, "64 MiB a stream");
    time_cases(&report, filter, 1 << 18, "1 MiB a stream");
    bench_end(&report);
    return 0;
}
