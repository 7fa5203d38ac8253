/* Attention over spans, backward. With s_ij = scale q_i.k_j, p_ij = exp(s_ij - lse_i) and
 * delta_i = do_i.o_i:
 *   dv_j = sum_i p_ij do_i                      dp_ij = do_i.v_j
 *   ds_ij = p_ij (dp_ij - delta_i)              (softmax; sum_j p_ij dp_ij = delta_i)
 *   dq_i = scale sum_j ds_ij k_j                dk_j = scale sum_i ds_ij q_i
 *
 * A unit of work is a chunk of keys of one key/value head. It takes all query runs that see a key
 * of the chunk, from the last run to the first: makes p and ds of the run's queries and the chunk's
 * keys, and adds to dk and dv of its keys, which no other unit touches, and to dq of the run.
 *
 * A query's dq is one chain of fma over its keys in ascending order, so that it does not show how
 * keys are cut into chunks. Therefore the chunks that a run sees add to its dq one after the other:
 * `done` counts those that have, and a unit waits until it is its turn. It waits only for units
 * that began before it (order_chunks), so the waiting ends; and since all units take the runs in
 * the same order, the unit of the next chunk follows one run behind, so it waits briefly.
 *
 * With bf16 a product takes STEP keys at a time, counted from the begin of a query's span. Where
 * the end of a chunk cuts a step in two, the ds of the step's first keys are kept (`carry`) and the
 * next chunk adds the whole step. dk and dv stand transposed, as [K, keys]: so p and ds are the
 * right operands of their products, and their cells, which are pairs of queries, can be packed
 * without moving a number to another lane. */
#include "common/kernels/cpu/attention_backward.h"

#include <omp.h>
#include <sched.h>

/* A thread's scratch. */
static void lay_out(workspace *w, rf_arena *arena, const attention *t)
{
    const int64_t rows = RF_RUN_QUERIES * t->group, width = t->head_dim;
    const int64_t columns = CHUNK * (t->bf16 ? max_of(width, bf16_cells(width)) : width);
    const int64_t sums = t->bf16 ? width * LD_SUMS : CHUNK * t->ld;
    w->q = take_floats(arena, rows * t->ld);
    w->do_ = take_floats(arena, rows * t->ld);
    w->dq = take_floats(arena, rows * t->ld);
    w->p = take_floats(arena, rows * LD_P);
    w->ds = take_floats(arena, rows * LD_DS);
    w->k = take_floats(arena, (KEYS + STEP) * t->ld);
    w->k_columns = take_floats(arena, columns);
    w->v_columns = take_floats(arena, columns);
    w->dk = take_floats(arena, sums);
    w->dv = take_floats(arena, sums);
    w->lse = take_floats(arena, rows);
    w->delta = take_floats(arena, rows);
    w->limit[0] = take_floats(arena, rows);
    w->limit[1] = take_floats(arena, rows);
    if (t->bf16) {
        const int64_t all_rows = round_up(rows, BF16_ROWS);
        const int64_t turned = round_up(width, BF16_ROWS) * cells_ld(rows);
        const int64_t pairs = PAIRS * round_up(width, BF16_PANEL);
        w->q_cells = take_floats(arena, all_rows * cells_ld(width));
        w->do_cells = take_floats(arena, all_rows * cells_ld(width));
        w->q_turned = take_floats(arena, turned);
        w->do_turned = take_floats(arena, turned);
        w->p_cells = take_floats(arena, bf16_cells(rows) * RF_KEY_TILE);
        w->ds_cells = take_floats(arena, all_rows * cells_ld(KEYS));
        w->k_cells[0] = take_floats(arena, pairs);
        w->k_cells[1] = take_floats(arena, pairs);
    }
}

/* What all threads share, before the scratch of the first. */
typedef struct shared {
    int32_t *done;    /* [runs, G] how many chunks have added to dq of a run and key/value head */
    int32_t *order;   /* [chunks] in which chunks begin */
    int32_t *level;   /* [chunks] see order_chunks */
    int32_t *reached; /* [runs] the level that a run's next chunk must have at least */
    float *carry;     /* bf16: [N, H, STEP] ds of the keys of a step that a chunk's end cuts */
} shared;

