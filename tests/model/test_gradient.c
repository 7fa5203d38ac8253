/* The whole model's gradient: against central differences in f64, and f32 against f64. */
#include "train/math/backward.h"

#include "data/objective.h"
#include "tests/model/tiny_train.h"

#include <criterion/criterion.h>

/* An objective for the vocabulary of tiny models, most of whose tokens are masked. */
static rf_objective tiny_objective(const rf_objective_kind *kind)
{
    return (rf_objective){.kind = kind,
                          .slot_sizes = {2},
                          .n_slot_sizes = 1,
                          .lambda_ar = 1,
                          .lambda_mdm = 1,
                          .epsilon = 0.3,
                          .pad_length = 11,
                          .pad_block = 1,
                          .block_size = 4,
                          .noise_low = 0.3,
                          .noise_high = 1,
                          .mask = 36,
                          .end = 35};
}

/* The gradient of a batch in host memory; caller frees. loss [TINY_PACKED] or NULL. */
static double *gradient_of(tiny_train *r, const rf_batch *batch, double *loss)
{
    rf_ctx *ctx = r->model->ctx;
    int64_t n = r->model->table.n_elements;
    double losses[TINY_PACKED];
    double *host = malloc((size_t)n * sizeof(double));
    cr_assert_not_null(host);
    rf_backend_zero(ctx, r->gradient, RF_MASTER, n);
    TINY_MUST(rf_model_forward(r->model, r->acts, batch, NULL, tiny_error()));
    TINY_MUST(rf_backward_run(r->backward, r->model, r->acts, &(rf_gradient){.whole = r->gradient},
                              loss != NULL ? loss : losses, tiny_error()));
    rf_backend_download(ctx, host, RF_F64, r->gradient, RF_MASTER, n);
    return host;
}

/* E = sum of weight * loss in full precision. */
static double energy(tiny_train *r, const rf_batch *batch)
{
    double loss[TINY_PACKED], sum = 0;
    double rounded[TINY_PACKED];
    TINY_MUST(rf_model_forward(r->model, r->acts, batch, NULL, tiny_error()));
    TINY_MUST(rf_model_losses(r->model, r->acts, rounded, tiny_error()));
    rf_backend_download(r->model->ctx, loss, RF_F64, r->acts->loss, RF_STATISTIC, batch->n);
    for (int64_t i = 0; i < batch->n; i++) {
        cr_assert(fabs(loss[i] - rounded[i]) <= 1e-6 * (1 + fabs(loss[i])));
        sum += (double)batch->weight[i] * loss[i];
    }
    return sum;
}

/* E at the weights w + step * u; only [begin, end) of the trainable space differs from w. */
static double energy_at(tiny_train *r, const rf_batch *batch, const double *w, const double *u,
                        double step, int64_t begin, int64_t end)
{
    rf_ctx *ctx = r->model->ctx;
    double *moved = malloc((size_t)(end - begin) * sizeof(double));
    cr_assert_not_null(moved);
    for (int64_t i = begin; i < end; i++) {
        moved[i - begin] = w[i] + step * u[i];
    }
    rf_backend_upload(ctx, rf_backend_at(ctx->backend, RF_MASTER, r->model->master, begin),
                      RF_MASTER, moved, RF_F64, end - begin);
    rf_model_prepare(r->model);
    free(moved);
    return energy(r, batch);
}

/* How far the gradient is from central differences (fourth order) in a random direction of
 * [begin, end), relative to the size such a product has on average. */
