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
    out->n_turns = 0;
}

void rf_imported_free(rf_imported *out)
{
    rf_ids_free(&out->ids);
    free(out->sample);
    free(out->turn);
    *out = (rf_imported){0};
}

static void add_sample(rf_imported *out, rf_imported_sample sample)
{
    size_t n = (size_t)out->n_samples;
    out->sample = rf_alloc_grow(out->sample, &out->capacity, n + 1, sizeof *out->sample);
    out->sample[out->n_samples++] = sample;
}

static void add_turn(rf_imported *out, int64_t begin)
{
    size_t n = (size_t)out->n_turns;
    out->turn = rf_alloc_grow(out->turn, &out->turn_capacity, n + 1, sizeof *out->turn);
    out->turn[out->n_turns++] = begin;
}

/* --- Samples ---------------------------------------------------------------------------------- */

/* In a corpus a prompt of one token is a plain text's, and one of none stands for a text that goes on.
 * n: the turn that answers the prompt. */
static int check_prompt(int64_t n_prompt, int64_t n, rf_error *err)
{
    return n_prompt >= 2
               ? RF_OK
               : rf_error_set(
                     err, RF_ERR,
                     "messages[%" PRId64 "]: the prompt of this answer is %" PRId64
                     " token%s long, but a conversation's has at least 2: remove the record, "
                     "or use a chat template that marks who speaks",
                     n, n_prompt, n_prompt == 1 ? "" : "s");
}

/* The sample whose prompt is turns [0, n) and whose response is turn n. */
static int add_answer(rf_imported *out, const rf_tokenizer *tokenizer, const rf_record *record,
                      int64_t n, bool held_out, rf_error *err)
{
    const rf_turn *turn = record->turn;
    rf_imported_sample sample = {.held_out = held_out, .is_answer = true};
    for (int64_t i = 0; i <= n; i++) {
        sample.n_chars += (int64_t)rf_utf8_count(turn[i].content, turn[i].bytes);
    }
    rf_render_options options = record->options;
    options.n_literal = &sample.n_literal;
    int64_t begin = out->ids.n;
    RF_TRY(rf_tokenizer_render_sample(tokenizer, &out->ids, &sample.n_prompt, turn, n + 1, &options,
                                      err));
    RF_TRY(check_prompt(sample.n_prompt, n, err));
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

/* Notes where prompt and answer of turn i begin in the conversation's tokens, id [n]; *end is where
 * the answer before it ended, and becomes this one's end. What the turn would be as a sample of its
 * own (rendered into `own`) must stand at the begin of the conversation. */
static int find_answer(rf_imported *out, rf_ids *own, const rf_tokenizer *tokenizer,
                       const rf_record *record, int64_t i, const int32_t *id, int64_t n,
                       int64_t *end, rf_error *err)
{
    int64_t n_prompt, n_literal = 0; /* counted where the whole was rendered */
    rf_render_options options = record->options;
    options.n_literal = &n_literal;
    own->n = 0;
    RF_TRY(
        rf_tokenizer_render_sample(tokenizer, own, &n_prompt, record->turn, i + 1, &options, err));
    RF_TRY(check_prompt(n_prompt, i, err));
    if (own->n > n || n_prompt <= *end || memcmp(own->id, id, (size_t)own->n * sizeof *id) != 0) {
        return rf_error_set(err, RF_ERR,
                            "messages[%" PRId64 "]: the chat template prints this answer otherwise "
                            "once the conversation goes on, so it cannot be trained there: use "
                            "--turns each or --turns last",
                            i);
    }
    add_turn(out, *end);
    add_turn(out, n_prompt);
    *end = own->n;
    return RF_OK;
}

/* The sample that was added last goes up to turn `last`; its answers become trained turns. */
static int find_answers(rf_imported *out, const rf_tokenizer *tokenizer, const rf_record *record,
                        int64_t last, rf_error *err)
{
    rf_imported_sample *sample = &out->sample[out->n_samples - 1];
    const int64_t n = sample->n_tokens;
    const int32_t *id = out->ids.id + out->ids.n - n;
    rf_ids own = {0};
    int64_t end = 0;
    int rc = RF_OK;
    sample->first_turn = out->n_turns;
    for (int64_t i = 0; i <= last && rc == RF_OK; i++) {
        if (is_learnt(record, i)) {
            rc = find_answer(out, &own, tokenizer, record, i, id, n, &end, err);
        }
    }
    sample->n_turns = out->n_turns - sample->first_turn;
    rf_ids_free(&own);
    return rc;
}

static int add_conversation(rf_imported *out, const rf_tokenizer *tokenizer,
                            const rf_record *record, rf_turns turns, bool held_out, rf_error *err)
{
    RF_TRY(check_conversation(record, err));
    int64_t last = record->n_turns - 1;
    while (!is_learnt(record, last)) {
        last--;
    }
    for (int64_t i = turns == RF_TURNS_EACH ? 0 : last; i <= last; i++) {
        if (is_learnt(record, i)) {
            RF_TRY(add_answer(out, tokenizer, record, i, held_out, err));
        }
    }
    return turns == RF_TURNS_ALL ? find_answers(out, tokenizer, record, last, err) : RF_OK;
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
                                         .n_chars = (int64_t)rf_utf8_count(text, bytes),
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
                   const rf_record_map *map, rf_turns turns, bool held_out, rf_error *err)
{
    rf_record record;
    int64_t n_ids = out->ids.n, n_samples = out->n_samples, n_turns = out->n_turns;
    RF_TRY(rf_record_read(&record, line, bytes, map, err));
    int rc = record.text != NULL
                 ? add_text(out, tokenizer, record.text, record.bytes, true, true, held_out, err)
                 : add_conversation(out, tokenizer, &record, turns, held_out, err);
    if (rc != RF_OK) {
        out->ids.n = n_ids;
        out->n_samples = n_samples;
        out->n_turns = n_turns;
    }
    rf_record_free(&record);
    return rc;
}
