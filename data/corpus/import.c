#include "data/corpus/import.h"

#include "common/base/alloc.h"
#include "common/base/utf8.h"
#include "data/corpus/records.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void rf_imported_clear(rf_imported *out)
{
    out->ids.n = 0;
    out->n_samples = 0;
}

void rf_imported_free(rf_imported *out)
{
    rf_ids_free(&out->ids);
    free(out->sample);
    *out = (rf_imported){0};
}

static void add_sample(rf_imported *out, rf_imported_sample sample)
{
    size_t n = (size_t)out->n_samples;
    out->sample = rf_alloc_grow(out->sample, &out->capacity, n + 1, sizeof *out->sample);
    out->sample[out->n_samples++] = sample;
}

static int64_t count_chars(const char *text, size_t bytes)
{
    int64_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    }
    return n;
}

/* --- Samples ---------------------------------------------------------------------------------- */

/* The sample whose prompt is turns [0, n) and whose response is turn n. */
static int add_answer(rf_imported *out, const rf_tokenizer *tokenizer, const rf_record *record,
                      int64_t n, bool held_out, rf_error *err)
{
    const rf_turn *turn = record->turn;
    rf_imported_sample sample = {.held_out = held_out, .is_answer = true};
    for (int64_t i = 0; i <= n; i++) {
        sample.n_chars += count_chars(turn[i].content, turn[i].bytes);
    }
    rf_render_options options = record->options;
    options.n_literal = &sample.n_literal;
    int64_t begin = out->ids.n;
    RF_TRY(rf_tokenizer_render_sample(tokenizer, &out->ids, &sample.n_prompt, turn, n + 1, &options,
                                      err));
    sample.n_tokens = out->ids.n - begin;
    add_sample(out, sample);
    return RF_OK;
}

static bool is_learnt(const rf_record *record, int64_t i)
{
    return strcmp(record->turn[i].role, "assistant") == 0 && rf_record_is_trained(record, i);
}

/* Is there something to learn in it? */
static int check_conversation(const rf_record *record, rf_error *err)
{
    const rf_turn *turn = record->turn;
    int64_t n_answers = 0;
    bool is_open = strcmp(turn[record->n_turns - 1].role, "assistant") != 0;
    if (record->answer_field != NULL && (is_open || turn[record->n_turns - 1].bytes == 0)) {
        return rf_error_set(err, RF_ERR,
                            "field \"%s\" is %s: there is nothing to learn, remove the record",
                            record->answer_field, is_open ? "missing" : "empty");
    }
    for (int64_t i = 0; i < record->n_turns; i++) {
        if (!is_learnt(record, i)) {
            continue;
        }
        if (i == 0) {
            return rf_error_set(err, RF_ERR,
                                "messages[0]: the assistant speaks first: a prompt is needed");
        }
        if (turn[i].bytes == 0 && turn[i].tool_calls == NULL) {
            return rf_error_set(err, RF_ERR,
                                "messages[%" PRId64 "]: empty response: there is nothing to learn, "
                                "remove the record",
                                i);
        }
        n_answers++;
    }
    if (n_answers == 0) {
        return rf_error_set(err, RF_ERR,
                            "no message of the assistant is to be learnt: remove the record");
    }
    return RF_OK;
}

/* Every message of the assistant is a sample, with what was said before it as its prompt. */
static int add_conversation(rf_imported *out, const rf_tokenizer *tokenizer,
                            const rf_record *record, bool held_out, rf_error *err)
{
    RF_TRY(check_conversation(record, err));
    for (int64_t i = 0; i < record->n_turns; i++) {
        if (is_learnt(record, i)) {
            RF_TRY(add_answer(out, tokenizer, record, i, held_out, err));
        }
    }
    return RF_OK;
}

static int add_text(rf_imported *out, const rf_tokenizer *tokenizer, const char *text, size_t bytes,
                    bool begins, bool ends, bool held_out, rf_error *err)
{
    const rf_specials *s = rf_tokenizer_specials(tokenizer);
    if (s->begin < 0) {
        return rf_error_set(err, RF_ERR,
                            "the tokenizer has no begin token, which plain text needs: use "
                            "{\"query\",\"response\"} records");
    }
    if (ends && s->n_eos == 0) {
        return rf_error_set(err, RF_ERR,
                            "the tokenizer has no end-of-text token: name it as \"eos_token\" in "
                            "tokenizer_config.json");
    }
    int64_t begin = out->ids.n;
    if (begins) {
        rf_ids_push(&out->ids, s->begin);
    }
    RF_TRY(rf_tokenizer_encode(tokenizer, &out->ids, text, bytes, err));
    if (ends) {
        rf_ids_push(&out->ids, s->eos[0]);
    }
    add_sample(out, (rf_imported_sample){.n_tokens = out->ids.n - begin,
                                         .n_prompt = ends ? 1 : 0,
                                         .n_chars = count_chars(text, bytes),
                                         .held_out = held_out});
    return RF_OK;
}

int rf_import_text(rf_imported *out, const rf_tokenizer *tokenizer, const char *text, size_t bytes,
                   bool begins, bool ends, bool held_out, size_t *bad, rf_error *err)
{
    *bad = 0;
    if (!rf_utf8_is_valid(text, bytes, bad)) {
        return rf_error_set(err, RF_ERR, "invalid UTF-8: convert the file");
    }
    *bad = bytes;
    int64_t n_ids = out->ids.n;
    int rc = add_text(out, tokenizer, text, bytes, begins, ends, held_out, err);
    if (rc != RF_OK) {
        out->ids.n = n_ids;
    }
    return rc;
}

int rf_import_json(rf_imported *out, const rf_tokenizer *tokenizer, const char *line, size_t bytes,
                   const rf_record_map *map, bool held_out, rf_error *err)
{
    rf_record record;
    int64_t n_ids = out->ids.n, n_samples = out->n_samples;
    RF_TRY(rf_record_read(&record, line, bytes, map, err));
    int rc = record.text != NULL
                 ? add_text(out, tokenizer, record.text, record.bytes, true, true, held_out, err)
                 : add_conversation(out, tokenizer, &record, held_out, err);
    if (rc != RF_OK) {
        out->ids.n = n_ids;
        out->n_samples = n_samples;
    }
    rf_record_free(&record);
    return rc;
}
