/* Attention over spans, forward (arXiv:2205.14135): a running maximum m, a running sum l of
 * exp(s - m) and a running output, rescaled when a tile of keys brings a larger score. */
#include "common/kernels/cpu/attention.h"

#include <math.h>
#include <omp.h>

attention RF_CPU(attention_make)(const rf_spans *spans, int64_t h, int64_t g, int64_t head_dim)
{
    int64_t group = g > 0 ? h / g : 0;
    return (attention){.spans = spans,
                       .h = h,
                       .g = g,
                       .head_dim = head_dim,
                       .group = group,
                       .max_rows = RF_QUERY_BLOCK * group,
                       .ld = line_floats(head_dim),
                       .scale = (float)(1.0 / sqrt((double)head_dim))};
}

/* Floats of each piece of a thread's scratch, in the order of attention_scratch. */
enum { N_PIECES = 11 };
static int64_t measure(int64_t floats[N_PIECES], const attention *t)
{
    int64_t tile_or_rows = max_of(t->max_rows, RF_KEY_TILE);
    int64_t columns = panels_of(tile_or_rows) * PANEL;
    int64_t width = panels_of(t->head_dim) * PANEL;
    const int64_t size[N_PIECES] = {t->max_rows * t->ld,
                                    t->max_rows * t->ld,
                                    tile_or_rows * t->ld,
                                    tile_or_rows * t->ld,
                                    columns * RF_KEY_TILE,
                                    columns * RF_KEY_TILE,
                                    columns * t->head_dim,
                                    columns * t->head_dim,
                                    RF_KEY_TILE * width,
                                    4 * columns,
                                    t->ld};
    int64_t total = 0;
    for (int i = 0; i < N_PIECES; i++) {
        floats[i] = line_floats(size[i]);
        total += floats[i];
    }
    return total;
}

size_t RF_CPU(attention_bytes)(int n_threads, const rf_limits *limits)
{
    int64_t floats[N_PIECES];
    attention t =
        RF_CPU(attention_make)(NULL, limits->n_heads, limits->n_kv_heads, limits->head_dim);
    return (size_t)n_threads * (size_t)measure(floats, &t) * sizeof(float);
}

attention_scratch RF_CPU(attention_take)(rf_ctx *ctx, const attention *t, int thread)
{
    int64_t floats[N_PIECES];
    int64_t total = measure(floats, t);
    RF_ASSERT((size_t)(ctx->n_threads * total) * sizeof(float) <= ctx->scratch_bytes);
    float *piece[N_PIECES];
    float *next = (float *)ctx->scratch + thread * total;
    for (int i = 0; i < N_PIECES; i++) {
        piece[i] = next;
        next += floats[i];
    }
    return (attention_scratch){.q = piece[0],
                               .do_ = piece[1],
                               .sum = {piece[2], piece[3]},
                               .score = {piece[4], piece[5]},
                               .transposed = {piece[6], piece[7]},
                               .panels = piece[8],
                               .row = piece[9],
                               .spare = piece[10]};
}

tile_rows RF_CPU(attention_rows)(const attention_scratch *s, const attention *t, const float *rows,
                                 int64_t n_keys)
{
    const int64_t ld = t->g * t->head_dim;
    if (t->head_dim % VL == 0) {
        return (tile_rows){.at = rows, .ld = ld, .panel_floats = PANEL};
    }
    RF_CPU(pack_panels)(s->panels, rows, ld, n_keys, t->head_dim);
    return (tile_rows){.at = s->panels, .ld = PANEL, .panel_floats = n_keys * PANEL};
}

tile_sight RF_CPU(attention_look)(float *limit, const attention *t, const query_block *b, int span,
                                  int64_t key, int64_t n_keys, int64_t columns)
{
    tile_sight sight = {.all = true};
    for (int64_t i = 0; i < b->n; i++) {
        sight.visible[i] = visible_keys(t->spans, b->begin + i, span, key, n_keys);
        sight.all = sight.all && sight.visible[i] == n_keys;
    }
    for (int64_t r = 0; !sight.all && r < columns; r++) {
        limit[r] = r < t->group * b->n ? (float)sight.visible[r % b->n] : 0.0F;
    }
    return sight;
}

void RF_CPU(attention_accumulate)(float *sum, const float *weight, const tile_rows *right,
                                  const attention *t, int64_t n_queries, int64_t n_keys,
                                  int64_t columns, const tile_sight *sight)
{
    int64_t rows = t->group * n_queries;
    product p = {.c = sum,
                 .ldc = t->ld,
                 .start = sum,
                 .ld_start = t->ld,
                 .a = weight,
                 .lda = columns,
                 .tile_step = 1,
                 .b = right->at,
                 .ldb = right->ld,
                 .panel_floats = right->panel_floats,
                 .m = rows,
                 .n = t->head_dim,
                 .k = n_keys,
                 .mode = PRODUCT_ADD};
    bool packed = right->panel_floats > PANEL;
    if (sight->all ||
        RF_CPU(all_finite)(right->at, right->ld, packed ? panels_of(t->head_dim) * n_keys : n_keys,
                           packed ? PANEL : t->head_dim)) {
        RF_CPU(product)(&p);
        return;
    }
    p.m = 1;
    for (int64_t r = 0; r < rows; r++) {
        p.k = sight->visible[r % n_queries];
        p.c = sum + r * t->ld;
        p.start = p.c;
        p.a = weight + r;
        RF_CPU(product)(&p);
    }
}

/* Scores [n_keys, columns] become exp(s - m), 0 for keys from `limit` on (NULL: none); m and l
 * follow, and shrink is what the outputs so far are to be multiplied by. Returns whether any is
 * not 1. */
