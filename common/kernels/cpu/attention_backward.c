/* Attention over spans, backward. With s_ij = scale q_i.k_j, p_ij = exp(s_ij - lse_i) and
 * delta_i = do_i.o_i:
 *   dv_j = sum_i p_ij do_i                      dp_ij = do_i.v_j
 *   ds_ij = p_ij (dp_ij - delta_i)              (softmax; sum_j p_ij dp_ij = delta_i)
 *   dq_i = scale sum_j ds_ij k_j                dk_j = scale sum_i ds_ij q_i
 *
 * A unit of work is a chunk of keys and one key/value head: it makes p and dp of every block of
 * queries that sees the chunk once, and from them its own dk and dv as well as its share of dq.
 * dq_i is one chain of fma over i's keys, ascending, that goes from chunk to chunk through memory:
 * how keys are cut into chunks does not show in it. Units begin in ascending order and take blocks
 * from the last down, so that the unit of the next chunk follows one block behind; `done` counts
 * the chunks that have added to a block. A unit waits for units that began before it only. */
#include "common/kernels/cpu/attention.h"

#include <omp.h>
#include <sched.h>

enum {
    CHUNK_TILES = 4, /* with all that belongs to it, a chunk stays in the L2 cache */
    CHUNK = CHUNK_TILES * RF_KEY_TILE,
    LD_P = RF_KEY_TILE + 16, /* not powers of two: rows fall into different sets of the L1 cache */
    LD_DS = CHUNK + 16,
    /* Products begin at a multiple of GRAIN of a tile's keys: whole panels, or vectors of one. */
    GRAIN = (int)PANEL < (int)RF_KEY_TILE ? PANEL : VL
};
_Static_assert((int)RF_KEY_TILE % (int)PANEL == 0, "a tile of keys is whole panels");

/* A thread's scratch. */
typedef struct workspace {
    float *q, *do_, *dq; /* [max_rows, ld] a block's rows; q in units of scores / ln 2 */
    float *p;            /* [max_rows, LD_P] of one tile */
    float *ds;           /* [max_rows, LD_DS] of a chunk */
    float *k;            /* [CHUNK, ld] scale k */
    float *k_columns;    /* panels of k^T and v^T, tile by tile: [K, RF_KEY_TILE] each */
    float *v_columns;    /*  */
    float *dk, *dv;      /* [CHUNK, ld] */
    float *lse, *delta;  /* [max_rows] lse in units of ln 2 */
    float *limit[2];     /* [max_rows] */
    float *spare;        /* [ld] */
} workspace;

/* Floats of a thread's scratch; binds it where base is not NULL. */
static int64_t bind(workspace *w, float *base, const attention *t)
{
    const int64_t rows = RF_QUERY_BLOCK * t->group, chunk = CHUNK * t->ld;
    const int64_t columns = CHUNK * t->head_dim;
    const int64_t size[] = {rows * t->ld, rows * t->ld, rows * t->ld, rows * LD_P, rows * LD_DS,
                            chunk,        columns,      columns,      chunk,       chunk,
                            rows,         rows,         rows,         rows,        t->ld};
    enum { N_PIECES = sizeof(size) / sizeof(size[0]) };
    float *piece[N_PIECES] = {NULL};
    int64_t total = cut(piece, base, size, N_PIECES);
    *w = (workspace){.q = piece[0],
                     .do_ = piece[1],
                     .dq = piece[2],
                     .p = piece[3],
                     .ds = piece[4],
                     .k = piece[5],
                     .k_columns = piece[6],
                     .v_columns = piece[7],
                     .dk = piece[8],
                     .dv = piece[9],
                     .lse = piece[10],
                     .delta = piece[11],
                     .limit = {piece[12], piece[13]},
                     .spare = piece[14]};
    return total;
}

size_t RF_CPU(attention_backward_bytes)(int n_threads, const rf_limits *limits)
{
    workspace w;
    attention t = make_attention(NULL, limits->n_heads, limits->n_kv_heads, limits->head_dim);
    return (size_t)(n_threads * bind(&w, NULL, &t)) * sizeof(float) +
           (size_t)(limits->places * limits->n_kv_heads) * sizeof(int32_t);
}

/* --- The order in which chunks add to dq --------------------------------------------------------
 */

