/* The published vectors of Qwen3's and GPT-2's tokenizers. They lie outside of the repository:
 * $RF_SHARED/data/tokenizers, or ../shared/data/tokenizers; without them these tests are skipped,
 * and say so. */
#include "tests/text/bpe_test.h"

#include "common/base/files/lines.h"
#include "common/text/chat.h"

#include <jansson.h>

static const char *place(char path[4096], const char *name)
{
    const char *shared = getenv("RF_SHARED");
    snprintf(path, 4096, "%s/data/tokenizers/%s", shared != NULL ? shared : "../shared", name);
    if (!rf_path_exists(path) && access(path, R_OK) != 0) {
        cr_skip_test("%s is not there: set RF_SHARED to the folder that holds data/", path);
    }
    return path;
}

typedef struct vectors {
    rf_lines *lines;
    json_t *item;
    int64_t n;
} vectors;

static vectors open_vectors(const char *name)
{
    char path[4096];
    vectors v = {0};
    rf_error err;
    cr_assert_eq(rf_lines_open(&v.lines, place(path, name), &err), RF_OK, "%s", err.message);
    return v;
}

static bool next_vector(vectors *v)
{
    char *line;
    size_t bytes;
    rf_error err;
    json_decref(v->item);
    v->item = NULL;
    cr_assert_eq(rf_lines_next(v->lines, &line, &bytes, &err), RF_OK, "%s", err.message);
    if (line == NULL || bytes == 0) {
        rf_lines_close(v->lines);
        return false;
    }
    v->item = json_loadb(line, bytes, JSON_ALLOW_NUL, NULL);
    cr_assert_not_null(v->item);
    v->n++;
    return true;
}

static rf_tokenizer *load(const char *name)
{
    char path[4096];
    return bpe_load(place(path, name));
}

Test(bpe_vectors, qwen3_ids)
{
    rf_tokenizer *t = load("qwen3");
    vectors v = open_vectors("vectors/tokenizer_vectors_public.jsonl");
    int64_t n_old = 0, n_wrong = 0;
    while (next_vector(&v)) {
        const char *category = json_string_value(json_object_get(v.item, "cat"));
        if (!bpe_encodes(t, json_object_get(v.item, "text"), json_object_get(v.item, "ids"))) {
            bool is_old = strcmp(category, "marks_nfc_unicode9") == 0;
            n_old += is_old;
            n_wrong += !is_old;
        }
    }
    cr_log_info("%lld vectors; of marks_nfc_unicode9 (an old Unicode table) %lld differ",
                (long long)v.n, (long long)n_old);
    cr_assert_eq(v.n, 2000);
    cr_assert_eq(n_wrong, 0);
    const rf_specials *s = rf_tokenizer_specials(t);
    cr_assert(s->begin == 151669 && s->mask == 151670 && s->n_eos == 1 && s->eos[0] == 151645);
    cr_assert_eq(rf_tokenizer_size(t), 151671);
    rf_tokenizer_free(t);
}

Test(bpe_vectors, gpt2_ids)
{
    rf_tokenizer *t = load("gpt2");
    vectors v = open_vectors("vectors/gpt2_vectors_public.jsonl");
    while (next_vector(&v)) {
        cr_expect(bpe_encodes(t, json_object_get(v.item, "text"), json_object_get(v.item, "ids")),
                  "vector %lld", (long long)v.n);
    }
    cr_assert_eq(v.n, 600);
    rf_tokenizer_free(t);
}

Test(bpe_vectors, decoded_texts)
{
    rf_tokenizer *t = load("qwen3");
    vectors v = open_vectors("vectors/decode_vectors_public.jsonl");
    while (next_vector(&v)) {
        const json_t *ids = json_object_get(v.item, "ids");
        cr_expect(bpe_decodes(t, ids, false, json_object_get(v.item, "text")), "vector %lld",
                  (long long)v.n);
        cr_expect(bpe_decodes(t, ids, true, json_object_get(v.item, "text_skip_special")),
                  "vector %lld", (long long)v.n);
    }
    cr_assert_eq(v.n, 400);
    rf_tokenizer_free(t);
}

Test(bpe_vectors, chat_templates)
{
    rf_tokenizer *t = load("qwen3");
    vectors v = open_vectors("vectors/chat_templates_public.jsonl");
    rf_tokenizer_read_control_tokens(t);
    while (next_vector(&v)) {
        const json_t *expected = json_object_get(v.item, "text");
        const rf_render_options options = {
            .tools = json_object_get(v.item, "tools"),
            .add_generation_prompt = json_is_true(json_object_get(v.item, "add_generation_prompt")),
            .thinking = bpe_thinking(json_object_get(v.item, "enable_thinking"))};
        rf_turn *turn;
        int64_t n;
        char *text;
        size_t bytes;
        rf_ids ids = {0};
        rf_error err;
        cr_assert_eq(rf_chat_turns(&turn, &n, json_object_get(v.item, "messages"), &err), RF_OK);
        cr_assert_eq(rf_tokenizer_render(t, &text, &bytes, &ids, turn, n, &options, &err), RF_OK,
                     "%s", err.message);
        cr_expect_str_eq(text, json_string_value(expected), "vector %lld", (long long)v.n);
        cr_expect(bpe_encodes(t, expected, json_object_get(v.item, "ids")), "vector %lld",
                  (long long)v.n);
        cr_expect_eq((size_t)ids.n, json_array_size(json_object_get(v.item, "ids")));
        free(text);
        free(turn);
        rf_ids_free(&ids);
    }
    cr_assert_eq(v.n, 80);
    rf_tokenizer_free(t);
}