static double mismatch(tiny_train *r, const rf_batch *batch, const double *gradient,
                       const double *w, int64_t begin, int64_t end, uint64_t seed)
{
    int64_t n = r->model->table.n_elements;
    double *u = calloc((size_t)n, sizeof(double));
    cr_assert_not_null(u);
    rf_rng rng = RF_RNG_STREAM(seed, RF_RNG_TEST, (uint64_t)begin, (uint64_t)end);
    double length = 0, product = 0, norm = 0;
    for (int64_t i = begin; i < end; i++) {
        u[i] = rf_rng_normal(&rng);
        length += u[i] * u[i];
    }
    for (int64_t i = begin; i < end; i++) {
        u[i] /= sqrt(length);
        product += gradient[i] * u[i];
        norm += gradient[i] * gradient[i];
    }
    const double h = 2e-3;
    double near =
        energy_at(r, batch, w, u, h, begin, end) - energy_at(r, batch, w, u, -h, begin, end);
    double far = energy_at(r, batch, w, u, 2 * h, begin, end) -
                 energy_at(r, batch, w, u, -2 * h, begin, end);
    (void)energy_at(r, batch, w, u, 0, begin, end); /* back to w */
    double numeric = (8 * near - far) / (12 * h);
    free(u);
    double scale = sqrt(norm / (double)(end - begin));
    return fabs(numeric - product) / (scale + 1e-6);
}

static double *masters(tiny_train *r)
{
    int64_t n = r->model->table.n_elements;
    double *w = malloc((size_t)n * sizeof(double));
    cr_assert_not_null(w);
    rf_backend_download(r->model->ctx, w, RF_F64, r->model->master, RF_MASTER, n);
    return w;
}

/* The worst tensor's mismatch, and the whole space's. name: of the worst. */
static double worst_mismatch(tiny_train *r, const rf_batch *batch, const double *gradient,
                             const char **name)
{
    const rf_table *table = &r->model->table;
    double *w = masters(r);
    *name = "all";
    double worst = mismatch(r, batch, gradient, w, 0, table->n_elements, 7);
    for (int64_t i = 0; i < table->n_tensors; i++) {
        const rf_tensor *t = &table->tensor[i];
        double here = mismatch(r, batch, gradient, w, t->offset, t->offset + t->count, 8);
        if (!(here <= worst)) {
            worst = here;
            *name = t->name;
        }
    }
    free(w);
    return worst;
}

/* Differences agree to about 1e-9; the bound leaves room for other machines. */
static const double tolerance = 1e-6;

static const tiny_switches variants[] = {
    {.tied = false, .qk_norm = true, .qkv_bias = false, .output_bias = false}, /* Qwen3 */
    {.tied = true, .qk_norm = true, .qkv_bias = false, .output_bias = false},
    {.tied = true, .qk_norm = false, .qkv_bias = true, .output_bias = false},   /* Qwen2 */
    {.tied = false, .qk_norm = false, .qkv_bias = false, .output_bias = false}, /* Llama */
    {.tied = true, .qk_norm = true, .qkv_bias = true, .output_bias = true},
};
enum { N_VARIANTS = sizeof(variants) / sizeof(variants[0]) };

Test(gradient, equals_central_differences_in_f64)
{
    for (int i = 0; i < N_VARIANTS; i++) {
        rf_model_config config = tiny_config(variants[i]);
        tiny_train r =
            tiny_train_new(backend_named("ref64", ""), &config, 1, NULL, RF_RECOMPUTE_NONE);
        rf_batch batch = tiny_packed(&config, (uint64_t)i);
        double *gradient = gradient_of(&r, &batch, NULL);
        const char *name = NULL;
        double worst = worst_mismatch(&r, &batch, gradient, &name);
        cr_assert(worst <= tolerance, "variant %d, %s: %g", i, name, worst);
        free(gradient);
        rf_batch_free(&batch);
        tiny_train_free(&r);
    }
}

