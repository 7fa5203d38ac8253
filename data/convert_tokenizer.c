#include "common/base/file.h"
#include "data/convert_private.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int write_file(const char *folder, const char *name, const json_t *content, rf_error *err)
{
    char path[RF_CONVERT_PATH];
    int rc = rf_convert_join(path, sizeof path, folder, name, err);
    if (rc != RF_OK) {
        return rc;
    }
    char *text = json_dumps(content, JSON_INDENT(2));
    rc = text != NULL ? rf_file_write(path, text, strlen(text), err)
                      : rf_error_set(err, RF_ERR, "%s: no memory for it", path);
    free(text);
    return rc;
}

/* Transformers takes the added tokens of some classes from tokenizer_config.json alone: those that
 * it does not list, as <|mask|>, would be lost there. false: memory is out. */
static bool complete_decoder(json_t *config, const json_t *tokenizer)
{
    const json_t *added = json_object_get(tokenizer, "added_tokens");
    json_t *decoder = json_object_get(config, "added_tokens_decoder");
    bool ok = true;
    for (size_t i = 0; i < json_array_size(added) && json_is_object(decoder) && ok; i++) {
        const json_t *token = json_array_get(added, i);
        char id[32];
        snprintf(id, sizeof id, "%lld",
                 (long long)json_integer_value(json_object_get(token, "id")));
        if (json_object_get(decoder, id) == NULL) {
            json_t *copy = json_copy((json_t *)token);
            ok = copy != NULL && json_object_del(copy, "id") == 0 &&
                 json_object_set(decoder, id, copy) == 0;
            json_decref(copy);
        }
    }
    return ok;
}

int rf_convert_write_tokenizer(const rf_tokenizer *tokenizer, const char *folder,
                               const rf_convert_options *options, rf_error *err)
{
    size_t bytes = 0;
    const char *text = tokenizer != NULL ? rf_tokenizer_text(tokenizer, &bytes) : "";
    json_t *root = json_loadb(text, bytes, 0, NULL);
    json_t *config = json_object_get(root, "config");
    const json_t *content = json_object_get(root, "tokenizer");
    int rc = RF_OK;
    if (!json_is_object(content)) {
        rf_convert_say(options, "no tokenizer files are written: %s",
                       tokenizer == NULL ? "the checkpoint has no tokenizer"
                                         : "Transformers has none of this kind");
        goto out;
    }
    if (!complete_decoder(config, content)) {
        rc = rf_error_set(err, RF_ERR, "no memory for tokenizer_config.json");
        goto out;
    }
    rc = write_file(folder, "tokenizer.json", content, err);
    if (rc == RF_OK && json_is_object(config)) {
        rc = write_file(folder, "tokenizer_config.json", config, err);
    }
out:
    json_decref(root);
    return rc;
}
