/* samples.h: completions of a few prompts, to see what the model has learnt. */
#ifndef RF_TRAIN_SAMPLES_H
#define RF_TRAIN_SAMPLES_H

#include "train/trainer.h"

/* local. Chooses the first log.n_samples samples of data.valid (or data.train) that fit in a row,
 * and options that fit the model's positions: decode.*, with a shorter gen_length where prompt and
 * answer would not fit. None where log.samples_every is 0. Needs sources, objective and shape.
 * Caller frees. */
RF_MUST_CHECK int rf_samples_choose(rf_prompts *out, const rf_trainer *trainer, rf_error *err);
void rf_samples_free(rf_prompts *prompts); /* a zeroed struct is fine */

/* collective. Decodes the prompts, shared among ranks, and writes them to samples.jsonl. */
RF_MUST_CHECK int rf_samples_run(rf_trainer *trainer, rf_error *err);

#endif
