/* decoder.h: the ways to answer a prompt (ALGORITHM: decoding).                all local
 *
 * A decoder is a state machine over a sequence. It never runs the model: before a forward pass it
 * is asked for the sequence's places of it, behind the pass it is told what the head says about
 * them. So many sequences share a pass, each in its own phase, and an answer depends on nothing but
 * the model, the prompt, the options and the prompt's index.
 *
 *     ask        the prompt, mask tokens, drafts to be verified, ... go into the batch
 *     (forward pass, then one query of the head about the places asked for)
 *     tell       takes drafts and probabilities; moves on to the next phase, or is done
 *
 * A decoder that wants to know more about the same pass, given these answers, says so: it is told
 * again. (A plan asks for all slots' first drafts, then for the rest of the few it selects: the
 * head of a large vocabulary costs more than a layer.)
 */
#ifndef RF_INFER_DECODE_DECODER_H
#define RF_INFER_DECODE_DECODER_H

#include "common/model/batch.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct rf_decode_options rf_decode_options; /* options.h */
typedef struct rf_sequence rf_sequence;             /* sequence.h */

typedef struct rf_decoder {
    const char *objective; /* objective.kind of the models that it is for */
    const char *skill; /* what they learnt and others did not; completes "it never learnt ..." */
    bool in_pieces;    /* the prompt is causal and asked about at its end only: its beginning may be
                            computed in passes of its own */
    bool needs_mask;   /* the tokenizer must have a mask token */
    bool in_slots;     /* decode.slot_size tokens are decided together; else each alone */
    const char *ignores; /* keys of decode.* that it does not read, blanks between; NULL: none. What
                            reports leave out, and a sweep does not try */

    /* Checks the settings that it reads beside gen_length, which is in range, and puts those that
     * are used for those that were given. RF_ERR_USAGE. NULL: nothing to do. The methods below get
     * resolved options. */
    int (*resolve)(rf_decode_options *options, rf_error *err);
    /* The most places of a forward pass, for a prompt of n_prompt tokens: of one that holds the
     * prompt (s->wants_prompt), or of the others. */
    int64_t (*most_places)(const rf_decode_options *options, int64_t n_prompt, bool with_prompt);
    /* Places of the slab that a prompt of n_prompt tokens needs. NULL: n_prompt + gen_length. */
    int64_t (*slab)(const rf_decode_options *options, int64_t n_prompt);
    /* The settings that matter beside the lengths, for people, as one line. */
    void (*describe)(char *text, size_t bytes, const rf_decode_options *options);

    /* Adds the places of the next forward pass, at most most_places, and the queries about them;
     * n_queries is 0 before. Called until the sequence is done. */
    void (*ask)(rf_sequence *s, rf_batch *batch);
    /* Takes the answers, s->query[0..n_queries). True: has put other queries about the same pass in
     * their place. */
    bool (*tell)(rf_sequence *s);
} rf_decoder;

/* All decoders: X(id, name), with `between` between one and the next. rf_decoder_<id> is defined in
 * a file of this folder, its name is the value of decode.kind. Another decoder is a file and a line
 * here. */
/* clang-format off: a line each */
#define RF_DECODERS(X, between)                                                                    \
    X(ar, "ar")                                                                                    \
    between X(refusion, "refusion") between X(left_to_right, "refusion-left-to-right") between X(  \
        mdm, "mdm") between                                                                        \
    X(fast_dllm, "fast-dllm") between                                                              \
    X(block, "block")

/* clang-format on */

#define RF_DECLARE_DECODER(id, name) extern const rf_decoder rf_decoder_##id;
RF_DECODERS(RF_DECLARE_DECODER, )
#undef RF_DECLARE_DECODER
/* Judges a response that is given (rf_given); not one of decode.kind. decode.slot_size 0 or 1: by the
 * chain rule, or from a mask for each token. */
extern const rf_decoder rf_decoder_given;

/* As decode.kind has it. */
const char *rf_decoder_name(const rf_decoder *decoder);
/* Tokens that are decided together: a response is a row of slots of this size. */
int64_t rf_decoder_slot_size(const rf_decode_options *options);
/* Whether it reads decode.NAME; false: `ignores` lists it. */
bool rf_decoder_reads(const rf_decoder *decoder, const char *name);
/* NULL: there is none of that name. */
const rf_decoder *rf_decoder_find(const char *name);

#endif
