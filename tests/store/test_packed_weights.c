/* Models with packed weights: f32 has the bits of a model that can be trained, adapters included;
 * bf16 and int8 are those of ref; checkpoints are packed as they are read. */
#include "common/store/checkpoint.h"
#include "tests/model/tiny.h"
#include "tests/scratch.h"
#include "tests/store/save.h"

#include <criterion/criterion.h>

static const tiny_switches variants[] = {{.qk_norm = true}, {.tied = true, .qkv_bias = true}};
static const rf_adaptation adapters = {.rank = 3, .alpha = 6.0, .targets = "q_proj,down_proj"};

/* Sizes that are no multiple of anything, with panels and blocks that are not whole. */
static rf_model_config odd_config(int variant)
{
    rf_model_config config = tiny_config(variants[variant]);
    config.vocab_size = 331;
    config.hidden_size = 141;
    config.intermediate_size = 275;
    return config;
}

/* Logits and losses of one batch, all through the head. Caller frees. */
static double *run(rf_model *model, double *loss)
{
    rf_acts *acts = NULL;
    rf_batch batch = tiny_packed(&model->config, 3);
    TINY_MUST(rf_acts_new(&acts, model, TINY_PACKED, TINY_PACKED, false, RF_RECOMPUTE_NONE,
                          tiny_error()));
    TINY_MUST(rf_model_forward(model, acts, &batch, NULL, tiny_error()));
    TINY_MUST(rf_model_losses(model, acts, loss, tiny_error()));
    double *logits = tiny_logits(model, acts);
    rf_acts_free(acts);
    rf_batch_free(&batch);
    return logits;
}

static double *run_with(const rf_backend *backend, int n_threads, const rf_model_config *config,
                        rf_layout weights, const rf_adaptation *adaptation, double *loss)
{
    tiny_rig r = tiny_rig_packed(backend, n_threads, config, TINY_PACKED, weights, adaptation);
    double *logits = run(r.model, loss);
    tiny_rig_free(&r);
    return logits;
}

Test(packed_weights, f32_has_the_bits_of_rows)
{
    const rf_backend *list[MAX_BACKENDS];
    int n_backends = backends_available(list);
    for (int b = 0; b < n_backends; b++) {
        for (int i = 0; i < 4; i++) {
            rf_model_config config = odd_config(i % 2);
            const rf_adaptation *adaptation = i >= 2 ? &adapters : NULL;
            size_t bytes = (size_t)(TINY_PACKED * config.vocab_size) * sizeof(double);
            double loss[2][TINY_PACKED];
            double *rows = run_with(list[b], 1, &config, RF_ROWS, adaptation, loss[0]);
            double *packed = run_with(list[b], 2, &config, RF_PACKED_F32, adaptation, loss[1]);
            cr_assert(memcmp(rows, packed, bytes) == 0, "%s", list[b]->isa);
            cr_assert(memcmp(loss[0], loss[1], sizeof loss[0]) == 0, "%s", list[b]->isa);
            free(rows);
            free(packed);
        }
    }
}

/* With int8, ref rounds the weights alone; the cpu backends their activations too. */
Test(packed_weights, rounded_weights_are_near_those_of_ref)
{
    const rf_backend *list[MAX_BACKENDS];
    int n_backends = backends_available(list);
    rf_model_config config = odd_config(0);
    int64_t n = TINY_PACKED * config.vocab_size;
    double loss[TINY_PACKED];
    const rf_backend *ref = backend_named("ref32", "");
    double *exact = run_with(ref, 1, &config, RF_ROWS, &adapters, loss);
    for (int weights = RF_PACKED_BF16; weights <= RF_PACKED_INT8; weights++) {
        rf_layout layout = (rf_layout)weights;
        double *wanted = run_with(ref, 1, &config, layout, &adapters, loss);
        cr_assert(tiny_gap(wanted, exact, n) > 1e-4 && tiny_gap(wanted, exact, n) < 0.05);
        for (int b = 0; b < n_backends; b++) {
            double *logits = run_with(list[b], 2, &config, layout, &adapters, loss);
            double gap = tiny_gap(logits, wanted, n);
            cr_assert(gap < 0.05, "%s: %g", list[b]->isa, gap);
            free(logits);
        }
        free(wanted);
    }
    free(exact);
}

/* A checkpoint in pieces that end anywhere, against the same weights given whole. */
Test(packed_weights, checkpoints_are_packed_as_they_are_read)
{
    rf_model_config config = odd_config(1);
    config.vocab_size = 9001; /* embedding of more than one piece, 16 per 64 rows */
    begin_folder();
    const char *path = in_folder("model.h5");
    tiny_rig rows = tiny_rig_packed(backend_default(), 1, &config, 4, RF_ROWS, NULL);
    rf_checkpoint_info info = {0};
    TINY_MUST(save_checkpoint(path, NULL, rows.model, NULL, NULL, &info, tiny_error()));
    tiny_rig_free(&rows);
    for (int weights = RF_PACKED_F32; weights <= RF_PACKED_INT8; weights++) {
        rf_layout layout = (rf_layout)weights;
        double loss[2][TINY_PACKED];
        tiny_rig r = tiny_rig_packed(backend_default(), 2, &config, 4, layout, NULL);
        double *given = run(r.model, loss[0]);
        tiny_rig_free(&r);
        rf_model *model = NULL;
        rf_model_limits limits = {.places = TINY_PACKED, .keys = TINY_PACKED, .weights = layout};
        TINY_MUST(rf_model_new(&model, &config, NULL, 2, &limits, tiny_error()));
        TINY_MUST(rf_checkpoint_load(path, model, NULL, NULL, tiny_error()));
        double *loaded = run(model, loss[1]);
        cr_assert(
            memcmp(given, loaded, (size_t)(TINY_PACKED * config.vocab_size) * sizeof(double)) == 0);
        rf_model_free(model);
        free(given);
        free(loaded);
    }
    end_folder();
}

Test(packed_weights, memory_is_that_of_the_layout)
{
    rf_model_config config = odd_config(0);
    const rf_backend *backend = backend_default();
    config.hidden_size = config.intermediate_size = 1024;
    config.vocab_size = 16000;
    size_t bytes[RF_N_LAYOUTS];
    for (int layout = RF_ROWS; layout <= RF_PACKED_INT8; layout++) {
        rf_model_limits limits = {.places = 4, .keys = 4, .weights = (rf_layout)layout};
        bytes[layout] = rf_model_bytes(&config, backend, &limits);
        cr_assert(bytes[layout] > 0);
    }
    /* Beside the weights a megabyte of rows on their way. */
    cr_assert(bytes[RF_PACKED_F32] < bytes[RF_ROWS] * 51 / 50);
    cr_assert(bytes[RF_PACKED_BF16] < bytes[RF_ROWS] * 52 / 100);
    cr_assert(bytes[RF_PACKED_INT8] < bytes[RF_ROWS] * 27 / 100);
}

Test(packed_weights, cannot_be_trained)
{
    rf_model *model = NULL;
    rf_model_config config = odd_config(0);
    rf_model_limits limits = {.places = 4, .keys = 4, .backward = true, .weights = RF_PACKED_F32};
    cr_assert(rf_model_new(&model, &config, NULL, 1, &limits, tiny_error()) == RF_ERR);
    cr_assert(strstr(tiny_error()->message, "cannot be trained") != NULL && model == NULL);
}
