/* rng.h: counter-based randomness (Philox 4x32-10; Salmon et al., SC 2011).    all local
 *
 * A stream is named by a seed and a list of words (purpose, epoch, corpus, sample, ...), never by
 * the history of calls: the noise that a sample gets depends on neither ranks nor threads nor a
 * resume. Two streams with different names are independent for all purposes here.
 */
#ifndef RF_BASE_RNG_H
#define RF_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

/* First word of a stream's name: what the numbers are for. Values are part of the file formats
 * (they decide what a resumed run draws) and never change. */
enum {
    RF_RNG_INIT = 1,      /* weights: (tensor name's CRC32) */
    RF_RNG_SHUFFLE = 2,   /* order of samples: (epoch) */
    RF_RNG_WEIGHT = 3,    /* fractional corpus weights: (epoch, corpus, sample) */
    RF_RNG_OBJECTIVE = 4, /* noise of an objective: (epoch, corpus, sample, occurrence, piece) */
    RF_RNG_DECODE = 5,    /* sampling: (prompt index, draw) */
    RF_RNG_TASK = 6,      /* generated tasks: (task, index) */
    RF_RNG_SPLIT = 7,     /* held-out split: (source, sample) */
    RF_RNG_DROPOUT = 8,   /* of adapters' inputs: (step, leaf, layer, matrix) */
    RF_RNG_SCORE = 9,     /* masks that bound a likelihood: (question) */
    RF_RNG_TEST = 99
};

typedef struct rf_rng {
    uint32_t key[2];
    uint32_t counter[4];
    uint32_t drawn[4];
    int n_left; /* of drawn, the last ones: not used yet */
} rf_rng;

/* The stream (seed, words[0..n_words)). */
rf_rng rf_rng_make(uint64_t seed, const uint64_t *words, int n_words);

/* RF_RNG_STREAM(seed, RF_RNG_OBJECTIVE, epoch, corpus, ...) */
#define RF_RNG_STREAM(seed, ...)                                                                   \
    rf_rng_make((seed), (const uint64_t[]){__VA_ARGS__},                                           \
                (int)(sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t)))

/* Four words of Philox 4x32-10. out[4] sets, counter[4] and key[2] read; out may be counter. */
void rf_rng_philox(uint32_t *out, const uint32_t *counter, const uint32_t *key);

uint32_t rf_rng_u32(rf_rng *rng);
uint64_t rf_rng_u64(rf_rng *rng);
double rf_rng_uniform(rf_rng *rng); /* [0,1), 53 bits */
double rf_rng_normal(rf_rng *rng);  /* mean 0, variance 1 (Box-Muller) */
/* The stream as it is when n more words have been drawn: one each u32, two each u64 and uniform, four each normal. */
enum { RF_RNG_UNIFORM_WORDS = 2, RF_RNG_NORMAL_WORDS = 4 };
void rf_rng_skip(rf_rng *rng, uint64_t n);
uint64_t rf_rng_below(rf_rng *rng, uint64_t n); /* [0,n) without bias; n >= 1 */
/* Fisher-Yates over x [n], of `size` bytes each. */
void rf_rng_shuffle(rf_rng *rng, void *x, int64_t n, size_t size);

#endif
