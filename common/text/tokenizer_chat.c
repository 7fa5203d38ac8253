#include "common/text/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>

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
    return turn->tool_calls == NULL
               ? RF_OK
               : rf_error_set(err, RF_ERR,
                              "the byte tokenizer has no form for tool calls: remove them");
}

static int render_marks(const rf_tokenizer *tokenizer, rf_ids *out, const rf_turn *turn, int64_t n,
                        const rf_render_options *options, rf_error *err)
{
    if (json_array_size(options->tools) > 0) {
        return rf_error_set(err, RF_ERR, "the byte tokenizer has no form for tools: remove them");
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

/* What a template printed, with marks around special tokens that are text. */
static int encode_marked(const rf_tokenizer *tokenizer, rf_ids *out, const char *text, size_t bytes,
                         rf_error *err)
{
    const char *at = text, *end = text + bytes;
    while (at < end) {
        const char *mark =
            memmem(at, (size_t)(end - at), RF_CHAT_LITERAL_BEGIN, RF_CHAT_LITERAL_BYTES);
        const char *stop = mark != NULL ? mark : end;
        RF_TRY(rf_tokenizer_encode(tokenizer, out, at, (size_t)(stop - at), err));
        if (mark == NULL) {
            return RF_OK;
        }
        mark += RF_CHAT_LITERAL_BYTES;
        at = memmem(mark, (size_t)(end - mark), RF_CHAT_LITERAL_END, RF_CHAT_LITERAL_BYTES);
        stop = at != NULL ? at : end; /* without an end where a template has cut the text */
        RF_TRY(rf_bpe_encode_literal(tokenizer->bpe, out, mark, (size_t)(stop - mark), err));
        at = stop + (at != NULL ? RF_CHAT_LITERAL_BYTES : 0);
    }
    return RF_OK;
}

static void remove_marks(rf_text *text)
{
    size_t n = 0;
    for (size_t i = 0; i < text->bytes; i++) {
        const char *at = text->data + i;
        if (text->bytes - i >= RF_CHAT_LITERAL_BYTES &&
            (memcmp(at, RF_CHAT_LITERAL_BEGIN, RF_CHAT_LITERAL_BYTES) == 0 ||
             memcmp(at, RF_CHAT_LITERAL_END, RF_CHAT_LITERAL_BYTES) == 0)) {
            i += RF_CHAT_LITERAL_BYTES - 1;
        } else {
            text->data[n++] = *at;
        }
    }
    if (text->data != NULL) {
        text->data[text->bytes = n] = '\0';
    }
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
        remove_marks(&rendered);
        *text = rendered.data;
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

int rf_tokenizer_render_prompt(const rf_tokenizer *tokenizer, rf_ids *out, const rf_turn *turn,
                               int64_t n, rf_error *err)
{
    const rf_render_options options = {.add_generation_prompt = true};
    return rf_tokenizer_render(tokenizer, NULL, NULL, out, turn, n, &options, err);
}

int rf_tokenizer_render_response(const rf_tokenizer *tokenizer, rf_ids *out, const rf_turn *turn,
                                 int64_t n, const rf_render_options *options, rf_error *err)
{
    const int64_t before = out->n;
    const char *content = turn[n - 1].content;
    size_t bytes = turn[n - 1].bytes;
    rf_text text = {0};
    int rc = RF_OK;
    int32_t mark;
    if (tokenizer->specials.n_eos == 0) {
        return no_eos(err);
    }
    if (tokenizer->chat.kind == RF_CHAT_MARKS) {
        RF_TRY_OUT(mark_of(&mark, tokenizer, &turn[n - 1], err));
    } else {
        RF_TRY_OUT(rf_chat_render_answer(&tokenizer->chat, &text,
                                         name_of(tokenizer, tokenizer->specials.eos[0]), turn, n,
                                         options, err));
        content = text.data != NULL ? text.data : "";
        bytes = text.bytes;
    }
    RF_TRY_OUT(tokenizer->bpe != NULL ? encode_marked(tokenizer, out, content, bytes, err)
                                      : rf_tokenizer_encode(tokenizer, out, content, bytes, err));
    rf_ids_push(out, tokenizer->specials.eos[0]);
out:
    rf_text_free(&text);
    if (rc != RF_OK) {
        out->n = before;
    }
    return rc;
}
