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
enum { N_PIECES = 12 };
static int64_t measure(int64_t floats[N_PIECES], const attention *t)
{
    int64_t tile_or_rows = max_of(t->max_rows, RF_KEY_TILE);
    int64_t columns = panels_of(tile_or_rows) * PANEL;
    int64_t width = panels_of(t->head_dim) * PANEL;
    const int64_t size[N_PIECES] = {
        t->max_rows * t->ld,   t->max_rows * t->ld,   tile_or_rows * t->ld,  tile_or_rows * t->ld,
        columns * RF_KEY_TILE, columns * RF_KEY_TILE, columns * t->head_dim, columns * t->head_dim,
        tile_or_rows * width,  tile_or_rows * width,  4 * columns,           t->ld};
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
                               .panels = {piece[8], piece[9]},
                               .row = piece[10],
                               .spare = piece[11]};
}

void RF_CPU(attention_accumulate)(float *sum, const float *score, const float *panels,
                                  const attention *t, int64_t n_queries, int64_t n_keys,
                                  const int64_t *visible, bool finite)
{
    int64_t rows = t->group * n_queries;
    product p = {.c = sum,
                 .ldc = t->ld,
                 .start = sum,
                 .ld_start = t->ld,
                 .a = score,
                 .lda = RF_KEY_TILE,
                 .b = panels,
                 .panel_floats = n_keys * PANEL,
                 .m = rows,
                 .n = t->head_dim,
                 .k = n_keys,
                 .mode = PRODUCT_ADD};
    if (finite) {
        RF_CPU(product)(&p);
        return;
    }
    p.m = 1;
    for (int64_t r = 0; r < rows; r++) {
        p.k = visible[r % n_queries];
        p.c = sum + r * t->ld;
        p.start = p.c;
        p.a = score + r * RF_KEY_TILE;
        RF_CPU(product)(&p);
    }
}

/* One row of scores becomes exp(s - m), 0 for keys beyond `visible`; m, l and the row's output so
 * far follow the new maximum. */
static void softmax_row(float *score, float *m, float *l, float *out, int64_t n_keys,
                        int64_t visible, int64_t width)
{
    const vf low = v_set(-INFINITY);
    vf top = low;
    for (int64_t j = 0; j < n_keys; j += VL) {
        vf s = v_first(visible - j, v_load(score + j), low);
        v_store(score + j, s);
        top = v_max(s, top);
    }
    float before = *m, now = fmaxf(before, v_largest(top));
    float base = now == -INFINITY ? 0.0F : now; /* a row without keys yet: all of it is exp(-inf) */
    vf total = v_zero();
    for (int64_t j = 0; j < n_keys; j += VL) {
        vf e = v_exp(v_sub(v_load(score + j), v_set(base)));
        v_store(score + j, e);
        total = v_add(total, e);
    }
    if (now > before && before != -INFINITY) {
        float shrink[VL];
        v_store(shrink, v_exp(v_set(before - base)));
        *l *= shrink[0];
        for (int64_t c = 0; c < width; c += VL) {
            v_store_n(out + c, v_mul(v_set(shrink[0]), v_load_n(out + c, width - c)), width - c);
        }
    }
    *m = now;
    *l += v_sum(total);
}

/* All keys of one tile for all rows of a block. */
static void take_tile(const attention *t, const attention_scratch *s, const query_block *b,
                      int64_t kv_head, int span, int64_t key)
{
    const int64_t width = t->head_dim, rows = t->group * b->n;
    const int64_t n_keys = min_of(RF_KEY_TILE, b->key_end[span] - key);
    const float *k = t->k + (key * t->g + kv_head) * width;
    const float *v = t->v + (key * t->g + kv_head) * width;
    float *m = s->row, *l = s->row + t->max_rows;
    int64_t visible[RF_QUERY_BLOCK];
    bool all = true;
    for (int64_t i = 0; i < b->n; i++) {
        visible[i] = visible_keys(t->spans, b->begin + i, span, key, n_keys);
        all = all && visible[i] == n_keys;
    }
    RF_CPU(pack_panels_transposed)(s->transposed[0], k, t->g * width, n_keys, width);
    bool finite = RF_CPU(pack_panels)(s->panels[0], v, t->g * width, n_keys, width);
    product p = {.c = s->score[0],
                 .ldc = RF_KEY_TILE,
                 .a = s->q,
                 .lda = t->ld,
                 .b = s->transposed[0],
                 .panel_floats = width * PANEL,
                 .m = rows,
                 .n = ceil_div(n_keys, VL) * VL,
                 .k = width,
                 .mode = PRODUCT_SET};
    RF_CPU(product)(&p);
    for (int64_t r = 0; r < rows; r++) {
        softmax_row(s->score[0] + r * RF_KEY_TILE, m + r, l + r, s->sum[0] + r * t->ld, n_keys,
                    visible[r % b->n], width);
    }
    RF_CPU(attention_accumulate)
    (s->sum[0], s->score[0], s->panels[0], t, b->n, n_keys, visible, finite || all);
}

static void forward_unit(float *o, float *lse, const attention *t, const attention_scratch *s,
                         int64_t block, int64_t kv_head)
{
    const query_block b = get_block(t->spans, block);
    const int64_t width = t->head_dim, rows = t->group * b.n;
    float *m = s->row, *l = s->row + t->max_rows;
    gather_rows(s->q, t->q, t, &b, kv_head, t->scale);
    memset(s->sum[0], 0, (size_t)(rows * t->ld) * sizeof(float));
    for (int64_t r = 0; r < rows; r++) {
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
