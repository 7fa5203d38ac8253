#include "data/corpus/records.h"

#include "common/base/alloc.h"
#include "data/corpus/records_private.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The string at `key`. */
static int get_string(const char **text, size_t *bytes, const json_t *object, const char *key,
                      rf_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL) {
        return rf_error_set(err, RF_ERR, "field \"%s\" is missing", key);
    }
    if (!json_is_string(value)) {
        return rf_error_set(err, RF_ERR, "field \"%s\" must be a string, but is %s", key,
                            rf_chat_json_kind(value));
    }
    *text = json_string_value(value);
    *bytes = json_string_length(value);
    return RF_OK;
}

/* --- Maps ------------------------------------------------------------------------------------- */

int rf_record_check_map(const rf_record_map *map, rf_error *err)
{
    static const char *const fields[] = {"messages", "conversations", "query", "instruction",
                                         "input",    "response",      "text",  "system",
                                         "history",  "tools"};
    for (int i = 0; i < map->n; i++) {
        const char *path = strchr(map->entry[i], '=');
        bool is_known = false;
        for (size_t k = 0; k < sizeof fields / sizeof fields[0]; k++) {
            size_t n = strlen(fields[k]);
            is_known |= strncmp(map->entry[i], fields[k], n) == 0 && map->entry[i][n] == '=';
        }
        if (path == NULL || path[1] == '\0' || !is_known) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "--map %s: must be FIELD=PATH with one of the fields messages, "
                                "conversations, query, instruction, input, response, text, "
                                "system, history, tools",
                                map->entry[i]);
        }
    }
    return RF_OK;
}

/* What the digits of `key` count in an array; NULL: nothing, or these are no digits. */
static json_t *element(const json_t *array, const char *key)
{
    size_t n = strspn(key, "0123456789");
    return n > 0 && key[n] == '\0' ? json_array_get(array, strtoul(key, NULL, 10)) : NULL;
}

/* What stands at "a.b.0"; NULL: nothing. The rest of the path may also be one name with dots in it, as
 * tables have that were flattened. */
static json_t *follow(json_t *value, const char *path)
{
    char key[256];
    for (size_t n; value != NULL && *path != '\0'; path += n + (path[n] == '.')) {
        json_t *whole = json_object_get(value, path);
        if (whole != NULL) {
            return whole;
        }
        n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)(n < sizeof key ? n : sizeof key - 1), path);
        value = json_is_array(value) ? element(value, key) : json_object_get(value, key);
    }
    return value;
}

/* The object becomes one that has the fields of the map. The first entry for which there is nothing;
 * NULL: none. */
static const char *apply_map(rf_record *out, const rf_record_map *map)
{
    json_t *mapped = json_object();
    const char *missed = NULL;
    for (int i = 0; i < map->n; i++) {
        size_t n = strcspn(map->entry[i], "=");
        char field[32];
        snprintf(field, sizeof field, "%.*s", (int)n, map->entry[i]);
        json_t *value = follow(out->root, map->entry[i] + n + 1);
        json_object_set(mapped, field, value);
        missed = missed == NULL && value == NULL ? map->entry[i] : missed;
        if (map->found != NULL && value != NULL) {
            map->found[i] = true;
        }
    }
    json_decref(out->root);
    out->root = mapped;
    return missed;
}

/* --- Pairs ------------------------------------------------------------------------------------ */

enum { N_NAMES = 4 };
static const char *const questions[N_NAMES] = {"query", "prompt", "question", "instruction"};
static const char *const answers[N_NAMES] = {"response", "completion", "answer", "output"};

/* The name under which the record has its question or answer, NULL: none. Beside the first name the
 * others are fields like any other; several of the others could be meant. */
