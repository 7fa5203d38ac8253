/* Which token a place draws (rf_draw, kernels.h), from its logits.
 *
 * Nothing is sorted. What top-k and top-p leave are the ids above an edge, which is found digit by
 * digit as in a radix sort: weights are summed in buckets by the leading bits of the logits, then,
 * within the bucket that holds the edge, by the next bits. Weights are whole numbers, so that their
 * sums are exact in any order. Blocks of ids of which none is likely enough, most of a large
 * vocabulary, are passed over at the price of their maximum. */
#include "common/kernels/cpu/head.h"
#include "common/kernels/gumbel.h"

#include <float.h>
#include <math.h>

enum { BLOCK = 16 * VL, DIGIT = 11, BUCKETS = 1 << DIGIT };

/* What may be drawn. */
typedef struct candidates {
    const float *z; /* [n] logits, -INFINITY: banned */
    int64_t n;
    double temperature;
    int32_t best;  /* the lowest id with the largest logit, */
    float largest; /* which is this */
    double least;  /* ids with a smaller logit are dropped, */
    int64_t end;   /* and those with this one from here on */
} candidates;

float RF_CPU(head_largest)(const float *z, int64_t n)
{
    vf top = v_set(-INFINITY);
    for (int64_t j = 0; j < n; j += VL) {
        top = v_max(v_first(n - j, v_load_n(z + j, n - j), v_set(-INFINITY)), top);
    }
    return v_largest(top);
}

/* Where nothing may be drawn, largest stays -INFINITY. */
static void find_best(candidates *c)
{
    int32_t at = 0;
    c->largest = -INFINITY;
    for (int64_t begin = 0; begin < c->n; begin += BLOCK) {
        const float top = RF_CPU(head_largest)(c->z + begin, min_of(BLOCK, c->n - begin));
        if (top > c->largest) {
            c->largest = top;
            at = (int32_t)begin;
        }
    }
    while (c->largest > -INFINITY && c->z[at] != c->largest) {
        at++;
    }
    c->best = at;
}

/* e = exp((z - largest) / temperature): probabilities, times what makes the largest one 1. */
static void weigh(float e[BLOCK], const candidates *c, int64_t begin, int64_t n)
{
    const vf rate = v_set((float)fmin(1 / c->temperature, (double)FLT_MAX));
    for (int64_t i = 0; i < n; i += VL) {
        vf z = v_sub(v_load_n(c->z + begin + i, n - i), v_set(c->largest));
        v_store(e + i, v_exp(v_mul(z, rate)));
    }
}

/* --- Top-k, top-p ----------------------------------------------------------------------------- */