/* Batches as training makes them: whatever spans an objective asks for, the gradient is right. */
Test(gradient, of_every_objective_equals_central_differences)
{
    static const rf_objective_kind *const kinds[] = {&rf_objective_refusion, &rf_objective_ar,
                                                     &rf_objective_mdm, &rf_objective_block};
    rf_model_config config = tiny_config(variants[0]);
    for (int k = 0; k < 4; k++) {
        tiny_train r =
            tiny_train_new(backend_named("ref64", ""), &config, 1, NULL, RF_RECOMPUTE_NONE);
        rf_batch batch = tiny_batch(TINY_PACKED);
        rf_counts counts = {0};
        const rf_objective objective = tiny_objective(kinds[k]);
        for (uint64_t sample = 0; sample < 2; sample++) {
            int32_t token[16];
            rf_rng rng = RF_RNG_STREAM(17, RF_RNG_TEST, (uint64_t)k, sample);
            for (int i = 0; i < 16; i++) {
                token[i] = tiny_token(&rng, &config);
            }
            rf_objective_append(&objective, &batch, &counts, token, 3, 8 + (int64_t)sample, &rng);
        }
        rf_objective_pad(&batch, 0, TINY_PACKED - batch.n);
        rf_objective_finish(&objective, &batch, &counts);
        double *gradient = gradient_of(&r, &batch, NULL);
        const char *name = NULL;
        double worst = worst_mismatch(&r, &batch, gradient, &name);
        cr_assert(worst <= tolerance, "%s, %s: %g", kinds[k]->name, name, worst);
        cr_assert(counts.n_targets[0] + counts.n_targets[1] > 3);
        free(gradient);
        rf_batch_free(&batch);
        tiny_train_free(&r);
    }
}

/* A gradient that is wrong in one tensor by one part in a thousand does not pass. */
Test(gradient, an_error_in_any_tensor_is_caught)
{
    rf_model_config config = tiny_config((tiny_switches){true, true, true, true});
    tiny_train r = tiny_train_new(backend_named("ref64", ""), &config, 1, NULL, RF_RECOMPUTE_NONE);
    rf_batch batch = tiny_packed(&config, 3);
    double *gradient = gradient_of(&r, &batch, NULL), *w = masters(&r);
    for (int64_t i = 0; i < r.model->table.n_tensors; i++) {
        const rf_tensor *t = &r.model->table.tensor[i];
        for (int64_t j = t->offset; j < t->offset + t->count; j++) {
            gradient[j] *= 1.001;
        }
        double here = mismatch(&r, &batch, gradient, w, t->offset, t->offset + t->count, 8);
        cr_assert(here > tolerance, "%s: %g", t->name, here);
    }
    gradient[r.model->table.tensor[0].offset] = (double)NAN;
    const char *name = NULL;
    double worst = worst_mismatch(&r, &batch, gradient, &name);
    cr_assert(!(worst <= tolerance));
    free(w);
    free(gradient);
    rf_batch_free(&batch);
    tiny_train_free(&r);
}

/* --- Deliberately broken kernels -------------------------------------------------------------- */

static const rf_kernels *whole; /* the kernels that the broken ones are made of */

static void heads_that_never_turn_back(rf_ctx *ctx, void *dy, void *dgain, const void *raw,
                                       const void *gain, const void *rstd, const rf_angles *angles,
                                       int64_t n, int64_t h, int64_t k)
{
    (void)angles;
    whole->rmsnorm_backward(ctx, (rf_array){dy, RF_PRODUCT}, dgain,
                            (rf_const_array){dy, RF_PRODUCT}, (rf_const_array){raw, RF_ACTIVATION},
                            gain, rstd, n * h, k, false);
}

static void norm_that_forgets_the_residual(rf_ctx *ctx, rf_array dx, void *dgain, rf_const_array dy,
                                           rf_const_array x, const void *gain, const void *rstd,
                                           int64_t n, int64_t d, bool accumulate)
{
    (void)accumulate;
    whole->rmsnorm_backward(ctx, dx, dgain, dy, x, gain, rstd, n, d, false);
}

static void input_gradient_that_sets(rf_ctx *ctx, rf_array dx, rf_const_array dy, const void *w,
                                     int64_t n, int64_t in, int64_t out, bool accumulate)
{
    (void)accumulate;
    whole->linear_backward_input(ctx, dx, dy, w, n, in, out, false);
}

