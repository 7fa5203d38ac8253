/* Attention over spans, forward (arXiv:2205.14135): for each row a running maximum m of the scores,
 * a running sum l of 2^(unit (s - m)) and a running output, both multiplied by a factor (`shrink`)
 * where a tile of keys brings a larger score.
 *
 * A unit of work is one key/value head and a few neighbouring query runs, of which those whose
 * spans begin alike are taken together. Tiles of keys begin at the span's begin, so a row's
 * arithmetic depends on its own spans only, and it does not show how many runs are taken together.
 * The queries are transposed once for all tiles, so that scores stand as [keys, rows]: a vector
 * holds one key's scores of several rows, and maxima and sums need no step across its lanes. */
#include "common/kernels/cpu/attention.h"

#include <omp.h>

/* About as many rows as runs are taken together for, so that a key or value, once read from far
 * (with bf16: and packed), serves many rows. */
enum { UNIT_ROWS = 128, UNIT_ROWS_BF16 = 256, MAX_QUERIES = UNIT_ROWS_BF16 };
enum { TILE_CELLS = RF_KEY_TILE / 2, WIDEST = (int)BF16_PANEL > (int)PANEL ? BF16_PANEL : PANEL };
_Static_assert((int)TILE_CELLS % (int)BF16_CELLS == 0, "a tile of keys is whole steps");

/* A thread's scratch. columns: the rows, in whole panels. */
typedef struct workspace {
    float *q;       /* [rows, ld] queries */
    float *columns; /* panels of their transpose: [K, columns] */
    float *score;   /* [RF_KEY_TILE, columns] */
    float *sum;     /* outputs so far: [rows, ld]; bf16: [K, columns] */
    float *v;       /* [RF_KEY_TILE, ld] values of a tile */
    float *m, *l;   /* [columns] */
    float *shrink;  /* [columns] what the outputs so far are to be multiplied by */
    float *limit;   /* [columns] how many keys of a tile each row sees */
    /* bf16 only: operands in cells */
    float *k_cells; /* [RF_KEY_TILE, cells_ld(K)] keys of a tile */
    float *v_cells; /* [K in whole BF16_ROWS, TILE_CELLS] transposed values of a tile */
    float *p_cells; /* panels of p: [TILE_CELLS, columns] */
} workspace;

/* Of how many runs a unit consists. */
static int64_t runs_of_unit(const attention *t)
{
    return max_of(1, (t->bf16 ? UNIT_ROWS_BF16 : UNIT_ROWS) / max_of(1, RF_RUN_QUERIES * t->group));
}

static void lay_out(workspace *w, rf_arena *arena, const attention *t)
{
    const int64_t rows = runs_of_unit(t) * RF_RUN_QUERIES * t->group, width = t->head_dim;
    const int64_t columns = round_up(rows, WIDEST), tile = RF_KEY_TILE;
    w->q = take_floats(arena, rows * t->ld);
    w->columns = take_floats(arena, columns * (t->bf16 ? max_of(width, bf16_cells(width)) : width));
    w->score = take_floats(arena, tile * columns);
    w->sum = take_floats(arena, t->bf16 ? width * columns : rows * t->ld);
    w->v = take_floats(arena, tile * t->ld);
    w->m = take_floats(arena, columns);
    w->l = take_floats(arena, columns);
    w->shrink = take_floats(arena, columns);
    w->limit = take_floats(arena, columns);
    if (t->bf16) {
        w->k_cells = take_floats(arena, tile * cells_ld(width));
        w->v_cells = take_floats(arena, round_up(width, BF16_ROWS) * TILE_CELLS);
        w->p_cells = take_floats(arena, TILE_CELLS * columns);
    }
}

static size_t thread_bytes(const attention *t)
{
    workspace w;
    rf_arena measure = {0};
    lay_out(&w, &measure, t);
    return measure.used;
}

/* Rows in whole vectors, or in whole panels with AMX. */
static int64_t columns_of(const attention *t, int64_t rows)
{
    return round_up(rows, t->bf16 && (int)BF16_PANEL < (int)PANEL ? (int)BF16_PANEL : VL);
}

