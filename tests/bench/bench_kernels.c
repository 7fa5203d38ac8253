/* bench_kernels.c: speed of the kernels of the chosen backend (RF_BACKEND, RF_ISA,
 * OMP_NUM_THREADS), each verified against ref on a small case first.
 * Usage: bench_kernels [--compute f32|bf16] [part of a name]; both without */
#include "tests/bench/set_up.h"

#include <dlfcn.h>

enum { PLACES = 2048 };

static const char *filter = "";
static rf_compute compute; /* of what is measured now */
static bench report;

static bool wanted(const char *name)
{
    return strstr(name, filter) != NULL;
}

static const char *compute_name(void)
{
    return compute == RF_COMPUTE_BF16 ? "bf16" : "f32";
}

/* --- Matrix products -------------------------------------------------------------------------- */

typedef enum form { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT } form;
static const char *const form_names[] = {"forward", "backward input", "backward weight"};

/* cblas_sgemm of an installed OpenBLAS; NULL: none. */
typedef void (*sgemm_function)(int order, int trans_a, int trans_b, int m, int n, int k,
                               float alpha, const float *a, int lda, const float *b, int ldb,
                               float beta, float *c, int ldc);
static sgemm_function sgemm;

static void find_peer(void)
{
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (library != NULL) {
        void *symbol = dlsym(library, "cblas_sgemm");
        memcpy(&sgemm, &symbol, sizeof(sgemm));
    }
}

typedef struct linear_work {
    rf_ctx *ctx;
    form form;
    int64_t n, in, out;
    void *y, *x;    /* activations */
    float *weights; /* n_weights copies in a row, taken in turn: more than the caches hold */
    int64_t n_weights, turn;
} linear_work;

static float *next_weight(linear_work *w)
{
    return w->weights + w->turn++ % w->n_weights * w->in * w->out;
}

static void run_linear(void *work)
{
    linear_work *w = work;
    const rf_kernels *k = w->ctx->backend->kernels;
    if (w->form == FORWARD) {
        k->linear_forward(w->ctx, (rf_array){w->y, RF_ACTIVATION}, w->x,
                          rf_matrix_rows(next_weight(w)), NULL, NULL, w->n, w->in, w->out);
    } else if (w->form == BACKWARD_INPUT) {
        k->linear_backward_input(w->ctx, (rf_array){w->x, RF_ACTIVATION},
                                 (rf_const_array){w->y, RF_ACTIVATION}, next_weight(w), w->n, w->in,
                                 w->out, false);
    } else {
        k->linear_backward_weight(w->ctx, next_weight(w), NULL,
                                  (rf_const_array){w->y, RF_ACTIVATION}, w->x, w->n, w->in, w->out);
    }
}

static void run_peer(void *work)
{
    enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };
    linear_work *w = work;
    int n = (int)w->n, in = (int)w->in, out = (int)w->out;
    if (w->form == FORWARD) {
        sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, n, out, in, 1.0F, w->x, in, next_weight(w), in, 0.0F,
              w->y, out);
    } else if (w->form == BACKWARD_INPUT) {
        sgemm(ROW_MAJOR, PLAIN, PLAIN, n, in, out, 1.0F, w->y, out, next_weight(w), in, 0.0F, w->x,
              in);
    } else {
        sgemm(ROW_MAJOR, TRANSPOSED, PLAIN, out, in, n, 1.0F, w->y, out, w->x, in, 1.0F,
              next_weight(w), in);
    }
}

static double time_linear(linear_work *w, double *peer_seconds)
{
    *peer_seconds = 0.0;
    if (sgemm != NULL && compute == RF_COMPUTE_F32) {
        *peer_seconds = bench_time(run_peer, w, 0.2);
    }
    return bench_time(run_linear, w, 0.2);
}

typedef struct model_shape {
    const char *name;
    int64_t d, h, g, k, f, v;
} model_shape;

