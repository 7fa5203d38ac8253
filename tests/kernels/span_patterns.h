/* span_patterns.h: the kinds of attention that the project knows, as spans. */
#ifndef TESTS_KERNELS_SPAN_PATTERNS_H
#define TESTS_KERNELS_SPAN_PATTERNS_H

#include "common/base/rng.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SPANS_CAUSAL,        /* one sample */
    SPANS_PACKED,        /* causal, several samples, padding behind them */
    SPANS_BIDIRECTIONAL, /* several samples */
    SPANS_SLOTS,         /* a prefix, and the query's own slot up to itself */
    SPANS_MASKS,         /* a growing prefix, and the query's own key */
    SPANS_RANDOM,        /* anything valid, with many empty spans */
    SPANS_EMPTY,
    SPANS_ROWS,   /* rows of 100 places, with padding behind the samples of each */
    SPANS_COPIES, /* a clean and a noisy copy in blocks (BD3-LM) */
    N_SPAN_PATTERNS
};

static inline int32_t clip_key(int64_t key, int64_t m)
{
    return (int32_t)(key < 0 ? 0 : key > m ? m : key);
}

static inline void random_spans(int32_t *span, rf_rng *rng, int64_t m)
{
    for (int c = 0; c < 4; c++) {
        span[c] = (int32_t)rf_rng_below(rng, (uint64_t)m + 1);
        for (int e = c; e > 0 && span[e - 1] > span[e]; e--) { /* keeps the four in order */
            int32_t swap = span[e];
            span[e] = span[e - 1];
            span[e - 1] = swap;
        }
    }
    uint64_t kind = rf_rng_below(rng, 8);
    if (kind < 3) { /* an empty span may lie anywhere */
        int s = kind == 0 ? 0 : 1;
        span[2 * s] = span[2 * s + 1] = (int32_t)rf_rng_below(rng, (uint64_t)m + 1);
    }
}

/* span [n,2,2] over m keys. */
static inline void fill_spans(int32_t *span, int pattern, int64_t n, int64_t m)
{
    rf_rng rng = RF_RNG_STREAM(21, RF_RNG_TEST, (uint64_t)pattern, (uint64_t)n, (uint64_t)m);
    const int64_t lengths[] = {1, 3, 2, 5, 40, 33, 64, 7};
    int64_t begin = 0, length = lengths[0], n_samples = 1; /* of the present sample */
    for (int64_t i = 0; i < n; i++, span += 4) {
        if (i == begin + length) {
            begin = i;
            length = lengths[n_samples++ % 8];
        }
        bool is_padding = begin + length > n;
        int64_t slot = m / 3 + (i / 5) * 5;
        switch (pattern) {
        case SPANS_CAUSAL:
            span[0] = 0, span[1] = clip_key(i + 1, m), span[2] = span[3] = span[1];
            break;
        case SPANS_PACKED:
            span[0] = span[2] = span[3] = clip_key(begin, m);
            span[1] = is_padding ? span[0] : clip_key(i + 1, m);
            break;
        case SPANS_BIDIRECTIONAL:
            span[0] = clip_key(begin, m), span[1] = clip_key(begin + length, m);
            span[2] = span[3] = 0;
            break;
        case SPANS_SLOTS:
            span[0] = 0, span[1] = clip_key(m / 3, m);
            span[2] = clip_key(slot, m), span[3] = clip_key(m / 3 + i + 1, m);
            break;
        case SPANS_MASKS:
            span[0] = 0, span[1] = clip_key(i / 4 * 4, m);
            span[2] = clip_key(i, m), span[3] = clip_key(i + 1, m);
            break;
        case SPANS_ROWS: { /* causal samples of 30 and 50; so tiles of keys hold ends and begins */
            const int64_t row = i / 100 * 100, at = i - row, first = row + (at < 30 ? 0 : 30);
            span[0] = span[2] = span[3] = clip_key(at < 80 ? first : 0, m);
            span[1] = at < 80 ? clip_key(i + 1, m) : span[0];
            break;
        }
        case SPANS_COPIES: { /* clean keys and queries are the first halves */
            const int64_t half = n / 2, block = (i < half ? i : i - half) / 12 * 12;
            span[0] = 0, span[1] = clip_key(i < half ? block + 12 : block, m / 2);
            span[2] = clip_key(m / 2 + block, m), span[3] = clip_key(m / 2 + block + 12, m);
            if (i < half) {
                span[2] = span[3] = span[1];
            }
            break;
        }
        case SPANS_RANDOM:
            random_spans(span, &rng, m);
            break;
        default:
            span[0] = span[1] = clip_key(i, m), span[2] = span[3] = 0;
            break;
        }
    }
}

#endif