/* How many chunks before `chunk` block b sees. */
static int32_t chunks_before(const query_block *b, int64_t chunk)
{
    int64_t n = 0, next = 0;
    for (int span = 0; span < 2; span++) {
        if (b->key[span] < b->key_end[span]) {
            int64_t first = max_of(b->key[span] / CHUNK, next);
            next = max_of(next, (b->key_end[span] - 1) / CHUNK + 1);
            n += max_of(0, min_of(next, chunk) - first);
        }
    }
    return (int32_t)n;
}

static void wait_for(const int32_t *done, int32_t n)
{
    enum { PATIENCE = 1000 }; /* then the thread that is waited for may need this processor */
    for (int turn = 0; __atomic_load_n(done, __ATOMIC_ACQUIRE) < n; turn++) {
        if (turn >= PATIENCE) {
            sched_yield();
        } else {
            v_relax();
        }
    }
}

/* --- A tile of keys and a block of queries -----------------------------------------------------
 */

/* What of a tile the rows of a block see, as offsets from the tile's first key: [begin, end), begin
 * a multiple of GRAIN, holds all that any row sees. Row r sees, of these, those below limit[0][r]
 * from from[0] on, and likewise [1]. Offsets are small, so f32 holds them. */
typedef struct tile_view {
    int64_t begin, end;
    int64_t from[2];
    const float *limit[2]; /* [rows] */
    bool all;              /* every row sees all of [begin, end) */
} tile_view;

/* False where no row sees any key of the tile [key, key + n_keys). */
static bool look(tile_view *view, const attention *t, const workspace *w, const query_block *b,
                 int64_t key, int64_t n_keys)
{
    *view = (tile_view){.begin = n_keys, .all = true, .limit = {w->limit[0], w->limit[1]}};
    for (int span = 0; span < 2; span++) {
        int64_t first = max_of(b->key[span] - key, 0);
        int64_t last = min_of(b->key_end[span] - key, n_keys);
        view->from[span] = b->key[span] - key;
        if (first < last) {
            view->begin = min_of(view->begin, first / GRAIN * GRAIN);
            view->end = last;
        }
    }
    if (view->begin >= view->end) {
        return false;
    }
    for (int64_t i = 0; i < b->n; i++) {
        bool whole = false;
        for (int span = 0; span < 2; span++) {
            int64_t seen = visible_keys(t->spans, b->begin + i, span, key, n_keys);
            whole = whole || (seen >= view->end && view->from[span] <= view->begin);
            for (int64_t hh = 0; hh < t->group; hh++) {
                w->limit[span][hh * b->n + i] = (float)seen;
            }
        }
        view->all = view->all && whole;
    }
    return true;
}

/* Does row r see key j? The spans are disjoint and in order, so each key has one bound. */
V_INLINE float bound_of(const tile_view *view, int64_t j, int64_t r)
{
    float first = j >= view->from[0] ? view->limit[0][r] : -1.0F;
    return j >= view->from[1] && view->limit[1][r] > first ? view->limit[1][r] : first;
}

/* score -> p and dp -> ds, both 0 where the row does not see the key. */
static void grad_rows(const workspace *w, float *ds, const tile_view *view, int64_t rows)
{
    float offset[RF_KEY_TILE];
    for (int j = 0; j < RF_KEY_TILE; j++) {
        offset[j] = (float)j;
    }
    const vf none = v_set(-1.0F), zero = v_zero();
    const vf from0 = v_set((float)view->from[0]), from1 = v_set((float)view->from[1]);
    float *score = w->p;
    for (int64_t r = 0; r < rows; r++, score += LD_P, ds += LD_DS) {
        const vf l = v_set(w->lse[r]), d = v_set(w->delta[r]);
        const vf limit0 = v_set(view->limit[0][r]), limit1 = v_set(view->limit[1][r]);
        for (int64_t j = view->begin; j < view->end; j += VL) {
            vf p = v_exp2(v_sub(v_load(score + j), l));
            vf x = v_mul(p, v_sub(v_load(ds + j), d));
            if (!view->all) {
                vf at = v_load(offset + j);
                vf bound = v_max(v_where_less(at, from0, none, limit0),
                                 v_where_less(at, from1, none, limit1));
                p = v_where_less(at, bound, p, zero);
                x = v_where_less(at, bound, x, zero);
            }
            v_store(score + j, p);
            v_store(ds + j, x);
        }
    }
}