/* All products of one layer in all forms, `n` places; their sum in the last line. */
static void bench_model(const model_shape *m, rf_ctx *ctx, double peak)
{
    const int64_t shape[][2] = {{m->d, m->h * m->k}, {m->d, m->g * m->k}, {m->h * m->k, m->d},
                                {m->d, m->f},        {m->f, m->d},        {m->d, m->v}};
    const int times[] = {1, 2, 1, 2, 1, 0};
    char name[128];
    double total_flop = 0.0, total = 0.0, total_peer = 0.0;
    for (size_t s = 0; s < sizeof(times) / sizeof(times[0]); s++) {
        int64_t in = shape[s][0], out = shape[s][1];
        linear_work w = {.ctx = ctx, .n = PLACES, .in = in, .out = out, .n_weights = 1};
        w.x = random_operand(ctx, RF_ACTIVATION, PLACES * in);
        w.y = random_operand(ctx, RF_ACTIVATION, PLACES * out);
        w.weights = random_floats(in * out);
        double flop = 2.0 * (double)(PLACES * in) * (double)out;
        for (w.form = FORWARD; w.form <= BACKWARD_WEIGHT; w.form++) {
            snprintf(name, sizeof(name), "%s %s linear %dx%dx%d %s", m->name, compute_name(),
                     (int)w.n, (int)in, (int)out, form_names[w.form]);
            if (!wanted(name)) {
                continue;
            }
            double peer, seconds = time_linear(&w, &peer);
            bench_report(&report, name, flop / seconds * 1e-9, "GFLOP/s", peak,
                         peer > 0.0 ? flop / peer * 1e-9 : 0.0);
            total += times[s] * seconds;
            total_peer += times[s] * peer;
            total_flop += times[s] * flop;
        }
        free(w.x);
        free(w.y);
        free(w.weights);
    }
    snprintf(name, sizeof(name), "%s %s linear, a layer's total", m->name, compute_name());
    if (total > 0.0) {
        bench_report(&report, name, total_flop / total * 1e-9, "GFLOP/s", peak,
                     total_peer > 0.0 ? total_flop / total_peer * 1e-9 : 0.0);
    }
}

/* A few rows against weights that come from memory. */
static void bench_decoding(void)
{
    enum { WIDTH = 2048, MATRICES = 24 };
    const rf_limits limits = {.places = 16, .width = WIDTH, .ffn = WIDTH};
    int64_t size = (int64_t)WIDTH * WIDTH;
    linear_work w = {.ctx = open_context(NULL, &limits), .in = WIDTH, .out = WIDTH};
    w.x = random_floats(16 * WIDTH);
    w.y = random_floats(16 * WIDTH);
    w.weights = random_floats(MATRICES * size);
    w.n_weights = MATRICES;
    double limit = bench_read(w.weights, MATRICES * size);
    for (w.n = 1; w.n <= 16; w.n *= 2) {
        char name[128];
        snprintf(name, sizeof(name), "decoding linear %dx%dx%d", (int)w.n, WIDTH, WIDTH);
        if (wanted(name)) {
            double peer, bytes = (double)size * (double)sizeof(float);
            double seconds = time_linear(&w, &peer);
            bench_report(&report, name, bytes / seconds * 1e-9, "GB/s", limit,
                         peer > 0.0 ? bytes / peer * 1e-9 : 0.0);
        }
    }
    free(w.x);
    free(w.y);
    free(w.weights);
    rf_ctx_free(w.ctx);
}

/* --- Attention -------------------------------------------------------------------------------- */

typedef struct attention_work {
    rf_ctx *ctx;
    rf_spans spans;
    int32_t *spans_memory, *spans_host;
    int64_t n, h, g, k;
    void *q, *key, *v, *o, *do_; /* activations */
    float *lse, *dq, *dk, *dv, *delta;
} attention_work;

static void run_attention_forward(void *work)
{
    attention_work *a = work;
    a->ctx->backend->kernels->attention_forward(a->ctx, a->o, a->lse, a->q, a->key, a->v, &a->spans,
                                                a->h, a->g, a->k);
}

static void run_attention_backward(void *work)
{
    attention_work *a = work;
    a->ctx->backend->kernels->attention_backward(a->ctx, a->dq, a->dk, a->dv, a->delta, a->do_,
                                                 a->q, a->key, a->v, a->o, a->lse, &a->spans, a->h,
                                                 a->g, a->k);
}

