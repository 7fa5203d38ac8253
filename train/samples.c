#include "train/samples.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "common/base/utf8.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Choosing --------------------------------------------------------------------------------- */

static int add_prompt(rf_samples *p, rf_corpus *corpus, int64_t sample, rf_error *err)
{
    int64_t length = rf_corpus_length(corpus, sample);
    rf_sample *s = &p->sample[p->n++];
    s->token = rf_alloc((size_t)length, sizeof *s->token);
    s->n_prompt = rf_corpus_prompt_length(corpus, sample);
    s->n_response = rf_corpus_first_answer_length(corpus, sample);
    p->max_prompt = p->max_prompt < s->n_prompt ? s->n_prompt : p->max_prompt;
    return rf_corpus_read(corpus, s->token, sample, 0, length, err);
}

static int add_prompts(rf_samples *p, rf_corpus *const *corpus, int64_t n_corpora, int64_t row,
                       int64_t most, rf_error *err)
{
    for (int64_t c = 0; c < n_corpora; c++) {
        int64_t n = corpus[c]->n_samples;
        for (int64_t i = 0; i < n && p->n < most; i++) {
            if (rf_corpus_length(corpus[c], i) <= row) {
                RF_TRY(add_prompt(p, corpus[c], i, err));
            }
        }
    }
    return RF_OK;
}

static void free_tokens(rf_samples *p)
{
    for (int64_t i = 0; i < p->n; i++) {
        free(p->sample[i].token);
    }
    p->n = 0;
}

/* Prompt and answer must fit the positions that the model knows. */
static void fit_options(rf_samples *p, int64_t n_positions, bool warns)
{
    rf_decode_options *o = &p->options;
    int64_t room = n_positions - p->max_prompt;
    if (!rf_decode_options_shorten(o, room)) {
        if (warns) {
            rf_log_warn("log.samples_every: prompts of up to %" PRId64
                        " tokens leave no room for an answer: no samples are made; raise "
                        "data.row_length",
                        p->max_prompt);
        }
        free_tokens(p);
    }
}

int rf_samples_choose(rf_samples *out, const rf_sources *s, const rf_config *config, int64_t most,
                      int64_t n_positions, bool warns, rf_error *err)
{
    bool from_valid = s->settings.n_valid > 0;
    *out = (rf_samples){.tokenizer = s->tokenizer};
    RF_TRY(rf_decode_options_from_config(&out->options, config, err));
    out->sample = rf_alloc((size_t)most, sizeof *out->sample);
    RF_TRY(add_prompts(out, from_valid ? s->valid : s->train,
                       from_valid ? s->settings.n_valid : s->settings.n_train,
                       s->settings.rows.row_length, most, err));
    if (out->n > 0) {
        fit_options(out, n_positions, warns);
    }
    return RF_OK;
}

void rf_samples_free(rf_samples *p)
{
    free_tokens(p);
    free(p->sample);
    *p = (rf_samples){0};
}

/* --- Decoding --------------------------------------------------------------------------------- */

/* What ranks exchange of an answer; the tokens follow. */
typedef struct record {
    int64_t n, forwards, ended;
    double seconds;
} record;

static size_t record_bytes(const rf_samples *p)
{
    return sizeof(record) + (size_t)p->options.gen_length * sizeof(int32_t);
}

/* Rank r decodes prompts r, r + n_ranks, ... into its slots. `together`: every rank decodes all, for
 * forward passes need all ranks, and as many. */
static int decode_share(const rf_samples *p, rf_engine *engine, const rf_dist *dist, bool together,
                        char *slots, rf_error *err)
{
    const int64_t n_ranks = rf_dist_size(dist), rank = rf_dist_rank(dist);
    for (int64_t i = together ? 0 : rank; i < p->n; i += together ? 1 : n_ranks) {
        rf_answer answer = {0};
        const rf_sample *s = &p->sample[i];
        const rf_request request = {
            .prompt = s->token, .n_prompt = s->n_prompt, .index = (uint64_t)i};
        RF_TRY(rf_engine_run(engine, &answer, &request, 1, NULL, NULL, err));
        if (i % n_ranks != rank) {
            rf_answer_free(&answer);
            continue;
        }
        char *slot = slots + (size_t)(i / n_ranks) * record_bytes(p);
        record r = {answer.n, answer.forwards, answer.ended, answer.seconds};
        memcpy(slot, &r, sizeof r);
        memcpy(slot + sizeof r, answer.token, (size_t)answer.n * sizeof *answer.token);
        rf_answer_free(&answer);
    }
    return RF_OK;
}

