/* engine.h: runs a model for many prompts at once.                             all local
 *
 * A pass gathers what the sequences ask for (decoder.h), runs the model's forward pass once, asks
 * the head about the chosen places, and tells each sequence. A sequence that is done gives its slab
 * of the key/value cache to the next prompt. Kernels sum in an order that does not depend on the
 * batch: answers are the same at any capacity.
 */
#ifndef RF_INFER_ENGINE_H
#define RF_INFER_ENGINE_H

#include "common/model/model.h"
#include "infer/decode/sequence.h"

#include <stdatomic.h>

typedef struct rf_request {
    const int32_t *prompt; /* [n_prompt] outlives the request's answer */
    int64_t n_prompt;
    uint64_t index;       /* names the prompt for the randomness */
    rf_observer observer; /* NULL: none */
    void *user;           /* given to the observer */
    /* Strings of which the first that is complete ends the answer (stop.h), NULL behind the last one;
     * NULL: none. They outlive the answer. Decoding ends as soon as the string stands in what is
     * fixed from the beginning of the response on. */
    const char *const *stops;
    /* Looked at between two passes: true ends the answer with what is fixed so far. Any thread may set
     * it. NULL: never. */
    const atomic_bool *cancel;
    const rf_decode_options *options; /* resolved; NULL: the engine's. Copied */
    rf_given *given; /* for rf_decoder_given, which judges this response: as long as gen_length. It
                        outlives the answer. NULL: none */
} rf_request;

typedef struct rf_answer {
    /* [n] response up to and including the first end of text, or the token that completed a stop
     * string. Owned */
    int32_t *token;
    int64_t n;
    bool ended;       /* with an end of text */
    bool cancelled;   /* before its end, perhaps before its first token */
    const char *stop; /* the string of `stops` that ended it; NULL: none. Not owned */
    int64_t forwards; /* passes that held a place of it, the prompt's included; with decode.cfg each
                         counts twice */
    int64_t places;   /* computed in all of them */
    int64_t rounds;
    double seconds; /* from the prompt to the whole answer */
} rf_answer;
void rf_answer_free(rf_answer *answer); /* zeroes; a zeroed struct is fine */
/* The text without special tokens, up to the stop string where one ended it; may hold any bytes.
 * 0-terminated, caller frees. */
char *rf_answer_text(const rf_answer *answer, size_t *bytes, const rf_tokenizer *tokenizer);

/* What was said about tokens that a slab holds, and whose response was judged (rf_given). */
typedef struct rf_told {
    int64_t first, n; /* of the slab's tokens */
    int64_t n_likely;
    bool masks;             /* from a mask for each; else by the chain rule */
    double *logprob;        /* [n] owned, as are */
    int32_t *likely;        /* [n,n_likely] */
    double *likely_logprob; /* [n,n_likely] */
} rf_told;

/* A slab and the sequence that has it. */
typedef struct rf_seat {
    rf_decode_options options; /* the sequence's */
    rf_sequence sequence;
    rf_ids held;     /* with `reuses`: the request's tokens, the first n_held of them in the slab */
    rf_told told;    /* about them */
    int64_t request; /* its number; -1: the seat is free */
    const char *const *stops;  /* of the request */
    const atomic_bool *cancel; /* of the request */
    int64_t n_searched;        /* response tokens in which stop strings were looked for */
    bool waits;                /* for the head's answers */
    double begin;              /* rf_log_seconds() */
} rf_seat;

/* Places whose likeliest tokens are looked for together: they share a pass over the head's weights. */
enum { RF_ENGINE_RANKED = 8 };

/* What an engine has room for. */
typedef struct rf_engine_size {
    int64_t capacity;  /* seats */
    int64_t slab;      /* places of the cache that each has */
    int64_t places;    /* of a pass */
    int64_t positions; /* of a prompt with its answer */
} rf_engine_size;

