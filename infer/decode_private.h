/* decode_private.h: the state of one decoding, shared by the decoders of this folder. */
#ifndef RF_INFER_DECODE_PRIVATE_H
#define RF_INFER_DECODE_PRIVATE_H

#include "infer/decode.h"

/* The cache's slab holds the prompt and `committed - n_prompt` response tokens in the order they
 * were committed; places from `committed` on are transient and rewritten by every forward pass. */
struct rf_decoder {
    rf_model *model;
    const rf_tokenizer *tokenizer;
    rf_decode_options options; /* gen_length and block_length resolved */
    int64_t max_prompt, n_slots;
    rf_cache *cache;
    rf_acts *acts;
    rf_batch batch;
    int32_t banned[2]; /* mask and begin tokens */
    int64_t n_banned;

    /* The prompt being decoded. */
    const int32_t *prompt;
    int64_t n_prompt;
    uint64_t index;
    rf_decode_observer observer;
    void *user;
    int64_t committed; /* places of the slab that are final; 0: the prompt is still to come */
    int64_t forwards, rounds;

    /* The response, [n_slots * slot_size] and [n_slots]. */
    int32_t *token; /* committed or accepted, -1: undecided */
    int32_t *draft; /* of this round, -1: none */
    double *score;  /* [n_slots] probability of a slot's first draft token */
    rf_slot_state *slot;
    int64_t *round;
    int64_t *masked, n_masked;     /* M: masked slots of the current block, ascending */
    int64_t *selected, n_selected; /* ascending */
    int64_t *accepted;             /* [n_selected] places accepted so far while completing */
    bool *pass;                    /* [n_selected * slot_size] verdicts of verify */

    /* Requests to the head, [places of a block]. */
    int32_t *place, *target, *sampled;
    double *value;
    uint64_t *key;
    void *memory;
};

/* Runs the batch through the model (counted). */
RF_MUST_CHECK int rf_decoder_forward(rf_decoder *d, rf_error *err);
/* Adds response token i (RoPE position n_prompt + i) at slab place `place`; it sees the committed
 * places and the transient ones from `region` to itself. */
void rf_decoder_add(rf_decoder *d, int32_t token, int64_t i, int64_t place, int64_t region);
/* Adds the prompt, causal, if it is not in the cache yet. */
void rf_decoder_add_prompt(rf_decoder *d);
/* Argmax, or a sample at the options' temperature where `tempered`, of places d->place[0..n); the
 * ids come in d->sampled, their untempered probabilities in d->value. Response position of request
 * r is d->target[r] (names the randomness). */
RF_MUST_CHECK int rf_decoder_sample(rf_decoder *d, int64_t n, bool tempered, rf_error *err);
/* Probability of d->target[r] at place d->place[r] into d->value[r]. */
RF_MUST_CHECK int rf_decoder_probability(rf_decoder *d, int64_t n, rf_error *err);
void rf_decoder_notify(rf_decoder *d, rf_decode_event_kind kind);

/* The decoders: fill d->token from an empty response. */
RF_MUST_CHECK int rf_decode_ar(rf_decoder *d, rf_error *err);
RF_MUST_CHECK int rf_decode_refusion(rf_decoder *d, rf_error *err);

/* Step 3 of a refusion round: completes the selected slots side by side and commits them. */
RF_MUST_CHECK int rf_decode_complete(rf_decoder *d, rf_error *err);
/* Records slot e as committed with its first n tokens; the rest of a slot stays undecided. When the
 * last of them is an end of text, undecided slots behind e are removed. */
void rf_decode_commit_slot(rf_decoder *d, int64_t e, const int32_t *token, int64_t n);
/* Length of the longest prefix of token[0..n) up to and including the first end of text; n and
 * *found = false if there is none. */
int64_t rf_decode_cut_at_eos(const rf_decoder *d, const int32_t *token, int64_t n, bool *found);

#endif
