/* Attention, backward: one tile of keys and one query run (attention_backward.h). */
#include "common/kernels/cpu/attention_backward.h"

/* --- A tile of keys and a query run ----------------------------------------------------------- */

bool RF_CPU(attention_look)(tile_view *view, const attention *t, const workspace *w,
                            const query_run *run, int64_t key, int64_t n_keys)
{
    *view = (tile_view){.begin = n_keys, .all = true, .limit = {w->limit[0], w->limit[1]}};
    for (int span = 0; span < 2; span++) {
        int64_t first = max_of(run->key[span] - key, 0);
        int64_t last = min_of(run->key_end[span] - key, n_keys);
        view->from[span] = run->key[span] - key;
        if (first < last) {
            view->begin = min_of(view->begin, first / GRAIN * GRAIN);
            view->end = last;
        }
    }
    if (view->begin >= view->end) {
        return false;
    }
    for (int64_t i = 0; i < run->n; i++) {
        bool whole = false;
        for (int span = 0; span < 2; span++) {
            int64_t seen = visible_keys(t->spans, run->begin + i, span, key, n_keys);
            whole = whole || (seen >= view->end && view->from[span] <= view->begin);
            for (int64_t hh = 0; hh < t->group; hh++) {
                w->limit[span][hh * run->n + i] = (float)seen;
            }
        }
        view->all = view->all && whole;
    }
    return true;
}