/* marks: with the names of special tokens, which say who speaks. */
static json_t *text_of(const rf_samples *p, const int32_t *token, int64_t n, bool marks)
{
    size_t bytes;
    char *text = rf_tokenizer_decode(p->tokenizer, &bytes, token, n, !marks);
    json_t *string = json_stringn(text, bytes); /* NULL where the text holds a 0 byte's escape */
    free(text);
    return string != NULL ? string : json_null();
}

/* What a model writes must not steer the terminal, nor break the line. */
static void say_sample(const json_t *prompt, const json_t *text)
{
    const char *asked = json_string_value(prompt), *answer = json_string_value(text);
    char line[400];
    /* Of a long prompt its end: there the question is. */
    const size_t n = asked != NULL ? strlen(asked) : 0, most = 160;
    const char *shown = asked == NULL ? "" : n > most ? asked + n - most : asked;
    while (rf_utf8_continues(*shown)) { /* never within a character */
        shown++;
    }
    snprintf(line, sizeof line, "%s%s -> %.200s", n > most ? "..." : "", shown,
             answer != NULL && answer[0] != '\0' ? answer : "(empty)");
    for (char *c = line; *c != '\0'; c++) {
        *c = (unsigned char)*c < 0x20 || *c == 0x7F ? ' ' : *c;
    }
    rf_log_info("sample: %s", line);
}

static void write_sample(const rf_samples *p, rf_metrics *metrics, int64_t step, int64_t i,
                         const char *slot)
{
    record r;
    memcpy(&r, slot, sizeof r);
    const int32_t *answer = (const int32_t *)(const void *)(slot + sizeof r);
    const rf_sample *s = &p->sample[i];
    json_t *prompt = text_of(p, s->token, s->n_prompt, true);
    json_t *text = text_of(p, answer, r.n, false);
    json_t *expected = text_of(p, s->token + s->n_prompt, s->n_response, false);
    if (i == 0) {
        say_sample(prompt, text);
    }
    rf_metrics_write(
        metrics, RF_METRICS_SAMPLES,
        json_pack("{s:I,s:I,s:o,s:o,s:o,s:b,s:I,s:I,s:f,s:f}", "step", (json_int_t)step, "index",
                  (json_int_t)i, "prompt", prompt, "text", text, "expected", expected, "ended",
                  (int)(r.ended != 0), "tokens", (json_int_t)r.n, "forwards",
                  (json_int_t)r.forwards, "tokens_per_forward",
                  r.forwards > 0 ? (double)r.n / (double)r.forwards : 0.0, "seconds", r.seconds));
}

int rf_samples_run(const rf_samples *p, rf_engine *engine, rf_dist *dist, bool together,
                   rf_metrics *metrics, int64_t step, rf_error *err)
{
    int64_t n_ranks = rf_dist_size(dist);
    size_t per_rank = (size_t)((p->n + n_ranks - 1) / n_ranks) * record_bytes(p);
    char *own = rf_alloc(1, per_rank), *all = rf_alloc((size_t)n_ranks, per_rank);
    int rc = decode_share(p, engine, dist, together, own, err);
    if (together) {
        rf_dist_leave_alone(dist, rc, err);
    }
    rc = rf_dist_agree(dist, rc, err);
    RF_TRY_OUT(rc);
    RF_TRY_OUT(rf_dist_allgather_bytes(dist, all, own, per_rank, err));
    for (int64_t i = 0; metrics != NULL && i < p->n; i++) {
        size_t slot = (size_t)(i / n_ranks) * record_bytes(p);
        write_sample(p, metrics, step, i, all + (size_t)(i % n_ranks) * per_rank + slot);
    }
    rf_metrics_event(metrics, "samples", step, json_pack("{s:I}", "n", (json_int_t)p->n));
out:
    free(own);
    free(all);
    return rc;
}
