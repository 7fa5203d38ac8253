/* Fresh weights. */
#include "common/model/model.h"

#include "common/base/rng.h"
#include "tests/model/tiny.h"

#include <criterion/criterion.h>
#include <zlib.h>

static rf_model *fresh_by(int n_threads, const rf_backend *backend, const rf_model_config *config,
                          uint64_t seed)
{
    rf_model *model = NULL;
    rf_model_limits limits = {.places = 1, .keys = 1};
    TINY_MUST(rf_model_new(&model, config, backend, n_threads, &limits, tiny_error()));
    rf_model_init(model, seed);
    return model;
}

static rf_model *fresh(const rf_backend *backend, const rf_model_config *config, uint64_t seed)
{
    return fresh_by(1, backend, config, seed);
}

/* The elements of a tensor; caller frees. */
static double *elements(rf_model *model, const char *name, int64_t *n)
{
    const rf_tensor *t = rf_table_find(&model->table, name);
    cr_assert_not_null(t);
    double *value = malloc((size_t)t->count * sizeof(double));
    cr_assert_not_null(value);
    rf_backend_download(model->ctx, value, RF_F64,
                        rf_backend_at(model->ctx->backend, RF_MASTER, model->master, t->offset),
                        RF_MASTER, t->count);
    *n = t->count;
    return value;
}

static rf_model_config wide_config(void)
{
    rf_model_config config = tiny_config((tiny_switches){false, true, true, true});
    config.hidden_size = 200;
    config.intermediate_size = 300;
    config.num_hidden_layers = 8;
    return config;
}

Test(init, has_the_deviation_asked_for)
{
    rf_model_config config = wide_config();
    rf_model *model = fresh(backend_named("ref64", ""), &config, 3);
    static const struct {
        const char *name;
        double mean, deviation;
    } cases[] = {
        {"model.embed_tokens.weight", 0, 0.02},
        {"lm_head.weight", 0, 0.02},
        {"model.layers.7.self_attn.q_proj.weight", 0, 0.02},
        {"model.layers.7.mlp.up_proj.weight", 0, 0.02},
        {"model.layers.7.self_attn.o_proj.weight", 0, 0.005}, /* sqrt(2*8) = 4 */
        {"model.layers.0.mlp.down_proj.weight", 0, 0.005},
        {"model.layers.0.input_layernorm.weight", 1, 0},
        {"model.layers.0.post_attention_layernorm.weight", 1, 0},
        {"model.layers.0.self_attn.q_norm.weight", 1, 0},
        {"model.norm.weight", 1, 0},
        {"model.layers.0.self_attn.q_proj.bias", 0, 0},
        {"model.layers.0.self_attn.o_proj.bias", 0, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t n = 0;
        double *value = elements(model, cases[i].name, &n), sum = 0, square = 0;
        for (int64_t j = 0; j < n; j++) {
            sum += value[j];
            square += (value[j] - cases[i].mean) * (value[j] - cases[i].mean);
        }
        double deviation = sqrt(square / (double)n), slack = 5 * cases[i].deviation;
        cr_assert(fabs(sum / (double)n - cases[i].mean) <= slack / sqrt((double)n));
        cr_assert(fabs(deviation - cases[i].deviation) <= slack / sqrt(2.0 * (double)n), "%s: %g",
                  cases[i].name, deviation);
        free(value);
    }
    rf_model_free(model);
}

/* A tensor's weights depend on the seed and on its name, on nothing else of the model. */
Test(init, depends_on_seed_and_name_alone)
{
    rf_model_config config = wide_config(), other = config;
    other.num_hidden_layers = 2;
    other.tie_word_embeddings = true;
    other.qkv_bias = false;
    const rf_backend *ref64 = backend_named("ref64", "");
    rf_model *a = fresh(ref64, &config, 3), *b = fresh(ref64, &other, 3);
    rf_model *c = fresh(ref64, &config, 4), *d = fresh(backend_default(), &config, 3);
    int64_t n = 0;
    double *x = elements(a, "model.layers.1.self_attn.k_proj.weight", &n);
    double *y = elements(b, "model.layers.1.self_attn.k_proj.weight", &n);
    double *z = elements(c, "model.layers.1.self_attn.k_proj.weight", &n);
    double *w = elements(a, "model.layers.0.self_attn.k_proj.weight", &n);
    double *f = elements(d, "model.layers.1.self_attn.k_proj.weight", &n);
    cr_assert(memcmp(x, y, (size_t)n * sizeof(double)) == 0);
    cr_assert(tiny_gap(z, x, n) > 0.1 && tiny_gap(w, x, n) > 0.1);
    for (int64_t i = 0; i < n; i++) {
        cr_assert(f[i] == (double)(float)x[i]);
    }
    free(x);
    free(y);
    free(z);
    free(w);
    free(f);
    rf_model_free(a);
    rf_model_free(b);
    rf_model_free(c);
    rf_model_free(d);
}

/* Whatever pieces they are drawn in, and by whom, they are the numbers of one stream. */
Test(init, threads_draw_a_tensors_own_stream)
{
    static const char name[] = "model.layers.1.mlp.up_proj.weight";
    rf_model_config config = wide_config();
    config.intermediate_size = 700;
    rf_model *model = fresh_by(3, backend_named("ref64", ""), &config, 5);
    int64_t n = 0;
    double *value = elements(model, name, &n);
    rf_rng rng = RF_RNG_STREAM(5, RF_RNG_INIT, crc32(0, (const Bytef *)name, sizeof name - 1));
    cr_assert_eq(n, 140000);
    for (int64_t i = 0; i < n; i++) {
        cr_assert_eq(value[i], 0.02 * rf_rng_normal(&rng), "element %d", (int)i);
    }
    free(value);
    rf_model_free(model);
}

/* A new model's weights are 0 and a tied head is the embedding itself. */
Test(init, blocks_point_into_the_trainable_space)
{
    rf_model_config config = tiny_config((tiny_switches){true, true, false, false});
    rf_model *model = NULL;
    rf_model_limits limits = {.places = 1, .keys = 1};
    TINY_MUST(rf_model_new(&model, &config, backend_default(), 1, &limits, tiny_error()));
    int64_t n = 0;
    double *value = elements(model, "model.layers.1.mlp.up_proj.weight", &n);
    for (int64_t i = 0; i < n; i++) {
        cr_assert(value[i] == 0.0);
    }
    free(value);
    const rf_block_weights *outside = NULL, *block = NULL;
    TINY_MUST(rf_model_acquire(&outside, model, 2, RF_FORWARD, tiny_error()));
    cr_assert(outside->of[RF_ROLE_HEAD] == model->master);
    cr_assert(outside->of[RF_ROLE_EMBED] == model->master);
    cr_assert_null(outside->of[RF_ROLE_Q]);
    rf_model_release(model, 2, RF_FORWARD);
    TINY_MUST(rf_model_acquire(&block, model, 1, RF_FORWARD, tiny_error()));
    const rf_tensor *t = rf_table_role(&model->table, 1, RF_ROLE_DOWN);
    cr_assert(block->of[RF_ROLE_DOWN] ==
              rf_backend_at(model->ctx->backend, RF_WEIGHT, model->master, t->offset));
    cr_assert_null(block->of[RF_ROLE_Q_BIAS]);
    rf_model_release(model, 1, RF_FORWARD);
    rf_model_free(model);
}
