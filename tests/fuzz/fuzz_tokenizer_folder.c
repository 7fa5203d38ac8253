/* Fuzz target of a folder with a tokenizer. The input holds its files, with lines "%%" between
 * them: tokenizer.json, tokenizer_config.json, generation_config.json, chat_template.jinja, GPT-2's
 * encoder.json and vocab.bpe. An empty one is not there. What is accepted encodes, renders, and
 * leaves the program as files that give the same tokenizer again. */
#include "common/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <sys/stat.h>

static const char *const names[] = {"tokenizer.json",         "tokenizer_config.json",
                                    "generation_config.json", "chat_template.jinja",
                                    "encoder.json",           "vocab.bpe"};
enum { N_NAMES = sizeof names / sizeof names[0] };

static void remove_all(const char *folder)
{
    char path[2 * FUZZ_PATH];
    for (int i = 0; i < N_NAMES; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
}

static void render(const rf_tokenizer *tokenizer)
{
    static const rf_turn turn[] = {{.role = "system", .content = "s", .bytes = 1},
                                   {.role = "user", .content = "u <|x|>", .bytes = 7},
                                   {.role = "assistant", .content = "a", .bytes = 1}};
    const rf_render_options options = {.add_generation_prompt = true};
    rf_error err = {0};
    rf_ids ids = {0};
    char *text = NULL;
    size_t bytes;
    fuzz_check(&err, rf_tokenizer_render(tokenizer, &text, &bytes, &ids, turn, 3, &options, &err));
    int64_t n_prompt;
    fuzz_check(&err,
               rf_tokenizer_render_sample(tokenizer, &ids, &n_prompt, turn, 3, &options, &err));
    for (int64_t i = 0; i < ids.n; i++) {
        RF_ASSERT(ids.id[i] >= 0 && ids.id[i] < rf_tokenizer_size(tokenizer));
    }
    free(text);
    rf_ids_free(&ids);
}

static void export_again(const rf_tokenizer *tokenizer)
{
    char folder[FUZZ_PATH];
    rf_error err = {0};
    rf_tokenizer *again = NULL;
    size_t n, m;
    fuzz_path(folder, "-again");
    mkdir(folder, 0777);
    fuzz_must(rf_tokenizer_export(tokenizer, folder, &err), &err);
    fuzz_must(rf_tokenizer_load(&again, folder, &err), &err);
    RF_ASSERT(rf_tokenizer_hash(again) == rf_tokenizer_hash(tokenizer));
    const char *a = rf_tokenizer_text(tokenizer, &n), *b = rf_tokenizer_text(again, &m);
    RF_ASSERT(n == m && memcmp(a, b, n) == 0);
    rf_tokenizer_free(again);
    remove_all(folder);
    rmdir(folder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char folder[FUZZ_PATH], path[2 * FUZZ_PATH];
    char *input = fuzz_text(data, size), *part = input;
    rf_tokenizer *tokenizer = NULL;
    rf_error err = {0};
    fuzz_path(folder, "-tokenizer");
    mkdir(folder, 0777);
    remove_all(folder);
    for (int i = 0; i < N_NAMES && part != NULL; i++) {
        char *next = fuzz_cut(part);
        size_t bytes = next != NULL ? strlen(part) : (size_t)(input + size - part);
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (bytes > 0) {
            fuzz_must(rf_file_write(path, part, bytes, &err), &err);
        }
        part = next;
    }
    int rc = rf_tokenizer_load(&tokenizer, folder, &err);
    fuzz_check(&err, rc);
    if (rc == RF_OK) {
        rf_ids ids = {0};
        fuzz_check(&err, rf_tokenizer_encode(tokenizer, &ids, input, size, &err));
        rf_ids_free(&ids);
        render(tokenizer);
        export_again(tokenizer);
        rf_tokenizer_free(tokenizer);
    }
    remove_all(folder);
    rmdir(folder);
    free(input);
    return 0;
}