/* Numbers in the order of their floats. -0 is 0. */
static uint32_t key_of(float x)
{
    uint32_t bits;
    x += 0.0F;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

static float float_of(uint32_t key)
{
    float x;
    uint32_t bits = key & 0x80000000U ? key & 0x7fffffffU : ~key;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Weight of an id in top-p. All together stay below 2^63 with up to 2^23 ids. */
static uint64_t mass_of(float e)
{
    return (uint64_t)(e * 0x1p40F);
}

/* Adds up, for `width` buckets of 2^shift keys from `low` on, what the candidates in each weigh: 1,
 * or their mass. Returns the sum of all. */
static uint64_t tally(uint64_t *bucket, const candidates *c, uint32_t low, int shift,
                      uint32_t width, bool by_mass)
{
    const double from = fmax(c->least, (double)float_of(low)); /* the key 0 is NaN: least */
    uint64_t total = 0;
    float e[BLOCK];
    memset(bucket, 0, width * sizeof *bucket);
    for (int64_t begin = 0; begin < c->n; begin += BLOCK) {
        const int64_t n = min_of(BLOCK, c->n - begin);
        const float *z = c->z + begin;
        if ((double)RF_CPU(head_largest)(z, n) < from) {
            continue;
        }
        if (by_mass) {
            weigh(e, c, begin, n);
        }
        for (int64_t i = 0; i < n; i++) {
            const uint32_t at = (key_of(z[i]) - low) >> shift;
            if ((double)z[i] >= from && at < width) {
                const uint64_t weight = by_mass ? mass_of(e[i]) : 1;
                bucket[at] += weight;
                total += weight;
            }
        }
    }
    return total;
}

/* The candidates' logits among the 2^shift keys from `low` on. out [n]; returns how many. Without
 * branches that nobody could predict. */
static int64_t gather(float *out, const candidates *c, uint32_t low, int shift)
{
    const double from = fmax(c->least, (double)float_of(low));
    int64_t count = 0;
    for (int64_t begin = 0; begin < c->n; begin += BLOCK) {
        const int64_t n = min_of(BLOCK, c->n - begin);
        const float *z = c->z + begin;
        if ((double)RF_CPU(head_largest)(z, n) < from) {
            continue;
        }
        for (int64_t i = 0; i < n; i++) {
            out[count] = z[i];
            count += ((double)z[i] >= from) & ((key_of(z[i]) - low) >> shift == 0);
        }
    }
    return count;
}

/* The end of the first `count` ids with this logit. */
static int64_t end_of_equals(const candidates *c, float z, uint64_t count)
{
    int64_t end = 0;
    while (count > 0) {
        count -= c->z[end++] == z;
    }
    return end;
}

/* Keeps an id, in the order of falling logits, as long as those before it weigh less than a limit:
 * top_k ids, or all but the share `tail` of the mass. edge [n] is scratch: the ids of the bucket that
 * holds the edge. */
static void narrow(candidates *c, bool by_mass, const rf_draw *how, float *edge)
{
    uint64_t bucket[BUCKETS], above = 0, limit = 0;
    uint32_t low = 0;
    candidates rest = *c;
    for (int end = 32; end > 0; end = end > DIGIT ? end - DIGIT : 0) {
        const int shift = end > DIGIT ? end - DIGIT : 0;
        const uint32_t width = 1U << (end - shift);
        const uint64_t total = tally(bucket, &rest, low, shift, width, by_mass);
        if (end == 32) {
            limit = by_mass ? total - (uint64_t)(how->tail * (double)total) : (uint64_t)how->top_k;
            limit += limit == 0; /* the likeliest stays */
            if (limit >= total) {
                return;
            }
        }
        uint32_t at = width - 1;
        while (above + bucket[at] < limit) {
            above += bucket[at--];
        }
        low += at << shift;
        if (end == 32) {
            rest.n = gather(edge, c, low, shift);
            rest.z = edge;
        }
    }
    c->least = (double)float_of(low);
    if (by_mass) { /* equals weigh alike */
        float e[BLOCK];
        edge[0] = float_of(low);
        weigh(e, &rest, 0, 1);
        c->end = end_of_equals(c, edge[0], (limit - above - 1) / mass_of(e[0]) + 1);
    }
}

/* --- Noise ------------------------------------------------------------------------------------ */

static double noisy(const candidates *c, int64_t id, uint64_t key)
{
    return (double)c->z[id] / c->temperature + rf_gumbel(key, id);
}

/* The candidate with the largest logit/temperature + noise; the lowest id among equals. The noise of
 * the uniform number u, -log(-log u), is at most -log(1 - u): so an id whose 1 - u is above
 * exp(logit/temperature - the largest value so far) cannot win, and two logarithms are saved. */
static int32_t sample(const candidates *c, uint64_t key)
{
    const double slack = 1.01; /* more than the rounding of all this */
    const double largest = (double)c->largest / c->temperature;
    int32_t best = c->best;
    double most = noisy(c, best, key), rate = slack * exp(largest - most), above[BLOCK];
    float e[BLOCK];
    for (int64_t begin = 0; begin < c->n; begin += BLOCK) {
        const int64_t n = min_of(BLOCK, c->n - begin);
        const float *z = c->z + begin;
        if ((double)RF_CPU(head_largest)(z, n) < c->least) {
            continue;
        }
        weigh(e, c, begin, n);
        for (int64_t i = 0; i < BLOCK; i++) {
            above[i] = 1 - rf_gumbel_uniform(key, begin + i);
        }
        for (int64_t i = 0; i < n; i++) {
            const int32_t id = (int32_t)(begin + i);
            if (above[i] > (double)e[i] * rate || (double)z[i] < c->least ||
                ((double)z[i] == c->least && id >= c->end)) {
                continue;
            }
            const double value = noisy(c, id, key);
            if (value > most || (value == most && id < best)) {
                best = id;
                most = value;
                rate = slack * exp(largest - most);
            }
        }
    }
    return best;
}

/* --- All -------------------------------------------------------------------------------------- */

/* The row with the penalty for what was seen, in `own`. */
static const float *penalize(float *own, const float *row, const rf_head_query *query,
                             const rf_draw *how)
{
    memcpy(own, row, (size_t)query->n_usable * sizeof *own);
    for (int64_t s = how->seen; s < how->seen + how->n_seen; s++) {
        const int32_t id = query->seen[s];
        if (id < query->n_usable) {
            const double z = (double)row[id];
            own[id] = (float)(z < 0 ? z * how->penalty : z / how->penalty);
        }
    }
    return own;
}

int32_t RF_CPU(draw)(float *own, float *edge, const float *row, int32_t first,
                     const rf_head_query *query, const rf_draw *how)
{
    candidates c = {.z = how->n_seen > 0 ? penalize(own, row, query, how) : row,
                    .n = query->n_usable,
                    .temperature = how->temperature,
                    .least = -(double)FLT_MAX,
                    .end = query->n_usable};
    find_best(&c);
    if (!(c.largest > -INFINITY)) {
        return first;
    }
    if (!(how->temperature > 0)) {
        return c.best;
    }
    if (how->top_k > 0) {
        narrow(&c, false, how, edge);
    }
    if (how->tail > 0) {
        narrow(&c, true, how, edge);
    }
    const double least = (double)c.largest + how->temperature * log(how->min_p);
    if (least > c.least) { /* not with min_p 0 */
        c.least = least;
        c.end = c.n;
    }
    return sample(&c, how->key);
}
