/* Attention over spans, backward. With s_ij = scale q_i.k_j, p_ij = exp(s_ij - lse_i) and
 * delta_i = do_i.o_i:
 *   dv_j = sum_i p_ij do_i                      dp_ij = do_i.v_j
 *   ds_ij = p_ij (dp_ij - delta_i)              (softmax; sum_j p_ij dp_ij = delta_i)
 *   dq_i = scale sum_j ds_ij k_j                dk_j = scale sum_i ds_ij q_i
 * p and dp are made anew from tiles. One pass owns queries and sums over keys, another owns keys
 * and sums over queries: both have a fixed order, and neither adds into memory of another thread.
 */
#include "common/kernels/cpu/attention.h"

#include <math.h>
#include <omp.h>

/* --- delta and dq ------------------------------------------------------------------------------
 */

static void make_delta(float *delta, const attention *t)
{
    const int64_t width = t->head_dim, n = t->spans->n * t->h;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        vf sum = v_zero();
        for (int64_t c = 0; c < width; c += VL) {
            sum = v_fma(v_load_n(t->do_ + i * width + c, width - c),
                        v_load_n(t->o + i * width + c, width - c), sum);
        }
        delta[i] = v_sum(sum);
    }
}

/* ds of one row over the first `visible` keys of a tile, 0 for the rest; into score. */
static void grad_row(float *score, const float *dp, float lse, float delta, int64_t n_keys,
                     int64_t visible)
{
    for (int64_t j = 0; j < n_keys; j += VL) {
        vf p = v_exp(v_sub(v_load(score + j), v_set(lse)));
        vf ds = v_mul(p, v_sub(v_load(dp + j), v_set(delta)));
        v_store(score + j, v_first(visible - j, ds, v_zero()));
    }
}

static void take_key_tile(const attention *t, const attention_scratch *s, const query_block *b,
                          int64_t kv_head, int span, int64_t key)
{
    const int64_t width = t->head_dim, rows = t->group * b->n;
    const int64_t n_keys = min_of(RF_KEY_TILE, b->key_end[span] - key);
    const float *k = t->k + (key * t->g + kv_head) * width;
    const float *v = t->v + (key * t->g + kv_head) * width;
    const float *lse = s->row, *delta = s->row + t->max_rows;
    int64_t visible[RF_QUERY_BLOCK];
    bool all = true;
    for (int64_t i = 0; i < b->n; i++) {
        visible[i] = visible_keys(t->spans, b->begin + i, span, key, n_keys);
        all = all && visible[i] == n_keys;
    }
    RF_CPU(pack_panels_transposed)(s->transposed[0], k, t->g * width, n_keys, width);
    RF_CPU(pack_panels_transposed)(s->transposed[1], v, t->g * width, n_keys, width);
    bool finite = RF_CPU(pack_panels)(s->panels[0], k, t->g * width, n_keys, width);
    for (int i = 0; i < 2; i++) {
        product p = {.c = s->score[i],
                     .ldc = RF_KEY_TILE,
                     .a = i == 0 ? s->q : s->do_,
                     .lda = t->ld,
                     .b = s->transposed[i],
                     .panel_floats = width * PANEL,
                     .m = rows,
                     .n = ceil_div(n_keys, VL) * VL,
                     .k = width,
                     .mode = PRODUCT_SET};
        RF_CPU(product)(&p);
    }
    for (int64_t r = 0; r < rows; r++) {
        grad_row(s->score[0] + r * RF_KEY_TILE, s->score[1] + r * RF_KEY_TILE, lse[r], delta[r],
                 n_keys, visible[r % b->n]);
    }
    RF_CPU(attention_accumulate)
    (s->sum[0], s->score[0], s->panels[0], t, b->n, n_keys, visible, finite || all);
}

/* lse and delta of a block's rows. */
static void gather_statistics(float *lse, float *delta, const attention *t, const query_block *b,
                              int64_t kv_head)
{
    for (int64_t r = 0; r < t->group * b->n; r++) {
        int64_t at = (b->begin + r % b->n) * t->h + kv_head * t->group + r / b->n;
        lse[r] = t->lse[at];
        delta[r] = t->delta[at];
    }
}