static int find_name(const char **out, const json_t *root, const char *const *names, rf_error *err)
{
    *out = NULL;
    for (int i = 0; i < N_NAMES; i++) {
        if (json_object_get(root, names[i]) == NULL) {
            continue;
        }
        if (*out != NULL) {
            return rf_error_set(err, RF_ERR,
                                "both \"%s\" and \"%s\" are there: keep one of them, or name it "
                                "\"%s\"",
                                *out, names[i], names[0]);
        }
        *out = names[i];
        if (i == 0) {
            break;
        }
    }
    return RF_OK;
}

/* Is `part`, which is not empty, in the text from *at on? Then *at is behind it. */
static bool find_part(size_t *at, const json_t *text, const json_t *part)
{
    const size_t bytes = json_string_length(text), n = json_string_length(part);
    if (n == 0 || bytes < *at + n) {
        return false;
    }
    const char *all = json_string_value(text);
    const char *found = memmem(all + *at, bytes - *at, json_string_value(part), n);
    *at = found != NULL ? (size_t)(found - all) + n : *at;
    return found != NULL;
}

/* Alpaca's data sets on Hugging Face hold instruction and answer once more, as one text with words around
 * them, under "text" or "prompt": it goes. */
static void drop_rendering(json_t *root)
{
    static const char *const names[] = {"text", "prompt"};
    const json_t *instruction = json_object_get(root, "instruction");
    const json_t *output = json_object_get(root, "output");
    for (int i = 0; i < 2; i++) {
        const json_t *text = json_object_get(root, names[i]);
        size_t at = 0;
        if (find_part(&at, text, instruction) && find_part(&at, text, output)) {
            json_object_del(root, names[i]);
        }
    }
}

/* What an instruction is about: the first of "input" and "context" that is not empty; NULL: neither is. */
static int find_input(const json_t **out, const json_t *root, rf_error *err)
{
    static const char *const names[] = {"input", "context"};
    *out = NULL;
    for (int i = 0; i < 2; i++) {
        const json_t *value = json_object_get(root, names[i]);
        if (value != NULL && !json_is_string(value)) {
            return rf_error_set(err, RF_ERR,
                                "field \"%s\" must be a string, but is %s: write it as a text, or "
                                "leave it out",
                                names[i], rf_chat_json_kind(value));
        }
        const bool is_there = json_string_length(value) > 0;
        if (is_there && *out != NULL && !json_equal(*out, value)) {
            return rf_error_set(err, RF_ERR,
                                "both \"%s\" and \"%s\" are there: keep one of them, or join them",
                                names[0], names[1]);
        }
        *out = is_there ? value : *out;
    }
    return RF_OK;
}

/* An instruction with its input on the line below, as LLaMA-Factory joins them. */
static int join_input(json_t *root, rf_error *err)
{
    const json_t *instruction = json_object_get(root, "instruction"), *input;
    RF_TRY(find_input(&input, root, err));
    if (input != NULL) {
        rf_text text = {0};
        rf_text_add(&text, json_string_value(instruction), json_string_length(instruction));
        rf_text_add_string(&text, "\n");
        rf_text_add(&text, json_string_value(input), json_string_length(input));
        json_object_set_new(root, "instruction", json_stringn(text.data, text.bytes));
        rf_text_free(&text);
    }
    return RF_OK;
}

static void add_turn(rf_record *out, const char *role, const json_t *content)
{
    out->turn[out->n_turns++] = (rf_turn){
        .role = role, .content = json_string_value(content), .bytes = json_string_length(content)};
}

/* "history": [[question, answer], ...] */
static int add_history(rf_record *out, const json_t *history, rf_error *err)
{
    for (size_t i = 0; i < json_array_size(history); i++) {
        const json_t *pair = json_array_get(history, i);
        for (size_t k = 0; k < 2; k++) {
            if (json_array_size(pair) != 2 || json_string_length(json_array_get(pair, k)) == 0) {
                return rf_error_set(err, RF_ERR,
                                    "history[%zu] must be [question, answer], two strings that "
                                    "are not empty",
                                    i);
            }
            add_turn(out, k == 0 ? "user" : "assistant", json_array_get(pair, k));
        }
    }
    return RF_OK;
}

