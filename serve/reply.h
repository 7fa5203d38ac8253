/* reply.h: whole answers, as OpenAI's clients read them.                        all local */
#ifndef RF_SERVE_REPLY_H
#define RF_SERVE_REPLY_H

#include "serve/desk.h"

/* The body of the answer to an order that is done without a problem. The caller releases it. */
struct json_t *rf_reply_json(const rf_order *x);
/* The text of a choice's prompt. 0-terminated, caller frees. */
char *rf_reply_echo(const rf_choice *c, size_t *bytes);
/* Where among its tokens begins what is shown of a choice: at its answer, or at its prompt's text. */
int64_t rf_reply_first(const rf_choice *c);
/* Log-probabilities of judged tokens [first, end) in the form of the order's kind. *offset: characters
 * before them, moved behind them (completions only). The caller releases it. */
struct json_t *rf_reply_logprobs(const rf_choice *c, int64_t first, int64_t end, int64_t *offset);
/* {"prompt_tokens", "completion_tokens", "total_tokens", "forwards", "tokens_per_forward",
 * "seconds"}; the caller releases it. */
struct json_t *rf_reply_usage(const rf_order *x);

#endif