static void weight_gradient_without_bias(rf_ctx *ctx, void *dw, void *dbias, rf_const_array dy,
                                         const void *x, int64_t n, int64_t in, int64_t out)
{
    (void)dbias;
    whole->linear_backward_weight(ctx, dw, NULL, dy, x, n, in, out);
}

static void embedding_gradient_that_forgets(rf_ctx *ctx, void *dtable, const void *dx,
                                            const int32_t *token, int64_t n, int64_t d)
{
    whole->embedding_backward(ctx, dtable, dx, token, n - n / 2, d);
}

static void expect_caught(const char *what, const rf_kernels *broken)
{
    rf_model_config config = tiny_config((tiny_switches){true, true, true, true});
    rf_backend backend = *backend_named("ref64", "");
    backend.kernels = broken;
    tiny_train r = tiny_train_new(&backend, &config, 1, NULL, RF_RECOMPUTE_NONE);
    rf_batch batch = tiny_packed(&config, 4);
    double *gradient = gradient_of(&r, &batch, NULL);
    const char *name = NULL;
    double worst = worst_mismatch(&r, &batch, gradient, &name);
    cr_assert(!(worst <= tolerance), "%s went unnoticed: %g", what, worst);
    free(gradient);
    rf_batch_free(&batch);
    tiny_train_free(&r);
}

Test(gradient, a_broken_backward_is_caught)
{
    whole = backend_named("ref64", "")->kernels;
    rf_kernels broken = *whole;
    broken.heads_backward = heads_that_never_turn_back;
    expect_caught("heads_backward", &broken);
    broken = *whole;
    broken.rmsnorm_backward = norm_that_forgets_the_residual;
    expect_caught("rmsnorm_backward", &broken);
    broken = *whole;
    broken.linear_backward_input = input_gradient_that_sets;
    expect_caught("linear_backward_input", &broken);
    broken = *whole;
    broken.linear_backward_weight = weight_gradient_without_bias;
    expect_caught("linear_backward_weight", &broken);
    broken = *whole;
    broken.embedding_backward = embedding_gradient_that_forgets;
    expect_caught("embedding_backward", &broken);
}

/* --- Other backends, threads, recomputing ----------------------------------------------------- */

Test(gradient, f32_agrees_with_f64)
{
    const rf_backend *list[MAX_BACKENDS];
    int n_backends = backends_available(list);
    for (int i = 0; i < N_VARIANTS; i++) {
        rf_model_config config = tiny_config(variants[i]);
        rf_batch batch = tiny_packed(&config, 20 + (uint64_t)i);
        tiny_train truth =
            tiny_train_new(backend_named("ref64", ""), &config, 1, NULL, RF_RECOMPUTE_NONE);
        double *expected = gradient_of(&truth, &batch, NULL);
        for (int b = 0; b < n_backends; b++) {
            tiny_train r = tiny_train_new(list[b], &config, 2, NULL, RF_RECOMPUTE_NONE);
            double *gradient = gradient_of(&r, &batch, NULL);
            for (int64_t j = 0; j < r.model->table.n_tensors; j++) {
                const rf_tensor *t = &r.model->table.tensor[j];
                double gap = tiny_gap(gradient + t->offset, expected + t->offset, t->count);
                cr_assert(gap <= 2e-5, "%s %s, %s: %g", list[b]->name, list[b]->isa, t->name, gap);
            }
            free(gradient);
            tiny_train_free(&r);
        }
        free(expected);
        rf_batch_free(&batch);
        tiny_train_free(&truth);
    }
}

