#include "data/convert/convert_private.h"

#include <jansson.h>

/* Its stored text tells whether it came from a tokenizer.json. */
static bool is_of_hugging_face(const rf_tokenizer *tokenizer)
{
    size_t bytes = 0;
    const char *text = rf_tokenizer_text(tokenizer, &bytes);
    json_t *root = json_loadb(text, bytes, 0, NULL);
    bool found = json_is_object(json_object_get(root, "tokenizer"));
    json_decref(root);
    return found;
}

int rf_convert_write_tokenizer(const rf_tokenizer *tokenizer, const char *folder,
                               const rf_convert_options *options, rf_error *err)
{
    if (tokenizer != NULL && is_of_hugging_face(tokenizer)) {
        return rf_tokenizer_export(tokenizer, folder, err);
    }
    rf_convert_say(options, "no tokenizer files are written: %s",
                   tokenizer == NULL ? "the checkpoint has no tokenizer"
                                     : "Transformers has none of this kind");
    return RF_OK;
}
