/* chat.h: the forms in which models were taught to read conversations.         all local
 *
 * Hugging Face keeps a form as a Jinja template in tokenizer_config.json. There is no Jinja here:
 * the forms below are written in C, and a template is recognised by what it prints (the output
 * expressions in their order, spelled in one way), not by its exact characters.
 */
#ifndef RF_TEXT_CHAT_H
#define RF_TEXT_CHAT_H

#include "common/base/error.h"
#include "common/text/ids.h"

#include <stdbool.h>
#include <stdint.h>

struct json_t;

/* A message. Nothing is copied: the strings and the JSON belong to the record that was read. */
typedef struct rf_turn {
    const char *role; /* "system", "user", "assistant", and "tool" where the template has it */
    const char *content;
    size_t bytes;
    const char *reasoning; /* "reasoning_content"; NULL: none */
    size_t reasoning_bytes;
    const struct json_t *tool_calls; /* an array of calls; NULL: none */
} rf_turn;

typedef enum rf_thinking { RF_THINKING_UNSET, RF_THINKING_ON, RF_THINKING_OFF } rf_thinking;

typedef struct rf_render_options {
    const struct json_t *tools; /* an array of function signatures; NULL: none. Borrowed */
    bool add_generation_prompt; /* ends where the assistant begins to speak */
    rf_thinking thinking;       /* "enable_thinking"; only Qwen3's template reads it */
    const char *date;           /* "date_string"; only Llama-3.1's reads it. NULL: "26 Jul 2024",
                                   its own default: a corpus does not depend on the day */
} rf_render_options;

/* The turns of {"messages": [...]}: "role" and "content" are strings; content may be null beside
 * tool_calls; "reasoning_content" may be there. *out [*n], caller frees. */
RF_MUST_CHECK int rf_chat_turns(rf_turn **out, int64_t *n, const struct json_t *messages,
                                rf_error *err);

/* What a record says beside its messages: "tools", "add_generation_prompt" (false where it is
 * missing, as in Transformers), "enable_thinking", "date_string". Borrowed from the record. */
RF_MUST_CHECK int rf_chat_read_options(rf_render_options *out, const struct json_t *record,
                                       rf_error *err);

/* --- Forms ------------------------------------------------------------------------------------ */

typedef enum rf_chat_kind {
    RF_CHAT_MARKS,  /* the byte tokenizer's */
    RF_CHAT_PLAIN,  /* no template */
    RF_CHAT_CHATML, /* <|im_start|>role ... <|im_end|> and nothing else */
    RF_CHAT_QWEN2,  /* ChatML with tools and a default system message: Qwen2.5 */
    RF_CHAT_QWEN3,  /* ChatML with tools and thinking */
    RF_CHAT_LLAMA3, /* <|start_header_id|>role<|end_header_id|> ... <|eot_id|> */
    RF_CHAT_LLAMA31 /* the same with tools and a date in the system message: Llama-3.1 to 3.3 */
} rf_chat_kind;

typedef struct rf_chat {
    rf_chat_kind kind;
    char *system; /* said where the conversation does not begin with one; owned; NULL: nothing */
} rf_chat;

void rf_chat_free(rf_chat *chat); /* zeroes */

/* "plain", "chatml", "qwen2.5", "qwen3", "llama3", "llama3.1". */
const char *rf_chat_name(rf_chat_kind kind);
/* From such a name. False: unknown. */
bool rf_chat_by_name(rf_chat_kind *out, const char *name);
/* From a Jinja template, or from one of the names. Unknown: an error that lists what is known. */
RF_MUST_CHECK int rf_chat_recognise(rf_chat *out, const char *template, const char *origin,
                                    rf_error *err);
/* The token that ends an assistant's message, by name; NULL: the template has none of its own. */
const char *rf_chat_end(rf_chat_kind kind);

/* Appends the text of a conversation, as the template would print it. Not for RF_CHAT_MARKS. */
RF_MUST_CHECK int rf_chat_render(const rf_chat *chat, rf_text *out, const char *begin,
                                 const char *end, const rf_turn *turn, int64_t n,
                                 const rf_render_options *options, rf_error *err);
/* Appends what the assistant says in a turn, without the token that ends it. */
RF_MUST_CHECK int rf_chat_render_answer(const rf_chat *chat, rf_text *out, const rf_turn *turn,
                                        rf_error *err);

/* Appends JSON as Python's json.dumps(ensure_ascii=False) writes it, which is how the tojson of
 * Transformers' templates does. indent: its argument of that name; 0: all on one line. */
void rf_chat_json(rf_text *out, const struct json_t *value, int indent);
void rf_chat_json_string(rf_text *out, const char *text, size_t bytes);

#endif