/* sum[j] += weight[r][j] right[r] over the block's rows r. Where a row may hold NaN or inf, rows
 * that do not see key j are left out one by one; the bits are the same either way. */
static void accumulate_keys(float *sum, const float *weight, int64_t ld_weight, const float *right,
                            const attention *t, const workspace *w, const tile_view *view,
                            int64_t rows)
{
    product p = {.c = sum + view->begin * t->ld,
                 .ldc = t->ld,
                 .start = sum + view->begin * t->ld,
                 .ld_start = t->ld,
                 .a = weight + view->begin,
                 .lda = ld_weight,
                 .tile_step = 1,
                 .b = right,
                 .ldb = t->ld,
                 .panel_floats = PANEL,
                 .m = view->end - view->begin,
                 .n = t->head_dim,
                 .k = rows,
                 .mode = PRODUCT_ADD};
    if (view->all || RF_CPU(all_finite)(right, t->ld, rows, t->head_dim)) {
        RF_CPU(product)(&p);
        return;
    }
    product one = p;
    one.m = one.k = 1;
    one.c = w->spare;
    one.mode = PRODUCT_CHAIN;
    for (int64_t j = view->begin; j < view->end; j++) {
        memset(w->spare, 0, (size_t)t->ld * sizeof(float));
        for (int64_t r = 0; r < rows; r++) {
            if ((float)j < bound_of(view, j, r)) {
                one.a = weight + r * ld_weight + j;
                one.b = right + r * t->ld;
                RF_CPU(product)(&one);
            }
        }
        for (int64_t c = 0; c < t->ld; c += VL) {
            v_store(sum + j * t->ld + c, v_add(v_load(sum + j * t->ld + c), v_load(w->spare + c)));
        }
    }
}

/* --- A chunk of keys ---------------------------------------------------------------------------
 */

typedef struct key_chunk {
    int64_t index, key, n_keys, kv_head;
    bool finite; /* all of k */
} key_chunk;

/* Consecutive keys of the chunk, as offsets from its first, and whether all rows see them all. */
typedef struct key_run {
    int64_t begin, end;
    bool all;
} key_run;

/* dq += ds k over a run of keys. Where k may hold NaN or inf, each row takes its own keys only; the
 * bits are the same either way. */
static void accumulate_queries(const attention *t, const workspace *w, const query_block *b,
                               const key_chunk *chunk, const key_run *run)
{
    const int64_t rows = t->group * b->n;
    product p = {.c = w->dq,
                 .ldc = t->ld,
                 .a = w->ds + run->begin,
                 .lda = LD_DS,
                 .b = w->k + run->begin * t->ld,
                 .ldb = t->ld,
                 .panel_floats = PANEL,
                 .m = rows,
                 .n = t->head_dim,
                 .k = run->end - run->begin,
                 .mode = PRODUCT_CHAIN};
    if (run->all || chunk->finite) {
        RF_CPU(product)(&p);
        return;
    }
    p.m = 1;
    for (int64_t r = 0; r < rows; r++) {
        for (int span = 0; span < 2; span++) {
            int64_t end = t->spans->span[4 * (b->begin + r % b->n) + 2 * span + 1] - chunk->key;
            int64_t begin = max_of(b->key[span] - chunk->key, run->begin);
            p.c = w->dq + r * t->ld;
            p.a = w->ds + r * LD_DS + begin;
            p.b = w->k + begin * t->ld;
            p.k = min_of(end, run->end) - begin;
            if (p.k > 0) {
                RF_CPU(product)(&p);
            }
        }
    }
}

/* lse and delta of a block's rows. */
static void gather_statistics(const workspace *w, const attention *t, const query_block *b,
                              int64_t kv_head)
{
    for (int64_t r = 0; r < t->group * b->n; r++) {
        int64_t at = (b->begin + r % b->n) * t->h + kv_head * t->group + r / b->n;
        w->lse[r] = t->lse[at] * log2_e;
        w->delta[r] = t->delta[at];
    }
}

