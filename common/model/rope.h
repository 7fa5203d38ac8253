/* rope.h: the frequencies of rotary position embeddings.                       all local
 *
 * Sources: RoPE, arXiv:2104.09864; "linear": position interpolation, arXiv:2306.15595; "llama3":
 * Llama 3.1's rule (arXiv:2407.21783), as Transformers' config.json describes it; "yarn":
 * arXiv:2309.00071, likewise.
 */
#ifndef RF_MODEL_ROPE_H
#define RF_MODEL_ROPE_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum rf_rope_kind {
    RF_ROPE_DEFAULT,
    RF_ROPE_LINEAR,
    RF_ROPE_LLAMA3,
    RF_ROPE_YARN,
    RF_N_ROPES
} rf_rope_kind;

/* How the frequencies are scaled; a zeroed struct: not at all. */
typedef struct rf_rope {
    rf_rope_kind kind;
    double factor; /* linear, llama3, yarn: slow frequencies are divided by it */
    double low_freq_factor, high_freq_factor; /* llama3: turns within the original positions that
                                                 bound the slow and the fast frequencies */
    double beta_fast, beta_slow; /* yarn: the same, in turns of the original positions */
    double attention_factor;     /* yarn: cosines and sines are multiplied by it; 0: as
                                    rf_rope_attention says */
    int64_t original_max_position_embeddings; /* llama3, yarn */
} rf_rope;

const char *rf_rope_name(rf_rope_kind kind); /* "default", "linear", "llama3", "yarn" */
bool rf_rope_equal(const rf_rope *a, const rf_rope *b);
/* Checks ranges; messages use Hugging Face's names. */
RF_MUST_CHECK int rf_rope_check(const rf_rope *rope, rf_error *err);
/* Radians by position of each pair, frequency [head_dim/2] sets, of a checked rope:
 * theta^(-2i/head_dim), scaled. */
void rf_rope_frequencies(double *frequency, const rf_rope *rope, double theta, int64_t head_dim);
/* What cosines and sines are multiplied by: 1; of yarn attention_factor, else 0.1 ln(factor) + 1. */
double rf_rope_attention(const rf_rope *rope);

#endif
