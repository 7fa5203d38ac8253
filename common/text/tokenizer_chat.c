#include "common/text/tokenizer_private.h"

#include "common/base/alloc.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- The byte tokenizer's marks --------------------------------------------------------------- */

static int mark_of(int32_t *mark, const rf_tokenizer *tokenizer, const rf_turn *turn, rf_error *err)
{
    const rf_specials *s = &tokenizer->specials;
    if (strcmp(turn->role, "system") == 0) {
        *mark = s->system;
    } else if (strcmp(turn->role, "user") == 0) {
        *mark = s->user;
    } else if (strcmp(turn->role, "assistant") == 0) {
        *mark = s->assistant;
    } else {
        return rf_error_set(err, RF_ERR,
                            "unknown role \"%.64s\": use \"system\", \"user\" or \"assistant\"",
                            turn->role);
    }
    const char *what = turn->tool_calls != NULL    ? "tool calls"
                       : turn->reasoning_bytes > 0 ? "\"reasoning_content\""
                                                   : NULL;
    return what == NULL ? RF_OK
                        : rf_error_set(err, RF_ERR,
                                       "the byte tokenizer has no form for %s: remove them", what);
}

static int render_marks(const rf_tokenizer *tokenizer, rf_ids *out, const rf_turn *turn, int64_t n,
                        const rf_render_options *options, rf_error *err)
{
    if (json_array_size(options->tools) > 0) {
        return rf_error_set(err, RF_ERR, "the byte tokenizer has no form for tools: remove them");
    }
    if (json_object_size(options->more) > 0) {
        return rf_error_set(
            err, RF_ERR,
            "the byte tokenizer has no template that \"chat_template_kwargs\" could "
            "be for: remove them");
    }
    for (int64_t i = 0; i < n; i++) {
        int32_t mark = -1;
        RF_TRY(mark_of(&mark, tokenizer, &turn[i], err));
        rf_ids_push(out, mark);
        RF_TRY(rf_tokenizer_encode(tokenizer, out, turn[i].content, turn[i].bytes, err));
        if (mark == tokenizer->specials.assistant) {
            rf_ids_push(out, tokenizer->specials.eos[0]);
        }
    }
    if (options->add_generation_prompt) {
        rf_ids_push(out, tokenizer->specials.assistant);
    }
    return RF_OK;
}

/* --- Templates -------------------------------------------------------------------------------- */

static const char *name_of(const rf_tokenizer *tokenizer, int32_t id)
{
    const char *name = id >= 0 ? rf_tokenizer_special_name(tokenizer, id) : NULL;
    return name != NULL ? name : "";
}

static int no_eos(rf_error *err)
{
    return rf_error_set(err, RF_ERR,
                        "the tokenizer has no end-of-text token: name it as \"eos_token\" in "
                        "tokenizer_config.json");
}

/* What a template printed, with its marks. */
static int encode_marked(const rf_tokenizer *tokenizer, rf_ids *out, const char *text, size_t bytes,
                         rf_error *err)
{
    rf_chat_mark mark = {0};
    for (size_t done = 0;; done = mark.end) {
        const bool found = rf_chat_next_mark(&mark, &tokenizer->chat, text, done, bytes);
        RF_TRY(rf_tokenizer_encode(tokenizer, out, text + done, (found ? mark.begin : bytes) - done,
                                   err));
        if (!found) {
            return RF_OK;
        }
        RF_TRY(rf_bpe_encode(tokenizer->bpe, out, text + mark.literal, mark.bytes, true, err));
    }
}

int rf_tokenizer_encode_said(const rf_tokenizer *tokenizer, rf_ids *out, const char *text,
                             size_t bytes, rf_error *err)
{
    rf_text marked = {0};
    const int64_t before = out->n;
    rf_chat_mark_text(&tokenizer->chat, &marked, text, bytes);
    const int rc = encode_marked(tokenizer, out, marked.data, marked.bytes, err);
    rf_text_free(&marked);
    out->n = rc == RF_OK ? out->n : before;
    return rc;
}

/* The plain form begins with the begin token, which is never recognised in a text. */
static int encode_rendered(const rf_tokenizer *tokenizer, rf_ids *out, const rf_text *text,
                           const char *begin, rf_error *err)
{
    size_t skip = 0;
    if (tokenizer->chat.kind == RF_CHAT_PLAIN) {
        skip = strlen(begin);
        rf_ids_push(out, tokenizer->specials.begin);
    }
    return encode_marked(tokenizer, out, text->data + skip, text->bytes - skip, err);
}

static int render_template(const rf_tokenizer *tokenizer, rf_text *text, rf_ids *out,
                           const rf_turn *turn, int64_t n, const rf_render_options *options,
                           rf_error *err)
{
    const rf_specials *s = &tokenizer->specials;
    const char *begin = name_of(tokenizer, s->begin);
    if (s->n_eos == 0) {
        return no_eos(err);
    }
    RF_TRY(rf_chat_render(&tokenizer->chat, text, begin, name_of(tokenizer, s->eos[0]), turn, n,
                          options, err));
    return encode_rendered(tokenizer, out, text, begin, err);
}

