#include "common/base/file.h"
#include "data/convert_private.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* A text as it is, anything else as JSON. */
static int write_file(const char *folder, const char *name, const json_t *content, rf_error *err)
{
    char path[RF_CONVERT_PATH];
    int rc = rf_convert_join(path, sizeof path, folder, name, err);
    if (rc != RF_OK) {
        return rc;
    }
    if (json_is_string(content)) {
        return rf_file_write(path, json_string_value(content), json_string_length(content), err);
    }
    char *text = json_dumps(content, JSON_INDENT(2));
    rc = text != NULL ? rf_file_write(path, text, strlen(text), err)
                      : rf_error_set(err, RF_ERR, "%s: no memory for it", path);
    free(text);
    return rc;
}

static bool is_file_name(const char *name)
{
    size_t n = strlen(name);
    return n > 5 && name[0] != '.' && strchr(name, '/') == NULL &&
           strcmp(name + n - 5, ".json") == 0;
}

/* The stored text names the files that it was made of: {"kind": ..., "tokenizer.json": ...}. */
int rf_convert_write_tokenizer(const rf_tokenizer *tokenizer, const char *folder,
                               const rf_convert_options *options, rf_error *err)
{
    size_t bytes = 0;
    int n = 0, rc = RF_OK;
    const char *text = tokenizer != NULL ? rf_tokenizer_text(tokenizer, &bytes) : "";
    json_t *root = json_loadb(text, bytes, 0, NULL);
    for (void *at = json_object_iter(root); at != NULL && rc == RF_OK;
         at = json_object_iter_next(root, at)) {
        const char *name = json_object_iter_key(at);
        if (is_file_name(name)) {
            rc = write_file(folder, name, json_object_iter_value(at), err);
            n++;
        }
    }
    if (n == 0) {
        rf_convert_say(options, "no tokenizer files are written: %s",
                       tokenizer == NULL ? "the checkpoint has no tokenizer"
                                         : "Transformers has none of this kind");
    }
    json_decref(root);
    return rc;
}