/* Both runs on the same backend give the same bits: losses and gradient. */
static void assert_same_bits(const rf_backend *backend, const rf_model_config *config,
                             const rf_batch *batch, int n_threads, rf_recompute recompute)
{
    double loss[2][TINY_PACKED];
    tiny_train a = tiny_train_new(backend, config, 1, NULL, RF_RECOMPUTE_NONE);
    tiny_train b = tiny_train_new(backend, config, n_threads, NULL, recompute);
    double *x = gradient_of(&a, batch, loss[0]), *y = gradient_of(&b, batch, loss[1]);
    cr_assert(memcmp(x, y, (size_t)a.model->table.n_elements * sizeof(double)) == 0, "%s %s",
              backend->name, backend->isa);
    cr_assert(memcmp(loss[0], loss[1], (size_t)batch->n * sizeof(double)) == 0);
    free(x);
    free(y);
    tiny_train_free(&a);
    tiny_train_free(&b);
}

Test(gradient, recomputing_and_threads_keep_every_bit)
{
    const rf_backend *list[MAX_BACKENDS + 1];
    int n_backends = backends_available(list);
    list[n_backends++] = backend_named("ref64", "");
    list[n_backends++] = backend_named("apart", ""); /* which keeps norms, as devices do */
    for (int b = 0; b < n_backends; b++) {
        for (int i = 0; i < N_VARIANTS; i++) {
            rf_model_config config = tiny_config(variants[i]);
            rf_batch batch = tiny_packed(&config, 40 + (uint64_t)i);
            assert_same_bits(list[b], &config, &batch, 1, RF_RECOMPUTE_BLOCK);
            assert_same_bits(list[b], &config, &batch, 1, RF_RECOMPUTE_SELECTIVE);
            assert_same_bits(list[b], &config, &batch, 2, RF_RECOMPUTE_NONE);
            assert_same_bits(list[b], &config, &batch, 3, RF_RECOMPUTE_BLOCK);
            rf_batch_free(&batch);
        }
    }
}

/* --- Batches at the edge ---------------------------------------------------------------------- */

static void assert_zero(tiny_train *r, const rf_batch *batch)
{
    double loss[TINY_PACKED];
    double *gradient = gradient_of(r, batch, loss);
    for (int64_t i = 0; i < batch->n; i++) {
        cr_assert(loss[i] == 0.0);
    }
    for (int64_t i = 0; i < r->model->table.n_elements; i++) {
        cr_assert(gradient[i] == 0.0, "element %lld: %g", (long long)i, gradient[i]);
    }
    free(gradient);
}

Test(gradient, without_any_target_loss_and_gradient_are_zero)
{
    const rf_backend *list[MAX_BACKENDS];
    int n_backends = backends_available(list);
    list[n_backends++] = backend_named("ref64", "");
    for (int b = 0; b < n_backends; b++) {
        for (int recompute = 0; recompute <= RF_RECOMPUTE_BLOCK; recompute++) {
            rf_model_config config = tiny_config(variants[recompute]);
            tiny_train r = tiny_train_new(list[b], &config, 2, NULL, (rf_recompute)recompute);
            rf_batch batch = tiny_packed(&config, 5);
            for (int64_t i = 0; i < batch.n; i++) {
                batch.target[i] = -1;
                batch.weight[i] = 0;
            }
            assert_zero(&r, &batch);
            rf_batch_clear(&batch);
            tiny_add_padding(&batch, 11);
            assert_zero(&r, &batch);
            rf_batch_clear(&batch);
            assert_zero(&r, &batch);
            rf_batch_free(&batch);
            tiny_train_free(&r);
        }
    }
}

