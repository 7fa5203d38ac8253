/* Fuzz target of tokenizers: stored texts, chat templates, and what is done with them.
 *
 * An input is a tokenizer.json, or a stored tokenizer, or a chat template, whichever its first
 * character fits. A tokenizer that is accepted must encode the input, decode it, and come back
 * from its stored text with the same hash. What is refused must say why in one line.
 */
#include "common/text/bpe.h"
#include "common/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <jansson.h>

static void use(const rf_tokenizer *tokenizer, const char *text, size_t bytes)
{
    rf_error err = {0};
    rf_ids ids = {0};
    size_t n;
    fuzz_check(&err, rf_tokenizer_encode(tokenizer, &ids, text, bytes, &err));
    free(rf_tokenizer_decode(tokenizer, &n, ids.id, ids.n, true));
    rf_ids_free(&ids);
    rf_tokenizer *again;
    const char *stored = rf_tokenizer_text(tokenizer, &n);
    RF_ASSERT(rf_tokenizer_parse(&again, stored, n, "again", &err) == RF_OK);
    RF_ASSERT(rf_tokenizer_hash(again) == rf_tokenizer_hash(tokenizer));
    rf_tokenizer_free(again);
}

static void try_bpe(const char *text, size_t bytes)
{
    rf_error err = {0};
    rf_bpe *bpe;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
    int rc = rf_bpe_new(&bpe, root, "fuzz", &err);
    fuzz_check(&err, rc);
    if (rc == RF_OK) {
        rf_ids ids = {0};
        fuzz_check(&err, rf_bpe_encode(bpe, &ids, text, bytes, false, &err));
        for (int64_t i = 0; i < ids.n; i++) {
            size_t n;
            RF_ASSERT(rf_bpe_bytes(bpe, ids.id[i], &n) != NULL);
        }
        rf_ids_free(&ids);
        rf_bpe_free(bpe);
    }
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_text(data, size);
    rf_error err = {0};
    rf_tokenizer *tokenizer;
    int rc = rf_tokenizer_parse(&tokenizer, text, size, "fuzz", &err);
    fuzz_check(&err, rc);
    if (rc == RF_OK) {
        use(tokenizer, text, size);
        rf_tokenizer_free(tokenizer);
    }
    try_bpe(text, size);
    free(text);
    return 0;
}
