#include "train/math/optimizer.h"

#include "common/base/alloc.h"

#include <math.h>
#include <stdlib.h>

static int64_t runs_of(const rf_shards *shards)
{
    return rf_sum_runs(rf_shards_elements(shards));
}

void rf_optimizer_new(rf_optimizer *out, const rf_optimizer_settings *settings,
                      const rf_shards *shards)
{
    *out = (rf_optimizer){.settings = *settings, .shards = shards};
    out->host = rf_alloc((size_t)runs_of(shards) + 1, sizeof *out->host);
}

void rf_optimizer_free(rf_optimizer *optimizer)
{
    free(optimizer->host);
    *optimizer = (rf_optimizer){0};
}

void rf_optimizer_layout(rf_optimizer *optimizer, rf_arena *arena, const rf_backend *backend)
{
    const int64_t held = rf_shards_trained(optimizer->shards);
    /* NULL would mean that there are none: a rank that holds nothing has an empty array. */
    const size_t bytes = rf_backend_bytes(backend, RF_MASTER, held > 0 ? held : 1);
    optimizer->m = rf_arena_take(arena, bytes);
    optimizer->v = rf_arena_take(arena, bytes);
    optimizer->sums =
        rf_arena_take(arena, rf_backend_bytes(backend, RF_SUM, runs_of(optimizer->shards) + 1));
}

/* --- Norm ------------------------------------------------------------------------------------- */

/* Each run's sum is known to the one rank that holds the run; the others have 0 there, whose bits are
 * 0: so a sum of integers over ranks brings every rank the bits of all. */
static int share_sums(const rf_optimizer *o, rf_dist *dist, rf_ctx *ctx, rf_error *err)
{
    const int64_t n = runs_of(o->shards);
    _Static_assert(sizeof(int64_t) == sizeof(double), "sums travel as integers of their bits");
    rf_backend_download(ctx, o->host, RF_F64, o->sums, RF_SUM, n);
    rf_backend_wait(ctx, rf_backend_record(ctx));
    RF_TRY(rf_dist_sum_i64(dist, (int64_t *)(void *)o->host, (int)n, err));
    rf_backend_upload(ctx, o->sums, RF_SUM, o->host, RF_F64, n);
    rf_backend_wait(ctx, rf_backend_record(ctx));
    return RF_OK;
}

int rf_optimizer_norm(double *norm, const rf_optimizer *o, rf_dist *dist, rf_ctx *ctx,
                      const void *gradient, rf_error *err)
{
    const rf_shards *shards = o->shards;
    const rf_kernels *kernels = ctx->backend->kernels;
    double sum = (double)NAN;
    rf_backend_zero(ctx, o->sums, RF_SUM, runs_of(shards));
    for (int64_t i = 0; i < shards->n_trained; i++) {
        const rf_range held = rf_shards_held(shards, shards->part[i], shards->rank);
        if (held.begin < held.end) {
            kernels->sum_squares(ctx, o->sums,
                                 rf_backend_at(ctx->backend, RF_MASTER, gradient, shards->at[i]),
                                 held.begin, rf_range_length(held));
        }
    }
    RF_TRY(shards->n_ranks > 1 ? share_sums(o, dist, ctx, err) : RF_OK);
    kernels->sum_tree(ctx, o->sums, runs_of(shards));
    rf_backend_download(ctx, &sum, RF_F64, o->sums, RF_SUM, 1);
    rf_backend_wait(ctx, rf_backend_record(ctx));
    *norm = sqrt(sum);
    return RF_OK;
}

double rf_optimizer_scale(const rf_optimizer_settings *settings, double norm)
{
    return settings->clip > 0.0 && norm > settings->clip ? settings->clip / norm : 1.0;
}

/* --- AdamW ------------------------------------------------------------------------------------ */

/* What this rank holds of a range of one part. */
static void step_held(rf_optimizer *o, rf_model *model, const void *gradient, rf_range range,
                      const rf_adamw *step)
{
    const rf_backend *backend = model->ctx->backend;
    const rf_range held = rf_shards_held(o->shards, range, o->shards->rank);
    if (held.begin == held.end) {
        return;
    }
    const int64_t at = rf_shards_at(o->shards, held.begin);
    const bool is_whole = o->shards->kind != RF_SHARD_WEIGHTS; /* the masters */
    backend->kernels->adamw(
        model->ctx, rf_backend_at(backend, RF_MASTER, model->master, is_whole ? held.begin : at),
        rf_backend_at(backend, RF_MASTER, o->m, at), rf_backend_at(backend, RF_MASTER, o->v, at),
        rf_backend_at(backend, RF_MASTER, gradient, at), rf_range_length(held), step);
}

/* The first trainable tensor from i on. */
static int64_t next_trainable(const rf_table *table, int64_t i)
{
    while (i < table->n_tensors && !table->tensor[i].trainable) {
        i++;
    }
    return i;
}

/* Part by part. */
static void step_range(rf_optimizer *o, rf_model *model, const void *gradient, rf_range range,
                       const rf_adamw *step)
{
    while (range.begin < range.end) {
        const int64_t stop = o->shards->part[rf_shards_find(o->shards, range.begin)].end;
        const int64_t end = stop < range.end ? stop : range.end;
        step_held(o, model, gradient, (rf_range){range.begin, end}, step);
        range.begin = end;
    }
}

void rf_optimizer_step(rf_optimizer *optimizer, rf_model *model, const void *gradient, double scale,
                       double lr, int64_t update)
{
    const rf_optimizer_settings *s = &optimizer->settings;
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
        step_range(optimizer, model, gradient, (rf_range){begin, end}, &step);
    }
}