/* Turns scores (w->p) into p, and dp into ds; both are 0 for keys that a row does not see. */
static void grad_rows(const attention *t, const workspace *w, float *ds, const tile_view *view,
                      int64_t rows)
{
    float offset[RF_KEY_TILE];
    for (int j = 0; j < RF_KEY_TILE; j++) {
        offset[j] = (float)j;
    }
    const vf none = v_set(-1.0F), zero = v_zero(), unit = v_set(t->unit);
    const vf from0 = v_set((float)view->from[0]), from1 = v_set((float)view->from[1]);
    float *score = w->p;
    for (int64_t r = 0; r < rows; r++, score += LD_P, ds += LD_DS) {
        const vf l = v_set(-w->lse[r]), d = v_set(w->delta[r]);
        const vf limit0 = v_set(view->limit[0][r]), limit1 = v_set(view->limit[1][r]);
        for (int64_t j = view->begin; j < view->end; j += VL) {
            vf p = v_exp2(v_fma(unit, v_load(score + j), l));
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

/* sum[j] += weight[r][j] right[r] over the run's rows r, for the keys j of a view: dv from p and do,
 * dk from ds and q. */
static void accumulate_keys(float *sum, const float *weight, int64_t ld_weight, const float *right,
                            const attention *t, const tile_view *view, int64_t rows)
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
    RF_CPU(product)(&p);
}

/* The same with bf16, transposed: sum [K, keys] from turned [K, rows]. */
static void accumulate_keys_bf16(float *sum, const float *weight, int64_t ld_weight,
                                 const float *turned, const attention *t, const workspace *w,
                                 const tile_view *view, int64_t rows)
{
    const int64_t n_keys = view->end - view->begin, cells = bf16_cells(rows);
    RF_CPU(pack_cell_panels)(w->p_cells, RF_F32, weight + view->begin, ld_weight, rows, n_keys);
    product p = {.c = sum + view->begin,
                 .ldc = LD_SUMS,
                 .start = sum + view->begin,
                 .ld_start = LD_SUMS,
                 .a = turned,
                 .lda = cells_ld(rows),
                 .b = w->p_cells,
                 .ldb = BF16_PANEL,
                 .panel_floats = cells * BF16_PANEL,
                 .m = t->head_dim,
                 .n = n_keys,
                 .k = cells,
                 .mode = PRODUCT_ADD,
                 .cell = CELL_BF16};
    RF_CPU(product)(&p);
}

void RF_CPU(attention_take_tile)(const attention *t, const workspace *w, const tile_view *view,
                                 int64_t tile, int64_t rows)
{
    const int64_t panel = t->bf16 ? BF16_PANEL : PANEL, at = tile * RF_KEY_TILE;
    const int64_t inner = t->bf16 ? bf16_cells(t->head_dim) : t->head_dim;
    const int64_t from = (at + view->begin / panel * panel) * inner + view->begin % panel;
    float *ds = w->ds + STEP + at;
    product p = {.c = w->p + view->begin,
                 .ldc = LD_P,
                 .a = t->bf16 ? w->q_cells : w->q,
                 .lda = t->bf16 ? cells_ld(t->head_dim) : t->ld,
                 .b = w->k_columns + from,
                 .ldb = panel,
                 .panel_floats = inner * panel,
                 .m = rows,
                 .n = round_up(view->end - view->begin, GRAIN),
                 .k = inner,
                 .mode = PRODUCT_SET,
                 .cell = t->bf16 ? CELL_BF16 : CELL_F32};
    RF_CPU(product)(&p);
    p.c = ds + view->begin;
    p.ldc = LD_DS;
    p.a = t->bf16 ? w->do_cells : w->do_;
    p.b = w->v_columns + from;
    RF_CPU(product)(&p);
    grad_rows(t, w, ds, view, rows);
    if (t->bf16) {
        accumulate_keys_bf16(w->dv + at, w->p, LD_P, w->do_turned, t, w, view, rows);
        accumulate_keys_bf16(w->dk + at, ds, LD_DS, w->q_turned, t, w, view, rows);
    } else {
        accumulate_keys(w->dv + at * t->ld, w->p, LD_P, w->do_, t, view, rows);
        accumulate_keys(w->dk + at * t->ld, ds, LD_DS, w->q, t, view, rows);
    }
}

/* --- A chunk's part of dq --------------------------------------------------------------------- */

/* w->dq += ds k over the keys [begin, end), counted from STEP before the chunk. */
static void accumulate_queries(const attention *t, const workspace *w, key_chunk *chunk,
                               int64_t rows, int64_t begin, int64_t end)
{
    product p = {.c = w->dq,
                 .ldc = t->ld,
                 .a = w->ds + begin,
                 .lda = LD_DS,
                 .b = w->k + begin * t->ld,
                 .ldb = t->ld,
                 .panel_floats = PANEL,
                 .m = rows,
                 .n = t->head_dim,
                 .k = end - begin,
                 .mode = PRODUCT_CHAIN};
    if (t->bf16) {
        const bool odd = begin % 2 != 0;
        if (odd && !chunk->odd) {
            RF_CPU(pack_cell_panels)
            (w->k_cells[1], RF_F32, w->k + t->ld, t->ld, (int64_t)2 * PAIRS - 1, t->head_dim);
            chunk->odd = true;
        }
        p.a = w->ds_cells;
        p.lda = cells_ld(KEYS);
        p.b = w->k_cells[odd] + begin / 2 * BF16_PANEL;
        p.ldb = BF16_PANEL;
        p.panel_floats = (int64_t)PAIRS * BF16_PANEL;
        p.k = bf16_cells(end - begin);
        p.cell = CELL_BF16;
        RF_CPU(pack_cells)(w->ds_cells, p.lda, RF_F32, w->ds + begin, LD_DS, rows, end - begin);
        zero_rows(w->ds_cells, p.lda, rows, round_up(rows, BF16_ROWS));
    }
    RF_CPU(product)(&p);
}

void RF_CPU(attention_add_to_queries)(float *carry, const attention *t, const workspace *w,
                                      const query_run *run, key_chunk *chunk)
{
    const int64_t rows = t->group * run->n, key_end = chunk->key + chunk->n_keys;
    const int64_t first = chunk->key - STEP;
    for (int span = 0; span < 2; span++) {
        int64_t begin = max_of(run->key[span], chunk->key);
        int64_t end = min_of(run->key_end[span], key_end);
        if (begin >= end) {
            continue;
        }
        if (t->bf16) {
            /* Keys of the step that the chunk's begin cuts, and of the one that its end cuts. */
            int64_t carried = (begin - run->key[span]) % STEP;
            begin -= carried;
            copy_rows(w->ds + begin - first, LD_DS, RF_F32, carry, STEP, rows, carried);
            int64_t left = end < run->key_end[span] ? (end - begin) % STEP : 0;
            end -= left;
            copy_rows(carry, STEP, RF_F32, w->ds + end - first, LD_DS, rows, left);
        }
        if (begin < end) {
            accumulate_queries(t, w, chunk, rows, begin - first, end - first);
        }
    }
}
