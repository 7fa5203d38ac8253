/* The byte tokenizer: round trips, lossy decoding, chat form, stored text, damaged text. */
#include "common/text/tokenizer.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static rf_tokenizer *byte_tokenizer(void)
{
    rf_tokenizer *tokenizer;
    rf_error err = {0};
    cr_assert_eq(rf_tokenizer_load(&tokenizer, "byte", &err), RF_OK, "%s", err.message);
    return tokenizer;
}

static void assert_decodes(const rf_tokenizer *tokenizer, const int32_t *id, int64_t n, bool skip,
                           const char *expected)
{
    size_t bytes;
    char *text = rf_tokenizer_decode(tokenizer, &bytes, id, n, skip);
    cr_assert_str_eq(text, expected);
    cr_assert_eq(bytes, strlen(expected));
    free(text);
}

Test(tokenizer, specials)
{
    rf_tokenizer *t = byte_tokenizer();
    const rf_specials *s = rf_tokenizer_specials(t);
    cr_assert_eq(rf_tokenizer_size(t), 262);
    cr_assert_eq(s->n_eos, 1);
    cr_assert_eq(s->eos[0], 256);
    cr_assert_eq(s->mask, 257);
    cr_assert_eq(s->begin, 258);
    cr_assert_eq(s->system, 259);
    cr_assert_eq(s->user, 260);
    cr_assert_eq(s->assistant, 261);
    cr_assert(rf_tokenizer_is_eos(t, 256));
    cr_assert(!rf_tokenizer_is_eos(t, 257));
    cr_assert_str_eq(rf_tokenizer_special_name(t, 257), "<|mask|>");
    cr_assert_str_eq(rf_tokenizer_special_name(t, 261), "<|assistant|>");
    cr_assert_null(rf_tokenizer_special_name(t, 65));
    cr_assert_null(rf_tokenizer_special_name(t, -1));
    cr_assert_null(rf_tokenizer_special_name(t, 262));
    rf_tokenizer_free(t);
    rf_tokenizer_free(NULL);
}

Test(tokenizer, every_byte_round_trips)
{
    rf_tokenizer *t = byte_tokenizer();
    char text[1000];
    for (size_t i = 0; i < sizeof text; i++) {
        text[i] = (char)(unsigned char)(i * 7 % 256);
    }
    rf_ids ids = {0};
    rf_error err = {0};
    cr_assert_eq(rf_tokenizer_encode(t, &ids, text, sizeof text, &err), RF_OK);
    cr_assert_eq(ids.n, (int64_t)sizeof text);
    for (size_t i = 0; i < sizeof text; i++) {
        cr_assert_eq(ids.id[i], (unsigned char)text[i]);
    }
    cr_assert_eq(rf_tokenizer_encode(t, &ids, "", 0, &err), RF_OK);
    cr_assert_eq(ids.n, (int64_t)sizeof text);
    rf_ids_free(&ids);
    cr_assert_null(ids.id);
    rf_tokenizer_free(t);
}

Test(tokenizer, special_names_in_text_stay_text)
{
    rf_tokenizer *t = byte_tokenizer();
    rf_ids ids = {0};
    rf_error err = {0};
    const char *text = "a<|mask|>b";
    cr_assert_eq(rf_tokenizer_encode(t, &ids, text, strlen(text), &err), RF_OK);
    cr_assert_eq(ids.n, (int64_t)strlen(text));
    for (int64_t i = 0; i < ids.n; i++) {
        cr_assert_lt(ids.id[i], 256);
    }
    assert_decodes(t, ids.id, ids.n, true, text);
    rf_ids_free(&ids);
    rf_tokenizer_free(t);
}

