/* ask.h: what a request for completions wants, read from its JSON.              all local
 *
 * The fields are those of OpenAI's interface. One that is not supported is refused by its name, unless
 * it has the value that changes nothing; null counts as missing. Beside them: "decode", an object of
 * settings decode.* (without that prefix), and stream_options.slots.
 */
#ifndef RF_SERVE_ASK_H
#define RF_SERVE_ASK_H

#include "infer/engine.h"
#include "infer/loaded.h"
#include "serve/problem.h"

/* What a server has to offer. All outlives the requests. */
typedef struct rf_offer {
    const char *name;        /* of the model */
    const rf_loaded *loaded; /* its header */
    char *const *assignment; /* [n_assignments] decode.* of the command line */
    int n_assignments;
    rf_engine_size size;   /* of the engine */
    const char *objective; /* objective.kind that trained the model */
    int64_t created;       /* time of day, seconds: since when it is offered */
} rf_offer;

/* The most that a request may ask for; choices: prompts times n. */
enum { RF_ASK_CHOICES = 128, RF_ASK_STOPS = 16, RF_ASK_LIKELY = 20 };

typedef enum rf_ask_kind { RF_ASK_COMPLETION, RF_ASK_CHAT } rf_ask_kind;

/* A prompt as the model sees it. */
typedef struct rf_ask_prompt {
    rf_ids ids;       /* owned */
    bool hides_begin; /* the server put the begin token before what the client gave */
} rf_ask_prompt;

typedef struct rf_ask {
    rf_ask_kind kind;
    rf_ask_prompt *prompt; /* [n_prompts] owned */
    int64_t n_prompts;
    int64_t n;                 /* answers to each */
    int64_t max_tokens;        /* of an answer, which is cut there; 0: none is made */
    rf_decode_options options; /* resolved; gen_length is max_tokens or more */
    int64_t n_likely;          /* likeliest tokens beside each; -1: no log-probabilities */
    bool echo, stream, includes_usage, shows_slots;
    char **stops; /* NULL behind the last one; NULL: none. Owned, as each is */
    char *user;   /* who asks, in the client's own words; NULL: not said. Owned */
} rf_ask;

/* Reads a body of UTF-8 or anything else. Problems: status 400, or 404 for another model. Free *out
 * in any case. */
RF_MUST_CHECK int rf_ask_read(rf_ask *out, rf_ask_kind kind, const char *body, size_t bytes,
                              const rf_offer *offer, rf_problem *problem);
void rf_ask_free(rf_ask *ask); /* zeroes; a zeroed struct is fine */

/* Can log-probabilities be told? Where `masks`: from a mask for each token (infer/decode/given.c). */
bool rf_offer_judges(const rf_offer *offer, bool *masks);

/* Is this the model that is offered? A problem of status 404, where not. */
RF_MUST_CHECK int rf_ask_model(const char *name, const rf_offer *offer, rf_problem *problem);

/* JSON of a body: an object without duplicate keys. The caller releases it. */
RF_MUST_CHECK int rf_ask_json(struct json_t **out, const char *body, size_t bytes,
                              rf_problem *problem);
/* A prompt of ids: a JSON array of numbers in the vocabulary, appended to `ids`. `param`: its name. */
RF_MUST_CHECK int rf_ask_ids(rf_ids *ids, const struct json_t *array, const rf_tokenizer *tokenizer,
                             const char *param, rf_problem *problem);

#endif
