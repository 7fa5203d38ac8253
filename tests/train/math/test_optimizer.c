/* AdamW and clipping against a plain transcription in f64. */
#include "train/math/optimizer.h"

#include "common/base/rng.h"

#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>

enum { STEPS = 4 };

static const rf_model_config shape = {.architecture = "Qwen2ForCausalLM",
                                      .vocab_size = 37,
                                      .hidden_size = 20,
                                      .intermediate_size = 27,
                                      .num_hidden_layers = 2,
                                      .num_attention_heads = 2,
                                      .num_key_value_heads = 1,
                                      .head_dim = 6,
                                      .max_position_embeddings = 8,
                                      .rms_norm_eps = 1e-6,
                                      .rope_theta = 1e4,
                                      .initializer_range = 0.1,
                                      .qkv_bias = true};

typedef struct bench {
    rf_model *model;
    rf_optimizer optimizer;
    rf_shards shards;
    void *memory, *gradient;
    int64_t n;
    double *w, *m, *v, *g; /* the transcription's */
} bench;

static void begin(bench *b, const char *backend_name)
{
    const rf_backend *backend = NULL;
    rf_error err = {0};
    rf_model_limits limits = {.places = 4, .keys = 4, .positions = 4, .backward = true};
    rf_arena arena = {0};
    cr_assert(rf_backend_choose(&backend, backend_name, &err) == RF_OK, "%s", err.message);
    cr_assert(rf_model_new(&b->model, &shape, backend, 2, &limits, &err) == RF_OK, "%s",
              err.message);
    rf_model_init(b->model, 3);
    b->n = b->model->table.n_elements;
    const rf_optimizer_settings settings = {0.9, 0.95, 1e-8, 0.1, 1.0};
    rf_shards_new(&b->shards, &b->model->table, sizeof(float), RF_SHARD_NONE, 0, 1);
    rf_optimizer_new(&b->optimizer, &settings, &b->shards);
    rf_optimizer_layout(&b->optimizer, &arena, backend);
    cr_assert(rf_backend_alloc(&b->memory, b->model->ctx, arena.peak, &err) == RF_OK);
    arena = (rf_arena){.base = b->memory, .size = arena.peak};
    rf_optimizer_layout(&b->optimizer, &arena, backend);
    cr_assert(rf_backend_alloc(&b->gradient, b->model->ctx,
                               rf_backend_bytes(backend, RF_MASTER, b->n), &err) == RF_OK);
    b->w = calloc((size_t)b->n, sizeof *b->w);
    b->m = calloc((size_t)b->n, sizeof *b->m);
    b->v = calloc((size_t)b->n, sizeof *b->v);
    b->g = calloc((size_t)b->n, sizeof *b->g);
    rf_backend_download(b->model->ctx, b->w, RF_F64, b->model->master, RF_MASTER, b->n);
}

static void end(bench *b)
{
    rf_backend_free(b->model->ctx, b->memory);
    rf_backend_free(b->model->ctx, b->gradient);
    rf_optimizer_free(&b->optimizer);
    rf_shards_free(&b->shards);
    rf_model_free(b->model);
    free(b->w);
    free(b->m);
    free(b->v);
    free(b->g);
}

/* A gradient where the table has tensors, 0 in the gaps. */
static double draw_gradient(bench *b, uint64_t step)
{
    double sum = 0.0;
    rf_rng rng = RF_RNG_STREAM(1, RF_RNG_TEST, step);
    for (int64_t t = 0; t < b->model->table.n_tensors; t++) {
        const rf_tensor *tensor = &b->model->table.tensor[t];
        for (int64_t i = tensor->offset; i < tensor->offset + tensor->count; i++) {
            b->g[i] = (double)(float)(0.01 * rf_rng_normal(&rng)); /* the same in f32 */
            sum += b->g[i] * b->g[i];
        }
    }
    rf_backend_upload(b->model->ctx, b->gradient, RF_MASTER, b->g, RF_F64, b->n);
    return sqrt(sum);
}

/* Algorithm 2 of arXiv:1711.05101, tensor by tensor. */
static void transcribe(bench *b, double scale, double lr, int t)
{
    for (int64_t k = 0; k < b->model->table.n_tensors; k++) {
        const rf_tensor *tensor = &b->model->table.tensor[k];
        for (int64_t i = tensor->offset; i < tensor->offset + tensor->count; i++) {
            double g = scale * b->g[i];
            b->m[i] = 0.9 * b->m[i] + 0.1 * g;
            b->v[i] = 0.95 * b->v[i] + 0.05 * g * g;
            double m = b->m[i] / (1.0 - pow(0.9, t)), v = b->v[i] / (1.0 - pow(0.95, t));
            double decay = tensor->n_dims == 2 ? 0.1 * b->w[i] : 0.0;
            b->w[i] -= lr * (m / (sqrt(v) + 1e-8) + decay);
        }
    }
}

static double worst_difference(bench *b, const void *values, const double *expected)
{
    double *found = calloc((size_t)b->n, sizeof *found), worst = 0.0;
    rf_backend_download(b->model->ctx, found, RF_F64, values, RF_MASTER, b->n);
    for (int64_t i = 0; i < b->n; i++) {
        double error = fabs(found[i] - expected[i]);
        worst = !(error <= worst) ? error : worst;
    }
    free(found);
    return worst;
}

static double norm_of(bench *b)
{
    double norm = 0.0;
    rf_error err = {0};
    cr_assert(rf_optimizer_norm(&norm, &b->optimizer, NULL, b->model->ctx, b->gradient, &err) ==
              RF_OK);
    return norm;
}

static void check(const char *backend, double tolerance)
{
    bench b = {0};
    begin(&b, backend);
    for (int t = 1; t <= STEPS; t++) {
        double expected = draw_gradient(&b, (uint64_t)t), lr = 0.01 / t;
        double norm = norm_of(&b);
        double scale = rf_optimizer_scale(&b.optimizer.settings, norm);
        cr_assert(fabs(norm - expected) <= 1e-6 * expected, "%g %g", norm, expected);
        rf_optimizer_step(&b.optimizer, b.model, b.gradient, scale, lr, t);
        transcribe(&b, scale, lr, t);
    }
    double w = worst_difference(&b, b.model->master, b.w);
    double m = worst_difference(&b, b.optimizer.m, b.m);
    double v = worst_difference(&b, b.optimizer.v, b.v);
    cr_assert(w <= tolerance && m <= tolerance && v <= tolerance, "%g %g %g", w, m, v);
    end(&b);
}

Test(optimizer, transcription_f64)
{
    check("ref64", 1e-14);
}

Test(optimizer, transcription_f32)
{
    check("", 1e-6);
    check("ref32", 1e-6);
}

Test(optimizer, clipping)
{
    rf_optimizer_settings s = {.clip = 2.0};
    cr_assert(fabs(rf_optimizer_scale(&s, 8.0) - 0.25) <= 1e-15);
    cr_assert(fabs(rf_optimizer_scale(&s, 1.0) - 1.0) <= 0.0);
    s.clip = 0.0;
    cr_assert(fabs(rf_optimizer_scale(&s, 1e9) - 1.0) <= 0.0);
}

Test(optimizer, norm_sees_what_is_not_finite)
{
    bench b = {0};
    begin(&b, "");
    (void)draw_gradient(&b, 1);
    double bad = nan("");
    rf_backend_upload(b.model->ctx,
                      rf_backend_at(b.model->ctx->backend, RF_MASTER, b.gradient, b.n / 2),
                      RF_MASTER, &bad, RF_F64, 1);
    cr_assert(!isfinite(norm_of(&b)));
    end(&b);
}