Test(gradient, adds_to_what_is_there)
{
    rf_model_config config = tiny_config(variants[0]);
    tiny_train r = tiny_train_new(backend_named("ref64", ""), &config, 1, NULL, RF_RECOMPUTE_NONE);
    rf_batch batch = tiny_packed(&config, 6);
    int64_t n = r.model->table.n_elements;
    double loss[TINY_PACKED];
    double *once = gradient_of(&r, &batch, NULL), *twice = malloc((size_t)n * sizeof(double));
    cr_assert_not_null(twice);
    TINY_MUST(rf_backward_run(r.backward, r.model, r.acts, &(rf_gradient){.whole = r.gradient},
                              loss, tiny_error()));
    rf_backend_download(r.model->ctx, twice, RF_F64, r.gradient, RF_MASTER, n);
    for (int64_t i = 0; i < n; i++) {
        cr_assert(fabs(twice[i] - 2 * once[i]) <= 1e-12 * (1 + fabs(once[i])));
    }
    free(once);
    free(twice);
    rf_batch_free(&batch);
    tiny_train_free(&r);
}

Test(gradient, gaps_of_the_trainable_space_stay_zero)
{
    rf_model_config config = tiny_config(variants[4]);
    tiny_train r = tiny_train_new(backend_named("ref64", ""), &config, 1, NULL, RF_RECOMPUTE_NONE);
    rf_batch batch = tiny_packed(&config, 6);
    double *gradient = gradient_of(&r, &batch, NULL);
    const rf_table *table = &r.model->table;
    for (int64_t i = 0; i < table->n_tensors; i++) {
        const rf_tensor *t = &table->tensor[i];
        int64_t next = i + 1 < table->n_tensors ? table->tensor[i + 1].offset : table->n_elements;
        for (int64_t j = t->offset + t->count; j < next; j++) {
            cr_assert(gradient[j] == 0.0);
        }
    }
    free(gradient);
    rf_batch_free(&batch);
    tiny_train_free(&r);
}

/* --- What cannot run -------------------------------------------------------------------------- */

Test(gradient, refuses_a_forward_pass_that_kept_nothing)
{
    rf_error err = {0};
    rf_model_config config = tiny_config(variants[0]);
    tiny_train r = tiny_train_new(backend_named("ref64", ""), &config, 1, NULL, RF_RECOMPUTE_NONE);
    rf_batch batch = tiny_packed(&config, 6);
    double loss[TINY_PACKED];
    rf_acts *light = NULL;
    rf_cache *cache = NULL;
    rf_backward *small = NULL;
    TINY_MUST(rf_acts_new(&light, r.model, TINY_PACKED, 0, false, RF_RECOMPUTE_NONE, tiny_error()));
    TINY_MUST(rf_cache_new(&cache, r.model, TINY_PACKED, tiny_error()));
    TINY_MUST(rf_backward_new(&small, r.model, TINY_PACKED - 1, tiny_error()));
    TINY_MUST(rf_model_forward(r.model, light, &batch, NULL, tiny_error()));
    cr_assert(rf_backward_run(r.backward, r.model, light, &(rf_gradient){.whole = r.gradient}, loss,
                              &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "kept no activations"));
    TINY_MUST(rf_model_forward(r.model, r.acts, &batch, cache, tiny_error()));
    cr_assert(rf_backward_run(r.backward, r.model, r.acts, &(rf_gradient){.whole = r.gradient},
                              loss, &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "cache"));
    TINY_MUST(rf_model_forward(r.model, r.acts, &batch, NULL, tiny_error()));
    cr_assert(rf_backward_run(small, r.model, r.acts, &(rf_gradient){.whole = r.gradient}, loss,
                              &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "59"));
    rf_backward_free(small);
    rf_cache_free(cache);
    rf_acts_free(light);
    rf_batch_free(&batch);
    tiny_train_free(&r);
}

