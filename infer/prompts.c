#include "infer/prompts.h"

#include "common/base/file.h"
#include "common/text/chat.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

void rf_prompt_free(rf_prompt *prompt)
{
    rf_ids_free(&prompt->ids);
    free(prompt->query);
    free(prompt->expected);
    memset(prompt, 0, sizeof(*prompt));
}

static int copy_text(char **out, const char *text, rf_error *err)
{
    free(*out);
    *out = strdup(text);
    return *out ? RF_OK : rf_error_set(err, RF_ERR, "out of memory for a prompt");
}

int rf_prompt_from_text(rf_prompt *out, const rf_tokenizer *tokenizer, const char *text, bool raw,
                        rf_error *err)
{
    int code;
    memset(out, 0, sizeof(*out));
    if ((code = copy_text(&out->query, text, err)) != RF_OK) {
        goto out;
    }
    if (raw) {
        rf_ids_push(&out->ids, rf_tokenizer_specials(tokenizer)->begin);
        code = rf_tokenizer_encode(tokenizer, &out->ids, text, strlen(text), err);
    } else {
        const rf_turn turn = {.role = "user", .content = text, .bytes = strlen(text)};
        code = rf_tokenizer_render_prompt(tokenizer, &out->ids, &turn, 1, err);
    }
out:
    if (code != RF_OK) {
        rf_prompt_free(out);
    }
    return code;
}

/* {"messages"}: everything up to the last message of the user, or of a tool, is the prompt. */
static int from_messages(rf_prompt *out, const rf_tokenizer *tokenizer, const json_t *record,
                         rf_error *err)
{
    rf_turn *turn = NULL;
    rf_render_options options;
    int64_t n = 0, used = 0;
    int code = rf_chat_read_options(&options, record, err);

    if (code == RF_OK) {
        code = rf_chat_turns(&turn, &n, json_object_get(record, "messages"), err);
    }
    options.add_generation_prompt = true;
    for (int64_t i = 0; i < n && code == RF_OK; i++) {
        if (strcmp(turn[i].role, "user") == 0) {
            used = i + 1;
            code = copy_text(&out->query, turn[i].content, err);
        } else if (strcmp(turn[i].role, "tool") == 0 && used > 0) {
            used = i + 1;
        }
    }
    if (code == RF_OK && used == 0) {
        code = rf_error_set(err, RF_ERR, "\"messages\" has no message of role \"user\"");
    }
    if (code == RF_OK && used < n && strcmp(turn[used].role, "assistant") == 0) {
        code = copy_text(&out->expected, turn[used].content, err);
    }
    if (code == RF_OK) {
        code = rf_tokenizer_render(tokenizer, NULL, NULL, &out->ids, turn, used, &options, err);
    }
    free(turn);
    return code;
}

static int from_query(rf_prompt *out, const rf_tokenizer *tokenizer, const json_t *object,
                      rf_error *err)
{
    const json_t *query = json_object_get(object, "query");
    const json_t *response = json_object_get(object, "response");
    int code;

    if (!json_is_string(query)) {
        return rf_error_set(err, RF_ERR, "needs \"query\" (a string) or \"messages\" (an array)");
    }
    if (response && !json_is_string(response)) {
        return rf_error_set(err, RF_ERR, "\"response\" is not a string");
    }
    code = rf_prompt_from_text(out, tokenizer, json_string_value(query), false, err);
    if (code == RF_OK && response) {
        code = copy_text(&out->expected, json_string_value(response), err);
    }
    return code;
}

int rf_prompt_from_json(rf_prompt *out, const rf_tokenizer *tokenizer, const char *line,
                        size_t bytes, const char *where, rf_error *err)
{
    json_error_t problem;
    json_t *object = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, &problem);
    const json_t *messages = json_object_get(object, "messages");
    int code;

    memset(out, 0, sizeof(*out));
    if (!object) {
        return rf_error_set(err, RF_ERR, "%s: not valid JSON (column %d: %s): one object a line",
                            where, problem.column, problem.text);
    }
    if (!json_is_object(object)) {
        code = rf_error_set(err, RF_ERR, "not a JSON object");
    } else if (messages && !json_is_array(messages)) {
        code = rf_error_set(err, RF_ERR, "\"messages\" is not an array");
    } else if (messages) {
        code = from_messages(out, tokenizer, object, err);
    } else {
        code = from_query(out, tokenizer, object, err);
    }
    json_decref(object);
    if (code != RF_OK) {
        rf_prompt_free(out);
        return rf_error_prefix(err, "%s", where);
    }
    return RF_OK;
}

int rf_prompts_read(rf_prompt **out, int64_t *n, const char *path, const rf_tokenizer *tokenizer,
                    int64_t limit, rf_error *err)
{
    rf_lines *lines = NULL;
    int64_t capacity = 0;
    int code;

    *out = NULL;
    *n = 0;
    if ((code = rf_lines_open(&lines, path, err)) != RF_OK) {
        return code;
    }
    while (limit <= 0 || *n < limit) {
        char *text, where[4200];
        size_t bytes;
        if ((code = rf_lines_next(lines, &text, &bytes, err)) != RF_OK || !text) {
            break;
        }
        if (bytes == strspn(text, " \t\r")) {
            continue;
        }
        if (*n == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            rf_prompt *grown = realloc(*out, (size_t)capacity * sizeof(**out));
            if (!grown) {
                code = rf_error_set(err, RF_ERR, "out of memory for the prompts of %s", path);
                break;
            }
            *out = grown;
        }
        (void)snprintf(where, sizeof(where), "%s:%lld", path, (long long)rf_lines_number(lines));
        if ((code = rf_prompt_from_json(*out + *n, tokenizer, text, bytes, where, err)) != RF_OK) {
            break;
        }
        ++*n;
    }
    rf_lines_close(lines);
    if (code == RF_OK && *n == 0) {
        code = rf_error_set(err, RF_ERR, "%s holds no question: one JSON object a line", path);
    }
    if (code != RF_OK) {
        rf_prompts_free(*out, *n);
        *out = NULL;
        *n = 0;
    }
    return code;
}

void rf_prompts_free(rf_prompt *prompts, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        rf_prompt_free(&prompts[i]);
    }
    free(prompts);
}

int64_t rf_prompts_longest(const rf_prompt *prompts, int64_t n)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < n; i++) {
        longest = prompts[i].ids.n > longest ? prompts[i].ids.n : longest;
    }
    return longest;
}