/* Replacements as counted by the Unicode standard's table 3-8 and its neighbours. */
Test(tokenizer, broken_utf8_becomes_replacement_characters)
{
    rf_tokenizer *t = byte_tokenizer();
    const struct {
        const char *raw, *text;
    } cases[] = {
        {"\xE2\x82\xAC", "\xE2\x82\xAC"},
        {"a\xFFz", "a\xEF\xBF\xBDz"},
        {"\xE2\x82", "\xEF\xBF\xBD"},
        {"\xE2\x82z", "\xEF\xBF\xBDz"},
        {"\xF0\x9F\x98", "\xEF\xBF\xBD"},
        {"\xC0\xAF", "\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xF4\x90\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xF0\x90\x80", "\xEF\xBF\xBD"},
        {"\xE0\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xF0\x9F\x98\x80\xF0\x9F", "\xF0\x9F\x98\x80\xEF\xBF\xBD"},
        {"\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
                                                 "A"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        int32_t id[16];
        int64_t n = (int64_t)strlen(cases[c].raw);
        for (int64_t i = 0; i < n; i++) {
            id[i] = (unsigned char)cases[c].raw[i];
        }
        assert_decodes(t, id, n, false, cases[c].text);
    }
    rf_tokenizer_free(t);
}

Test(tokenizer, specials_and_unknown_ids_in_decode)
{
    rf_tokenizer *t = byte_tokenizer();
    const int32_t id[] = {258, 'h', -5, 'i', 257, 1 << 30, 262, '!', 256};
    assert_decodes(t, id, 9, false, "<|beginoftext|>hi<|mask|>!<|endoftext|>");
    assert_decodes(t, id, 9, true, "hi!");
    assert_decodes(t, id, 0, true, "");
    /* What a dropped token parted comes together again. */
    const int32_t parted[] = {0xC3, 256, 0xA9};
    assert_decodes(t, parted, 3, true, "\xC3\xA9");
    rf_tokenizer_free(t);
}

Test(tokenizer, chat_form)
{
    rf_tokenizer *t = byte_tokenizer();
    rf_ids ids = {0};
    rf_error err = {0};
    const rf_turn m[] = {{.role = "system", .content = "s", .bytes = 1},
                         {.role = "user", .content = "q", .bytes = 1},
                         {.role = "assistant", .content = "a", .bytes = 1},
                         {.role = "user", .content = ""}};
    cr_assert_eq(rf_tokenizer_render_prompt(t, &ids, m, 4, &err), RF_OK, "%s", err.message);
    const int32_t expected[] = {259, 's', 260, 'q', 261, 'a', 256, 260, 261};
    cr_assert_eq(ids.n, 9);
    cr_assert_arr_eq(ids.id, expected, sizeof expected);
    const rf_turn bad = {.role = "tool", .content = "x", .bytes = 1};
    cr_assert_eq(rf_tokenizer_render_prompt(t, &ids, &bad, 1, &err), RF_ERR);
    cr_assert_not_null(strstr(err.message, "tool"));
    rf_ids_free(&ids);
    rf_tokenizer_free(t);
}

Test(tokenizer, stored_text_round_trips)
{
    rf_tokenizer *t = byte_tokenizer(), *again;
    size_t bytes;
    const char *text = rf_tokenizer_text(t, &bytes);
    rf_error err = {0};
    cr_assert_eq(rf_tokenizer_parse(&again, text, bytes, "x.h5", &err), RF_OK, "%s", err.message);
    cr_assert_eq(rf_tokenizer_hash(t), rf_tokenizer_hash(again));
    cr_assert_eq(rf_tokenizer_size(t), rf_tokenizer_size(again));
    /* Part of the file formats: must never change. */
    cr_assert_eq(rf_tokenizer_hash(t), UINT64_C(0xECEABE3F0E6B24E4), "%llx",
                 (unsigned long long)rf_tokenizer_hash(t));
    rf_tokenizer_free(t);
    rf_tokenizer_free(again);
}

Test(tokenizer, bad_stored_text_is_refused)
{
    const char *cases[] = {
        "",
        "{",
        "[]",
        "null",
        "{\"format\":\"x\",\"version\":1,\"kind\":\"byte\"}",
        "{\"format\":\"refusion-tokenizer\",\"version\":2,\"kind\":\"byte\"}",
        "{\"format\":\"refusion-tokenizer\",\"version\":1,\"kind\":\"bpe\"}",
        "{\"format\":\"refusion-tokenizer\",\"version\":1,\"kind\":\"byte\"}",
        "{\"format\":\"refusion-tokenizer\",\"version\":1,\"kind\":\"byte\",\"special\":{"
        "\"<|endoftext|>\":256,\"<|mask|>\":258,\"<|beginoftext|>\":257,\"<|system|>\":259,"
        "\"<|user|>\":260,\"<|assistant|>\":261}}",
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rf_tokenizer *t;
        rf_error err = {0};
        cr_assert_eq(rf_tokenizer_parse(&t, cases[i], strlen(cases[i]), "x.h5", &err), RF_ERR);
        cr_assert_null(t);
        cr_assert_eq(strncmp(err.message, "x.h5: ", 6), 0, "%s", err.message);
    }
    rf_tokenizer *t;
    rf_error err = {0};
    cr_assert_eq(rf_tokenizer_load(&t, "bytes", &err), RF_ERR_USAGE);
    cr_assert_not_null(strstr(err.message, "\"byte\""));
}