/* Causal attention over packed samples of `sample` places. */
static void make_attention(attention_work *a, const char *backend, int64_t n, int64_t sample,
                           int64_t h, int64_t g, int64_t k)
{
    const rf_limits limits = {.places = n,
                              .keys = n,
                              .width = h * k,
                              .n_heads = h,
                              .n_kv_heads = g,
                              .head_dim = k,
                              .backward = 1,
                              .compute = compute};
    *a = (attention_work){.n = n, .h = h, .g = g, .k = k};
    a->ctx = open_context(backend, &limits);
    a->q = random_operand(a->ctx, RF_ACTIVATION, n * h * k);
    a->do_ = random_operand(a->ctx, RF_ACTIVATION, n * h * k);
    a->o = random_operand(a->ctx, RF_ACTIVATION, n * h * k);
    a->dq = random_floats(n * h * k);
    a->key = random_operand(a->ctx, RF_ACTIVATION, n * g * k);
    a->v = random_operand(a->ctx, RF_ACTIVATION, n * g * k);
    a->dk = random_floats(n * g * k);
    a->dv = random_floats(n * g * k);
    a->lse = random_floats(n * h);
    a->delta = random_floats(n * h);
    int32_t *span = take((size_t)(4 * n) * sizeof(int32_t));
    for (int32_t i = 0; i < n; i++) {
        span[4 * i] = i - (int32_t)(i % sample);
        span[4 * i + 1] = i + 1;
    }
    const int64_t size = rf_spans_size(n, n, true);
    a->spans_memory = take((size_t)size * sizeof(int32_t));
    a->spans_host = take((size_t)size * sizeof(int32_t));
    rf_error err = {0};
    if (rf_spans_build(&a->spans, a->ctx, a->spans_memory, a->spans_host, size, span, n, n, true,
                       &err) != RF_OK) {
        fail(err.message);
    }
    free(span);
}

static void free_attention(attention_work *a)
{
    void *all[] = {a->q, a->do_, a->o, a->dq, a->key, a->v, a->dk, a->dv, a->lse, a->delta};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        free(all[i]);
    }
    free(a->spans_memory);
    free(a->spans_host);
    rf_ctx_free(a->ctx);
}

static void bench_attention(int64_t n, int64_t sample, int64_t h, int64_t g, int64_t k, double peak)
{
    char name[128];
    snprintf(name, sizeof(name), "%s attention T=%d of %d H=%d G=%d K=%d", compute_name(), (int)n,
             (int)sample, (int)h, (int)g, (int)k);
    if (!wanted(name)) {
        return;
    }
    attention_work a;
    make_attention(&a, NULL, n, sample, h, g, k);
    /* Two products over visible pairs forward, five backward (scores are made once more). */
    double pairs = (double)n * ((double)sample + 1.0) / 2.0 * (double)(h * k);
    double forward = bench_time(run_attention_forward, &a, 0.5);
    double backward = bench_time(run_attention_backward, &a, 0.5);
    char line[160];
    snprintf(line, sizeof(line), "%s forward", name);
    bench_report(&report, line, 4.0 * pairs / forward * 1e-9, "GFLOP/s", peak, 0.0);
    snprintf(line, sizeof(line), "%s backward", name);
    bench_report(&report, line, 10.0 * pairs / backward * 1e-9, "GFLOP/s", peak, 0.0);
    free_attention(&a);
}

/* --- The head ---------------------------------------------------- */

typedef struct head_work {
    rf_ctx *ctx;
    void *x; /* activations */
    float *loss, *dx, *dw, *w, *weight;
    int32_t *target, *place;
    int64_t n, d, v;
} head_work;

static void run_head(void *work)
{
    head_work *h = work;
    h->ctx->backend->kernels->head_loss(h->ctx, h->loss, h->dx, h->dw, h->x, rf_matrix_rows(h->w),
                                        h->target, h->weight, h->place, h->n, h->n, h->d, h->v);
}

static void bench_head(int64_t d, int64_t v, double peak)
{
    char name[128];
    snprintf(name, sizeof(name), "%s head_loss %dx%dx%d", compute_name(), PLACES, (int)d, (int)v);
    if (!wanted(name)) {
        return;
    }
    const rf_limits limits = {
        .places = PLACES, .width = d, .vocab = v, .backward = 1, .compute = compute};
    head_work h = {.ctx = open_context(NULL, &limits), .n = PLACES, .d = d, .v = v};
    h.loss = random_floats(PLACES);
    h.weight = random_floats(PLACES);
    h.x = random_operand(h.ctx, RF_ACTIVATION, PLACES * d);
    h.dx = random_floats(PLACES * d);
    h.w = random_floats(v * d);
    h.dw = random_floats(v * d);
    h.target = take(PLACES * sizeof(int32_t));
    h.place = take(PLACES * sizeof(int32_t));
    for (int64_t i = 0; i < PLACES; i++) {
        h.target[i] = (int32_t)(i * 7919 % v);
        h.place[i] = (int32_t)i;
    }
    double flop = 6.0 * (double)(PLACES * d) * (double)v;
    bench_report(&report, name, flop / bench_time(run_head, &h, 0.5) * 1e-9, "GFLOP/s", peak, 0.0);
    void *all[] = {h.loss, h.weight, h.x, h.dx, h.w, h.dw};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        free(all[i]);
    }
    free(h.target);
    free(h.place);
    rf_ctx_free(h.ctx);
}

