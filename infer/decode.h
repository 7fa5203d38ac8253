/* decode.h: turning a prompt into an answer (ALGORITHM: decoding).             all local
 *
 * Kinds: `ar` (one token after the other, for models trained with it), `refusion` (plan which
 * slots, verify them together, complete each) and `refusion-left-to-right` (one slot a round,
 * always the leftmost). All use the trainer's forward kernels and a key/value cache whose committed
 * places are never computed again.
 */
#ifndef RF_INFER_DECODE_H
#define RF_INFER_DECODE_H

#include "common/base/config.h"
#include "common/model/model.h"
#include "common/text/tokenizer.h"

typedef enum rf_decode_kind {
    RF_DECODE_AR,
    RF_DECODE_REFUSION,
    RF_DECODE_LEFT_TO_RIGHT
} rf_decode_kind;

typedef struct rf_decode_options {
    rf_decode_kind kind;
    int64_t gen_length;   /* response tokens at most; rounded up to a multiple of slot_size */
    int64_t slot_size;    /* S */
    int64_t block_length; /* a multiple of slot_size; 0: gen_length */
    double slot_threshold, token_threshold;
    bool verify_paper; /* place 0 of a slot must pass too; else `released` */
    bool recompute_kv; /* compute the keys and values of slots completed side by side again */
    double temperature;
    uint64_t seed;
} rf_decode_options;

/* Keys decode.* */
extern const rf_config_key rf_decode_keys[];
RF_MUST_CHECK int rf_decode_options_from_config(rf_decode_options *out, const rf_config *config,
                                                rf_error *err);

/* What happened, for --show and tests. Token arrays cover the whole response; -1: not decided. */
typedef enum rf_decode_event_kind {
    RF_EVENT_PLAN,   /* drafts of the slots planned; selected ones are marked */
    RF_EVENT_ACCEPT, /* after a completion cycle: tokens accepted, not yet committed */
    RF_EVENT_COMMIT, /* slots committed (or cut off at an end of text) */
    RF_EVENT_END
} rf_decode_event_kind;

typedef enum rf_slot_state {
    RF_SLOT_MASKED,
    RF_SLOT_SELECTED, /* in this round */
    RF_SLOT_COMMITTED,
    RF_SLOT_REMOVED /* behind an end of text */
} rf_slot_state;

typedef struct rf_decode_event {
    rf_decode_event_kind kind;
    int64_t forwards; /* so far */
    int64_t n_slots, slot_size, n_tokens;
    const rf_slot_state *slot; /* [n_slots] */
    const int64_t *round; /* [n_slots] round in which a slot was committed, from 1; 0: not yet */
    const int32_t *token; /* [n_tokens] committed and accepted tokens */
    const int32_t *draft; /* [n_tokens] drafts of this round, -1 where none */
} rf_decode_event;

typedef void (*rf_decode_observer)(void *user, const rf_decode_event *event);

typedef struct rf_answer {
    int32_t *token; /* [n] response up to and including the first end of text. Owned */
    int64_t n;
    bool ended;       /* with an end of text */
    int64_t forwards; /* of the model, the prompt's included */
    int64_t rounds;
    double seconds; /* from the prompt to the whole answer */
} rf_answer;
void rf_answer_free(rf_answer *answer);

typedef struct rf_decoder rf_decoder;

/* A decoder for prompts of up to max_prompt tokens. Model and tokenizer outlive it; the model must
 * have been made for rf_decoder_limits, and its vocabulary must hold the tokenizer. */
RF_MUST_CHECK int rf_decoder_new(rf_decoder **out, rf_model *model, const rf_tokenizer *tokenizer,
                                 const rf_decode_options *options, int64_t max_prompt,
                                 rf_error *err);
void rf_decoder_free(rf_decoder *decoder);                /* NULL is fine */
size_t rf_decoder_cache_bytes(const rf_decoder *decoder); /* of its key/value cache */
/* What a model must be made for, to decode such prompts. */
rf_model_limits rf_decoder_limits(const rf_decode_options *options, int64_t max_prompt);
/* Decodes one prompt. index: names the prompt for the randomness. The answer's tokens depend on the
 * model, the prompt, the options and index, and on nothing decoded before. observer may be NULL.
 * An empty prompt and one of more than max_prompt tokens are errors. */
RF_MUST_CHECK int rf_decoder_run(rf_decoder *decoder, rf_answer *out, const int32_t *prompt,
                                 int64_t n_prompt, uint64_t index, rf_decode_observer observer,
                                 void *user, rf_error *err);

#endif
