/* fill.h: filling the masked places of one block of tokens after another.      local
 *
 * The decoders of masked diffusion (`mdm`, `fast-dllm`, `block`) differ in what a forward pass
 * computes anew. What they do with its predictions is the same, and is here: each masked place of
 * the current block of decode.block_length tokens drafts a token and has a confidence in it; a step
 * fills the most confident ones, as many as decode.rule says; what is filled never changes.
 *
 * Each token is a slot of its own and each step a round. s->stretch is the first place of the block,
 * s->step the number of the step in it.
 */
#ifndef RF_INFER_DECODE_FILL_H
#define RF_INFER_DECODE_FILL_H

#include "infer/decode/sequence.h"

/* Methods of their tables. resolve: block_length 0 becomes default_block, or the whole response
 * where that is shorter; gen_length is rounded up to a multiple of block_length. */
RF_MUST_CHECK int rf_fill_resolve(rf_decode_options *o, int64_t default_block, rf_error *err);
void rf_fill_describe(char *text, size_t bytes, const rf_decode_options *o);

/* Adds tokens [begin, end) of prompt and response, masks where nothing is filled yet. Their place in
 * the slab is their position, and each sees places [0, seen). unguided: the same in a second copy
 * behind the first, whose prompt is masked. */
void rf_fill_add(const rf_sequence *s, rf_batch *batch, int64_t begin, int64_t end, int64_t seen,
                 bool unguided);
/* Asks for the drafts of the block's masked places. row: of the batch, its first place. */
void rf_fill_ask(rf_sequence *s, int64_t row);
/* As rf_decoder.tell: takes the drafts and fills; moves on to the next block where this one is full
 * (s->step is 0 then), or is done. */
bool rf_fill_tell(rf_sequence *s);

#endif
