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
#ifndef RF_INFER_DECODER_H
#define RF_INFER_DECODER_H

#include "infer/sequence.h"

typedef struct rf_decoder {
    /* Adds the places of the next forward pass, at most the prompt (where it is still to come) and
     * rf_decode_most_places, and the queries about them; n_queries is 0 before. Called until the
     * sequence is done. */
    void (*ask)(rf_sequence *s, rf_batch *batch);
    /* Takes the answers, s->query[0..n_queries). True: has put other queries about the same pass in
     * their place. */
    bool (*tell)(rf_sequence *s);
} rf_decoder;

/* Those that are there: one file each (decode_*.c), and a line in decoder.c. */
extern const rf_decoder rf_decoder_ar, rf_decoder_refusion;

const rf_decoder *rf_decoder_of(rf_decode_kind kind);

#endif
