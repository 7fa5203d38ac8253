/* persistent.cuh: what the blocks of persistent_forward.cu work on, and how it comes to them.
 *
 * There is a block for each multiprocessor, and it stays there. It makes items: a tile of queries of one head each.
 * Its first warpgroup fetches: one thread starts bulk copies of queries, and of keys and values into rings in
 * shared memory, as far ahead as these go, into the next item. The other two have 64 queries of an item
 * each. Barriers say that a place is full, or free again.
 *
 * A step takes two entries of the item's list of tiles, 128 keys, neighbours or not. Where their number is
 * odd, the last step's second entry is a tile behind all keys: the copy gives zeros, and the mask hides them. */
#ifndef RF_KERNELS_CUDA_ATTENTION_PERSISTENT_CUH
#define RF_KERNELS_CUDA_ATTENTION_PERSISTENT_CUH

#include "common/kernels/cuda/attention/tensor.cuh"

enum { WIDTH = 128, GROUPS = 2, STAGES = 2, QUERIES_OF = RF_CUDA_MANY_QUERIES };
enum { STEP_KEYS = 2 * KEYS, THREADS = (1 + GROUPS) * WARPGROUP };
/* What one bulk copy brings: a panel of 64 rows. */
enum { BOX_ROWS = 64, BOX_BYTES = BOX_ROWS * ROW_BYTES };
static_assert(int{QUERIES_OF} == GROUPS * BOX_ROWS, "a warpgroup has the rows of a box");
static_assert(int{KEYS} == int{BOX_ROWS}, "a box is a panel of a tile of keys");

/* Shared memory, in bytes: an item's queries, its output, the rings. */
enum {
    OWN_BYTES = QUERIES_OF * WIDTH * 2,
    STEP_BYTES = STEP_KEYS * WIDTH * 2,
    OUTPUT_AT = OWN_BYTES,
    KEYS_AT = OUTPUT_AT + OWN_BYTES,
    VALUES_AT = KEYS_AT + STAGES * STEP_BYTES,
    MEMORY_BYTES = VALUES_AT + STAGES * STEP_BYTES
};

struct barriers {
    uint64_t own_full, own_free, k_full[STAGES], k_free[STAGES], v_full[STAGES], v_free[STAGES];
};

/* What the fetching thread says of what it fetches. */
struct notes {
    int4 item;          /* first query, head, steps */
    int2 entry[STAGES]; /* of the step whose keys lie there */
};

/* Items go by the length of the query tiles' lists, longest first, so that blocks end together;
 * `together` heads at a time, so that the keys and values in use fit into the cache. */
struct schedule {
    const int32_t *order; /* query tiles */
    int tiles, heads, together;
};

struct operands {
    CUtensorMap q, k, v; /* maps of boxes */
    rf_cuda_attention a;
    schedule items;
    int list_width;
    float scale;
};

/* Item number `turn` of this block. Every other turn goes backwards, so that blocks get like sums of lengths. */
static __device__ inline int item_at(int turn)
{
    const int blocks = static_cast<int>(gridDim.x), own = static_cast<int>(blockIdx.x);
    return turn * blocks + (turn % 2 == 0 ? own : blocks - 1 - own);
}

/* Its query tile and its head. */
static __device__ inline int2 find_item(const schedule &s, int item)
{
    const int part = item / (s.tiles * s.together), at = item - part * s.tiles * s.together;
    const int heads = min(s.together, s.heads - part * s.together);
    return make_int2(s.order[at / heads], part * s.together + at % heads);
}

/* --- Fetching -------------------------------------------------------------------------------- */

/* Step `number` of this block has this place of a ring, ... */
static __device__ inline unsigned stage_of(unsigned number)
{
    return number % STAGES;
}

/* ... and its barriers this phase. */
static __device__ inline unsigned phase_of(unsigned number)
{
    return number / STAGES & 1U;
}

/* Both tiles of a step, of a head's keys or values. */
static __device__ inline void fetch_tiles(unsigned to, const CUtensorMap *map, int head, int2 entry,
                                          unsigned barrier)
{
    barrier_expect(barrier, STEP_BYTES);
#pragma unroll
    for (int panel = 0; panel < WIDTH / PANEL; panel++) {
        const unsigned at = to + static_cast<unsigned>(panel * STEP_KEYS * ROW_BYTES);
        const int column = head * WIDTH + panel * PANEL;
        load_tile(at, map, column, entry.x / 2 * KEYS, barrier);
        load_tile(at + BOX_BYTES, map, column, entry.y / 2 * KEYS, barrier);
    }
}

static __device__ inline void fetch_queries(unsigned to, const CUtensorMap *map, int head,
                                            int first, unsigned barrier)
{
    barrier_expect(barrier, OWN_BYTES);
#pragma unroll
    for (int box = 0; box < GROUPS * WIDTH / PANEL; box++) {
        load_tile(to + static_cast<unsigned>(box * BOX_BYTES), map,
                  head * WIDTH + box / GROUPS * PANEL, first + box % GROUPS * BOX_ROWS, barrier);
    }
}

/* All items of this block, by one thread. memory: of the shared window. */
static __device__ inline void fetch_all(const operands &p, unsigned memory, barriers *b,
                                        notes *note)
{
    const int all = p.items.tiles * p.items.heads;
    const int shared_by = static_cast<int>(p.a.h / p.a.g);
    const int behind_all = 2 * (p.list_width - 1); /* the entry of a tile without keys */
    unsigned step = 0;                             /* of this block */
    for (int turn = 0; item_at(turn) < all; turn++) {
        const int2 item = find_item(p.items, item_at(turn));
        const int32_t *list = p.a.by_query + static_cast<int64_t>(item.x) * p.list_width;
        const int count = list[0], steps = (count + 1) / 2;
        const int first = item.x * QUERIES_OF, kv = item.y / shared_by;
        barrier_wait(shared_address(&b->own_free), (static_cast<unsigned>(turn) & 1U) ^ 1U);
        note->item = make_int4(first, item.y, steps, 0);
        fetch_queries(memory, &p.q, item.y, first, shared_address(&b->own_full));
        int2 before = make_int2(0, 0);
        for (int i = 0; i <= steps; i++) {
            int2 entry = before;
            if (i < steps) {
                const unsigned s = stage_of(step);
                entry.x = list[1 + 2 * i];
                entry.y = 2 * i + 1 < count ? list[2 + 2 * i] : behind_all;
                barrier_wait(shared_address(&b->k_free[s]), phase_of(step) ^ 1U);
                note->entry[s] = entry;
                fetch_tiles(memory + KEYS_AT + s * STEP_BYTES, &p.k, kv, entry,
                            shared_address(&b->k_full[s]));
                step++;
            }
            if (i > 0) { /* values come a step later: they are read later */
                const unsigned at = i < steps ? step - 2 : step - 1, s = stage_of(at);
                barrier_wait(shared_address(&b->v_free[s]), phase_of(at) ^ 1U);
                fetch_tiles(memory + VALUES_AT + s * STEP_BYTES, &p.v, kv, before,
                            shared_address(&b->v_full[s]));
            }
            before = entry;
        }
    }
}

#endif
