#include "serve/reply.h"

#include "common/base/utf8.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* --- Usage ------------------------------------------------------------------------------------ */

json_t *rf_reply_usage(const rf_order *x)
{
    int64_t n_prompt = 0, n = 0, forwards = 0;
    double seconds = 0;
    for (int64_t i = 0; i < x->ask.n_prompts; i++) {
        n_prompt += x->ask.prompt[i].ids.n - x->ask.prompt[i].hides_begin;
    }
    for (int64_t i = 0; i < x->n_choices; i++) {
        const rf_answer *a = &x->choice[i].answer;
        n += a->n;
        forwards += a->forwards;
        seconds = a->seconds > seconds ? a->seconds : seconds;
    }
    return json_pack("{s:I, s:I, s:I, s:I, s:f, s:f}", "prompt_tokens", (json_int_t)n_prompt,
                     "completion_tokens", (json_int_t)n, "total_tokens", (json_int_t)(n_prompt + n),
                     "forwards", (json_int_t)forwards, "tokens_per_forward",
                     forwards > 0 ? (double)n / (double)forwards : 0, "seconds", seconds);
}

/* --- Log-probabilities ------------------------------------------------------------------------ */

/* What a token is called: its text, or its name; "token_id:N" where it is no text for itself. */
static json_t *token_json(const rf_tokenizer *tokenizer, int32_t id)
{
    const char *name = rf_tokenizer_special_name(tokenizer, id);
    size_t bytes;
    if (name != NULL) {
        return json_string(name);
    }
    char *text = rf_tokenizer_decode(tokenizer, &bytes, &id, 1, false);
    json_t *json = bytes > 0 && memmem(text, bytes, "\xEF\xBF\xBD", 3) == NULL
                       ? json_stringn(text, bytes)
                       : json_sprintf("token_id:%" PRId32, id);
    free(text);
    return json;
}

/* JSON has no infinities. */
static json_t *number(double logprob)
{
    return json_real(logprob > -9999 ? logprob : -9999);
}

/* The likeliest tokens at place i of what was judged, and the token itself. */
static json_t *top_object(const rf_choice *c, int64_t i)
{
    const rf_tokenizer *tokenizer = c->order->offer->loaded->info.tokenizer;
    const rf_given *g = &c->given;
    json_t *top = json_object();
    for (int64_t k = 0; k <= g->n_likely; k++) {
        const bool itself = k == g->n_likely;
        const int32_t id = itself ? g->token[i] : g->likely[i * g->n_likely + k];
        if (id >= 0) {
            json_t *token = token_json(tokenizer, id);
            json_object_setn_new(
                top, json_string_value(token), json_string_length(token),
                number(itself ? g->logprob[i] : g->likely_logprob[i * g->n_likely + k]));
            json_decref(token);
        }
    }
    return top;
}

/* A token that the client sees. `at`: of what was judged; negative: nothing stands before it. */
static void add_token(json_t *lists[3], const rf_choice *c, int32_t id, int64_t at)
{
    const rf_tokenizer *tokenizer = c->order->offer->loaded->info.tokenizer;
    json_array_append_new(lists[0], token_json(tokenizer, id));
    json_array_append_new(lists[1], at >= 0 ? number(c->given.logprob[at]) : json_null());
    json_array_append_new(lists[2], at >= 0 ? top_object(c, at) : json_null());
}

/* The characters of a text up to the one that byte `at` belongs to: *n of them, of *bytes. */
static void pass_characters(const rf_text *text, size_t at, size_t *bytes, int64_t *n)
{
    bool valid;
    while (*bytes < text->bytes) {
        const size_t unit = rf_utf8_unit(text->data + *bytes, text->bytes - *bytes, &valid);
        if (*bytes + unit > at) {
            return;
        }
        *bytes += unit;
        ++*n;
    }
}

/* Where tokens [n] begin in the text that they are together, *offset characters behind its beginning:
 * all pieces of a character where it does. */
static void add_offsets(json_t *list, const rf_tokenizer *tokenizer, const int32_t *id, int64_t n,
                        bool skip_special, int64_t *offset)
{
    rf_text text = {0};
    size_t at = 0, bytes, passed = 0;
    for (int64_t i = 0; i < n; i++) {
        const char *piece = rf_tokenizer_bytes(tokenizer, &bytes, id[i], skip_special);
        rf_text_add(&text, bytes > 0 ? piece : "", bytes);
    }
    for (int64_t i = 0; i < n; i++) {
        pass_characters(&text, at, &passed, offset);
        json_array_append_new(list, json_integer(*offset));
        (void)rf_tokenizer_bytes(tokenizer, &bytes, id[i], skip_special);
        at += bytes;
    }
    pass_characters(&text, text.bytes, &passed, offset);
    rf_text_free(&text);
}

