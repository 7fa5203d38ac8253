/* sequence.h: the state of one prompt while it is answered.                    all local
 *
 * A decoder (decoder.h) moves it on from one forward pass to the next; the engine (engine.h) owns
 * it and answers what it asks. Response places are counted from 0 (`at`): place `at` is position
 * n_prompt + at of the whole.
 *
 * A sequence has a slab of the cache. It holds the prompt and the response tokens in the order in
 * which they were committed; what lies behind the `committed` places is transient: every forward
 * pass writes it anew.
 */
#ifndef RF_INFER_DECODE_SEQUENCE_H
#define RF_INFER_DECODE_SEQUENCE_H

#include "common/base/rng.h"
#include "common/model/batch.h"
#include "common/text/tokenizer.h"
#include "infer/decode/options.h"
#include "infer/decode/pace.h"

/* --- What an observer sees -------------------------------------------------------------------- */

typedef enum rf_event_kind {
    RF_EVENT_PLAN,   /* drafts of the slots planned; selected ones are marked */
    RF_EVENT_ACCEPT, /* after a completion cycle: tokens accepted, not yet committed */
    RF_EVENT_COMMIT, /* slots committed (or cut off at an end of text) */
    RF_EVENT_END
} rf_event_kind;

/* Called after each event, for --show and tests. */
typedef void (*rf_observer)(void *user, rf_event_kind kind, const rf_sequence *s);

typedef enum rf_slot_state {
    RF_SLOT_MASKED,
    RF_SLOT_SELECTED, /* in this round */
    RF_SLOT_COMMITTED,
    RF_SLOT_REMOVED /* behind an end of text */
} rf_slot_state;

/* --- What a sequence asks of a forward pass --------------------------------------------------- */

typedef enum rf_query_kind {
    RF_QUERY_DRAFT,       /* which token: by decode.temperature and the rules beside it */
    RF_QUERY_LIKELIEST,   /* which token: the likeliest */
    RF_QUERY_PROBABILITY, /* how probable `token` is */
    RF_QUERY_GIVEN /* the same, with the likeliest tokens beside it: the answers go to `given` */
} rf_query_kind;

/* What a draft's place is asked beside it (rf_head_answer). */
typedef enum rf_measure {
    RF_MEASURE_NONE,
    RF_MEASURE_SECOND, /* the runner-up's probability */
    RF_MEASURE_ENTROPY /* of its distribution, in nats */
} rf_measure;

/* One question to the head. */
typedef struct rf_query {
    rf_query_kind kind;
    int32_t row;   /* of the batch: the place whose prediction is asked for */
    int32_t at;    /* response place that the answer is about; names the randomness of a draft */
    int32_t token; /* asked for, or the answer */
    rf_measure measure;
    double p;        /* answer: the probability of token, untempered */
    double measured; /* answer, where `measure` asks for one */
} rf_query;

/* A response that is judged (given.c), and what the model says about it. Memory of the caller. */
typedef struct rf_given {
    const int32_t *token;   /* [n] */
    int64_t n, n_likely;    /* n_likely: 1 or more */
    double *logprob;        /* [n] of each token, over the whole vocabulary */
    int32_t *likely;        /* [n,n_likely] the likeliest tokens at its place that may be produced,
                             descending, among equals the lower id first; -1: there are no more */
    double *likely_logprob; /* [n,n_likely] theirs */
} rf_given;

/* --- State ------------------------------------------------------------------------------------ */

struct rf_sequence {
    const rf_decode_options *options; /* resolved. Not owned */
    const rf_tokenizer *tokenizer;    /* not owned */
    /* Of the response; the last slot may be shorter. Slots may be halved on the way. */
    int64_t n_tokens, slot_size, n_slots;
    rf_pace *pace; /* for the plans of refusion; NULL: they hold all masked slots. Not owned */
    int64_t slab;  /* place of the cache at which the slab begins */

    /* The prompt. Not owned. */
    const int32_t *prompt;
    int64_t n_prompt;
    uint64_t index; /* names the prompt for the randomness */
    rf_observer observer;
    void *user;

    int phase, step;   /* of the decoder; 0 in the beginning */
    bool done;         /* the decoder has nothing more to ask */
    bool wants_prompt; /* the next forward pass holds the prompt, */
    int64_t n_held; /* but its first tokens, whose keys and values the slab holds: a causal prompt
                          that was computed is held, too */
    int64_t committed; /* places of the slab that are final */
    int64_t forwards, rounds;
    int64_t places; /* of the forward passes so far */

