/* Attention over spans, backward. With s_ij = scale q_i.k_j, p_ij = exp(s_ij - lse_i) and
 * delta_i = do_i.o_i:
 *   dv_j = sum_i p_ij do_i                      dp_ij = do_i.v_j
 *   ds_ij = p_ij (dp_ij - delta_i)              (softmax; sum_j p_ij dp_ij = delta_i)
 *   dq_i = scale sum_j ds_ij k_j                dk_j = scale sum_i ds_ij q_i
 *
 * A unit of work is a chunk of keys and one key/value head: it makes p and dp of every block of
 * queries that sees the chunk once, and from them its own dk and dv as well as its share of dq.
 * dq_i is one chain of fma over i's keys, ascending, that goes from chunk to chunk through memory:
 * how keys are cut into chunks does not show in it. Units begin in such an order, and take blocks
 * from the last down, so that the unit of the next chunk follows one block behind; `done` counts
 * the chunks that have added to a block. A unit waits for units that began before it only.
 *
 * With bf16 the multipliers take STEP keys at a time, counted from the span's begin wherever that
 * lies: the keys of a step that a chunk's end cuts through are left, with their ds, to the next
 * chunk (`carry`). There dk and dv stand as [K, keys]: then p and ds, whose cells are pairs of
 * queries, are packed as right operands without moving a number to another lane. */
#include "common/kernels/cpu/attention_backward.h"

#include <omp.h>
#include <sched.h>

/* Floats of a thread's scratch; binds it where base is not NULL. */
static int64_t bind(workspace *w, float *base, const attention *t)
{
    const int64_t rows = RF_QUERY_BLOCK * t->group, width = t->head_dim;
    const int64_t columns = CHUNK * (t->bf16 ? max_of(width, bf16_cells(width)) : width);
    const int64_t sums = t->bf16 ? width * LD_SUMS : CHUNK * t->ld;
    const int64_t all_rows = t->bf16 ? round_up(rows, BF16_ROWS) : 0;
    const int64_t turned = t->bf16 ? round_up(width, BF16_ROWS) * cells_ld(rows) : 0;
    const int64_t pairs = t->bf16 ? PAIRS * round_up(width, BF16_PANEL) : 0;
    const int64_t size[] = {rows * t->ld,
                            rows * t->ld,
                            rows * t->ld,
                            rows * LD_P,
                            rows * LD_DS,
                            (KEYS + STEP) * t->ld,
                            columns,
                            columns,
                            sums,
                            sums,
                            rows,
                            rows,
                            rows,
                            rows,
                            all_rows * cells_ld(width),
                            all_rows * cells_ld(width),
                            turned,
                            turned,
                            t->bf16 ? bf16_cells(rows) * RF_KEY_TILE : 0,
                            all_rows * cells_ld(KEYS),
                            pairs,
                            pairs};
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
                     .q_cells = piece[14],
                     .do_cells = piece[15],
                     .q_turned = piece[16],
                     .do_turned = piece[17],
                     .p_cells = piece[18],
                     .ds_cells = piece[19],
                     .k_cells = {piece[20], piece[21]}};
    return total;
}

/* Behind the threads' scratch. */
typedef struct shared {
    int32_t *done;    /* [N, G] how many chunks have added to each block and key/value head */
    int32_t *order;   /* [chunks] in which chunks begin */
    int32_t *level;   /* [chunks] */
    int32_t *reached; /* [N] by block */
    float *carry;     /* bf16: [N, H, STEP] ds of keys carried over */
} shared;

/* Its bytes for n queries and m keys; binds it where base is not NULL. */
static size_t bind_shared(shared *s, float *base, const attention *t, int64_t n, int64_t m)
{
    const int64_t chunks = ceil_div(m, CHUNK);
    const int64_t size[] = {n * t->g, chunks, chunks, n, t->bf16 ? n * t->h * STEP : 0};
    enum { N_PIECES = sizeof(size) / sizeof(size[0]) };
    float *piece[N_PIECES] = {NULL};
    int64_t total = cut(piece, base, size, N_PIECES);
    *s = (shared){.done = (int32_t *)piece[0],
                  .order = (int32_t *)piece[1],
                  .level = (int32_t *)piece[2],
                  .reached = (int32_t *)piece[3],
                  .carry = piece[4]};
    return (size_t)total * sizeof(float);
}