typedef struct rf_engine {
    rf_model *model;               /* not owned */
    const rf_tokenizer *tokenizer; /* not owned */
    rf_decode_options options;     /* resolved; of requests without their own */
    rf_engine_size size;
    int64_t max_prompt, capacity; /* of a prompt of such a request; seats */
    /* The beginning that a prompt has in common with one in a slab is copied, not computed: the
     * same answers, with fewer `places`. Off until it is set. */
    bool reuses;
    /* Most tokens of a prompt in one pass, so that a long one delays others by little; the rest follows
     * in the next passes, each a forward of its answer, which is the same. 0, until it is set: whole
     * prompts. Decoders that see the whole prompt at once take it so. */
    int64_t piece;
    int64_t n_reused; /* places that were copied, since the engine was made */
    /* Never produced: mask and begin tokens; then ends of text, where a sequence's options say so. */
    int32_t banned[2 + sizeof((rf_specials *)0)->eos / sizeof(int32_t)], n_banned, n_banned_ends;
    rf_pace pace;                  /* of passes and plans, since the engine was made */
    rf_cache *cache;               /* [capacity] slabs */
    rf_acts *acts;                 /* of the last pass */
    rf_batch batch;                /* of the last pass */
    rf_seat *seat;                 /* [capacity] */
    int64_t turn;                  /* the seat that is asked first */
    rf_query **asked;              /* those that the head is asked together; */
    int32_t *row, *target, *token; /* its operands */
    rf_draw *draw;
    int32_t *seen; /* [n_seen] what repetition penalties look at; room for all slabs */
    int64_t n_seen;
    double *score, *logprob, *second, *entropy;
    double
        *logits; /* [RF_ENGINE_RANKED,vocab] of places whose likeliest tokens are asked for; NULL:
                       nobody has asked yet */
} rf_engine;

/* What a model must be made for, to answer `capacity` prompts of up to max_prompt tokens at once: a
 * pass has room for what all of them ask at once, up to 2048 places, or to the longest prompt and 256 beside it;
 * what does not fit waits for the next pass. */
rf_model_limits rf_engine_limits(const rf_decode_options *options, int64_t max_prompt,
                                 int64_t capacity);
/* For requests with options of their own: any prompt and answer of up to `context` tokens
 * together (with decode.cfg: half as many). */
rf_engine_size rf_engine_size_of_any(int64_t context, int64_t capacity);
/* What a model must be made for. */
rf_model_limits rf_engine_size_limits(const rf_engine_size *size);
/* Whether a prompt of n_prompt tokens and its answer by these options (resolved) have room. RF_ERR
 * says what is too long. */
RF_MUST_CHECK int rf_engine_size_fits(const rf_engine_size *size, const rf_decode_options *options,
                                      int64_t n_prompt, rf_error *err);
/* Model and tokenizer outlive the engine; the model must have been made for rf_engine_limits, and
 * its vocabulary must hold the tokenizer. Caller frees. */
RF_MUST_CHECK int rf_engine_new(rf_engine **out, rf_model *model, const rf_tokenizer *tokenizer,
                                const rf_decode_options *options, int64_t max_prompt,
                                int64_t capacity, rf_error *err);
/* The same, of a size that the model was made for. */
RF_MUST_CHECK int rf_engine_new_sized(rf_engine **out, rf_model *model,
                                      const rf_tokenizer *tokenizer,
                                      const rf_decode_options *options, const rf_engine_size *size,
                                      rf_error *err);
void rf_engine_free(rf_engine *engine); /* NULL is fine */

/* --- A list of requests ----------------------------------------------------------------------- */

/* Called with the number of a request whose answer is there. An error ends the run. */
typedef int (*rf_engine_done)(void *user, int64_t request, rf_error *err);

/* Answers n requests, as many at once as there are seats, in the order of the array; they may end
 * in another. answer [n]: sets; caller frees each. done may be NULL. An answer's tokens depend on
 * the model, the prompt, the options and the request's index, and on nothing else. An empty prompt
 * and one of more than max_prompt tokens are errors. After an error no answer is there, and the
 * engine is ready for other requests. */
RF_MUST_CHECK int rf_engine_run(rf_engine *engine, rf_answer *answer, const rf_request *request,
                                int64_t n, rf_engine_done done, void *user, rf_error *err);
/* The first two passes of an answer to a prompt, and nothing else of it: no answer, nothing for `pace`
 * or who is asked first. What comes once (threads, pages of memory, a GPU's kernels) is not in the
 * times of the answers behind it. All seats are free. */
RF_MUST_CHECK int rf_engine_warm_up(rf_engine *engine, const int32_t *prompt, int64_t n_prompt,
                                    rf_error *err);

/* --- Requests that come and go (a server) ----------------------------------------------------- */

/* Seats without a request. */
int64_t rf_engine_n_free(const rf_engine *engine);
/* Gives a free seat to a request, which `number`, 0 or more, names. After an error the seat stays
 * free. */
RF_MUST_CHECK int rf_engine_take(rf_engine *engine, const rf_request *request, int64_t number,
                                 rf_error *err);
/* Called with an answer that is there; the callee frees it. */
typedef void (*rf_engine_answered)(void *user, int64_t number, rf_answer *answer);
/* One pass for all that have a seat (one at least), then those that are done or cancelled give it
 * back. After an error all seats are free, and nobody was answered. */
RF_MUST_CHECK int rf_engine_pass(rf_engine *engine, rf_engine_answered answered, void *user,
                                 rf_error *err);

#endif