static int read_pair(rf_record *out, const char *question, const char *answer, rf_error *err)
{
    json_t *root = out->root, *history = json_object_get(root, "history");
    const char *text;
    size_t bytes;
    RF_TRY(get_string(&text, &bytes, root, question != NULL ? question : questions[0], err));
    if (bytes == 0) {
        return rf_error_set(
            err, RF_ERR, "field \"%s\" is empty: give a question, or plain {\"text\"}", question);
    }
    if (answer != NULL) {
        RF_TRY(get_string(&text, &bytes, root, answer, err));
    }
    if (history != NULL && !json_is_array(history)) {
        return rf_error_set(err, RF_ERR, "field \"history\" must be an array, but is %s",
                            rf_chat_json_kind(history));
    }
    if (strcmp(question, "instruction") == 0) {
        RF_TRY(join_input(root, err));
    }
    out->answer_field = answer != NULL ? answer : answers[0];
    out->turn = rf_alloc(2 * json_array_size(history) + 2, sizeof *out->turn);
    RF_TRY(add_history(out, history, err));
    add_turn(out, "user", json_object_get(root, question));
    if (answer != NULL) {
        add_turn(out, "assistant", json_object_get(root, answer));
    }
    return RF_OK;
}

/* --- Messages --------------------------------------------------------------------------------- */

/* A list of texts becomes one text. */
static int join_parts(json_t *item, size_t i, rf_error *err)
{
    const json_t *parts = json_object_get(item, "content");
    rf_text text = {0};
    if (!json_is_array(parts)) {
        return RF_OK;
    }
    for (size_t k = 0; k < json_array_size(parts); k++) {
        const json_t *part = json_array_get(parts, k), *content = json_object_get(part, "text");
        const json_t *type = json_object_get(part, "type");
        const bool is_named = type != NULL && !json_is_null(type);
        const char *name = json_is_string(type) ? json_string_value(type)
                           : is_named           ? rf_chat_json_kind(type)
                                                : "without a type";
        if (!json_is_string(content) || (is_named && strcmp(name, "text") != 0)) {
            rf_text_free(&text);
            return rf_error_set(err, RF_ERR,
                                "messages[%zu]: part %zu of the content is no text (%.32s): only "
                                "texts can be learnt",
                                i, k, name);
        }
        rf_text_add(&text, json_string_value(content), json_string_length(content));
    }
    json_object_set_new(item, "content",
                        json_stringn(text.data != NULL ? text.data : "", text.bytes));
    rf_text_free(&text);
    return RF_OK;
}

bool rf_record_is_trained(const rf_record *record, int64_t i)
{
    const json_t *message = record->turn[i].message;
    const json_t *stopped = json_object_get(message, "stopped");
    const bool is_whole =
        !json_is_true(stopped) && (!json_is_number(stopped) || rf_record_is_off(stopped));
    return is_whole && !rf_record_is_off(json_object_get(message, "weight")) &&
           !rf_record_is_off(json_object_get(message, "train")) &&
           !rf_record_is_off(json_object_get(message, "loss"));
}

static int read_messages(rf_record *out, json_t *messages, rf_error *err)
{
    size_t i;
    json_t *item;
    json_array_foreach(messages, i, item)
    {
        const char *role;
        RF_TRY(rf_record_name_speaker(item, i, err));
        RF_TRY(join_parts(item, i, err));
        RF_TRY(rf_record_check_message(item, i, err));
        role = json_string_value(json_object_get(item, "role"));
        if (role != NULL && strcmp(role, "developer") == 0) {
            json_object_set_new(item, "role", json_string("system"));
        }
    }
    RF_TRY(rf_chat_turns(&out->turn, &out->n_turns, messages, err));
    for (int64_t k = 0; k < out->n_turns; k++) {
        if (out->turn[k].bytes == 0 && strcmp(out->turn[k].role, "user") == 0) {
            return rf_error_set(err, RF_ERR, "messages[%" PRId64 "]: the user's content is empty",
                                k);
        }
    }
    return RF_OK;
}