    /* The response, [n_tokens] and [n_slots]. Owned */
    int32_t *token;  /* committed or accepted, -1: undecided */
    int32_t *draft;  /* of this round, -1: none */
    double *draft_p; /* refusion: what the plan gives a draft, its probability */
    double
        *score; /* [n_slots] of a slot: decode.slot_score with decode.order_bias, or confidence */
    double *p_end; /* [n_slots] probability of an end of text there, where decode.eos_rule asks */
    rf_slot_state *slot;
    int64_t *round; /* [n_slots] in which it was committed, from 1; 0: not yet */

    /* A round of slots (refusion.c, plan.c, complete.c). Owned */
    int64_t stretch;           /* fill.c: first place of the current decode.block_length places */
    int64_t *masked, n_masked; /* M, those that the plan chooses from, ascending */
    int64_t n_open;            /* of these and those behind them that the plan leaves out */
    bool narrow;               /* the plan of this round left some out that may matter */
    int64_t n_deciding; /* of M, so many from the left decide which are selected; n_slots: all */
    bool whole;         /* this round's plan must hold all */
    int64_t plan_row;   /* of the batch: the first mask of the plan */
    int64_t plan_at;    /* of the slab: the same; -1: none in this pass */
    int64_t n_verified; /* drafts that are verified together, */
    bool all_drafts;    /* also those behind an end of text */
    int64_t *selected, n_selected; /* ascending */
    int64_t *accepted;             /* [n_selected] places accepted so far while completing */
    bool *pass;                    /* [n_selected * slot_size] verdicts of verification */
    int64_t cycle; /* of the completion, from 1; else 0. Each has randomness of its own */
    bool fresh;    /* keys and values of what is accepted are not in the slots' own regions yet */

    rf_given *given; /* NULL: the response is made, not judged. Not owned */

    rf_query *query; /* [n_queries], at most the places of a pass without a prompt. Owned */
    int64_t n_queries;
    /* Guidance of this pass: before the head is asked, rows [guided, guided + n_guided) of the batch
     * become 1 + decode.cfg times themselves less decode.cfg times the rows from `unguided` on. */
    int64_t guided, n_guided, unguided;
};

/* For prompts one after the other, in the slab that begins at this place of the cache. Options
 * (resolved) and tokenizer outlive it. */
void rf_sequence_new(rf_sequence *out, const rf_decode_options *options,
                     const rf_tokenizer *tokenizer, int64_t slab);
void rf_sequence_free(rf_sequence *s); /* a zeroed struct is fine */
/* An empty response to a new prompt of one token or more. */
void rf_sequence_begin(rf_sequence *s, const int32_t *prompt, int64_t n_prompt, uint64_t index);

/* --- Steps of the decoders -------------------------------------------------------------------- */

/* Each slot becomes two of half its size, as what it is: masked, committed in its round, ... */
void rf_sequence_halve(rf_sequence *s);
/* How many of the slots there are now stand where one stood in the beginning. */
int64_t rf_sequence_parts(const rf_sequence *s);
/* Tokens of slot e. */
int64_t rf_sequence_length(const rf_sequence *s, int64_t e);
/* The next n tokens of a prompt that is wanted, causal; more of it is left. */
void rf_sequence_add_piece(rf_sequence *s, rf_batch *batch, int64_t n);
/* Adds the prompt to the batch, causal, where it is wanted: what is left of it. */
void rf_sequence_add_prompt(rf_sequence *s, rf_batch *batch);
/* Adds `token` as response place `at`. Its key and value go to place `to` of the slab; it sees the
 * committed places and the transient ones from `region` to itself. */
void rf_sequence_add(const rf_sequence *s, rf_batch *batch, int32_t token, int64_t at, int64_t to,
                     int64_t region);
/* The randomness of response place `at` in this round. Its first number draws the place's draft. */
rf_rng rf_sequence_rng(const rf_sequence *s, int64_t at);
/* Asks the head about a row of the batch. token: read with RF_QUERY_PROBABILITY. */
void rf_sequence_ask(rf_sequence *s, rf_query_kind kind, int64_t row, int64_t at, int32_t token);
/* Length of the shortest prefix of token[0..n) that holds an end of text; n and *found = false if
 * there is none. */
int64_t rf_sequence_cut(const rf_sequence *s, const int32_t *token, int64_t n, bool *found);
/* Records slot e as committed with its first n tokens; the rest of the slot stays undecided. When
 * these hold an end of text, undecided slots behind e are removed. */
void rf_sequence_commit(rf_sequence *s, int64_t e, const int32_t *token, int64_t n);
/* Response tokens from the first on that are decided and that nothing changes any more, up to and
 * including the first end of text: the beginning of the answer. */
int64_t rf_sequence_fixed(const rf_sequence *s);
void rf_sequence_notify(const rf_sequence *s, rf_event_kind kind);

#endif
