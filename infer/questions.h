/* questions.h: questions for the decoders, from JSON lines or plain text.        all local */
#ifndef RF_INFER_QUESTIONS_H
#define RF_INFER_QUESTIONS_H

#include "common/text/tokenizer.h"

typedef struct rf_question {
    rf_ids ids;     /* the prompt as the model sees it. Owned */
    char *query;    /* the last user message, for checkers. Owned */
    char *expected; /* reference response, NULL where the line has none. Owned */
} rf_question;

void rf_question_free(rf_question *question); /* zeroes; a zeroed struct is fine */

/* One user message, or, where `raw`, the beginning of a plain text (begin token, then the text). */
RF_MUST_CHECK int rf_question_from_text(rf_question *out, const rf_tokenizer *tokenizer,
                                        const char *text, bool raw, rf_error *err);
/* A record (data/corpus/records.h) that is a conversation: the messages up to the last one of the
 * user or of a tool are the prompt, an assistant's behind it is the reference; "tools",
 * "enable_thinking" and "date_string" are given to the chat template, as are tool_calls and
 * reasoning_content of messages (chat.h). Errors begin with `where` ("file.jsonl:12"). */
RF_MUST_CHECK int rf_question_from_json(rf_question *out, const rf_tokenizer *tokenizer,
                                        const char *line, size_t bytes, const char *where,
                                        rf_error *err);
/* All lines of a file (gzip or plain), or the records of the JSON array that it is; empty lines are
 * skipped. `limit` > 0: at most so many.
 * Caller frees with rf_questions_free. A file without a question is an error. */
RF_MUST_CHECK int rf_questions_read(rf_question **out, int64_t *n, const char *path,
                                    const rf_tokenizer *tokenizer, int64_t limit, rf_error *err);
void rf_questions_free(rf_question *questions, int64_t n);
int64_t rf_questions_longest(const rf_question *questions, int64_t n); /* in tokens */

#endif