/* "system" beside a conversation is said first; OpenOrca calls it "system_prompt". */
static int add_system(rf_record *out, rf_error *err)
{
    rf_turn system = {.role = "system"};
    const bool has = json_object_get(out->root, "system") != NULL;
    const bool has_prompt = json_object_get(out->root, "system_prompt") != NULL;
    const char *name = has ? "system" : "system_prompt";
    if (!has && !has_prompt) {
        return RF_OK;
    }
    if (has && has_prompt) {
        return rf_error_set(err, RF_ERR,
                            "both \"system\" and \"system_prompt\" are there: keep one of them");
    }
    RF_TRY(get_string(&system.content, &system.bytes, out->root, name, err));
    if (system.bytes == 0) {
        return RF_OK;
    }
    if (strcmp(out->turn[0].role, "system") == 0) {
        return rf_error_set(err, RF_ERR,
                            "field \"%s\" stands beside messages that begin with a system "
                            "message: keep one of them",
                            name);
    }
    out->turn = rf_realloc(out->turn, (size_t)out->n_turns + 1, sizeof *out->turn);
    memmove(out->turn + 1, out->turn, (size_t)out->n_turns * sizeof *out->turn);
    out->turn[0] = system;
    out->n_turns++;
    return RF_OK;
}

/* --- Forms ------------------------------------------------------------------------------------ */

static int read_text(rf_record *out, rf_error *err)
{
    RF_TRY(get_string(&out->text, &out->bytes, out->root, "text", err));
    if (out->bytes == 0) {
        return rf_error_set(err, RF_ERR,
                            "field \"text\" is empty: there is nothing to learn, remove the "
                            "record");
    }
    return RF_OK;
}

/* "a", "b", ... of the fields present, for the message that none of them is known. */
static void list_fields(char *list, size_t size, json_t *root)
{
    const char *key;
    json_t *value;
    size_t used = 0;
    snprintf(list, size, "none");
    json_object_foreach(root, key, value)
    {
        int n = snprintf(list + used, size - used, "%s\"%.32s\"", used > 0 ? ", " : "", key);
        if (n < 0 || (size_t)n >= size - used) {
            list[used] = '\0';
            return;
        }
        used += (size_t)n;
    }
}

/* A prompt that is a list of messages, as TRL has it, and the messages or the text of its answer become
 * "messages" of the record. What the prompt holds is not to be learnt. */
static int join_conversation(json_t **out, json_t *root, const char *question, const char *answer,
                             rf_error *err)
{
    json_t *prompt = json_object_get(root, question), *item,
           *rest = answer != NULL ? json_object_get(root, answer) : NULL;
    size_t i;
    if (rest != NULL && !json_is_string(rest) && !json_is_array(rest)) {
        return rf_error_set(err, RF_ERR,
                            "field \"%s\" must be a string or a list of messages, but is %s",
                            answer, rf_chat_json_kind(rest));
    }
    json_array_foreach(prompt, i, item)
    {
        json_object_set_new(item, "train", json_false());
    }
    *out = json_copy(prompt);
    if (json_is_string(rest)) {
        json_array_append_new(*out, json_pack("{s:s, s:O}", "role", "assistant", "content", rest));
    } else {
        json_array_extend(*out, rest);
    }
    json_object_set_new(root, "messages", *out);
    return RF_OK;
}