/* For n queries, which are at most n runs, and m keys. */
static void lay_out_shared(shared *s, rf_arena *arena, const attention *t, int64_t n, int64_t m)
{
    const int64_t chunks = ceil_div(m, CHUNK);
    s->done = take_ints(arena, n * t->g);
    s->order = take_ints(arena, chunks);
    s->level = take_ints(arena, chunks);
    s->reached = take_ints(arena, n);
    s->carry = t->bf16 ? take_floats(arena, n * t->h * STEP) : NULL;
}

static size_t thread_bytes(const attention *t)
{
    workspace w;
    rf_arena measure = {0};
    lay_out(&w, &measure, t);
    return measure.used;
}

size_t RF_CPU(attention_backward_bytes)(int n_threads, const rf_limits *limits)
{
    shared s;
    rf_arena measure = {0};
    attention t =
        make_attention(limits, NULL, limits->n_heads, limits->n_kv_heads, limits->head_dim);
    lay_out_shared(&s, &measure, &t, limits->places, limits->keys);
    return measure.used + (size_t)n_threads * thread_bytes(&t);
}

/* --- The order in which chunks add to dq ------------------------------------------------------ */

/* How many of the chunks before `chunk` a run sees. */
static int32_t chunks_before(const query_run *run, int64_t chunk)
{
    int64_t n = 0, next = 0;
    for (int span = 0; span < 2; span++) {
        if (run->key[span] < run->key_end[span]) {
            int64_t first = max_of(run->key[span] / CHUNK, next);
            next = max_of(next, (run->key_end[span] - 1) / CHUNK + 1);
            n += max_of(0, min_of(next, chunk) - first);
        }
    }
    return (int32_t)n;
}

static bool sees(const query_run *run, int64_t chunk)
{
    return chunks_before(run, chunk + 1) > chunks_before(run, chunk);
}

/* All runs that see a chunk lie in [begin[0], end[0]) and [begin[1], end[1]), in this order. */
typedef struct run_ranges {
    int64_t begin[2], end[2];
} run_ranges;

static run_ranges find_runs(const rf_spans *spans, int64_t chunk)
{
    run_ranges all = {{spans->n_runs, spans->n_runs}, {0, 0}};
    const int64_t tiles_end = min_of((chunk + 1) * CHUNK_TILES, spans->n_tiles);
    for (int64_t t = chunk * CHUNK_TILES; t < tiles_end; t++) {
        for (int i = 0; i < 2; i++) {
            const int32_t *range = spans->tile + 4 * t + 2 * i;
            if (range[0] < range[1]) {
                all.begin[i] = min_of(all.begin[i], range[0]);
                all.end[i] = max_of(all.end[i], range[1]);
            }
        }
    }
    /* A tile without a gap has a second range alone, which may begin before another tile's first and
     * reach into it. */
    all.begin[0] = min_of(all.begin[0], all.begin[1]);
    all.begin[1] = max_of(all.begin[1], all.end[0]);
    return all;
}

/* In which order chunks begin: level by level. A chunk's level is one above the highest level of
 * the earlier chunks that its runs see, so a unit waits only for units that began before it. The
 * first chunks of all samples, which have the most work, come first. */
static void order_chunks(const shared *s, const rf_spans *spans)
{
    const int64_t chunks = ceil_div(spans->m, CHUNK);
    int32_t levels = 0;
    int64_t n = 0;
    if (spans->n_runs > 0) {
        memset(s->reached, 0, (size_t)spans->n_runs * sizeof *s->reached);
    }
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const run_ranges runs = find_runs(spans, chunk);
        int32_t level = 0;
        for (int pass = 0; pass < 2; pass++) { /* finds the level, then tells the runs */
            for (int i = 0; i < 2; i++) {
                for (int64_t r = runs.begin[i]; r < runs.end[i]; r++) {
                    const query_run run = get_run(spans, r);
                    if (sees(&run, chunk)) {
                        level = s->reached[r] > level && pass == 0 ? s->reached[r] : level;
                        s->reached[r] = pass == 0 ? s->reached[r] : level + 1;
                    }
                }
            }
        }
        s->level[chunk] = level;
        levels = level + 1 > levels ? level + 1 : levels;
    }
    for (int32_t level = 0; level < levels; level++) {
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            if (s->level[chunk] == level) {
                s->order[n++] = (int32_t)chunk;
            }
        }
    }
}

