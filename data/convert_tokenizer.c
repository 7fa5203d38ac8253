#include "common/base/file.h"
#include "data/convert_private.h"

#include <jansson.h>
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

int rf_convert_write_tokenizer(const rf_tokenizer *tokenizer, const char *folder,
                               const rf_convert_options *options, rf_error *err)
{
    size_t bytes = 0;
    const char *text = tokenizer != NULL ? rf_tokenizer_text(tokenizer, &bytes) : "";
    json_t *root = json_loadb(text, bytes, 0, NULL);
    const json_t *config = json_object_get(root, "config");
    const json_t *content = json_object_get(root, "tokenizer");
    int rc = RF_OK;
    if (!json_is_object(content)) {
        rf_convert_say(options, "no tokenizer files are written: %s",
                       tokenizer == NULL ? "the checkpoint has no tokenizer"
                                         : "Transformers has none of this kind");
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