int rf_tokenizer_render(const rf_tokenizer *tokenizer, char **text, size_t *bytes, rf_ids *ids,
                        const rf_turn *turn, int64_t n, const rf_render_options *options,
                        rf_error *err)
{
    const int64_t before = ids->n;
    const bool marks = tokenizer->chat.kind == RF_CHAT_MARKS;
    rf_text rendered = {0};
    int rc = marks ? render_marks(tokenizer, ids, turn, n, options, err)
                   : render_template(tokenizer, &rendered, ids, turn, n, options, err);
    if (rc == RF_OK && text != NULL && marks) {
        *text = rf_tokenizer_decode(tokenizer, bytes, ids->id + before, ids->n - before, false);
    } else if (rc == RF_OK && text != NULL) {
        rf_chat_remove_marks(&tokenizer->chat, &rendered);
        *text = rendered.data != NULL ? rendered.data : rf_alloc_string("");
        *bytes = rendered.bytes;
        rendered = (rf_text){0};
    }
    rf_text_free(&rendered);
    if (rc != RF_OK) {
        ids->n = before;
    }
    return rc;
}

const char *rf_tokenizer_form(const rf_tokenizer *tokenizer)
{
    static const char *const forms[] = {
        [RF_CHAT_MARKS] = "marks of the byte tokenizer",
        [RF_CHAT_PLAIN] = "plain: the tokenizer has no chat template, so each message is a line",
        [RF_CHAT_TEMPLATE] = "the tokenizer's chat template"};
    return forms[tokenizer->chat.kind];
}

void rf_tokenizer_read_control_tokens(rf_tokenizer *tokenizer)
{
    tokenizer->chat.find = NULL;
}

int rf_tokenizer_set_date(rf_tokenizer *tokenizer, const char *date, rf_error *err)
{
    rf_chat *chat = &tokenizer->chat;
    char *text = chat->date;
    struct tm day = {0};
    if (strcmp(date, "today") == 0) {
        const time_t now = time(NULL);
        localtime_r(&now, &day);
    } else {
        const char *end = strptime(date, "%Y-%m-%d", &day);
        day.tm_hour = 12; /* of no hour that a change of clocks leaves out */
        const struct tm said = day;
        if (end == NULL || *end != '\0' || strlen(date) != strlen("2026-11-28") ||
            mktime(&day) == (time_t)-1 || day.tm_mday != said.tm_mday) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "--date %.40s: must be today, or a day as 2026-11-28", date);
        }
    }
    strftime(text, sizeof chat->date, "%Y-%m-%d", &day);
    chat->day = day;
    return RF_OK;
}

const char *rf_tokenizer_date(const rf_tokenizer *tokenizer)
{
    return tokenizer->chat.date[0] != '\0' ? tokenizer->chat.date : NULL;
}

int rf_tokenizer_render_prompt(const rf_tokenizer *tokenizer, rf_ids *out, const rf_turn *turn,
                               int64_t n, rf_error *err)
{
    const rf_render_options options = {.add_generation_prompt = true};
    return rf_tokenizer_render(tokenizer, NULL, NULL, out, turn, n, &options, err);
}

/* With the byte tokenizer: whose turn it is is said by an id in front of each message. */
static int render_marks_sample(const rf_tokenizer *tokenizer, rf_ids *out, int64_t *n_prompt,
                               const rf_turn *turn, int64_t n, const rf_render_options *options,
                               rf_error *err)
{
    const int64_t before = out->n;
    int32_t mark;
    RF_TRY(render_marks(tokenizer, out, turn, n - 1, options, err));
    *n_prompt = out->n - before;
    RF_TRY(mark_of(&mark, tokenizer, &turn[n - 1], err));
    return rf_tokenizer_encode(tokenizer, out, turn[n - 1].content, turn[n - 1].bytes, err);
}

static int render_template_sample(const rf_tokenizer *tokenizer, rf_ids *out, int64_t *n_prompt,
                                  const rf_turn *turn, int64_t n, const rf_render_options *options,
                                  rf_error *err)
{
    const int64_t before = out->n;
    rf_text prompt = {0}, answer = {0};
    int rc;
    RF_TRY_OUT(render_template(tokenizer, &prompt, out, turn, n - 1, options, err));
    *n_prompt = out->n - before;
    RF_TRY_OUT(rf_chat_render_answer(&tokenizer->chat, &answer, &prompt,
                                     name_of(tokenizer, tokenizer->specials.eos[0]), turn, n,
                                     options, err));
    if (answer.bytes > 0) {
        RF_TRY_OUT(encode_marked(tokenizer, out, answer.data, answer.bytes, err));
    }
out:
    rf_text_free(&prompt);
    rf_text_free(&answer);
    return rc;
}

int rf_tokenizer_render_sample(const rf_tokenizer *tokenizer, rf_ids *out, int64_t *n_prompt,
                               const rf_turn *turn, int64_t n, const rf_render_options *options,
                               rf_error *err)
{
    const int64_t before = out->n;
    rf_render_options prompts = *options;
    prompts.add_generation_prompt = true;
    RF_TRY(rf_chat_check_thought(&tokenizer->chat, &turn[n - 1], err));
    int rc = tokenizer->chat.kind == RF_CHAT_MARKS
                 ? render_marks_sample(tokenizer, out, n_prompt, turn, n, &prompts, err)
                 : render_template_sample(tokenizer, out, n_prompt, turn, n, &prompts, err);
    if (rc != RF_OK) {
        out->n = before;
        return rc;
    }
    rf_ids_push(out, tokenizer->specials.eos[0]);
    return RF_OK;
}
