/* chat.h: the forms in which models were taught to read conversations.         all local
 *
 * Hugging Face keeps a form as a Jinja template in tokenizer_config.json. It is rendered as it is
 * (jinja/). Files that only name a form, as older versions stored it, take the template of that name
 * from chat_forms.c.
 */
#ifndef RF_TEXT_CHAT_H
#define RF_TEXT_CHAT_H

#include "common/base/error.h"
#include "common/text/ids.h"
#include "common/text/jinja/jinja.h"

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct json_t;

/* A message. Nothing is copied: the strings and the JSON belong to the record that was read. */
typedef struct rf_turn {
    const char *role; /* "system", "user", "assistant", and "tool" where the template has it */
    const char *content;
    size_t bytes;
    const char *reasoning; /* "reasoning_content"; NULL: none */
    size_t reasoning_bytes;
    const struct json_t *tool_calls; /* an array of calls; NULL: none */
    const struct json_t *message; /* all of it, which templates see; NULL: role and content alone */
} rf_turn;

typedef enum rf_thinking { RF_THINKING_UNSET, RF_THINKING_ON, RF_THINKING_OFF } rf_thinking;

typedef struct rf_render_options {
    const struct json_t *tools; /* an array of function signatures; NULL: none. Borrowed */
    bool add_generation_prompt; /* ends where the assistant begins to speak */
    rf_thinking thinking;       /* "enable_thinking"; templates that do not know it ignore it */
    const char *date;           /* "date_string", and what strftime_now gives. NULL: not set, and
                                   rf_chat.day */
    const struct json_t *more; /* "chat_template_kwargs": further variables; NULL: none. Borrowed */
    int64_t *n_literal; /* counts special tokens in messages that are taken as text; NULL: not */
} rf_render_options;

/* "a string", "null", "an array": what kind of JSON this is, for messages. */
const char *rf_chat_json_kind(const struct json_t *value);

/* The turns of {"messages": [...]}: "role" and "content" are strings; content may be null beside
 * tool_calls; "reasoning_content" may be there. *out [*n], caller frees. */
RF_MUST_CHECK int rf_chat_turns(rf_turn **out, int64_t *n, const struct json_t *messages,
                                rf_error *err);

/* What a record says beside its messages: "tools", "add_generation_prompt" (false where it is
 * missing, as in Transformers), "enable_thinking", "date_string", "chat_template_kwargs". Borrowed from
 * the record. */
RF_MUST_CHECK int rf_chat_read_options(rf_render_options *out, const struct json_t *record,
                                       rf_error *err);

/* --- Forms ------------------------------------------------------------------------------------ */

typedef enum rf_chat_kind {
    RF_CHAT_MARKS,   /* the byte tokenizer's: no text, but ids of its own */
    RF_CHAT_PLAIN,   /* no template: each message and a line end */
    RF_CHAT_TEMPLATE /* of Jinja */
} rf_chat_kind;

enum { RF_CHAT_N_TOKENS = 4 };

/* A special token in a text. For the first one at or behind byte i: {.end = i}. */
typedef struct rf_chat_found {
    size_t begin, end;
    size_t next_begin, next_end; /* the finder's own: what it has found already further on */
    bool next_is_special;
} rf_chat_found;

/* The next special token in text[found->end, bytes); false: there is none. From one to the next no part of
 * the text is looked at again, so that all of them take linear time. */
typedef bool rf_chat_finder(const void *tokens, const char *text, size_t bytes,
                            rf_chat_found *found);

/* Only tokens that the tokenizer calls special are kept from messages. Its other added tokens (Qwen3's
 * <think>, <tool_call>, <tool_response>) are those tokens whoever writes them, as in Transformers: answers
 * and data sets hold them, in system messages and results of tools too. So a user or a tool can write
 * </tool_response>, though nobody can end a turn: who lets strangers' tools speak takes it out before.
 *
 * What a template prints has marks around special tokens that are text, and around the characters of
 * the marks where a message has these itself: U+FDD0 before and U+FDD1 behind, which Unicode keeps free
 * for a program's own use. A mark that was cut off its token is none. Text is every token of which a
 * single character comes from what users say, through whatever the template does with it
 * (jinja/jinja.h): in lower case, without blanks, or of two fields side by side. */
