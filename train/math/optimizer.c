#include "train/math/optimizer.h"

#include <math.h>

void rf_optimizer_layout(rf_optimizer *optimizer, rf_arena *arena, const rf_backend *backend,
                         int64_t n_elements)
{
    size_t bytes = rf_backend_bytes(backend, RF_MASTER, n_elements);
    optimizer->m = rf_arena_take(arena, bytes);
    optimizer->v = rf_arena_take(arena, bytes);
    optimizer->sums =
        rf_arena_take(arena, rf_backend_bytes(backend, RF_SUM, rf_sum_runs(n_elements) + 1));
}

double rf_optimizer_norm(const rf_optimizer *optimizer, rf_model *model, const void *gradient)
{
    rf_ctx *ctx = model->ctx;
    const rf_kernels *kernels = ctx->backend->kernels;
    double sum = (double)NAN;
    kernels->sum_squares(ctx, optimizer->sums, gradient, 0, model->table.n_elements);
    kernels->sum_tree(ctx, optimizer->sums, rf_sum_runs(model->table.n_elements));
    rf_backend_download(ctx, &sum, RF_F64, optimizer->sums, RF_SUM, 1);
    rf_backend_wait(ctx, rf_backend_record(ctx));
    return sqrt(sum);
}

double rf_optimizer_scale(const rf_optimizer_settings *settings, double norm)
{
    return settings->clip > 0.0 && norm > settings->clip ? settings->clip / norm : 1.0;
}

/* The first trainable tensor from i on. */
static int64_t next_trainable(const rf_table *table, int64_t i)
{
    while (i < table->n_tensors && !table->tensor[i].trainable) {
        i++;
    }
    return i;
}

void rf_optimizer_step(rf_optimizer *optimizer, rf_model *model, const void *gradient, double scale,
                       double lr, int64_t update)
{
    const rf_optimizer_settings *s = &optimizer->settings;
    const rf_backend *backend = model->ctx->backend;
    const rf_table *table = &model->table;
    rf_adamw step = {
        .lr = lr,
        .beta1 = s->beta1,
        .beta2 = s->beta2,
        .eps = s->eps,
        .scale = scale,
        .c1 = 1.0 - pow(s->beta1, (double)update),
        .c2 = 1.0 - pow(s->beta2, (double)update),
    };
    RF_ASSERT(update >= 1);
    /* Neighbours with the same decay go in one call; the gaps between tensors are 0 and stay 0. */
    for (int64_t i = next_trainable(table, 0); i < table->n_tensors;) {
        int64_t begin = table->tensor[i].offset, first = i;
        while (i < table->n_tensors && table->tensor[i].decay == table->tensor[first].decay) {
            i = next_trainable(table, i + 1);
        }
        int64_t end = i < table->n_tensors ? table->tensor[i].offset : table->n_elements;
        step.decay = table->tensor[first].decay ? s->weight_decay : 0.0;
        backend->kernels->adamw(model->ctx, rf_backend_at(backend, RF_MASTER, model->master, begin),
                                rf_backend_at(backend, RF_MASTER, optimizer->m, begin),
                                rf_backend_at(backend, RF_MASTER, optimizer->v, begin),
                                rf_backend_at(backend, RF_MASTER, gradient, begin), end - begin,
                                &step);
    }
    rf_model_prepare(model);
}