static bool softmax_columns(float *score, float *m, float *l, float *shrink, const float *limit,
                            int64_t n_keys, int64_t columns)
{
    const vf low = v_set(-INFINITY), one = v_set(1.0F);
    vf any = v_zero();
    for (int64_t r = 0; r < columns; r += VL) {
        float *s = score + r;
        const vf before = v_load(m + r);
        vf now = before;
        if (limit != NULL) {
            const vf bound = v_load(limit + r);
            for (int64_t j = 0; j < n_keys; j++) {
                vf x = v_load(s + j * columns);
                v_store(s + j * columns, v_where_less(v_set((float)j), bound, x, low));
            }
        }
        for (int64_t j = 0; j < n_keys; j++) {
            now = v_max(v_load(s + j * columns), now);
        }
        /* A row without keys yet: all of it is exp(-inf). */
        const vf base = v_where_less(low, now, now, v_zero());
        vf total = v_zero();
        for (int64_t j = 0; j < n_keys; j++) {
            vf e = v_exp(v_sub(v_load(s + j * columns), base));
            v_store(s + j * columns, e);
            total = v_add(total, e);
        }
        vf factor = v_where_less(before, now, v_exp(v_sub(before, base)), one);
        v_store(shrink + r, factor);
        any = v_where_less(before, now, one, any);
        v_store(m + r, now);
        v_store(l + r, v_fma(v_load(l + r), factor, total));
    }
    return v_largest(any) > 0.0F;
}

/* All keys of one tile for all rows of a block. */
static void take_tile(const attention *t, const attention_scratch *s, const query_block *b,
                      int64_t kv_head, int span, int64_t key)
{
    const int64_t width = t->head_dim, rows = t->group * b->n;
    const int64_t columns = ceil_div(rows, VL) * VL;
    const int64_t n_keys = min_of(RF_KEY_TILE, b->key_end[span] - key);
    const int64_t at = (key * t->g + kv_head) * width;
    float *m = s->row, *l = m + columns, *shrink = l + columns, *limit = shrink + columns;
    const tile_sight sight = RF_CPU(attention_look)(limit, t, b, span, key, n_keys, columns);
    product p = {.c = s->score[0],
                 .ldc = columns,
                 .a = t->k + at,
                 .lda = t->g * width,
                 .b = s->transposed[0],
                 .ldb = PANEL,
                 .panel_floats = width * PANEL,
                 .m = n_keys,
                 .n = columns,
                 .k = width,
                 .mode = PRODUCT_SET};
    RF_CPU(product)(&p);
    bool grew =
        softmax_columns(s->score[0], m, l, shrink, sight.all ? NULL : limit, n_keys, columns);
    for (int64_t r = 0; grew && r < rows; r++) {
        float *sum = s->sum[0] + r * t->ld;
        for (int64_t c = 0; c < t->ld && shrink[r] != 1.0F; c += VL) {
            v_store(sum + c, v_mul(v_set(shrink[r]), v_load(sum + c)));
        }
    }
    const tile_rows v = RF_CPU(attention_rows)(s, t, t->v + at, n_keys);
    RF_CPU(attention_accumulate)(s->sum[0], s->score[0], &v, t, b->n, n_keys, columns, &sight);
}

static void forward_unit(float *o, float *lse, const attention *t, const attention_scratch *s,
                         int64_t block, int64_t kv_head)
{
    const query_block b = get_block(t->spans, block);
    const int64_t width = t->head_dim, rows = t->group * b.n;
    const int64_t columns = ceil_div(rows, VL) * VL;
    float *m = s->row, *l = m + columns;
    gather_rows(s->q, t->q, t, &b, kv_head, t->scale);
    RF_CPU(pack_panels_transposed)(s->transposed[0], s->q, t->ld, rows, width);
    memset(s->sum[0], 0, (size_t)(rows * t->ld) * sizeof(float));
    for (int64_t r = 0; r < columns; r++) {
        m[r] = -INFINITY;
        l[r] = 0.0F;
    }
    for (int span = 0; span < 2; span++) {
        for (int64_t key = b.key[span]; key < b.key_end[span]; key += RF_KEY_TILE) {
            take_tile(t, s, &b, kv_head, span, key);
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = (b.begin + r % b.n) * t->h + kv_head * t->group + r / b.n;
        bool empty = m[r] == -INFINITY && l[r] == 0.0F;
        vf share_of = v_set(empty ? 0.0F : 1.0F / l[r]);
        lse[at] = empty ? -INFINITY : m[r] + logf(l[r]);
        for (int64_t c = 0; c < width; c += VL) {
            /* + 0: a tile without visible keys may have turned -0 into +0, or not been there. */
            vf x = v_add(v_mul(share_of, v_load(s->sum[0] + r * t->ld + c)), v_zero());
            v_store_n(o + at * width + c, x, width - c);
        }
    }
}

void RF_CPU(attention_forward)(rf_ctx *ctx, void *o, void *lse, const void *q, const void *k,
                               const void *v, const rf_spans *spans, int64_t h, int64_t g,
                               int64_t head_dim)
{
    attention t = RF_CPU(attention_make)(spans, h, g, head_dim);
    t.q = q;
    t.k = k;
    t.v = v;
    const int64_t units = spans->n_blocks * g;
#pragma omp parallel num_threads(ctx->n_threads)
    {
        attention_scratch s = RF_CPU(attention_take)(ctx, &t, omp_get_thread_num());
        /* Later blocks see more keys: begin with them. */
#pragma omp for schedule(dynamic)
        for (int64_t u = 0; u < units; u++) {
            int64_t unit = units - 1 - u;
            forward_unit(o, lse, &t, &s, unit / g, unit % g);
        }
    }
}