typedef struct rf_chat_mark {
    size_t begin, end;     /* all of it, in the text */
    size_t literal, bytes; /* what is marked; 0 bytes: a mark that was cut off */
    bool is_token;         /* a special token */
} rf_chat_mark;

typedef struct rf_chat {
    rf_chat_kind kind;
    char *source; /* the template, or the name of a form */
    char *system; /* said where the conversation does not begin with a system message, by
                                   forms with a name; NULL: nothing */
    char *token[RF_CHAT_N_TOKENS]; /* what templates know as bos_token, eos_token, unk_token,
                                      pad_token; NULL: not set */
    const char *text;              /* of the template, as it was parsed. Not owned; NULL: none */
    rf_jinja *template;
    rf_chat_finder
        *find; /* of the tokenizer. Special tokens written out in messages are text like any
                             other, so that nobody ends a turn by writing it; NULL: they are those
                             tokens, as Transformers reads them */
    const void *tokens;
    char date[16]; /* "2026-11-28"; "": not set */
    struct tm day; /* the same: what strftime_now tells; not set: 26 Jul 2024 */
} rf_chat;

/* Of a template or the name of a form ("plain", "chatml", "qwen2.5", "qwen3", "llama3",
 * "llama3.1"); system may be NULL. config: tokenizer_config.json, whose bos_token and so on it takes;
 * may be NULL. A template that Jinja refuses, or that uses what is not supported, is an error that
 * names origin, line and cause. Free it also after an error. */
RF_MUST_CHECK int rf_chat_open(rf_chat *out, const char *source, const char *system,
                               const struct json_t *config, const char *origin, rf_error *err);
void rf_chat_free(rf_chat *chat); /* zeroes; a zeroed struct is fine */

/* The next mark in text[from, bytes); false: there is none. */
bool rf_chat_next_mark(rf_chat_mark *out, const rf_chat *chat, const char *text, size_t from,
                       size_t bytes);
/* Appends a text that users say with marks around its special tokens. */
void rf_chat_mark_text(const rf_chat *chat, rf_text *out, const char *text, size_t bytes);
void rf_chat_remove_marks(const rf_chat *chat, rf_text *text);
/* "eos_token" and its like in tokenizer_config.json: a string, or {"content": "..."}; NULL: not there. */
const char *rf_chat_token(const struct json_t *config, const char *key);

/* Appends what the template prints behind an assistant's message, which begins with the token that
 * ends it; nothing where a trial conversation is refused or shows none. */
void rf_chat_ending(const rf_chat *chat, rf_text *out);

/* Appends the text of turns [0, n), as the template prints it, with marks around special tokens that
 * are text. Not for RF_CHAT_MARKS. begin, end: the tokens of RF_CHAT_PLAIN. Errors: what the
 * template raises; tools, results or calls of tools where the template never mentions them. */
RF_MUST_CHECK int rf_chat_render(const rf_chat *chat, rf_text *out, const char *begin,
                                 const char *end, const rf_turn *turn, int64_t n,
                                 const rf_render_options *options, rf_error *err);
/* Appends what the assistant says in turn n - 1 after the turns before it, without the token `end`
 * and what follows it: what the template prints for it behind the prompt, which is what
 * rf_chat_render gave for turns [0, n - 1) with options->add_generation_prompt. An empty thought that
 * Qwen3's template prints for a message without one is left out: nothing is learned from it, and
 * prompts do not hold it. */
RF_MUST_CHECK int rf_chat_render_answer(const rf_chat *chat, rf_text *out, const rf_text *prompt,
                                        const char *end, const rf_turn *turn, int64_t n,
                                        const rf_render_options *options, rf_error *err);

/* Refuses an answer with a thought in a field ("reasoning", "thinking") that the template never
 * mentions, or a form without one. */
RF_MUST_CHECK int rf_chat_check_thought(const rf_chat *chat, const rf_turn *turn, rf_error *err);

/* The template of a form with a name; NULL: there is none of this name. */
const char *rf_chat_form(const char *name);

#endif