size_t RF_CPU(attention_bytes)(int n_threads, const rf_limits *limits)
{
    attention t =
        make_attention(limits, NULL, limits->n_heads, limits->n_kv_heads, limits->head_dim);
    return (size_t)n_threads * thread_bytes(&t);
}

/* --- A tile of keys --------------------------------------------------------------------------- */

/* Query i sees the first visible[i] keys of a tile. */
typedef struct tile_sight {
    int64_t visible[MAX_QUERIES];
    bool all; /* every query sees every key */
} tile_sight;

static void look(tile_sight *sight, const attention *t, const workspace *w, const query_run *run,
                 int span, int64_t key, int64_t n_keys)
{
    sight->all = true;
    for (int64_t i = 0; i < run->n; i++) {
        sight->visible[i] = visible_keys(t->spans, run->begin + i, span, key, n_keys);
        sight->all = sight->all && sight->visible[i] == n_keys;
    }
    for (int64_t hh = 0; !sight->all && hh < t->group; hh++) {
        for (int64_t i = 0; i < run->n; i++) {
            w->limit[hh * run->n + i] = (float)sight->visible[i];
        }
    }
}

/* The scores of row r become -inf from key limit[r] on. */
static void hide(float *score, const float *limit, int64_t n_keys, int64_t columns)
{
    const vf low = v_set(-INFINITY);
    for (int64_t j = 0; j < n_keys; j++) {
        const vf at = v_set((float)j);
        for (int64_t r = 0; r < columns; r += VL) {
            float *s = score + j * columns + r;
            v_store(s, v_where_less(at, v_load(limit + r), v_load(s), low));
        }
    }
}

/* The largest score of each of VL rows, leaving out NaN. Four maxima at a time: a single one would
 * wait for its own last result. */
V_INLINE vf largest_score(const float *score, vf largest, int64_t n_keys, int64_t columns)
{
    vf other[3] = {largest, largest, largest};
    int64_t j = 0;
    for (; j + 4 <= n_keys; j += 4) {
        largest = v_max(v_load(score + j * columns), largest);
        for (int i = 0; i < 3; i++) {
            other[i] = v_max(v_load(score + (j + 1 + i) * columns), other[i]);
        }
    }
    for (; j < n_keys; j++) {
        largest = v_max(v_load(score + j * columns), largest);
    }
    return v_max(v_max(other[0], largest), v_max(other[1], other[2]));
}

/* Scores of a tile: w->score [n_keys, columns] from keys k [n_keys, K]. */
static void make_scores(const attention *t, const workspace *w, const void *k, int64_t n_keys,
                        int64_t columns)
{
    const int64_t width = t->head_dim, ld = t->g * width;
    product p = {.c = w->score,
                 .ldc = columns,
                 .a = k,
                 .lda = ld,
                 .b = w->columns,
                 .ldb = PANEL,
                 .panel_floats = width * PANEL,
                 .m = n_keys,
                 .n = columns,
                 .k = width,
                 .mode = PRODUCT_SET};
    if (t->bf16) {
        p.a = w->k_cells;
        p.lda = cells_ld(width);
        p.ldb = BF16_PANEL;
        p.panel_floats = bf16_cells(width) * BF16_PANEL;
        p.k = bf16_cells(width);
        p.cell = CELL_BF16;
        RF_CPU(pack_cells)(w->k_cells, p.lda, type_in(t), k, ld, n_keys, width);
        zero_rows(w->k_cells, p.lda, n_keys, round_up(n_keys, BF16_ROWS));
    }
    RF_CPU(product)(&p);
}

/* Prefetches rows [begin, end) of K elements. */
static void prefetch_rows(const attention *t, const void *rows, int64_t ld, int64_t begin,
                          int64_t end)
{
    const int64_t line = type_in(t) == RF_BF16 ? 32 : 16;
    for (int64_t r = begin; r < end; r++) {
        for (int64_t c = 0; c < t->head_dim; c += line) {
            v_prefetch(element(type_in(t), rows, r * ld + c));
        }
    }
}