/* --- Verification against ref32 --------------------------------------------------------------- */

static void verify_linear(void)
{
    enum { N = 37, IN = 523, OUT = 131 };
    const rf_limits limits = {
        .places = N, .width = IN, .ffn = OUT, .backward = 1, .compute = compute};
    for (form f = FORWARD; f <= BACKWARD_WEIGHT; f++) {
        linear_work w[2];
        for (int i = 0; i < 2; i++) {
            w[i] = (linear_work){.form = f, .n = N, .in = IN, .out = OUT, .n_weights = 1};
            w[i].ctx = open_context(i == 0 ? NULL : "ref32", &limits);
            w[i].x = random_operand(w[i].ctx, RF_ACTIVATION, N * IN);
            w[i].y = random_operand(w[i].ctx, RF_ACTIVATION, N * OUT);
            w[i].weights = random_floats(IN * OUT);
            run_linear(&w[i]);
        }
        rf_ctx *const ctx[] = {w[0].ctx, w[1].ctx};
        expect_close_operands(ctx, (void *[]){w[0].x, w[1].x}, RF_ACTIVATION, N * IN,
                              form_names[f]);
        expect_close_operands(ctx, (void *[]){w[0].y, w[1].y}, RF_ACTIVATION, N * OUT,
                              form_names[f]);
        expect_close(w[0].weights, w[1].weights, IN * OUT, form_names[f]);
        for (int i = 0; i < 2; i++) {
            free(w[i].x);
            free(w[i].y);
            free(w[i].weights);
            rf_ctx_free(w[i].ctx);
        }
    }
}

static void verify_attention(void)
{
    enum { N = 150, H = 4, G = 2, K = 24 };
    attention_work a[2];
    for (int i = 0; i < 2; i++) {
        make_attention(&a[i], i == 0 ? NULL : "ref32", N, 100, H, G, K);
        run_attention_forward(&a[i]);
        run_attention_backward(&a[i]);
    }
    rf_ctx *const ctx[] = {a[0].ctx, a[1].ctx};
    expect_close_operands(ctx, (void *[]){a[0].o, a[1].o}, RF_ACTIVATION, N * H * K, "o");
    expect_close_operands(ctx, (void *[]){a[0].dq, a[1].dq}, RF_PRODUCT, N * H * K, "dq");
    expect_close_operands(ctx, (void *[]){a[0].dk, a[1].dk}, RF_PRODUCT, N * G * K, "dk");
    expect_close_operands(ctx, (void *[]){a[0].dv, a[1].dv}, RF_PRODUCT, N * G * K, "dv");
    for (int i = 0; i < 2; i++) {
        free_attention(&a[i]);
    }
}

/* All of it in what `compute` says. */
static void bench_all(void)
{
    const model_shape models[] = {{"9.4M", 384, 6, 2, 64, 1024, 4096},
                                  {"30M", 512, 8, 2, 64, 1536, 4096}};
    const rf_limits limits = {
        .places = PLACES, .width = 1536, .ffn = 4096, .backward = 1, .compute = compute};
    verify_linear();
    verify_attention();
    rf_ctx *ctx = open_context(NULL, &limits);
    const bool bf16 = compute == RF_COMPUTE_BF16 && bench_peak_bf16() > 0.0;
    double peak = bf16 ? bench_peak_bf16() : bench_peak(ctx->backend->isa);
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        bench_model(&models[i], ctx, peak);
    }
    rf_ctx_free(ctx);
    bench_attention(4096, 4096, 6, 2, 64, peak);
    bench_attention(4096, 512, 6, 2, 64, peak);
    bench_attention(4096, 4096, 16, 8, 128, peak);
    bench_head(384, 4096, peak);
    bench_head(384, 32000, peak);
}

int main(int argc, char **argv)
{
    const int computes = bench_option(&argc, &argv, "--compute", "f32|bf16");
    const bool f32 = computes != 1, bf16 = computes != 0;
    filter = argc > 1 ? argv[1] : "";
    const rf_limits none = {0};
    rf_ctx *ctx = open_context(NULL, &none);
    omp_set_num_threads(ctx->n_threads);
    bench_begin(&report, ctx->n_threads);
    rf_ctx_free(ctx);
    find_peer();
    for (compute = RF_COMPUTE_F32; compute <= RF_COMPUTE_BF16; compute++) {
        if (compute == RF_COMPUTE_F32 ? f32 : bf16) {
            bench_all();
        }
    }
    compute = RF_COMPUTE_F32;
    if (f32) {
        bench_decoding();
    }
    bench_end(&report);
    return 0;
}
