#include "common/base/alloc.h"
#include "common/text/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>

/* Hugging Face's files become the stored text (tokenizer_bpe.c). What export adds to them is added
 * here already, so that files that were exported give the same text again. */

typedef rf_tokenizer_sources sources;

static const char begin_name[] = "<|beginoftext|>", mask_name[] = "<|mask|>";

/* --- Tokens that are added -------------------------------------------------------------------- */

static json_t *vocab_of(const sources *s)
{
    return json_object_get(json_object_get(s->tokenizer, "model"), "vocab");
}

static json_t *added_of(const sources *s)
{
    return json_object_get(s->tokenizer, "added_tokens");
}

/* The entry of an added token, or NULL. */
static const json_t *find_added(const sources *s, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach(added_of(s), i, item)
    {
        const char *content = json_string_value(json_object_get(item, "content"));
        if (content != NULL && strcmp(content, name) == 0) {
            return item;
        }
    }
    return NULL;
}

static void raise_next_id(sources *s, const json_t *id)
{
    if (json_is_integer(id) && json_integer_value(id) >= s->next_id &&
        json_integer_value(id) < INT32_MAX) {
        s->next_id = json_integer_value(id) + 1;
    }
}

static void find_next_id(sources *s)
{
    const char *name;
    size_t i;
    json_t *item;
    json_object_foreach(vocab_of(s), name, item)
    {
        raise_next_id(s, item);
    }
    json_array_foreach(added_of(s), i, item)
    {
        raise_next_id(s, json_object_get(item, "id"));
    }
}

json_int_t rf_tokenizer_ensure_added(rf_tokenizer_sources *s, const char *name)
{
    const json_t *known = find_added(s, name);
    const json_t *id_value =
        known != NULL ? json_object_get(known, "id") : json_object_get(vocab_of(s), name);
    const json_int_t id = json_is_integer(id_value) ? json_integer_value(id_value) : s->next_id;
    if (known == NULL) {
        json_t *item =
            json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", name,
                      "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
        json_array_append_new(added_of(s), item);
        raise_next_id(s, json_object_get(item, "id"));
    }
    return id;
}

/* tokenizer_config.json may list tokens that tokenizer.json does not have yet. */
static int merge_decoder(sources *s)
{
    json_t *decoder = json_object_get(s->config, "added_tokens_decoder"), *item;
    const char *key;
    json_object_foreach(decoder, key, item)
    {
        const char *content = json_string_value(json_object_get(item, "content"));
        char *end;
        long id = strtol(key, &end, 10);
        if (content == NULL || *end != '\0' || end == key || id < 0 || id >= INT32_MAX) {
            return rf_error_set(s->err, RF_ERR,
                                "%s/tokenizer_config.json: added_tokens_decoder: \"%.40s\" must be "
                                "an id, and its token have a \"content\"",
                                s->folder, key);
        }
        if (find_added(s, content) != NULL) {
            continue;
        }
        json_t *copy = json_copy(item);
        json_object_set_new(copy, "id", json_integer(id));
        json_array_append_new(added_of(s), copy);
        raise_next_id(s, json_object_get(copy, "id"));
    }
    return RF_OK;
}

/* --- What the configuration names ------------------------------------------------------------- */

static const char *mask_of(const sources *s)
{
    static const char *const others[] = {"<|mdm_mask|>", "[MASK]", "<mask>"};
    const char *name = rf_chat_token(s->config, "mask_token");
    if (name != NULL) {
        return name;
    }
    for (int i = 0; i < 3 && find_added(s, mask_name) == NULL; i++) {
        if (json_is_true(json_object_get(find_added(s, others[i]), "special"))) {
            return others[i];
        }
    }
    return mask_name;
}

/* --- End of text ------------------------------------------------------------------------------ */

static int has_token(const sources *s, const char *name, const char *who)
{
    if (find_added(s, name) != NULL || json_object_get(vocab_of(s), name) != NULL) {
        return RF_OK;
    }
    return rf_error_set(s->err, RF_ERR,
                        "%s: has no token \"%.60s\", which %s: the files do not belong together",
                        s->path, name, who);
}

/* The token with which a template ends an assistant's message, as it prints it in a trial; NULL: none.
 * Caller frees. */
