#include "common/base/file.h"
#include "common/text/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>

static int write_json(const json_t *value, const char *folder, const char *name, rf_error *err)
{
    char path[RF_PATH_BYTES];
    RF_TRY(rf_file_join(path, sizeof path, folder, name, err));
    char *text = json_dumps(value, JSON_INDENT(2));
    RF_ASSERT(text != NULL);
    int rc = rf_file_write(path, text, strlen(text), err);
    free(text);
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
    static const char *const fields[] = {"tokenizer", "config", "generation"};
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                        "generation_config.json"};
    int rc = RF_OK;
    for (int i = 0; i < 3 && rc == RF_OK; i++) {
        const json_t *value = json_object_get(root, fields[i]);
        rc = value != NULL ? write_json(value, folder, names[i], err) : RF_OK;
    }
    json_decref(root);
    return rc;
}
