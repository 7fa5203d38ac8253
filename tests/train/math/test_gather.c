/* Weights are there when they are acquired, however late the other ranks are. */
#include "train/math/gather.h"

#include "tests/mpi.h"

#include <unistd.h>

static const rf_model_config shape = {.architecture = "Qwen3ForCausalLM",
                                      .vocab_size = 2048,
                                      .hidden_size = 96,
                                      .intermediate_size = 512,
                                      .num_hidden_layers = 3,
                                      .num_attention_heads = 4,
                                      .num_key_value_heads = 2,
                                      .head_dim = 24,
                                      .max_position_embeddings = 8,
                                      .rms_norm_eps = 1e-6,
                                      .rope_theta = 1e4,
                                      .initializer_range = 0.1,
                                      .tie_word_embeddings = true,
                                      .qk_norm = true};

/* What this rank holds becomes `value`. */
static void set_held(rf_model *model, const rf_shards *shards, float value)
{
    for (int64_t i = 0; i < shards->n_parts; i++) {
        const rf_range held = rf_shards_held(shards, shards->part[i], shards->rank);
        const int64_t n = held.end - held.begin;
        const bool is_whole = shards->kind != RF_SHARD_WEIGHTS;
        float *values = malloc((size_t)n * sizeof *values + 1);
        for (int64_t k = 0; k < n; k++) {
            values[k] = value;
        }
        rf_backend_upload(model->ctx,
                          rf_backend_at(model->ctx->backend, RF_MASTER, model->master,
                                        is_whole ? held.begin : shards->at[i]),
                          RF_MASTER, values, RF_F32, n);
        rf_backend_wait(model->ctx, rf_backend_record(model->ctx));
        free(values);
    }
}

/* Every element of a tensor that kernels get. */
static void check_tensor(rf_model *model, const rf_block_weights *w, const rf_tensor *t,
                         float value)
{
    float *values = malloc((size_t)t->count * sizeof *values);
    rf_backend_download(model->ctx, values, RF_F32, w->of[t->role], RF_MASTER, t->count);
    for (int64_t k = 0; k < t->count; k++) {
        cr_assert(values[k] == value, "%s [%d] is %g, not %g", t->name, (int)k, (double)values[k],
                  (double)value);
    }
    free(values);
}

static void check_layer(rf_model *model, int64_t layer, rf_direction direction, float value)
{
    const rf_block_weights *w = NULL;
    rf_error err = {0};
    cr_assert(rf_model_acquire(&w, model, layer, direction, &err) == RF_OK, "%s", err.message);
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        if ((t->layer < 0 ? model->table.n_layers : t->layer) == layer) {
            check_tensor(model, w, t, value);
        }
    }
    rf_model_release(model, layer, direction);
}

static void check(rf_dist *dist, rf_shard kind)
{
    const rf_backend *backend = NULL;
    rf_error err = {0};
    rf_table table = {0};
    rf_shards shards;
    rf_model *model = NULL;
    rf_gather gather;
    rf_arena arena = {0};
    void *memory = NULL;
    cr_assert(rf_backend_choose(&backend, "", &err) == RF_OK);
    cr_assert(rf_table_build(&table, &shape, &err) == RF_OK, "%s", err.message);
    rf_shards_new(&shards, &table, sizeof(float), kind, rf_dist_rank(dist), rf_dist_size(dist));
    const rf_model_limits limits = {
        .places = 4, .keys = 4, .positions = 4, .backward = true, .shards = &shards};
    cr_assert(rf_model_new(&model, &shape, backend, 1, &limits, &err) == RF_OK, "%s", err.message);
    rf_gather_new(&gather, dist, &shards);
    rf_gather_layout(&gather, &arena, backend, RF_COMPUTE_F32);
    cr_assert(rf_backend_alloc(&memory, model->ctx, arena.peak + 1, &err) == RF_OK);
    arena = (rf_arena){.base = memory, .size = arena.peak};
    rf_gather_layout(&gather, &arena, backend, RF_COMPUTE_F32);
    rf_gather_attach(&gather, model);
    for (int round = 0; round < 2; round++) {
        const float value = (float)(3 + round);
        cr_assert(rf_gather_settle(&gather, &err) == RF_OK);
        set_held(model, &shards, value);
        if (rf_dist_rank(dist) == 1) {
            usleep(300000);
        }
        cr_assert(rf_gather_renew(&gather, &err) == RF_OK, "%s", err.message);
        const int64_t n_layers = table.n_layers;
        for (int64_t i = 0; i <= n_layers; i++) {
            check_layer(model, i == 0 ? n_layers : i - 1, RF_FORWARD, value);
        }
        for (int64_t layer = n_layers; layer >= 0; layer--) {
            rf_gather_poll(&gather);
            check_layer(model, layer, RF_BACKWARD, value);
        }
    }
    rf_gather_free(&gather);
    rf_backend_free(model->ctx, memory);
    rf_model_free(model);
    rf_shards_free(&shards);
    rf_table_free(&table);
}

MPI_TEST(gather, weights_are_there_when_acquired, 2)
{
    check(dist, RF_SHARD_STATE);
    check(dist, RF_SHARD_WEIGHTS);
}

MPI_TEST(gather, on_four_ranks, 4)
{
    check(dist, RF_SHARD_GRADIENTS);
    check(dist, RF_SHARD_WEIGHTS);
}
