/* plain_draw.h: the rules of drawing (rf_draw, kernels.h) as they are written down, the witness of
 * the decoders: one id after the other is dropped. What rounding could decide is noted in `close`. */
#ifndef RF_TESTS_INFER_PLAIN_DRAW_H
#define RF_TESTS_INFER_PLAIN_DRAW_H

#include "common/kernels/gumbel.h"
#include "infer/decode/options.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

enum { PLAIN_MOST = 512 };

typedef struct plain_draw {
    double z[PLAIN_MOST]; /* logits; -HUGE_VAL: not to be drawn */
    int32_t n;
    double margin; /* decisions closer than this may fall either way */
    bool close;    /* one was */
} plain_draw;

static inline void plain_penalty(plain_draw *d, double penalty, const int32_t *seen, int64_t n_seen)
{
    bool is_seen[PLAIN_MOST] = {0};
    for (int64_t i = 0; i < n_seen; i++) {
        is_seen[seen[i]] = true;
    }
    for (int32_t id = 0; id < d->n; id++) {
        if (is_seen[id]) {
            d->z[id] = d->z[id] < 0 ? d->z[id] * penalty : d->z[id] / penalty;
        }
    }
}

/* The least of what is left, the highest id among equals; -1: nothing is. */
static inline int32_t plain_least(const plain_draw *d)
{
    int32_t least = -1;
    for (int32_t id = 0; id < d->n; id++) {
        if (d->z[id] > -HUGE_VAL && (least < 0 || d->z[id] <= d->z[least])) {
            least = id;
        }
    }
    return least;
}

static inline int32_t plain_likeliest(const plain_draw *d)
{
    int32_t best = 0;
    for (int32_t id = 1; id < d->n; id++) {
        best = d->z[id] > d->z[best] ? id : best;
    }
    return best;
}

static inline double plain_largest(const plain_draw *d)
{
    double largest = -HUGE_VAL;
    for (int32_t id = 0; id < d->n; id++) {
        largest = fmax(largest, d->z[id]);
    }
    return largest;
}

static inline int64_t plain_left(const plain_draw *d, double above)
{
    int64_t n = 0;
    for (int32_t id = 0; id < d->n; id++) {
        n += d->z[id] > above;
    }
    return n;
}

/* Drops it; what is left must not be nearly the same. */
static inline void plain_drop(plain_draw *d, int32_t id, bool is_last)
{
    const double z = d->z[id];
    d->z[id] = -HUGE_VAL;
    const double next = d->z[plain_least(d)];
    d->close |= is_last && next > z && next - z < d->margin;
}

/* Ids with k others above them are dropped. */
static inline void plain_top_k(plain_draw *d, int64_t k)
{
    for (int32_t least; plain_left(d, d->z[least = plain_least(d)]) >= k;) {
        plain_drop(d, least, plain_left(d, d->z[least]) == k);
    }
}

static inline void plain_top_p(plain_draw *d, double temperature, double tail)
{
    const double largest = plain_largest(d);
    double total = 0, dropped = 0;
    for (int32_t id = 0; id < d->n; id++) {
        total += exp((d->z[id] - largest) / temperature);
    }
    while (tail > 0 && plain_left(d, -HUGE_VAL) > 1) {
        const int32_t least = plain_least(d);
        dropped += exp((d->z[least] - largest) / temperature) / total;
        d->close |= fabs(dropped - tail) < d->margin;
        if (dropped > tail) {
            return;
        }
        plain_drop(d, least, dropped + exp((d->z[least] - largest) / temperature) / total > tail);
    }
}

static inline void plain_min_p(plain_draw *d, double temperature, double min_p)
{
    const double largest = plain_largest(d);
    for (int32_t id = 0; id < d->n; id++) {
        const double p = exp((d->z[id] - largest) / temperature);
        d->close |= min_p > 0 && d->z[id] < largest && fabs(p - min_p) < d->margin;
        d->z[id] = p < min_p ? -HUGE_VAL : d->z[id];
    }
}

/* The token, by the settings of `o`, with the noise of `key`. */
static inline int32_t plain_token(plain_draw *d, const rf_decode_options *o, const int32_t *seen,
                                  int64_t n_seen, uint64_t key)
{
    const double temperature = o->temperature;
    double best = -HUGE_VAL, second = -HUGE_VAL;
    int32_t token = -1;
    if (o->repetition_penalty > 0) {
        plain_penalty(d, o->repetition_penalty, seen, n_seen);
    }
    if (temperature > 0) {
        if (o->top_k > 0) {
            plain_top_k(d, o->top_k);
        }
        plain_top_p(d, temperature, o->tail);
        plain_min_p(d, temperature, o->min_p);
    }
    for (int32_t id = 0; id < d->n; id++) {
        double x = temperature > 0 ? d->z[id] / temperature + rf_gumbel(key, id) : d->z[id];
        if (x > best) {
            second = best;
            best = x;
            token = id;
        } else if (x > second) {
            second = x;
        }
    }
    d->close |= best - second < d->margin / (temperature > 0 ? fmin(temperature, 1) : 1);
    return token;
}

#endif