static char *ending_of(const sources *s, const rf_chat *chat)
{
    rf_text ending = {0};
    char *name = NULL;
    rf_chat_ending(chat, &ending);
    const char *begin = ending.data != NULL ? ending.data + strspn(ending.data, " \n") : "";
    const char *end = *begin == '<' ? strchr(begin, '>') : NULL;
    if (end != NULL) {
        name = rf_alloc_copy(begin, (size_t)(end + 1 - begin));
        const bool is_token = strncmp(name, "<|", 2) == 0 || find_added(s, name) != NULL;
        if (!is_token || strpbrk(name, " \n") != NULL) { /* just text */
            free(name);
            name = NULL;
        }
    }
    rf_text_free(&ending);
    return name;
}

/* The token that ends an assistant's message; of a template without one of its own what
 * tokenizer_config.json names; without either the first added token with a usual name. Not those of
 * generation_config.json: they are wider than what a model is trained to end with (Qwen3's has
 * <|endoftext|>). -1: none. */
static int find_eos(json_int_t *out, sources *s, const rf_chat *chat)
{
    static const char *const usual[] = {"<|im_end|>",      "<|eot_id|>", "<|endoftext|>",
                                        "<|end_of_text|>", "</s>",       "<eos>"};
    const char *named = rf_chat_token(s->config, "eos_token");
    char *end = NULL;
    int rc = RF_OK;
    *out = -1;
    if (named != NULL) {
        RF_TRY(has_token(s, named, "tokenizer_config.json names as eos_token"));
        *out = rf_tokenizer_ensure_added(s, named);
    }
    end = ending_of(s, chat);
    if (end != NULL) {
        RF_TRY_OUT(has_token(s, end, "its chat template ends messages with"));
        *out = rf_tokenizer_ensure_added(s, end);
    }
    for (int i = 0; i < 6 && *out < 0; i++) {
        const json_t *known = find_added(s, usual[i]);
        if (known != NULL && json_is_integer(json_object_get(known, "id"))) {
            *out = json_integer_value(json_object_get(known, "id"));
        }
    }
out:
    free(end);
    return rc;
}

/* generation_config.json, with the end of text among its eos_token_id: what was fine-tuned here
 * ends with it. */
static int complete_generation(sources *s, json_int_t eos)
{
    json_t *ids = json_object_get(s->generation, "eos_token_id");
    const bool is_list = json_is_array(ids), is_absent = ids == NULL || json_is_null(ids);
    const size_t n = is_list ? json_array_size(ids) : !is_absent;
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = is_list ? json_array_get(ids, i) : ids;
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= s->next_id) {
            return rf_error_set(s->err, RF_ERR,
                                "%s/generation_config.json: eos_token_id must be ids of the "
                                "tokenizer, which has %" JSON_INTEGER_FORMAT,
                                s->folder, s->next_id);
        }
        found = found || json_integer_value(id) == eos;
    }
    s->generation = s->generation != NULL ? s->generation : json_object();
    if (found || eos < 0) {
        return RF_OK;
    }
    json_t *all = is_list ? json_copy(ids) : n > 0 ? json_pack("[O]", ids) : json_integer(eos);
    if (json_is_array(all)) {
        json_array_append_new(all, json_integer(eos));
    }
    json_object_set_new(s->generation, "eos_token_id", all);
    return RF_OK;
}

/* --- Chat template ---------------------------------------------------------------------------- */

/* The template's text; NULL: none. A list of templates has one that is called "default". */
static const char *template_of(const sources *s)
{
    const json_t *value = json_object_get(s->config, "chat_template");
    size_t i;
    json_t *item;
    if (s->template != NULL) {
        return s->template;
    }
    json_array_foreach((json_t *)value, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name != NULL && strcmp(name, "default") == 0) {
            return json_string_value(json_object_get(item, "template"));
        }
    }
    return json_string_value(value);
}

static int find_chat(rf_chat *chat, const sources *s)
{
    char origin[RF_PATH_BYTES + 32];
    const char *template = template_of(s);
    snprintf(origin, sizeof origin, "%s/%s", s->folder,
             s->template != NULL ? "chat_template.jinja" : "tokenizer_config.json");
    return rf_chat_open(chat, template != NULL ? template : "plain", NULL, s->config, origin,
                        s->err);
}