Test(gradient, memory_is_as_planned_and_sizes_are_checked)
{
    rf_error err = {0};
    rf_model_config config = tiny_config(variants[0]);
    tiny_train r = tiny_train_new(backend_named("ref64", ""), &config, 1, NULL, RF_RECOMPUTE_NONE);
    rf_backward *backward = NULL;
    /* 60 places of 8 bytes: two streams of 24; then dq, do of 40, dk, dv of 20, delta of 4 (each of
     * a multiple of 64 bytes), which the two buffers of 36 share. */
    size_t attention = 60 * 8 * (2 * 40 + 2 * 20 + 4), streams = 60 * 8 * 2 * 24;
    const rf_model_shape shape = rf_model_shape_of(r.model);
    size_t padding = rf_backward_bytes(&shape, TINY_PACKED) - attention - streams;
    cr_assert(padding < 7 * RF_ALIGNMENT);
    cr_assert(rf_backward_bytes(&shape, 0) == 0);
    cr_assert(rf_backward_new(&backward, r.model, TINY_PACKED + 1, &err) == RF_ERR);
    cr_assert(backward == NULL);
    cr_assert(rf_backward_new(&backward, r.model, 0, &err) == RF_ERR);
    rf_model *forward_only = tiny_model(backend_named("ref64", ""), 1, &config, 8, 8, false);
    cr_assert(rf_backward_new(&backward, forward_only, 8, &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "without backward"));
    rf_backward_free(NULL);
    rf_model_free(forward_only);
    tiny_train_free(&r);
}

/* --- Layers that are complete ----------------------------------------------------------------- */

/* What a listener saw: the order, and each layer's gradients at that moment. */
typedef struct heard {
    tiny_train *r;
    int64_t n, layer[8];
    double *then; /* [table.n_elements] */
} heard;

static void hear(void *user, int64_t layer)
{
    heard *h = user;
    const rf_model *model = h->r->model;
    cr_assert(h->n < 8);
    h->layer[h->n++] = layer;
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        const rf_range range = rf_table_range(&model->table, layer, true);
        if (t->trainable && t->offset >= range.begin && t->offset < range.end) {
            rf_backend_download(
                model->ctx, h->then + t->offset, RF_F64,
                rf_backend_at(model->ctx->backend, RF_MASTER, h->r->gradient, t->offset), RF_MASTER,
                t->count);
        }
    }
}

/* Layers that lie one after the other, as in one piece. */
static void *find_layer(void *user, int64_t layer)
{
    const heard *h = user;
    const rf_model *model = h->r->model;
    cr_assert(layer == 0 || h->n == 0 || layer < h->layer[h->n - 1], "layer %d", (int)layer);
    return rf_backend_at(model->ctx->backend, RF_MASTER, h->r->gradient,
                         rf_table_range(&model->table, layer, true).begin);
}

static void check_heard(tiny_switches switches)
{
    rf_model_config config = tiny_config(switches);
    tiny_train r = tiny_train_new(backend_named("ref64", ""), &config, 1, NULL, RF_RECOMPUTE_NONE);
    rf_batch batch = tiny_packed(&config, 12);
    heard h = {.r = &r, .then = calloc((size_t)r.model->table.n_elements, sizeof *h.then)};
    cr_assert_not_null(h.then);
    double *last = gradient_of(&r, &batch, NULL);
    const rf_gradient gradient = {.find = find_layer, .done = hear, .user = &h};
    rf_backend_zero(r.model->ctx, r.gradient, RF_MASTER, r.model->table.n_elements);
    TINY_MUST(rf_backward_run(r.backward, r.model, r.acts, &gradient, NULL, tiny_error()));
    cr_assert(h.n == config.num_hidden_layers + 2);
    for (int64_t i = 0; i < h.n; i++) {
        cr_assert(h.layer[i] == config.num_hidden_layers + 1 - i);
    }
    for (int64_t i = 0; i < r.model->table.n_elements; i++) {
        cr_assert(h.then[i] == last[i], "element %ld", (long)i);
    }
    free(h.then);
    free(last);
    rf_batch_free(&batch);
    tiny_train_free(&r);
}

Test(gradient, a_layer_is_final_when_it_is_said_to_be)
{
    check_heard((tiny_switches){.qk_norm = true, .tied = true});
    check_heard((tiny_switches){.qkv_bias = true});
}