/* p and ds of one tile, and what follows from them for its keys. */
static void take_tile(const attention *t, const workspace *w, const tile_view *view, int64_t tile,
                      int64_t rows)
{
    const int64_t at = tile * RF_KEY_TILE, from = at * t->head_dim +
                                                  view->begin / PANEL * PANEL * t->head_dim +
                                                  view->begin % PANEL;
    float *ds = w->ds + at;
    product p = {.c = w->p + view->begin,
                 .ldc = LD_P,
                 .a = w->q,
                 .lda = t->ld,
                 .b = w->k_columns + from,
                 .ldb = PANEL,
                 .panel_floats = t->head_dim * PANEL,
                 .m = rows,
                 .n = ceil_div(view->end - view->begin, VL) * VL,
                 .k = t->head_dim,
                 .mode = PRODUCT_SET};
    RF_CPU(product)(&p);
    p.c = ds + view->begin;
    p.ldc = LD_DS;
    p.a = w->do_;
    p.b = w->v_columns + from;
    RF_CPU(product)(&p);
    grad_rows(w, ds, view, rows);
    accumulate_keys(w->dv + at * t->ld, w->p, LD_P, w->do_, t, w, view, rows);
    accumulate_keys(w->dk + at * t->ld, ds, LD_DS, w->q, t, w, view, rows);
}

/* All queries of one block for the keys of one chunk. */
static void take_block(float *dq, int32_t *done, const attention *t, const workspace *w,
                       const query_block *b, const key_chunk *chunk)
{
    const int64_t rows = t->group * b->n, width = t->head_dim;
    key_run run[CHUNK_TILES];
    int n_runs = 0;
    gather_rows(w->q, t->q, t, b, chunk->kv_head, t->scale * log2_e);
    gather_rows(w->do_, t->do_, t, b, chunk->kv_head, 1.0F);
    gather_statistics(w, t, b, chunk->kv_head);
    for (int64_t at = 0; at < chunk->n_keys; at += RF_KEY_TILE) {
        tile_view view;
        if (!look(&view, t, w, b, chunk->key + at, min_of(RF_KEY_TILE, chunk->n_keys - at))) {
            continue;
        }
        take_tile(t, w, &view, at / RF_KEY_TILE, rows);
        if (n_runs > 0 && run[n_runs - 1].end == at + view.begin) {
            run[n_runs - 1].end = at + view.end;
            run[n_runs - 1].all = run[n_runs - 1].all && view.all;
        } else {
            run[n_runs++] = (key_run){at + view.begin, at + view.end, view.all};
        }
    }
    const int32_t turn = chunks_before(b, chunk->index);
    wait_for(done, turn);
    if (turn > 0) {
        gather_rows(w->dq, dq, t, b, chunk->kv_head, 1.0F);
    } else {
        memset(w->dq, 0, (size_t)(rows * t->ld) * sizeof(float));
    }
    for (int i = 0; i < n_runs; i++) {
        accumulate_queries(t, w, b, chunk, &run[i]);
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = (b->begin + r % b->n) * t->h + chunk->kv_head * t->group + r / b->n;
        for (int64_t c = 0; c < width; c += VL) { /* + 0: see the end of forward_unit */
            v_store_n(dq + at * width + c, v_add(v_load(w->dq + r * t->ld + c), v_zero()),
                      width - c);
        }
    }
    __atomic_store_n(done, turn + 1, __ATOMIC_RELEASE);
}

static void pack_chunk(const attention *t, const workspace *w, key_chunk *chunk)
{
    const int64_t width = t->head_dim, ld = t->g * width;
    const int64_t begin = (chunk->key * t->g + chunk->kv_head) * width;
    for (int64_t at = 0; at < chunk->n_keys; at += RF_KEY_TILE) {
        const int64_t n_keys = min_of(RF_KEY_TILE, chunk->n_keys - at), from = begin + at * ld;
        RF_CPU(pack_panels_transposed)(w->k_columns + at * width, t->k + from, ld, n_keys, width);
        RF_CPU(pack_panels_transposed)(w->v_columns + at * width, t->v + from, ld, n_keys, width);
    }
    copy_rows(w->k, t->ld, t->k + begin, ld, t->scale, chunk->n_keys, width);
    chunk->finite = RF_CPU(all_finite)(w->k, t->ld, chunk->n_keys, width);
    memset(w->dk, 0, (size_t)(chunk->n_keys * t->ld) * sizeof(float));
    memset(w->dv, 0, (size_t)(chunk->n_keys * t->ld) * sizeof(float));
}