/* --- tokenizer_config.json -------------------------------------------------------------------- */

/* Every added token, as Transformers lists them. */
static json_t *decoder_of(const sources *s)
{
    json_t *decoder = json_object(), *item;
    size_t i;
    json_array_foreach(added_of(s), i, item)
    {
        char key[32];
        json_t *copy = json_is_object(item) ? json_copy(item) : json_object();
        snprintf(key, sizeof key, "%" JSON_INTEGER_FORMAT,
                 json_integer_value(json_object_get(item, "id")));
        json_object_del(copy, "id");
        json_object_set_new(decoder, key, copy);
    }
    return decoder;
}

/* The name of an added token; NULL: none has this id. */
static const char *name_of(const sources *s, json_int_t id)
{
    size_t i;
    json_t *item;
    json_array_foreach(added_of(s), i, item)
    {
        const json_t *other = json_object_get(item, "id");
        if (json_is_integer(other) && json_integer_value(other) == id) {
            return json_string_value(json_object_get(item, "content"));
        }
    }
    return NULL;
}

/* The tokens that were added, and the template, wherever it was. */
static void complete_config(sources *s, json_int_t eos, const char *mask)
{
    if (s->config == NULL) {
        s->config = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                              "clean_up_tokenization_spaces", 0);
    }
    const char *end = name_of(s, eos);
    if (s->template != NULL) {
        json_object_set_new(s->config, "chat_template", json_string(s->template));
    }
    if (rf_chat_token(s->config, "eos_token") == NULL && end != NULL) {
        json_object_set_new(s->config, "eos_token", json_string(end));
    }
    json_object_set_new(s->config, "mask_token", json_string(mask));
    json_object_set_new(s->config, "added_tokens_decoder", decoder_of(s));
}

/* --- All together ----------------------------------------------------------------------------- */

/* added_tokens.json, {"content": id}, may list tokens that the other files have forgotten: they are
 * no tokens of the tokenizer, but the model may have learnt their rows. */
static bool others_have(const sources *s, json_int_t id)
{
    const char *content;
    json_t *other;
    json_object_foreach(s->others, content, other)
    {
        if (json_is_integer(other) && json_integer_value(other) == id) {
            return true;
        }
    }
    return false;
}

static int prepare_added(sources *s)
{
    const json_t *added = added_of(s);
    if (added != NULL && !json_is_array(added) && !json_is_null(added)) {
        return rf_error_set(s->err, RF_ERR, "%s: added_tokens must be an array", s->path);
    }
    if (!json_is_array(added)) {
        json_object_set_new(s->tokenizer, "added_tokens", json_array());
    }
    find_next_id(s);
    RF_TRY(merge_decoder(s));
    s->n_own = s->next_id;
    while (others_have(s, s->n_own)) {
        s->n_own++;
    }
    return RF_OK;
}

int rf_tokenizer_store(json_t **out, rf_tokenizer_sources *s)
{
    rf_chat chat = {0};
    json_int_t eos = -1;
    char *mask_text = NULL; /* the configuration, which holds the name, is changed */
    int rc;
    RF_TRY_OUT(prepare_added(s));
    RF_TRY_OUT(find_chat(&chat, s));
    RF_TRY_OUT(find_eos(&eos, s, &chat));
    RF_TRY_OUT(complete_generation(s, eos));
    const json_int_t begin = rf_tokenizer_ensure_added(s, begin_name);
    mask_text = rf_alloc_string(mask_of(s));
    const json_int_t mask = rf_tokenizer_ensure_added(s, mask_text);
    complete_config(s, eos, mask_text);
    *out = json_pack("{s:s, s:i, s:s, s:s, s:s*, s:o, s:I, s:I, s:O, s:O, s:O}", "format",
                     "refusion-tokenizer", "version", 1, "kind", "bpe", "template", chat.source,
                     "system", chat.system, "eos", eos >= 0 ? json_pack("[I]", eos) : json_array(),
                     "mask", mask, "begin", begin, "tokenizer", s->tokenizer, "config", s->config,
                     "generation", s->generation);
    RF_ASSERT(*out != NULL);
out:
    free(mask_text);
    rf_chat_free(&chat);
    return rc;
}
