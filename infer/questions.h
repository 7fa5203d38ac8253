/* questions.h: questions for the decoders, from JSON lines or plain text.        all local */
#ifndef RF_INFER_QUESTIONS_H
#define RF_INFER_QUESTIONS_H

#include "common/text/tokenizer.h"
#include "data/tasks/task.h"

typedef struct rf_question {
    rf_ids ids;        /* the prompt as the model sees it. Owned */
    rf_task_item item; /* the last user message, the reference, and what its task has read. Owned */
} rf_question;

/* How the questions of a task are asked. A zeroed struct asks them as they are. */
typedef struct rf_question_style {
    const rf_task *task; /* whose official records are known; NULL: none are */
    bool raw;            /* as beginnings of plain texts, not of conversations */
    const char
        *instruction;       /* said below each question, in plain texts once at the beginning; NULL:
                                none */
    const char *shots_from; /* file of questions that are answered before; NULL: the same file */
    int64_t n_shots; /* of them: the same before each question, but never the question itself */
    uint64_t seed;   /* which those are */
} rf_question_style;

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
/* All lines of a file (gzip or plain), or the records of the JSON array that it is, or of a folder
 * the .json files in it and below it, a record each, by name; empty lines are skipped. `limit` > 0:
 * at most so many. Caller frees with rf_questions_free. A file without a question is an error. */
RF_MUST_CHECK int rf_questions_read(rf_question **out, int64_t *n, const char *path,
                                    const rf_tokenizer *tokenizer, int64_t limit, rf_error *err);
/* The same, of a task and in a style. Records of a task that goes by likelihood or by tests and that
 * have none are errors, and so are shots that the file does not have. */
RF_MUST_CHECK int rf_questions_read_styled(rf_question **out, int64_t *n, const char *path,
                                           const rf_tokenizer *tokenizer, int64_t limit,
                                           const rf_question_style *style, rf_error *err);
void rf_questions_free(rf_question *questions, int64_t n);
/* Of all that answers to it and verdicts on them follow from; goes on from `hash`. */
uint64_t rf_question_hash(uint64_t hash, const rf_question *question);
int64_t rf_questions_longest(const rf_question *questions, int64_t n); /* in tokens */

#endif