/* Until n chunks are done. */
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

/* --- A chunk of keys and a query run ---------------------------------------------------------- */

/* lse (over ln 2) and delta of a run's rows. */
static void gather_statistics(const workspace *w, const attention *t, const query_run *run,
                              int64_t kv_head)
{
    for (int64_t r = 0; r < t->group * run->n; r++) {
        int64_t at = head_of_row(t, run, kv_head, r);
        w->lse[r] = (float)((double)t->lse[at] * 1.4426950408889634);
        w->delta[r] = t->delta[at];
    }
}

/* Products also multiply the p and ds of keys that a row does not see; those are 0, and 0 times a
 * number that is not finite would be NaN. So rows that are not finite become 0 here, and their lse
 * NaN, which makes p and ds NaN for the keys that they do see. */
static void hide_rows(const workspace *w, const attention *t, int64_t rows)
{
    const int64_t width = t->head_dim;
    if (RF_CPU(all_finite)(RF_F32, w->q, t->ld, rows, width) &&
        RF_CPU(all_finite)(RF_F32, w->do_, t->ld, rows, width)) {
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        if (!RF_CPU(all_finite)(RF_F32, w->q + r * t->ld, t->ld, 1, width) ||
            !RF_CPU(all_finite)(RF_F32, w->do_ + r * t->ld, t->ld, 1, width)) {
            zero_rows(w->q, t->ld, r, r + 1);
            zero_rows(w->do_, t->ld, r, r + 1);
            w->lse[r] = NAN;
        }
    }
}

/* The queries of a run and the gradients of its outputs, as the products want them. */
static void pack_run(const workspace *w, const attention *t, const query_run *run, int64_t kv_head)
{
    const int64_t rows = t->group * run->n, width = t->head_dim;
    gather_rows(w->q, type_in(t), t->q, t, run, kv_head);
    gather_rows(w->do_, type_in(t), t->do_, t, run, kv_head);
    gather_statistics(w, t, run, kv_head);
    hide_rows(w, t, rows);
    if (t->bf16) {
        const int64_t ld = cells_ld(width), ld_turned = cells_ld(rows);
        RF_CPU(pack_cells)(w->q_cells, ld, RF_F32, w->q, t->ld, rows, width);
        RF_CPU(pack_cells)(w->do_cells, ld, RF_F32, w->do_, t->ld, rows, width);
        zero_rows(w->q_cells, ld, rows, round_up(rows, BF16_ROWS));
        zero_rows(w->do_cells, ld, rows, round_up(rows, BF16_ROWS));
        RF_CPU(pack_cells_transposed)(w->q_turned, ld_turned, RF_F32, w->q, t->ld, width, rows);
        RF_CPU(pack_cells_transposed)(w->do_turned, ld_turned, RF_F32, w->do_, t->ld, width, rows);
        zero_rows(w->q_turned, ld_turned, width, round_up(width, BF16_ROWS));
        zero_rows(w->do_turned, ld_turned, width, round_up(width, BF16_ROWS));
    }
}

/* The chunk's part of the run's dq, once all chunks before it have added theirs. */
static void add_to_queries(float *dq, const shared *s, const attention *t, const workspace *w,
                           int64_t r, const query_run *run, key_chunk *chunk)
{
    const int64_t rows = t->group * run->n, width = t->head_dim, kv_head = chunk->kv_head;
    int32_t *done = s->done + r * t->g + kv_head;
    const int32_t turn = chunks_before(run, chunk->index);
    const bool last = turn + 1 == chunks_before(run, INT32_MAX);
    wait_for(done, turn);
    if (turn > 0) {
        gather_rows(w->dq, RF_F32, dq, t, run, kv_head);
    } else {
        zero_rows(w->dq, t->ld, 0, rows);
    }
    float *carry =
        t->bf16 ? s->carry + (run->begin * t->h + kv_head * t->group * run->n) * STEP : NULL;
    RF_CPU(attention_add_to_queries)(carry, t, w, run, chunk);
    const vf factor = v_set(last ? t->scale : 1.0F);
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = head_of_row(t, run, kv_head, row);
        for (int64_t c = 0; c < width; c += VL) { /* + 0: see the end of forward's unit */
            vf x = v_mul(factor, v_load(w->dq + row * t->ld + c));
            v_store_n(dq + at * width + c, v_add(x, v_zero()), width - c);
        }
    }
    __atomic_store_n(done, turn + 1, __ATOMIC_RELEASE);
}

