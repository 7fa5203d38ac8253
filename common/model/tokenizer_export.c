#include "common/base/file.h"
#include "common/model/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>

static int write_json(const json_t *value, const char *folder, const char *name, rf_error *err)
{
    char path[4300];
    char *text = json_dumps(value, JSON_INDENT(2));
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    int rc = text == NULL || n < 0 || (size_t)n >= sizeof path
                 ? rf_error_set(err, RF_ERR, "%s: no memory, or too long a name", folder)
                 : rf_file_write(path, text, strlen(text), err);
    free(text);
    return rc;
}

static const char *name_of(const rf_tokenizer *tokenizer, int32_t id)
{
    const char *name = rf_tokenizer_special_name(tokenizer, id);
    return name != NULL ? name : "";
}

/* Every added token, as Transformers lists them. */
static json_t *added_tokens_decoder(const json_t *tokenizer)
{
    json_t *decoder = json_object(), *item;
    size_t i;
    json_array_foreach(json_object_get(tokenizer, "added_tokens"), i, item)
    {
        char key[32];
        json_t *copy = json_copy(item);
        snprintf(key, sizeof key, "%lld",
                 (long long)json_integer_value(json_object_get(item, "id")));
        if (copy == NULL || json_object_del(copy, "id") != 0 ||
            json_object_set_new(decoder, key, copy) != 0) {
            json_decref(decoder);
            return NULL;
        }
    }
    return decoder;
}

/* What was imported, plus the tokens that were added. */
static int write_config(const rf_tokenizer *tokenizer, const json_t *root, const char *folder,
                        rf_error *err)
{
    const rf_specials *s = &tokenizer->specials;
    json_t *config = json_copy(json_object_get(root, "config"));
    int bad = 0;
    if (config == NULL) {
        config = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                           "clean_up_tokenization_spaces", 0);
    }
    if (!json_is_string(json_object_get(config, "eos_token")) &&
        !json_is_object(json_object_get(config, "eos_token")) && s->n_eos > 0) {
        bad |= json_object_set_new(config, "eos_token", json_string(name_of(tokenizer, s->eos[0])));
    }
    bad |= json_object_set_new(config, "mask_token", json_string(name_of(tokenizer, s->mask)));
    bad |= json_object_set_new(config, "added_tokens_decoder",
                               added_tokens_decoder(json_object_get(root, "tokenizer")));
    int rc = bad == 0 ? write_json(config, folder, "tokenizer_config.json", err)
                      : rf_error_set(err, RF_ERR, "%s: no memory for the tokenizer", folder);
    json_decref(config);
    return rc;
}

int rf_tokenizer_export(const rf_tokenizer *tokenizer, const char *folder, rf_error *err)
{
    if (tokenizer->bpe == NULL) {
        return rf_error_set(err, RF_ERR,
                            "%s: the byte tokenizer has no form in Hugging Face's files: train "
                            "with a tokenizer.json to export",
                            folder);
    }
    json_t *root = json_loadb(tokenizer->text, tokenizer->bytes, 0, NULL);
    RF_ASSERT(root != NULL);
    int rc = write_json(json_object_get(root, "tokenizer"), folder, "tokenizer.json", err);
    if (rc == RF_OK) {
        rc = write_config(tokenizer, root, folder, err);
    }
    json_decref(root);
    return rc;
}