static void query_unit(float *dq, const attention *t, const attention_scratch *s, int64_t block,
                       int64_t kv_head)
{
    const query_block b = get_block(t->spans, block);
    const int64_t width = t->head_dim, rows = t->group * b.n;
    gather_rows(s->q, t->q, t, &b, kv_head, t->scale);
    gather_rows(s->do_, t->do_, t, &b, kv_head, 1.0F);
    gather_statistics(s->row, s->row + t->max_rows, t, &b, kv_head);
    memset(s->sum[0], 0, (size_t)(rows * t->ld) * sizeof(float));
    for (int span = 0; span < 2; span++) {
        for (int64_t key = b.key[span]; key < b.key_end[span]; key += RF_KEY_TILE) {
            take_key_tile(t, s, &b, kv_head, span, key);
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = (b.begin + r % b.n) * t->h + kv_head * t->group + r / b.n;
        for (int64_t c = 0; c < width; c += VL) {
            vf x = v_mul(v_set(t->scale), v_load(s->sum[0] + r * t->ld + c));
            v_store_n(dq + at * width + c, v_add(x, v_zero()), width - c);
        }
    }
}

/* --- dk and dv ----------------------------------------------------------------------------------
 */

/* Which keys each column (query) sees, as offsets from the tile's first key: below limit[0] from
 * the span that begins at `from[0]`, and likewise [1]. Offsets are small, so f32 holds them. */
typedef struct tile_view {
    int64_t from[2];
    float *limit[2]; /* [padded rows] */
    bool all;        /* every key of the tile is seen by every query */
} tile_view;

static tile_view look(const attention *t, const attention_scratch *s, const query_block *b,
                      int64_t key, int64_t n_keys, int64_t columns)
{
    tile_view view = {.all = true};
    for (int span = 0; span < 2; span++) {
        view.from[span] = b->key[span] - key;
        view.limit[span] = s->row + (2 + span) * columns;
    }
    for (int64_t i = 0; i < b->n; i++) {
        bool whole = false;
        for (int span = 0; span < 2; span++) {
            int64_t limit = visible_keys(t->spans, b->begin + i, span, key, n_keys);
            whole = whole || (limit == n_keys && view.from[span] <= 0);
            for (int64_t hh = 0; hh < t->group; hh++) {
                view.limit[span][hh * b->n + i] = (float)limit;
            }
        }
        view.all = view.all && whole;
    }
    for (int64_t r = t->group * b->n; r < columns; r++) {
        view.limit[0][r] = view.limit[1][r] = 0.0F;
    }
    return view;
}

/* For VL columns: the offset below which key j is seen (the spans are disjoint and in order, so one
 * bound serves for both). */
V_INLINE vf bound_of(const tile_view *view, int64_t j, int64_t column)
{
    vf bound = v_set(-1.0F);
    for (int span = 0; span < 2; span++) {
        if (j >= view->from[span]) {
            bound = v_max(v_load(view->limit[span] + column), bound);
        }
    }
    return bound;
}

/* score [keys, columns] -> p, dp -> ds, both 0 where the query does not see the key. */
static void grad_columns(float *score, float *dp, const float *lse, const float *delta,
                         const tile_view *view, int64_t n_keys, int64_t columns)
{
    for (int64_t j = 0; j < n_keys; j++, score += columns, dp += columns) {
        vf offset = v_set((float)j);
        for (int64_t r = 0; r < columns; r += VL) {
            vf bound = bound_of(view, j, r);
            vf p = v_exp(v_sub(v_load(score + r), v_load(lse + r)));
            vf ds = v_mul(p, v_sub(v_load(dp + r), v_load(delta + r)));
            v_store(score + r, v_where_less(offset, bound, p, v_zero()));
            v_store(dp + r, v_where_less(offset, bound, ds, v_zero()));
        }
    }
}

/* sum[j] += weight[j][r] row[r] over the block's rows r. Where a row may hold NaN or inf, rows that
 * do not see key j are left out one by one; the bits are the same either way. */
static void accumulate_keys(float *sum, const float *weight, const float *panels, bool finite,
                            const attention *t, const attention_scratch *s, const tile_view *view,
                            int64_t n_keys, int64_t rows, int64_t columns)
{
    product p = {.c = sum,
                 .ldc = t->ld,
                 .start = sum,
                 .ld_start = t->ld,
                 .a = weight,
                 .lda = columns,
                 .b = panels,
                 .panel_floats = rows * PANEL,
                 .m = n_keys,
                 .n = t->head_dim,
                 .k = rows,
                 .mode = PRODUCT_ADD};
    if (finite || view->all) {
        RF_CPU(product)(&p);
        return;
    }
    product one = p;
    one.m = one.k = 1;
    one.c = s->spare;
    one.mode = PRODUCT_CHAIN;
    for (int64_t j = 0; j < n_keys; j++, sum += t->ld, weight += columns) {
        memset(s->spare, 0, (size_t)t->ld * sizeof(float));
        for (int64_t r = 0; r < rows; r++) {
            float bound[VL];
            v_store(bound, bound_of(view, j, r / VL * VL));
            if ((float)j < bound[r % VL]) {
                one.a = weight + r;
                one.b = panels + r * PANEL;
                RF_CPU(product)(&one);
            }
        }
        for (int64_t c = 0; c < t->ld; c += VL) {
            v_store(sum + c, v_add(v_load(sum + c), v_load(s->spare + c)));
        }
    }
}

/* All queries of one block for the keys of one tile. */
static void take_query_block(const attention *t, const attention_scratch *s, int64_t block,
                             int64_t kv_head, int64_t key, int64_t n_keys)
{
    const query_block b = get_block(t->spans, block);
    const int64_t width = t->head_dim, rows = t->group * b.n;
    const int64_t columns = ceil_div(rows, VL) * VL;
    float *lse = s->row, *delta = s->row + columns;
    gather_rows(s->q, t->q, t, &b, kv_head, t->scale);
    gather_rows(s->do_, t->do_, t, &b, kv_head, 1.0F);
    memset(s->row, 0, (size_t)(2 * columns) * sizeof(float));
    gather_statistics(lse, delta, t, &b, kv_head);
    tile_view view = look(t, s, &b, key, n_keys, columns);
    bool finite[2];
    for (int i = 0; i < 2; i++) {
        const float *left = i == 0 ? t->k : t->v, *right = i == 0 ? s->q : s->do_;
        RF_CPU(pack_panels_transposed)(s->transposed[i], right, t->ld, rows, width);
        finite[i] = RF_CPU(pack_panels)(s->panels[i], right, t->ld, rows, width);
        product p = {.c = s->score[i],
                     .ldc = columns,
                     .a = left + (key * t->g + kv_head) * width,
                     .lda = t->g * width,
                     .b = s->transposed[i],
                     .panel_floats = width * PANEL,
                     .m = n_keys,
                     .n = columns,
                     .k = width,
                     .mode = PRODUCT_SET};
        RF_CPU(product)(&p);
    }
    grad_columns(s->score[0], s->score[1], lse, delta, &view, n_keys, columns);
    accumulate_keys(s->sum[0], s->score[0], s->panels[1], finite[1], t, s, &view, n_keys, rows,
                    columns);
    accumulate_keys(s->sum[1], s->score[1], s->panels[0], finite[0], t, s, &view, n_keys, rows,
                    columns);
}

static void key_unit(float *dk, float *dv, const attention *t, const attention_scratch *s,
                     int64_t tile, int64_t kv_head)
{
    const int64_t width = t->head_dim, key = tile * RF_KEY_TILE;
    const int64_t n_keys = min_of(RF_KEY_TILE, t->spans->m - key);
    for (int i = 0; i < 2; i++) {
        memset(s->sum[i], 0, (size_t)(n_keys * t->ld) * sizeof(float));
    }
    for (int32_t at = t->spans->tile_begin[tile]; at < t->spans->tile_begin[tile + 1]; at++) {
        take_query_block(t, s, t->spans->tile_block[at], kv_head, key, n_keys);
    }
    for (int64_t j = 0; j < n_keys; j++) {
        int64_t at = ((key + j) * t->g + kv_head) * width;
        for (int64_t c = 0; c < width; c += VL) {
            v_store_n(dv + at + c, v_add(v_load(s->sum[0] + j * t->ld + c), v_zero()), width - c);
            v_store_n(dk + at + c, v_add(v_load(s->sum[1] + j * t->ld + c), v_zero()), width - c);
        }
    }
}

void RF_CPU(attention_backward)(rf_ctx *ctx, void *dq, void *dk, void *dv, void *delta,
                                const void *do_, const void *q, const void *k, const void *v,
                                const void *o, const void *lse, const rf_spans *spans, int64_t h,
                                int64_t g, int64_t head_dim)
{
    attention t = RF_CPU(attention_make)(spans, h, g, head_dim);
    t.q = q;
    t.k = k;
    t.v = v;
    t.o = o;
    t.do_ = do_;
    t.lse = lse;
    t.delta = delta;
    const int64_t query_units = spans->n_blocks * g, key_units = spans->n_tiles * g;
#pragma omp parallel num_threads(ctx->n_threads)
    {
        attention_scratch s = RF_CPU(attention_take)(ctx, &t, omp_get_thread_num());
        make_delta(delta, &t);
        /* Later queries see more keys, earlier keys are seen by more queries: longest first. */
#pragma omp for schedule(dynamic) nowait
        for (int64_t u = 0; u < query_units; u++) {
            int64_t unit = query_units - 1 - u;
            query_unit(dq, &t, &s, unit / g, unit % g);
        }
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < key_units; unit++) {
            key_unit(dk, dv, &t, &s, unit / g, unit % g);
        }
    }
}
