#include "infer/questions.h"

#include "common/base/alloc.h"
#include "common/base/lines.h"
#include "data/corpus/foreign.h"
#include "data/corpus/records.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void rf_question_free(rf_question *question)
{
    rf_ids_free(&question->ids);
    free(question->query);
    free(question->expected);
    *question = (rf_question){0};
}

int rf_question_from_text(rf_question *out, const rf_tokenizer *tokenizer, const char *text,
                          bool raw, rf_error *err)
{
    int rc;
    *out = (rf_question){.query = rf_alloc_string(text)};
    if (raw) {
        rf_ids_push(&out->ids, rf_tokenizer_specials(tokenizer)->begin);
        RF_TRY_OUT(rf_tokenizer_encode(tokenizer, &out->ids, text, strlen(text), err));
    } else {
        const rf_turn turn = {.role = "user", .content = text, .bytes = strlen(text)};
        RF_TRY_OUT(rf_tokenizer_render_prompt(tokenizer, &out->ids, &turn, 1, err));
    }
out:
    if (rc != RF_OK) {
        rf_question_free(out);
    }
    return rc;
}

/* A zero byte would cut what checkers and printers see of a text. */
static int copy_content(char **out, const rf_turn *turn, rf_error *err)
{
    if (memchr(turn->content, '\0', turn->bytes) != NULL) {
        return rf_error_set(err, RF_ERR, "a message of the %s holds a zero character: remove it",
                            turn->role);
    }
    free(*out);
    *out = rf_alloc_copy(turn->content, turn->bytes);
    return RF_OK;
}

/* Everything up to the last message of the user, or of a tool, is the prompt. */
static int from_record(rf_question *out, const rf_tokenizer *tokenizer, const rf_record *record,
                       rf_error *err)
{
    const rf_turn *turn = record->turn;
    int64_t used = 0;
    if (record->text != NULL) {
        return rf_error_set(err, RF_ERR,
                            "\"text\" is no question: needed are \"query\" or \"messages\"");
    }
    for (int64_t i = 0; i < record->n_turns; i++) {
        if (strcmp(turn[i].role, "user") == 0) {
            used = i + 1;
            RF_TRY(copy_content(&out->query, &turn[i], err));
        } else if (strcmp(turn[i].role, "tool") == 0 && used > 0) {
            used = i + 1;
        }
    }
    if (used == 0) {
        return rf_error_set(err, RF_ERR, "\"messages\" has no message of role \"user\"");
    }
    if (used < record->n_turns && strcmp(turn[used].role, "assistant") == 0 &&
        turn[used].bytes > 0) {
        RF_TRY(copy_content(&out->expected, &turn[used], err));
    }
    return rf_tokenizer_render(tokenizer, NULL, NULL, &out->ids, turn, used, &record->options, err);
}

int rf_question_from_json(rf_question *out, const rf_tokenizer *tokenizer, const char *line,
                          size_t bytes, const char *where, rf_error *err)
{
    rf_record record;
    *out = (rf_question){0};
    int rc = rf_record_read(&record, line, bytes, err);
    if (rc == RF_OK) {
        rc = from_record(out, tokenizer, &record, err);
        rf_record_free(&record);
    }
    if (rc != RF_OK) {
        rf_question_free(out);
        return rf_error_prefix(err, "%s", where);
    }
    return RF_OK;
}

int rf_questions_read(rf_question **out, int64_t *n, const char *path,
                      const rf_tokenizer *tokenizer, int64_t limit, rf_error *err)
{
    rf_lines *lines = NULL;
    size_t capacity = 0, bytes;
    char *text, where[4200];
    int rc;
    *out = NULL;
    *n = 0;
    RF_TRY(rf_lines_open(&lines, path, err));
    while (limit <= 0 || *n < limit) {
        RF_TRY_OUT(rf_lines_next(lines, &text, &bytes, err));
        if (text == NULL) {
            break;
        }
        const char *foreign = rf_lines_number(lines) == 1 ? rf_foreign(path, text, bytes) : NULL;
        if (foreign != NULL) {
            rc = rf_error_set(err, RF_ERR, "%s: is %s", path, foreign);
            goto out;
        }
        if (rf_lines_is_blank(text, bytes)) {
            continue;
        }
        *out = rf_alloc_grow(*out, &capacity, (size_t)*n + 1, sizeof **out);
        (void)snprintf(where, sizeof where, "%s:%" PRId64, path, rf_lines_number(lines));
        RF_TRY_OUT(rf_question_from_json(*out + *n, tokenizer, text, bytes, where, err));
        ++*n;
    }
    rc = *n > 0 ? RF_OK
                : rf_error_set(err, RF_ERR, "%s holds no question: one JSON object a line", path);
out:
    rf_lines_close(lines);
    if (rc != RF_OK) {
        rf_questions_free(*out, *n);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

void rf_questions_free(rf_question *questions, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        rf_question_free(&questions[i]);
    }
    free(questions);
}

int64_t rf_questions_longest(const rf_question *questions, int64_t n)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < n; i++) {
        longest = questions[i].ids.n > longest ? questions[i].ids.n : longest;
    }
    return longest;
}