/* Of completions: lists side by side. Texts of prompt and answer are made apart (text_of). */
static json_t *logprob_lists(const rf_choice *c, int64_t first, int64_t end, int64_t *offset)
{
    json_t *lists[4] = {json_array(), json_array(), json_array(), json_array()};
    const rf_tokenizer *tokenizer = c->order->offer->loaded->info.tokenizer;
    const int64_t P = c->prompt->ids.n, from = first > P ? first : P, to = end < P ? end : P;
    for (int64_t i = first; i < end; i++) {
        add_token(lists, c, c->judged[i], i - (c->n_judged - c->given.n));
    }
    add_offsets(lists[3], tokenizer, c->judged + first, to - first, false, offset);
    add_offsets(lists[3], tokenizer, c->judged + from, end - from, true, offset);
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", lists[0], "token_logprobs", lists[1],
                     "top_logprobs", lists[2], "text_offset", lists[3]);
}

/* Of conversations: an object for each token. */
static json_t *logprob_object(const rf_tokenizer *tokenizer, int32_t id, double logprob)
{
    size_t bytes;
    char *text = rf_tokenizer_decode(tokenizer, &bytes, &id, 1, false);
    const bool is_text = memmem(text, bytes, "\xEF\xBF\xBD", 3) == NULL;
    json_t *list = is_text ? json_array() : json_null();
    for (size_t i = 0; is_text && i < bytes; i++) {
        json_array_append_new(list, json_integer((unsigned char)text[i]));
    }
    free(text);
    return json_pack("{s:o, s:o, s:o}", "token", token_json(tokenizer, id), "logprob",
                     number(logprob), "bytes", list);
}

static json_t *logprob_content(const rf_choice *c, int64_t first, int64_t end)
{
    const rf_tokenizer *tokenizer = c->order->offer->loaded->info.tokenizer;
    const rf_given *g = &c->given;
    const int64_t before = c->n_judged - g->n;
    json_t *content = json_array();
    for (int64_t i = first - before; i < end - before; i++) {
        json_t *one = logprob_object(tokenizer, g->token[i], g->logprob[i]), *top = json_array();
        for (int64_t k = 0; k < g->n_likely && k < c->order->ask.n_likely; k++) {
            const int32_t id = g->likely[i * g->n_likely + k];
            if (id >= 0) {
                json_array_append_new(
                    top, logprob_object(tokenizer, id, g->likely_logprob[i * g->n_likely + k]));
            }
        }
        json_object_set_new(one, "top_logprobs", top);
        json_array_append_new(content, one);
    }
    return json_pack("{s:o}", "content", content);
}

json_t *rf_reply_logprobs(const rf_choice *c, int64_t first, int64_t end, int64_t *offset)
{
    return c->order->ask.kind == RF_ASK_CHAT ? logprob_content(c, first, end)
                                             : logprob_lists(c, first, end, offset);
}

int64_t rf_reply_first(const rf_choice *c)
{
    return c->order->ask.echo ? c->prompt->hides_begin : c->prompt->ids.n;
}

/* Of the whole answer, and of its prompt where that is echoed. */
static json_t *all_logprobs(const rf_choice *c)
{
    int64_t offset = 0;
    return c->order->ask.n_likely >= 0
               ? rf_reply_logprobs(c, rf_reply_first(c), c->n_judged, &offset)
               : NULL;
}

/* --- Choices ---------------------------------------------------------------------------------- */

char *rf_reply_echo(const rf_choice *c, size_t *bytes)
{
    const rf_ids *ids = &c->prompt->ids;
    return rf_tokenizer_decode(c->order->offer->loaded->info.tokenizer, bytes,
                               ids->id + c->prompt->hides_begin, ids->n - c->prompt->hides_begin,
                               false);
}

static json_t *text_of(const rf_choice *c)
{
    const rf_tokenizer *tokenizer = c->order->offer->loaded->info.tokenizer;
    size_t bytes, before = 0;
    char *text = rf_answer_text(&c->answer, &bytes, tokenizer);
    char *echo = c->order->ask.echo ? rf_reply_echo(c, &before) : NULL;
    rf_text all = {0};
    rf_text_add(&all, echo != NULL ? echo : "", before);
    rf_text_add(&all, text, bytes);
    json_t *json = json_stringn(all.data, all.bytes);
    rf_text_free(&all);
    free(echo);
    free(text);
    return json;
}

static json_t *choice_json(const rf_choice *c)
{
    const bool is_chat = c->order->ask.kind == RF_ASK_CHAT;
    json_t *said = text_of(c);
    if (is_chat) {
        said = json_pack("{s:s, s:o, s:n}", "role", "assistant", "content", said, "refusal");
    }
    return json_pack("{s:I, s:o, s:o?, s:s}", "index", (json_int_t)c->number,
                     is_chat ? "message" : "text", said, "logprobs", all_logprobs(c),
                     "finish_reason", c->finish);
}

json_t *rf_reply_json(const rf_order *x)
{
    json_t *choices = json_array();
    for (int64_t i = 0; i < x->n_choices; i++) {
        json_array_append_new(choices, choice_json(&x->choice[i]));
    }
    return json_pack("{s:s, s:s, s:I, s:s, s:o, s:o}", "id", x->id, "object",
                     x->ask.kind == RF_ASK_CHAT ? "chat.completion" : "text_completion", "created",
                     (json_int_t)x->created, "model", x->offer->name, "choices", choices, "usage",
                     rf_reply_usage(x));
}