static void take_run(float *dq, const shared *s, const attention *t, const workspace *w, int64_t r,
                     const query_run *run, key_chunk *chunk)
{
    pack_run(w, t, run, chunk->kv_head);
    for (int64_t at = 0; at < chunk->n_keys; at += RF_KEY_TILE) {
        tile_view view;
        if (RF_CPU(attention_look)(&view, t, w, run, chunk->key + at,
                                   min_of(RF_KEY_TILE, chunk->n_keys - at))) {
            RF_CPU(attention_take_tile)(t, w, &view, at / RF_KEY_TILE, t->group * run->n);
        }
    }
    add_to_queries(dq, s, t, w, r, run, chunk);
}

/* --- A unit ----------------------------------------------------------------------------------- */

/* w->k: the keys from STEP before the chunk on; 0 where there is none, and for keys that are not
 * finite. */
static void copy_keys(const attention *t, const workspace *w, const key_chunk *chunk)
{
    const int64_t width = t->head_dim, before = min_of(STEP, chunk->key);
    const int64_t at = head_of(t, chunk->key - before, t->g, chunk->kv_head);
    const int64_t begin = STEP - before, end = STEP + chunk->n_keys;
    zero_rows(w->k, t->ld, 0, begin);
    copy_rows(w->k + begin * t->ld, t->ld, type_in(t), element(type_in(t), t->k, at), t->g * width,
              end - begin, width);
    zero_rows(w->k, t->ld, end, KEYS + STEP);
    for (int64_t j = begin; j < end; j++) {
        if (!RF_CPU(all_finite)(RF_F32, w->k + j * t->ld, t->ld, 1, width)) {
            zero_rows(w->k, t->ld, j, j + 1);
        }
    }
}

/* Keys and values of a chunk as the products want them; its dk and dv begin at 0. */
static void pack_chunk(const attention *t, const workspace *w, const key_chunk *chunk)
{
    const int64_t width = t->head_dim, ld = t->g * width;
    copy_keys(t, w, chunk);
    for (int64_t at = 0; at < chunk->n_keys; at += RF_KEY_TILE) {
        const int64_t n_keys = min_of(RF_KEY_TILE, chunk->n_keys - at);
        const int64_t first = head_of(t, chunk->key + at, t->g, chunk->kv_head);
        const void *k = element(type_in(t), t->k, first), *v = element(type_in(t), t->v, first);
        if (t->bf16) {
            const int64_t to = at * bf16_cells(width);
            RF_CPU(pack_cell_panels_transposed)
            (w->k_columns + to, type_in(t), k, ld, n_keys, width);
            RF_CPU(pack_cell_panels_transposed)
            (w->v_columns + to, type_in(t), v, ld, n_keys, width);
        } else {
            RF_CPU(pack_panels_transposed)(w->k_columns + at * width, k, ld, n_keys, width);
            RF_CPU(pack_panels_transposed)(w->v_columns + at * width, v, ld, n_keys, width);
        }
    }
    if (t->bf16) {
        RF_CPU(pack_cell_panels)(w->k_cells[0], RF_F32, w->k, t->ld, (int64_t)2 * PAIRS, width);
        zero_rows(w->dk, LD_SUMS, 0, width);
        zero_rows(w->dv, LD_SUMS, 0, width);
    } else {
        zero_rows(w->dk, t->ld, 0, chunk->n_keys);
        zero_rows(w->dv, t->ld, 0, chunk->n_keys);
    }
}