/* Scores s [n_keys, columns] become p = 2^(unit (s - m)), with m, l and shrink brought up to date.
 * Meanwhile prefetches the n_keys rows of `soon`, which are needed next. Returns whether any m has
 * grown. */
static bool softmax_columns(const attention *t, const workspace *w, int64_t n_keys, int64_t columns,
                            const void *soon, int64_t ld_soon)
{
    const vf unit = v_set(t->unit), minus = v_set(-t->unit);
    const int64_t soon_rows = ceil_div(n_keys, columns / VL);
    const vf low = v_set(-INFINITY), one = v_set(1.0F);
    vf any = v_zero();
    for (int64_t r = 0; r < columns; r += VL) {
        float *s = w->score + r;
        const vf before = v_load(w->m + r), now = largest_score(s, before, n_keys, columns);
        /* In a row without keys so far m is -inf: 0 in its place makes every p 2^-inf = 0. */
        const vf base = v_mul(minus, v_where_less(low, now, now, v_zero()));
        vf total = v_zero();
        const int64_t begin = r / VL * soon_rows;
        prefetch_rows(t, soon, ld_soon, begin, min_of(begin + soon_rows, n_keys));
        for (int64_t j = 0; j < n_keys; j++) {
            vf e = v_exp2(v_fma(unit, v_load(s + j * columns), base));
            v_store(s + j * columns, e);
            total = v_add(total, e);
        }
        vf factor = v_where_less(before, now, v_exp2(v_fma(unit, before, base)), one);
        v_store(w->shrink + r, factor);
        any = v_where_less(before, now, one, any);
        v_store(w->m + r, now);
        v_store(w->l + r, v_fma(v_load(w->l + r), factor, total));
    }
    return v_largest(any) > 0.0F;
}

/* The product p v also multiplies values that a row does not see; their p is 0, but 0 times a value
 * that is not finite would be NaN. So such values become 0 in w->v, and their p NaN for the rows
 * that do see them. */
static void hide_values(const attention *t, const workspace *w, const query_run *run,
                        const tile_sight *sight, int64_t n_keys, int64_t columns)
{
    for (int64_t j = 0; j < n_keys; j++) {
        if (!RF_CPU(all_finite)(RF_F32, w->v + j * t->ld, t->ld, 1, t->head_dim)) {
            zero_rows(w->v, t->ld, j, j + 1);
            for (int64_t r = 0; r < t->group * run->n; r++) {
                float *p = w->score + j * columns + r;
                *p = j < sight->visible[r % run->n] ? NAN : 0.0F;
            }
        }
    }
}

/* sum [rows, K] += p^T v over the keys of a tile. */
static void accumulate(const attention *t, const workspace *w, const float *v, int64_t ld_v,
                       int64_t rows, int64_t n_keys, int64_t columns)
{
    product p = {.c = w->sum,
                 .ldc = t->ld,
                 .start = w->sum,
                 .ld_start = t->ld,
                 .a = w->score,
                 .lda = columns,
                 .tile_step = 1,
                 .b = v,
                 .ldb = ld_v,
                 .panel_floats = PANEL,
                 .m = rows,
                 .n = t->head_dim,
                 .k = n_keys,
                 .mode = PRODUCT_ADD};
    RF_CPU(product)(&p);
}

/* The same with bf16, transposed: sum [K, columns] += v^T p, v of `type`. */
static void accumulate_bf16(const attention *t, const workspace *w, rf_type type, const void *v,
                            int64_t ld_v, int64_t n_keys, int64_t columns)
{
    const int64_t width = t->head_dim, cells = bf16_cells(n_keys);
    RF_CPU(pack_cells_transposed)(w->v_cells, TILE_CELLS, type, v, ld_v, width, n_keys);
    zero_rows(w->v_cells, TILE_CELLS, width, round_up(width, BF16_ROWS));
    RF_CPU(pack_cell_panels)(w->p_cells, RF_F32, w->score, columns, n_keys, columns);
    product p = {.c = w->sum,
                 .ldc = columns,
                 .start = w->sum,
                 .ld_start = columns,
                 .a = w->v_cells,
                 .lda = TILE_CELLS,
                 .b = w->p_cells,
                 .ldb = BF16_PANEL,
                 .panel_floats = cells * BF16_PANEL,
                 .m = width,
                 .n = columns,
                 .k = cells,
                 .mode = PRODUCT_ADD,
                 .cell = CELL_BF16};
    RF_CPU(product)(&p);
}