size_t RF_CPU(attention_backward_bytes)(int n_threads, const rf_limits *limits)
{
    workspace w;
    shared s;
    attention t =
        make_attention(limits, NULL, limits->n_heads, limits->n_kv_heads, limits->head_dim);
    return (size_t)(n_threads * bind(&w, NULL, &t)) * sizeof(float) +
           bind_shared(&s, NULL, &t, limits->places, limits->keys);
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

static bool sees(const query_block *b, int64_t chunk)
{
    return chunks_before(b, chunk + 1) > chunks_before(b, chunk);
}

/* All blocks that see a chunk lie in [first, end). */
static void find_blocks(int64_t *first, int64_t *end, const rf_spans *spans, int64_t chunk)
{
    *first = spans->n_blocks;
    *end = 0;
    for (int64_t tile = chunk * CHUNK_TILES;
         tile < min_of((chunk + 1) * CHUNK_TILES, spans->n_tiles); tile++) {
        int32_t from = spans->tile_begin[tile], to = spans->tile_begin[tile + 1];
        if (from < to) {
            *first = min_of(*first, spans->tile_block[from]);
            *end = max_of(*end, (int64_t)spans->tile_block[to - 1] + 1);
        }
    }
}

/* Chunks begin level by level: a chunk's level is above those of the chunks before it that its
 * blocks see. So the first chunks of all samples, which have the most work, come first, and a unit
 * waits for units that began before it only. */
static void order_chunks(const shared *s, const rf_spans *spans)
{
    const int64_t chunks = ceil_div(spans->m, CHUNK);
    int32_t levels = 0;
    int64_t n = 0, first, end;
    memset(s->reached, 0, (size_t)spans->n_blocks * sizeof(int32_t));
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        int32_t level = 0;
        find_blocks(&first, &end, spans, chunk);
        for (int pass = 0; pass < 2; pass++) { /* finds the level, then tells the blocks */
            for (int64_t i = first; i < end; i++) {
                const query_block b = get_block(spans, i);
                if (sees(&b, chunk)) {
                    level = s->reached[i] > level && pass == 0 ? s->reached[i] : level;
                    s->reached[i] = pass == 0 ? s->reached[i] : level + 1;
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

/* --- A chunk of keys and a block of queries ----------------------------------------------------
 */

/* lse and delta of a block's rows. */
static void gather_statistics(const workspace *w, const attention *t, const query_block *b,
                              int64_t kv_head)
{
    for (int64_t r = 0; r < t->group * b->n; r++) {
        int64_t at = (b->begin + r % b->n) * t->h + kv_head * t->group + r / b->n;
        w->lse[r] = (float)((double)t->lse[at] * 1.4426950408889634);
        w->delta[r] = t->delta[at];
    }
}

/* Rows that are not finite must not reach, with a factor of 0, keys that they do not see: they
 * become 0, and p NaN where it is seen, since their lse is. */
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

/* Queries and gradients of a block's outputs, as the products want them. */
static void pack_block(const workspace *w, const attention *t, const query_block *b,
                       int64_t kv_head)
{
    const int64_t rows = t->group * b->n, width = t->head_dim;
    gather_rows(w->q, type_in(t), t->q, t, b, kv_head);
    gather_rows(w->do_, type_in(t), t->do_, t, b, kv_head);
    gather_statistics(w, t, b, kv_head);
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

/* All queries of one block for the keys of one chunk. */
static void take_block(float *dq, const shared *s, const attention *t, const workspace *w,
                       int64_t block, key_chunk *chunk)
{
    const query_block b = get_block(t->spans, block);
    const int64_t rows = t->group * b.n, width = t->head_dim, kv_head = chunk->kv_head;
    int32_t *done = s->done + block * t->g + kv_head;
    pack_block(w, t, &b, kv_head);
    for (int64_t at = 0; at < chunk->n_keys; at += RF_KEY_TILE) {
        tile_view view;
        if (RF_CPU(attention_look)(&view, t, w, &b, chunk->key + at,
                                   min_of(RF_KEY_TILE, chunk->n_keys - at))) {
            RF_CPU(attention_take_tile)(t, w, &view, at / RF_KEY_TILE, rows);
        }
    }
    const int32_t turn = chunks_before(&b, chunk->index);
    const bool last = turn + 1 == chunks_before(&b, INT32_MAX);
    wait_for(done, turn);
    if (turn > 0) {
        gather_rows(w->dq, RF_F32, dq, t, &b, kv_head);
    } else {
        zero_rows(w->dq, t->ld, 0, rows);
    }
    RF_CPU(attention_take_queries)
    (s->carry + (b.begin * t->h + kv_head * t->group * b.n) * STEP, t, w, &b, chunk);
    const vf factor = v_set(last ? t->scale : 1.0F);
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = (b.begin + r % b.n) * t->h + kv_head * t->group + r / b.n;
        for (int64_t c = 0; c < width; c += VL) { /* + 0: see the end of forward's unit */
            vf x = v_mul(factor, v_load(w->dq + r * t->ld + c));
            v_store_n(dq + at * width + c, v_add(x, v_zero()), width - c);
        }
    }
    __atomic_store_n(done, turn + 1, __ATOMIC_RELEASE);
}

/* --- A unit ------------------------------------------------------------------------------------
 */

/* w->k: keys from STEP before the chunk on; 0 where there is none, and for keys that are not
 * finite.
 */
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

/* dst = scale sum, of a unit's keys. */
static void finish_keys(float *dst, float *sum, const attention *t, const workspace *w,
                        const key_chunk *chunk, float scale)
{
    const int64_t width = t->head_dim;
    if (t->bf16) { /* the copy of k is done with */
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
    int64_t first, end;
    find_blocks(&first, &end, spans, index);
    for (int64_t i = end - 1; i >= first; i--) {
        const query_block b = get_block(spans, i);
        if (sees(&b, index)) {
            take_block(dq, s, t, w, i, &chunk);
        }
    }
    finish_keys(dk, w->dk, t, w, &chunk, t->scale);
    finish_keys(dv, w->dv, t, w, &chunk, 1.0F);
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
                sum = v_fma(load_as(type_in(t), t->do_, i * width + c, width - c),
                            load_as(type_in(t), t->o, i * width + c, width - c), sum);
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
    attention t = make_attention(&ctx->limits, spans, h, g, head_dim);
    t.q = q;
    t.k = k;
    t.v = v;
    t.o = o;
    t.do_ = do_;
    t.lse = lse;
    t.delta = delta;
    workspace w;
    shared s;
    const int64_t floats = bind(&w, NULL, &t);
    const size_t bytes =
        (size_t)(ctx->n_threads * floats) * sizeof(float) +
        bind_shared(&s, (float *)ctx->scratch + ctx->n_threads * floats, &t, spans->n, spans->m);
    RF_ASSERT(bytes <= ctx->scratch_bytes);
    const int64_t units = ceil_div(spans->m, CHUNK) * g;
    int64_t next = 0;
    order_chunks(&s, spans);
#pragma omp parallel num_threads(ctx->n_threads) private(w)
    {
        bind(&w, (float *)ctx->scratch + omp_get_thread_num() * floats, &t);
        prepare(dq, delta, s.done, &t);
        /* Not `omp for`: units must begin in their order. */
        for (int64_t u; (u = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < units;) {
            chunk_unit(dq, dk, dv, &s, &t, &w, s.order[u / g], u % g);
        }
    }
}
