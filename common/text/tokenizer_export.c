#include "common/base/files/file.h"
#include "common/text/tokenizer_private.h"

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
        rc = value != NULL ? rf_file_write_json(folder, names[i], value, err) : RF_OK;
    }
    json_decref(root);
    return rc;
}