/* sum *= shrink, row by row. */
static void shrink_sums(const attention *t, const workspace *w, int64_t rows, int64_t columns)
{
    for (int64_t c = 0; t->bf16 && c < t->head_dim; c++) {
        for (int64_t r = 0; r < columns; r += VL) {
            float *at = w->sum + c * columns + r;
            v_store(at, v_mul(v_load(w->shrink + r), v_load(at)));
        }
    }
    for (int64_t r = 0; !t->bf16 && r < rows; r++) {
        float *at = w->sum + r * t->ld;
        for (int64_t c = 0; c < t->ld && w->shrink[r] != 1.0F; c += VL) {
            v_store(at + c, v_mul(v_set(w->shrink[r]), v_load(at + c)));
        }
    }
}

/* All keys of one tile for all rows of a unit. */
static void take_tile(const attention *t, const workspace *w, const query_run *run, int64_t kv_head,
                      int span, int64_t key)
{
    const int64_t width = t->head_dim, rows = t->group * run->n;
    const int64_t columns = columns_of(t, rows);
    int64_t ld = t->g * width;
    const int64_t n_keys = min_of(RF_KEY_TILE, run->key_end[span] - key);
    const void *k = element(type_in(t), t->k, head_of(t, key, t->g, kv_head));
    const void *v = element(type_in(t), t->v, head_of(t, key, t->g, kv_head));
    rf_type type = type_in(t);
    tile_sight sight;
    look(&sight, t, w, run, span, key, n_keys);
    make_scores(t, w, k, n_keys, columns);
    if (!sight.all) {
        hide(w->score, w->limit, n_keys, columns);
    }
    if (softmax_columns(t, w, n_keys, columns, v, ld)) {
        shrink_sums(t, w, rows, columns);
    }
    /* Rows that lie a power of two apart fall into the same sets of the L1 cache, and whole vectors
     * are read: values are brought together, unless few rows would use them. */
    const bool finite = sight.all || RF_CPU(all_finite)(type, v, ld, n_keys, width);
    if (!finite || (!t->bf16 && (rows >= VL || width % VL != 0))) {
        copy_rows(w->v, t->ld, type, v, ld, n_keys, width);
        type = RF_F32;
        v = w->v;
        ld = t->ld;
    }
    if (!finite) {
        hide_values(t, w, run, &sight, n_keys, columns);
    }
    if (t->bf16) {
        accumulate_bf16(t, w, type, v, ld, n_keys, columns);
    } else {
        accumulate(t, w, v, ld, rows, n_keys, columns);
    }
}

/* --- A unit ----------------------------------------------------------------------------------- */

