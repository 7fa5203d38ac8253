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
    int rc = rf_record_read(&record, line, bytes, NULL, err);
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

/* A file on its way into questions. */
typedef struct reader {
    const char *path;
    const rf_tokenizer *tokenizer;
    rf_lines *lines;
    int64_t limit;
    bool is_array; /* of records; else a record a line */
    rf_record_array array;
    rf_text record; /* the one of the array that is open, */
    int64_t line;   /* and where it begins */
    rf_question *question;
    int64_t n;
    size_t capacity;
} reader;

static bool is_full(const reader *r)
{
    return r->limit > 0 && r->n == r->limit;
}

static int add_record(reader *r, const char *text, size_t bytes, int64_t line, rf_error *err)
{
    char where[4200];
    r->question = rf_alloc_grow(r->question, &r->capacity, (size_t)r->n + 1, sizeof *r->question);
    (void)snprintf(where, sizeof where, "%s:%" PRId64, r->path, line);
    RF_TRY(rf_question_from_json(&r->question[r->n], r->tokenizer, text, bytes, where, err));
    r->n++;
    return RF_OK;
}

static int add_array(reader *r, const char *line, size_t bytes, rf_error *err)
{
    size_t at = 0, begin;
    bool begins, ends;
    while (!is_full(r) &&
           rf_record_array_next(&r->array, line, bytes, &at, &begin, &begins, &ends)) {
        r->record.bytes = begins ? 0 : r->record.bytes;
        r->line = begins ? rf_lines_number(r->lines) : r->line;
        rf_text_add(&r->record, line + begin, at - begin);
        rf_text_add_string(&r->record, "\n");
        if (ends) {
            RF_TRY(add_record(r, r->record.data, r->record.bytes, r->line, err));
        }
    }
    return r->array.is_bad ? rf_error_set(err, RF_ERR,
                                          "%s:%" PRId64 ": the array holds something else than "
                                          "objects: write one record a line",
                                          r->path, rf_lines_number(r->lines))
                           : RF_OK;
}

static int read_all(reader *r, rf_error *err)
{
    char *text;
    size_t bytes;
    bool has_begun = false;
    while (!is_full(r)) {
        RF_TRY(rf_lines_next(r->lines, &text, &bytes, err));
        if (text == NULL) {
            break;
        }
        const char *foreign =
            rf_lines_number(r->lines) == 1 ? rf_foreign(r->path, text, bytes) : NULL;
        if (foreign != NULL) {
            return rf_error_set(err, RF_ERR, "%s: is %s", r->path, foreign);
        }
        if (rf_lines_is_blank(text, bytes)) {
            continue;
        }
        r->is_array = has_begun ? r->is_array : text[strspn(text, " \t\r\v\f")] == '[';
        has_begun = true;
        RF_TRY(r->is_array ? add_array(r, text, bytes, err)
                           : add_record(r, text, bytes, rf_lines_number(r->lines), err));
    }
    if (r->is_array && !is_full(r) && !r->array.is_over) {
        return rf_error_set(err, RF_ERR, "%s: the array ends too early: get the whole file",
                            r->path);
    }
    return r->n > 0
               ? RF_OK
               : rf_error_set(err, RF_ERR, "%s holds no question: one JSON object a line", r->path);
}

int rf_questions_read(rf_question **out, int64_t *n, const char *path,
                      const rf_tokenizer *tokenizer, int64_t limit, rf_error *err)
{
    reader r = {.path = path, .tokenizer = tokenizer, .limit = limit > 0 ? limit : 0};
    *out = NULL;
    *n = 0;
    RF_TRY(rf_lines_open(&r.lines, path, err));
    int rc = read_all(&r, err);
    rf_lines_close(r.lines);
    rf_text_free(&r.record);
    if (rc != RF_OK) {
        rf_questions_free(r.question, r.n);
        return rc;
    }
    *out = r.question;
    *n = r.n;
    return RF_OK;
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