static void chunk_unit(float *dq, float *dk, float *dv, int32_t *done, const attention *t,
                       const workspace *w, int64_t index, int64_t kv_head)
{
    const rf_spans *spans = t->spans;
    const int64_t width = t->head_dim;
    key_chunk chunk = {.index = index, .key = index * CHUNK, .kv_head = kv_head};
    chunk.n_keys = min_of(CHUNK, spans->m - chunk.key);
    pack_chunk(t, w, &chunk);
    int64_t first = spans->n_blocks, last = -1;
    for (int64_t tile = index * CHUNK_TILES;
         tile < min_of((index + 1) * CHUNK_TILES, spans->n_tiles); tile++) {
        int32_t begin = spans->tile_begin[tile], end = spans->tile_begin[tile + 1];
        if (begin < end) {
            first = min_of(first, spans->tile_block[begin]);
            last = max_of(last, spans->tile_block[end - 1]);
        }
    }
    for (int64_t i = last; i >= first; i--) {
        const query_block b = get_block(spans, i);
        if (chunks_before(&b, index + 1) > chunks_before(&b, index)) {
            take_block(dq, done + i * t->g + kv_head, t, w, &b, &chunk);
        }
    }
    for (int64_t j = 0; j < chunk.n_keys; j++) {
        int64_t at = ((chunk.key + j) * t->g + kv_head) * width;
        for (int64_t c = 0; c < width; c += VL) { /* the queries held a factor of 1/ln 2 */
            vf x = v_mul(v_set(ln_2), v_load(w->dk + j * t->ld + c));
            v_store_n(dk + at + c, v_add(x, v_zero()), width - c);
            v_store_n(dv + at + c, v_add(v_load(w->dv + j * t->ld + c), v_zero()), width - c);
        }
    }
}

/* --- The whole ---------------------------------------------------------------------------------
 */

/* delta; dq of queries without keys; no chunk has added to any block. */
static void prepare(float *dq, float *delta, int32_t *done, const attention *t)
{
    const int64_t width = t->head_dim;
#pragma omp for schedule(static)
    for (int64_t block = 0; block < t->spans->n_blocks; block++) {
        const query_block b = get_block(t->spans, block);
        const bool empty = b.key[0] >= b.key_end[0] && b.key[1] >= b.key_end[1];
        for (int64_t i = b.begin * t->h; i < (b.begin + b.n) * t->h; i++) {
            vf sum = v_zero();
            for (int64_t c = 0; c < width; c += VL) {
                sum = v_fma(v_load_n(t->do_ + i * width + c, width - c),
                            v_load_n(t->o + i * width + c, width - c), sum);
            }
            delta[i] = v_sum(sum);
            for (int64_t c = 0; empty && c < width; c++) {
                dq[i * width + c] = 0.0F;
            }
        }
        memset(done + block * t->g, 0, (size_t)t->g * sizeof(int32_t));
    }
}

void RF_CPU(attention_backward)(rf_ctx *ctx, void *dq, void *dk, void *dv, void *delta,
                                const void *do_, const void *q, const void *k, const void *v,
                                const void *o, const void *lse, const rf_spans *spans, int64_t h,
                                int64_t g, int64_t head_dim)
{
    attention t = make_attention(spans, h, g, head_dim);
    t.q = q;
    t.k = k;
    t.v = v;
    t.o = o;
    t.do_ = do_;
    t.lse = lse;
    t.delta = delta;
    workspace w;
    const int64_t floats = bind(&w, NULL, &t);
    int32_t *done = (int32_t *)ctx->scratch + ctx->n_threads * floats;
    RF_ASSERT((size_t)((char *)(done + spans->n_blocks * g) - (char *)ctx->scratch) <=
              ctx->scratch_bytes);
    const int64_t units = ceil_div(spans->m, CHUNK) * g;
    int64_t next = 0;
#pragma omp parallel num_threads(ctx->n_threads) private(w)
    {
        bind(&w, (float *)ctx->scratch + omp_get_thread_num() * floats, &t);
        prepare(dq, delta, done, &t);
        /* Not `omp for`: units must begin in ascending order. */
        for (int64_t u; (u = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < units;) {
            chunk_unit(dq, dk, dv, done, &t, &w, u / g, u % g);
        }
    }
}