/* o and lse of a run, or of several taken as one. */
static void take_queries(void *o, float *lse, const attention *t, const workspace *w,
                         const query_run *run, int64_t kv_head)
{
    const int64_t width = t->head_dim, rows = t->group * run->n;
    const int64_t columns = columns_of(t, rows);
    gather_rows(w->q, type_in(t), t->q, t, run, kv_head);
    if (t->bf16) {
        RF_CPU(pack_cell_panels_transposed)(w->columns, RF_F32, w->q, t->ld, rows, width);
        zero_rows(w->sum, columns, 0, width);
    } else {
        RF_CPU(pack_panels_transposed)(w->columns, w->q, t->ld, rows, width);
        zero_rows(w->sum, t->ld, 0, rows);
    }
    for (int64_t r = 0; r < columns; r++) {
        w->m[r] = -INFINITY;
        w->l[r] = 0.0F;
        w->limit[r] = 0.0F;
    }
    for (int span = 0; span < 2; span++) {
        for (int64_t key = run->key[span]; key < run->key_end[span]; key += RF_KEY_TILE) {
            take_tile(t, w, run, kv_head, span, key);
        }
    }
    if (t->bf16) { /* w->q is not needed any more: it takes the transpose */
        RF_CPU(pack_transposed)
        (w->q, t->ld, w->sum, columns, width, rows, round_up(width, VL), 0);
    }
    const float *sum = t->bf16 ? w->q : w->sum;
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = head_of_row(t, run, kv_head, r);
        bool empty = w->m[r] == -INFINITY && w->l[r] == 0.0F;
        vf share_of = v_set(empty ? 0.0F : 1.0F / w->l[r]);
        lse[at] = empty ? -INFINITY : w->m[r] * t->scale + logf(w->l[r]);
        for (int64_t c = 0; c < width; c += VL) {
            /* + 0 turns -0 into 0: adding a tile of which the row sees nothing does so too, and
             * whether there was one depends on the queries beside it. */
            vf x = v_add(v_mul(share_of, v_load(sum + r * t->ld + c)), v_zero());
            store_as(type_in(t), o, at * width + c, x, width - c);
        }
    }
}

/* Can the queries of b be taken together with those of a? */
static bool begin_alike(const query_run *a, const query_run *b)
{
    return a->key[0] == b->key[0] && a->key[1] == b->key[1] &&
           (a->key[0] < a->key_end[0]) == (b->key[0] < b->key_end[0]);
}

/* Runs [begin, end). */
static void forward_unit(void *o, float *lse, const attention *t, const workspace *w, int64_t begin,
                         int64_t end, int64_t kv_head)
{
    while (begin < end) {
        query_run all = get_run(t->spans, begin);
        for (begin++; begin < end; begin++) {
            const query_run next = get_run(t->spans, begin);
            if (!begin_alike(&all, &next)) {
                break;
            }
            all.n += next.n;
            for (int span = 0; span < 2; span++) {
                all.key_end[span] = max_of(all.key_end[span], next.key_end[span]);
            }
        }
        take_queries(o, lse, t, w, &all, kv_head);
    }
}

/* By the work: reading a key once for all rows of a run costs about ROWS_READ times as much as
 * multiplying it by one of them. */
static int threads_for_queries(const rf_ctx *ctx, const attention *t)
{
    enum { ROWS_READ = 16 };
    int64_t work = 0;
    for (int64_t i = 0; i < t->spans->n_runs; i++) {
        const query_run b = get_run(t->spans, i);
        int64_t keys = b.key_end[0] - b.key[0] + b.key_end[1] - b.key[1];
        work += keys * t->g * t->head_dim * (ROWS_READ + b.n * t->group) / ROWS_READ;
    }
    return threads_for(ctx, work);
}

void RF_CPU(attention_forward)(rf_ctx *ctx, void *o, void *lse, const void *q, const void *k,
                               const void *v, const rf_spans *spans, int64_t h, int64_t g,
                               int64_t head_dim)
{
    attention t = make_attention(&ctx->limits, spans, h, g, head_dim);
    t.q = q;
    t.k = k;
    t.v = v;
    const size_t bytes = thread_bytes(&t);
    RF_ASSERT((size_t)ctx->n_threads * bytes <= ctx->scratch_bytes);
    const int64_t together = runs_of_unit(&t);
    const int64_t units = ceil_div(spans->n_runs, together) * g;
    const int n_threads = threads_for_queries(ctx, &t);
#pragma omp parallel num_threads(n_threads)
    {
        workspace w = {0};
        char *base = (char *)ctx->scratch + (size_t)omp_get_thread_num() * bytes;
        rf_arena arena = {.base = base, .size = bytes};
        lay_out(&w, &arena, &t);
        /* Later runs see more keys: begin with them. */
#pragma omp for schedule(dynamic)
        for (int64_t u = 0; u < units; u++) {
            int64_t unit = units - 1 - u, begin = unit / g * together;
            forward_unit(o, lse, &t, &w, begin, min_of(begin + together, spans->n_runs), unit % g);
        }
    }
}