static int read_form(rf_record *out, rf_error *err)
{
    json_t *root = out->root, *messages = json_object_get(root, "messages");
    json_t *share = messages == NULL ? json_object_get(root, "conversations") : NULL;
    drop_rendering(root);
    bool has_text = json_object_get(root, "text") != NULL;
    const char *question = NULL, *answer = NULL;
    RF_TRY(find_name(&question, root, questions, err));
    RF_TRY(find_name(&answer, root, answers, err));
    const char *asked = question;
    if (messages == NULL && share == NULL &&
        json_is_object(json_array_get(json_object_get(root, question), 0))) {
        RF_TRY(join_conversation(&messages, root, question, answer, err));
        question = answer = NULL;
    }
    /* Under their first names these are never fields that nobody reads. */
    bool has_pair =
        question == questions[0] || answer == answers[0] || (question != NULL && answer != NULL);
    if (has_pair + (messages != NULL || share != NULL) + has_text > 1) {
        return rf_error_set(err, RF_ERR,
                            "the record mixes %s%s%s: keep one form: query and response, messages, "
                            "or text",
                            has_pair ? "query/response " : "",
                            messages != NULL || share != NULL ? "messages " : "",
                            has_text ? "text" : "");
    }
    RF_TRY(rf_record_check_unread(root,
                                  has_text                            ? RF_RECORD_TEXT
                                  : messages != NULL || share != NULL ? RF_RECORD_MESSAGES
                                                                      : RF_RECORD_PAIR,
                                  asked, err));
    if (has_text) {
        return read_text(out, err);
    }
    if (messages != NULL || share != NULL) {
        RF_TRY(read_messages(out, messages != NULL ? messages : share, err));
    } else if (has_pair || question != NULL) {
        RF_TRY(read_pair(out, question, answer, err));
    } else {
        char fields[256];
        list_fields(fields, sizeof fields, root);
        return rf_error_set(err, RF_ERR,
                            "no field that is known (present: %s): needed are \"query\" and "
                            "\"response\", \"messages\", or \"text\"; refusion-data build --map "
                            "takes them from other fields",
                            fields);
    }
    RF_TRY(add_system(out, err));
    RF_TRY(rf_record_read_tools(root, err));
    return rf_chat_read_options(&out->options, root, err);
}

static bool holds_repair(const char *text, size_t bytes)
{
    return bytes > 0 && memmem(text, bytes, "\xEF\xBF\xBD", 3) != NULL;
}

/* U+FFFD where half a character was, in a text that matters. */
static int check_repaired(const rf_record *r, rf_error *err)
{
    bool is_broken = holds_repair(r->text, r->bytes);
    for (int64_t i = 0; i < r->n_turns && !is_broken; i++) {
        is_broken = holds_repair(r->turn[i].content, r->turn[i].bytes) ||
                    holds_repair(r->turn[i].reasoning, r->turn[i].reasoning_bytes);
    }
    return is_broken ? rf_error_set(err, RF_ERR,
                                    "malformed JSON: a text holds half a pair of surrogates: "
                                    "write the file again from whole characters")
                     : RF_OK;
}

int rf_record_read(rf_record *out, const char *line, size_t bytes, const rf_record_map *map,
                   rf_error *err)
{
    bool repaired;
    const char *key;
    json_t *value;
    void *next;
    const char *missed = NULL;
    int rc;
    *out = (rf_record){0};
    RF_TRY(rf_record_parse(&out->root, line, bytes, &repaired, err));
    if (map != NULL && map->n > 0) {
        missed = apply_map(out, map);
    }
    json_object_foreach_safe(out->root, next, key, value)
    {
        if (json_is_null(value)) { /* tables have a null where a record has no such field */
            json_object_del(out->root, key);
        }
    }
    RF_TRY_OUT(read_form(out, err));
    out->options.add_generation_prompt = true;
    RF_TRY_OUT(repaired ? check_repaired(out, err) : RF_OK);
out:
    if (rc != RF_OK) {
        rf_record_free(out);
    }
    return rc != RF_OK && missed != NULL
               ? rf_error_prefix(err, "--map %s leads nowhere here", missed)
               : rc;
}

void rf_record_free(rf_record *record)
{
    free(record->turn);
    json_decref(record->root);
    *record = (rf_record){0};
}