/* dst = scale sum, for the chunk's keys: sum is w->dk or w->dv. */
static void finish_keys(float *dst, float *sum, const attention *t, const workspace *w,
                        const key_chunk *chunk, float scale)
{
    const int64_t width = t->head_dim;
    if (t->bf16) { /* w->k is not needed any more: it takes the transpose */
        RF_CPU(pack_transposed)
        (w->k, t->ld, sum, LD_SUMS, width, chunk->n_keys, round_up(width, VL), 0);
        sum = w->k;
    }
    for (int64_t j = 0; j < chunk->n_keys; j++) {
        int64_t at = ((chunk->key + j) * t->g + chunk->kv_head) * width;
        for (int64_t c = 0; c < width; c += VL) {
            vf x = v_mul(v_set(scale), v_load(sum + j * t->ld + c));
            v_store_n(dst + at + c, v_add(x, v_zero()), width - c);
        }
    }
}

static void chunk_unit(float *dq, float *dk, float *dv, const shared *s, const attention *t,
                       const workspace *w, int64_t index, int64_t kv_head)
{
    const rf_spans *spans = t->spans;
    key_chunk chunk = {.index = index, .key = index * CHUNK, .kv_head = kv_head};
    chunk.n_keys = min_of(CHUNK, spans->m - chunk.key);
    pack_chunk(t, w, &chunk);
    const run_ranges runs = find_runs(spans, index);
    for (int i = 1; i >= 0; i--) {
        for (int64_t r = runs.end[i] - 1; r >= runs.begin[i]; r--) {
            const query_run run = get_run(spans, r);
            if (sees(&run, index)) {
                take_run(dq, s, t, w, r, &run, &chunk);
            }
        }
    }
    finish_keys(dk, w->dk, t, w, &chunk, t->scale);
    finish_keys(dv, w->dv, t, w, &chunk, 1.0F);
}

/* --- The whole -------------------------------------------------------------------------------- */

/* Sets delta, dq of queries without keys to 0, and `done` to 0: no chunk has added to any run. */
static void prepare(float *dq, float *delta, int32_t *done, const attention *t)
{
    const int64_t width = t->head_dim;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < t->spans->n_runs; r++) {
        const query_run run = get_run(t->spans, r);
        const bool empty = run.key[0] >= run.key_end[0] && run.key[1] >= run.key_end[1];
        for (int64_t i = run.begin * t->h; i < (run.begin + run.n) * t->h; i++) {
            vf sum = v_zero();
            for (int64_t c = 0; c < width; c += VL) {
                sum = v_fma(load_as(type_in(t), t->do_, i * width + c, width - c),
                            load_as(type_in(t), t->o, i * width + c, width - c), sum);
            }
            delta[i] = v_sum(sum);
            for (int64_t c = 0; empty && c < width; c++) {
                dq[i * width + c] = 0.0F;
            }
        }
        memset(done + r * t->g, 0, (size_t)t->g * sizeof *done);
    }
}

void RF_CPU(attention_backward)(rf_ctx *ctx, void *dq, void *dk, void *dv, void *delta,
                                const void *do_, const void *q, const void *k, const void *v,
                                const void *o, const void *lse, const rf_spans *spans, int64_t h,
                                int64_t g, int64_t head_dim)
{
    attention t = make_attention(&ctx->limits, spans, h, g, head_dim);
    t.q = q;
    t.k = k;
    t.v = v;
    t.o = o;
    t.do_ = do_;
    t.lse = lse;
    t.delta = delta;
    shared s;
    rf_arena arena = {.base = ctx->scratch, .size = ctx->scratch_bytes};
    lay_out_shared(&s, &arena, &t, spans->n, spans->m);
    const size_t bytes = thread_bytes(&t);
    char *threads = rf_arena_take(&arena, (size_t)ctx->n_threads * bytes);
    const int64_t units = ceil_div(spans->m, CHUNK) * g;
    int64_t next = 0;
    order_chunks(&s, spans);
#pragma omp parallel num_threads(ctx->n_threads)
    {
        workspace w = {0};
        rf_arena own = {.base = threads + (size_t)omp_get_thread_num() * bytes, .size = bytes};
        lay_out(&w, &own, &t);
        prepare(dq, delta, s.done, &t);
        /* Not `omp for`: units must begin in their order. */
        for (int64_t u; (u = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < units;) {
            chunk_unit(dq, dk, dv, &s, &t, &w, s.order[u / g], u % g);
        }
    }
}
