/* ask_private.h: what the files that read a request share.                      all local */
#ifndef RF_SERVE_ASK_PRIVATE_H
#define RF_SERVE_ASK_PRIVATE_H

#include "serve/ask.h"

#include <jansson.h>

/* A request on its way from JSON. The JSON outlives it. */
typedef struct rf_ask_reader {
    rf_ask ask;
    const rf_offer *offer;
    rf_problem *problem;
    const json_t *body, *prompt, *messages, *decode;
    bool has_max_tokens, no_tools, has_logprobs;
    int64_t seed, top_logprobs; /* -1: not said */
} rf_ask_reader;

/* Reads what the fields say, in any order (ask_fields.c). */
RF_MUST_CHECK int rf_ask_read_fields(rf_ask_reader *in);
/* The settings decode.*: options (ask.c); then the prompts, which must leave room for them
 * (ask_prompt.c). */
RF_MUST_CHECK int rf_ask_read_prompts(rf_ask_reader *in);

/* "prompt: must be a string, not a number" and so on, for a field of the wrong kind. */
int rf_ask_wrong_kind(rf_problem *problem, const char *param, const char *wanted,
                      const json_t *value);

#endif
