/* samples.h: completions of a few prompts, to see what the model has learnt. */
#ifndef RF_TRAIN_SAMPLES_H
#define RF_TRAIN_SAMPLES_H

#include "common/dist/dist.h"
#include "infer/engine.h"
#include "train/run/metrics.h"
#include "train/sources.h"

typedef struct rf_sample {
    int32_t *token; /* prompt and response. Owned */
    int64_t n_prompt, n_response;
} rf_sample;

typedef struct rf_samples {
    int64_t n;                     /* 0: no samples are made */
    int64_t max_prompt;            /* tokens of the longest */
    rf_sample *sample;             /* [n] owned */
    rf_decode_options options;     /* gen_length fits the model's positions */
    const rf_tokenizer *tokenizer; /* not owned */
} rf_samples;

/* local. Chooses the first samples, at most `most`, of data.valid (or data.train) that fit in a row,
 * and options that fit the model's positions: decode.*, with a shorter gen_length where prompt and
 * answer would not fit. warns: says so where no answer fits. Caller frees, also after an error. */
RF_MUST_CHECK int rf_samples_choose(rf_samples *out, const rf_sources *sources,
                                    const rf_config *config, int64_t most, int64_t n_positions,
                                    bool warns, rf_error *err);
void rf_samples_free(rf_samples *samples); /* local; a zeroed struct is fine */

/* collective. Decodes the prompts, shared among ranks, and writes them to samples.jsonl.
 *   engine:   made with these options, for prompts of up to max_prompt tokens
 *   together: forward passes of its model are collective (RF_SHARD_WEIGHTS) */
RF_MUST_CHECK int rf_samples_run(const rf_samples *samples, rf_engine *engine, rf_dist *dist,
                                 bool together, rf_metrics *metrics, int64_t step, rf_error *err);

#endif
