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

/* --- delta and dq ----------------------------------------------------------------------------- */

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

/* dp [n_keys, columns] becomes ds = p (dp - delta), 0 for keys from `limit` on (NULL: none). */
static void grad_columns(float *dp, const float *score, const float *lse, const float *delta,
                         const float *limit, int64_t n_keys, int64_t columns)
{
    for (int64_t r = 0; r < columns; r += VL) {
        const vf l = v_load(lse + r), d = v_load(delta + r);
        const vf bound = v_load((limit != NULL ? limit : lse) + r);
        for (int64_t j = 0; j < n_keys; j++) {
            float *at = dp + j * columns + r;
            vf p = v_exp(v_sub(v_load(score + j * columns + r), l));
            vf ds = v_mul(p, v_sub(v_load(at), d));
            v_store(at, limit != NULL ? v_where_less(v_set((float)j), bound, ds, v_zero()) : ds);
        }
    }
}

static void take_key_tile(const attention *t, const attention_scratch *s, const query_block *b,
                          int64_t kv_head, int span, int64_t key)
{
    const int64_t width = t->head_dim, rows = t->group * b->n;
    const int64_t columns = ceil_div(rows, VL) * VL;
    const int64_t n_keys = min_of(RF_KEY_TILE, b->key_end[span] - key);
    const int64_t at = (key * t->g + kv_head) * width;
    const float *lse = s->row, *delta = lse + columns;
    float *limit = s->row + 2 * columns;
    const tile_sight sight = RF_CPU(attention_look)(limit, t, b, span, key, n_keys, columns);
    for (int i = 0; i < 2; i++) {
        product p = {.c = s->score[i],
                     .ldc = columns,
                     .a = (i == 0 ? t->k : t->v) + at,
                     .lda = t->g * width,
                     .b = s->transposed[i],
                     .ldb = PANEL,
                     .panel_floats = width * PANEL,
                     .m = n_keys,
                     .n = columns,
                     .k = width,
                     .mode = PRODUCT_SET};
        RF_CPU(product)(&p);
    }
    grad_columns(s->score[1], s->score[0], lse, delta, sight.all ? NULL : limit, n_keys, columns);
    const tile_rows k = RF_CPU(attention_rows)(s, t, t->k + at, n_keys);
    RF_CPU(attention_accumulate)(s->sum[0], s->score[1], &k, t, b->n, n_keys, columns, &sight);
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
    const int64_t columns = ceil_div(rows, VL) * VL;
    gather_rows(s->q, t->q, t, &b, kv_head, t->scale);
    gather_rows(s->do_, t->do_, t, &b, kv_head, 1.0F);
    RF_CPU(pack_panels_transposed)(s->transposed[0], s->q, t->ld, rows, width);
    RF_CPU(pack_panels_transposed)(s->transposed[1], s->do_, t->ld, rows, width);
    memset(s->row, 0, (size_t)(2 * columns) * sizeof(float));
    gather_statistics(s->row, s->row + columns, t, &b, kv_head);
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

/* --- dk and dv -------------------------------------------------------------------------------- */

/* Which keys each row sees, as offsets from the tile's first key: below limit[0] from the span that
 * begins at `from[0]`, and likewise [1]. Offsets are small, so f32 holds them. */
typedef struct tile_view {
    int64_t from[2];
    float *limit[2]; /* [rows] */
    bool all;        /* every key of the tile is seen by every query */
} tile_view;

static tile_view look(const attention *t, float *limit, const query_block *b, int64_t key,
                      int64_t n_keys)
{
    const int64_t rows = t->group * b->n;
    tile_view view = {.all = true, .limit = {limit, limit + rows}};
    for (int span = 0; span < 2; span++) {
        view.from[span] = b->key[span] - key;
    }
    for (int64_t i = 0; i < b->n; i++) {
        bool whole = false;
        for (int span = 0; span < 2; span++) {
            int64_t seen = visible_keys(t->spans, b->begin + i, span, key, n_keys);
            whole = whole || (seen == n_keys && view.from[span] <= 0);
            for (int64_t hh = 0; hh < t->group; hh++) {
                view.limit[span][hh * b->n + i] = (float)seen;
            }
        }
        view.all = view.all && whole;
    }
    return view;
}

/* Does row r see key j? The spans are disjoint and in order, so each key has one bound. */
V_INLINE float bound_of(const tile_view *view, int64_t j, int64_t r)
{
    float first = j >= view->from[0] ? view->limit[0][r] : -1.0F;
    return j >= view->from[1] && view->limit[1][r] > first ? view->limit[1][r] : first;
}

/* score, dp [rows, RF_KEY_TILE] -> p, ds, both 0 where the row does not see the key. */
static void grad_rows(float *score, float *dp, const float *lse, const float *delta,
                      const tile_view *view, int64_t n_keys, int64_t rows)
{
    float offset[RF_KEY_TILE];
    for (int j = 0; j < RF_KEY_TILE; j++) {
        offset[j] = (float)j;
    }
    const vf none = v_set(-1.0F), zero = v_zero();
    const vf from0 = v_set((float)view->from[0]), from1 = v_set((float)view->from[1]);
    for (int64_t r = 0; r < rows; r++, score += RF_KEY_TILE, dp += RF_KEY_TILE) {
        const vf l = v_set(lse[r]), d = v_set(delta[r]);
        const vf limit0 = v_set(view->limit[0][r]), limit1 = v_set(view->limit[1][r]);
        for (int64_t j = 0; j < n_keys; j += VL) {
            vf p = v_exp(v_sub(v_load(score + j), l));
            vf ds = v_mul(p, v_sub(v_load(dp + j), d));
            if (!view->all) {
                vf x = v_load(offset + j);
                vf bound = v_max(v_where_less(x, from0, none, limit0),
                                 v_where_less(x, from1, none, limit1));
                p = v_where_less(x, bound, p, zero);
                ds = v_where_less(x, bound, ds, zero);
            }
            v_store(score + j, p);
            v_store(dp + j, ds);
        }
    }
}

/* sum[j] += weight[r][j] right[r] over the block's rows r. Where a row may hold NaN or inf, rows
 * that do not see key j are left out one by one; the bits are the same either way. */
static void accumulate_keys(float *sum, const float *weight, const float *right, const attention *t,
                            const attention_scratch *s, const tile_view *view, int64_t n_keys,
                            int64_t rows)
{
    product p = {.c = sum,
                 .ldc = t->ld,
                 .start = sum,
                 .ld_start = t->ld,
                 .a = weight,
                 .lda = RF_KEY_TILE,
                 .tile_step = 1,
                 .b = right,
                 .ldb = t->ld,
                 .panel_floats = PANEL,
                 .m = n_keys,
                 .n = t->head_dim,
                 .k = rows,
                 .mode = PRODUCT_ADD};
    if (view->all || RF_CPU(all_finite)(right, t->ld, rows, t->head_dim)) {
        RF_CPU(product)(&p);
        return;
    }
    product one = p;
    one.m = one.k = 1;
    one.c = s->spare;
    one.mode = PRODUCT_CHAIN;
    for (int64_t j = 0; j < n_keys; j++, sum += t->ld) {
        memset(s->spare, 0, (size_t)t->ld * sizeof(float));
        for (int64_t r = 0; r < rows; r++) {
            if ((float)j < bound_of(view, j, r)) {
                one.a = weight + r * RF_KEY_TILE + j;
                one.b = right + r * t->ld;
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
    float *lse = s->row, *delta = lse + rows;
    gather_rows(s->q, t->q, t, &b, kv_head, t->scale);
    gather_rows(s->do_, t->do_, t, &b, kv_head, 1.0F);
    gather_statistics(lse, delta, t, &b, kv_head);
    const tile_view view = look(t, delta + rows, &b, key, n_keys);
    for (int i = 0; i < 2; i++) {
        product p = {.c = s->score[i],
                     .ldc = RF_KEY_TILE,
                     .a = i == 0 ? s->q : s->do_,
                     .lda = t->ld,
                     .b = s->transposed[i],
                     .ldb = PANEL,
                     .panel_floats = width * PANEL,
                     .m = rows,
                     .n = ceil_div(n_keys, VL) * VL,
                     .k = width,
                     .mode = PRODUCT_SET};
        RF_CPU(product)(&p);
    }
    grad_rows(s->score[0], s->score[1], lse, delta, &view, n_keys, rows);
    accumulate_keys(s->sum[0], s->score[0], s->do_, t, s, &view, n_keys, rows);
    accumulate_keys(s->sum[1], s->score[1], s->q, t, s, &view, n_keys, rows);
}

static void key_unit(float *dk, float *dv, const attention *t, const attention_scratch *s,
                     int64_t tile, int64_t kv_head)
{
    const int64_t width = t->head_dim, key = tile * RF_KEY_TILE;
    const int64_t n_keys = min_of(RF_KEY_TILE, t->spans->m - key);
    for (int i = 0; i < 2; i++) {
        const float *own = (i == 0 ? t->k : t->v) + (key * t->g + kv_head) * width;
        RF_CPU(pack_panels_transposed)(s->transposed[i], own, t->g * width, n_keys, width);
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
