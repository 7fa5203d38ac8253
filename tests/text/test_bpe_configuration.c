/* Files beside tokenizer.json: names of tokens, end of text, templates; what is exported of them. */
#include "common/base/alloc.h"
#include "common/text/bpe.h"
#include "tests/text/bpe_test.h"

TestSuite(bpe_configuration, .init = begin_folder, .fini = end_folder);

static void put_small(void)
{
    json_t *root = bpe_read_json(bpe_small);
    bpe_put_json("tokenizer.json", root);
    json_decref(root);
}

Test(bpe_configuration, configuration_names_end_of_text_and_mask)
{
    put_small();
    const char config[] =
        "{\"eos_token\": {\"content\": \"<|end|>\"}, \"mask_token\": \"<|endless|>\","
        "\"chat_template\": \"plain\"}";
    const char generation[] = "{\"eos_token_id\": [0, 0]}";
    bpe_put("tokenizer_config.json", config, strlen(config));
    bpe_put("generation_config.json", generation, strlen(generation));
    rf_tokenizer *t = bpe_load(folder);
    const rf_specials *s = rf_tokenizer_specials(t);
    cr_assert_eq(s->n_eos, 1); /* generation_config.json's are for export only */
    cr_assert_str_eq(rf_tokenizer_special_name(t, s->eos[0]), "<|end|>");
    cr_assert_str_eq(rf_tokenizer_special_name(t, s->mask), "<|endless|>");
    cr_assert_str_eq(rf_tokenizer_special_name(t, s->begin), "<|beginoftext|>");
    cr_assert_eq(s->begin, rf_tokenizer_size(t) - 1);
    const rf_turn m[] = {{.role = "user", .content = "a", .bytes = 1}};
    rf_ids ids = {0};
    rf_error err;
    cr_assert_eq(rf_tokenizer_render_prompt(t, &ids, m, 1, &err), RF_OK, "%s", err.message);
    cr_assert_eq(ids.n, 3);
    cr_assert_eq(ids.id[0], s->begin);
    const rf_turn talk[] = {m[0], {.role = "assistant", .content = "a", .bytes = 1}};
    const rf_render_options options = {.add_generation_prompt = true};
    int64_t n_prompt;
    ids.n = 0;
    cr_assert_eq(rf_tokenizer_render_sample(t, &ids, &n_prompt, talk, 2, &options, &err), RF_OK,
                 "%s", err.message);
    cr_assert_eq(n_prompt, 3);
    cr_assert_eq(ids.id[0], s->begin);
    cr_assert_eq(ids.n, 5);
    cr_assert_eq(ids.id[4], s->eos[0]);
    rf_ids_free(&ids);
    rf_tokenizer_free(t);
}

/* A user who writes the token that ends a turn does not end it; but for those who ask for it. */
Test(bpe_configuration, control_tokens_in_messages_are_text)
{
    static const char config[] =
        "{\"eos_token\": \"<|end|>\", \"chat_template\": \"{% for m in "
        "messages %}[{{ m.role }}]{{ m.content "
        "}}<|end|>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}\"}";
    put_small();
    bpe_put("tokenizer_config.json", config, strlen(config));
    const rf_turn turn[] = {{.role = "user", .content = "a <|end|><|end|> b", .bytes = 18},
                            {.role = "assistant", .content = "<|end|>", .bytes = 7}};
    for (int asked = 0; asked < 2; asked++) {
        rf_tokenizer *t = bpe_load(folder);
        int64_t n_literal = 0, n_ends = 0;
        const rf_render_options options = {.n_literal = &n_literal};
        char *text, *back;
        size_t bytes;
        rf_ids ids = {0};
        rf_error err;
        if (asked) {
            rf_tokenizer_read_control_tokens(t);
        }
        cr_assert_eq(rf_tokenizer_render(t, &text, &bytes, &ids, turn, 2, &options, &err), RF_OK,
                     "%s", err.message);
        cr_expect_str_eq(text, "[user]a <|end|><|end|> b<|end|>[assistant]<|end|><|end|>");
        for (int64_t i = 0; i < ids.n; i++) {
            n_ends += rf_tokenizer_is_eos(t, ids.id[i]);
        }
        cr_expect_eq(n_ends, asked ? 5 : 2);
        cr_expect_eq(n_literal, asked ? 0 : 3);
        back = rf_tokenizer_decode(t, &bytes, ids.id, ids.n, false);
        cr_expect_str_eq(back, text);
        int64_t n_prompt;
        ids.n = 0;
        n_literal = 0;
        cr_assert_eq(rf_tokenizer_render_sample(t, &ids, &n_prompt, turn, 2, &options, &err),
                     RF_OK);
        cr_expect_eq(n_literal, asked ? 0 : 3);
        cr_expect_eq(ids.n - n_prompt == 2, asked == 1, "the answer has %lld ids",
                     (long long)(ids.n - n_prompt));
        cr_expect(rf_tokenizer_is_eos(t, ids.id[ids.n - 1]));
        ids.n = 0;
        cr_assert_eq(rf_tokenizer_encode_said(t, &ids, "<|end|>", 7, &err), RF_OK);
        cr_expect_eq(ids.n == 1, asked == 1);
        free(text), free(back);
        rf_ids_free(&ids);
        rf_tokenizer_free(t);
    }
}

/* Added tokens that are not special are those tokens whoever writes them. */
Test(bpe_configuration, other_added_tokens_in_messages_are_tokens)
{
    static const char config[] =
        "{\"eos_token\": \"<|end|>\", \"chat_template\": \"{% for m in messages %}[{{ m.role }}]"
        "{{ m.content }}<|end|>{% endfor %}{# tool #}\"}";
    static const char *const roles[] = {"user", "assistant", "tool"};
    put_small();
    bpe_put("tokenizer_config.json", config, strlen(config));
    rf_tokenizer *t = bpe_load(folder);
    for (int i = 0; i < 3; i++) {
        const rf_turn turn = {.role = roles[i], .content = "a<norm\u00E9>b", .bytes = 10};
        const rf_render_options options = {0};
        rf_ids ids = {0};
        rf_error err = {0};
        int n_added = 0;
        cr_assert_eq(rf_tokenizer_render(t, NULL, NULL, &ids, &turn, 1, &options, &err), RF_OK,
                     "%s", err.message);
        for (int64_t k = 0; k < ids.n; k++) {
            n_added += ids.id[k] == 381;
        }
        cr_expect_eq(n_added, 1, "%s: %d", roles[i], n_added);
        rf_ids_free(&ids);
    }
    rf_tokenizer_free(t);
}

/* What a message says stays text whatever a template does with it on the way: where it measures it, and
 * where the token arises in the template only. A role is no text, nor is what the template says. */
Test(bpe_configuration, control_tokens_that_arise_in_the_template)
{
    static const struct {
        const char *print, *content;
        int n_ends;
    } cases[] = {
        {"m.content|length", "<|end|>", 0},
        {"'<|end|>' if m.content[:5] == '<|end' else 'no'", "<|end|>", 1},
        {"m.content|tojson(ensure_ascii=true)", "<|end|>", 0},
        {"m.content|trim", "<|end|>", 0},
        {"m.content|lower", "<|END|>", 0},
        {"m.content.title()|lower", "<|eNd|>", 0},
        {"m.content|replace('-', '')", "<|e-nd|>", 0},
        {"m.content|replace('-', '<|end|>')", "a-b", 1},
        {"m.content ~ m.content", "|end|><", 0},
        {"m.content + m.rest", "<|en", 0},
        {"'<|' + m.content + '|>'", "end", 0},
        {"'<|' + m.content", "end|>", 0},
        {"m.content.split(' ')|join", "<|e nd |>", 0},
        {"m.content.split(' ')[::-1]|join('nd')", "|> <|e", 0},
        {"{'a': m.content}|tojson", "<|end|>", 0},
        {"{m.content: 1}", "<|end|>", 0},
        {"m.named|list|join", "", 0},
        {"strftime_now('%Y')", "", 0},
        {"name", "", 0},
        {"eos_token", "", 1},
        {"'<|' + ('end' if m.role == 'user' else '') + '|>' + m.content", " <|end|>", 1},
        {"{'user': '<|end|>'}[m.role]", "", 1},
    };
    json_t *more = json_pack("{s:s}", "name", "<|end|>");
    put_small();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char config[320];
        rf_ids ids = {0};
        rf_error err = {0};
        json_t *message = json_pack("{s:s, s:s, s:s, s:{s:i}}", "role", "user", "content",
                                    cases[i].content, "rest", "d|>", "named", "<|end|>", 1);
        const rf_turn turn = {.role = "user",
                              .content = cases[i].content,
                              .bytes = strlen(cases[i].content),
                              .message = message};
        const rf_render_options options = {.date = "<|end|>", .more = i == 18 ? more : NULL};
        snprintf(config, sizeof config,
                 "{\"eos_token\": \"<|end|>\", \"chat_template\": \"{%% for m in messages %%}{{ %s "
                 "}}{%% endfor %%}\"}",
                 cases[i].print);
        bpe_put("tokenizer_config.json", config, strlen(config));
        rf_tokenizer *t = bpe_load(folder);
        cr_assert_eq(rf_tokenizer_render(t, NULL, NULL, &ids, &turn, 1, &options, &err), RF_OK,
                     "%s", err.message);
        int n_ends = 0;
        for (int64_t k = 0; k < ids.n; k++) {
            n_ends += rf_tokenizer_is_eos(t, ids.id[k]);
        }
        cr_expect_eq(n_ends, cases[i].n_ends, "%s gives %d", cases[i].print, n_ends);
        json_decref(message);
        rf_ids_free(&ids);
        rf_tokenizer_free(t);
    }
    json_decref(more);
}

/* The characters that mark such tokens on their way are text where a message has them itself, beside a
 * special token or around one, and hide none of the template's. */
Test(bpe_configuration, marks_of_a_message_are_its_own_text)
{
    static const char config[] =
        "{\"eos_token\": \"<|end|>\", \"chat_template\": \"{% for m in messages %}{{ m.content }}"
        "<|end|>{% endfor %}\"}";
    static const char *const contents[][2] = {
        {"a \xEF\xB7\x90 b", "c"},
        {"a\xEF\xB7\x90", "\xEF\xB7\x91 b"},
        {"\xEF\xB7\x90<|end|>\xEF\xB7\x91", "\xEF\xB7\x90\xEF\xB7\x90\xEF\xB7\x91"},
        {"<|end|>\xEF\xB7\x90", "\xEF\xB7\x91<|end|>"},
    };
    put_small();
    bpe_put("tokenizer_config.json", config, strlen(config));
    rf_tokenizer *t = bpe_load(folder);
    for (size_t i = 0; i < sizeof contents / sizeof *contents; i++) {
        const char *const *c = contents[i];
        const rf_turn turn[] = {{.role = "user", .content = c[0], .bytes = strlen(c[0])},
                                {.role = "assistant", .content = c[1], .bytes = strlen(c[1])}};
        const rf_render_options options = {0};
        char expected[256], *text, *back;
        size_t bytes;
        int64_t n_ends = 0;
        rf_ids ids = {0};
        rf_error err;
        snprintf(expected, sizeof expected, "%s<|end|>%s<|end|>", c[0], c[1]);
        cr_assert_eq(rf_tokenizer_render(t, &text, &bytes, &ids, turn, 2, &options, &err), RF_OK,
                     "%s", err.message);
        cr_expect_str_eq(text, expected);
        back = rf_tokenizer_decode(t, &bytes, ids.id, ids.n, false);
        cr_expect_str_eq(back, expected);
        for (int64_t k = 0; k < ids.n; k++) {
            n_ends += rf_tokenizer_is_eos(t, ids.id[k]);
        }
        cr_expect_eq(n_ends, 2, "case %zu: %lld", i, (long long)n_ends);
        free(text), free(back);
        rf_ids_free(&ids);
    }
    rf_tokenizer_free(t);
}

/* Tokens that are looked for in normalised text are text also where a message becomes them only there,
 * however long it is, and beside tokens that are not special. */
Test(bpe_configuration, control_tokens_that_arise_by_normalising)
{
    static const char config[] =
        "{\"eos_token\": \"<K>\", \"chat_template\": \"{% for m in messages %}<K>{{ m.content }}"
        "<\u00E9>{{ m.rest }}{% endfor %}\"}";
    static const char *const names[] = {"<K>", "<;`>", "<\u00E9>"};
    static const char *const contents[] = {"<K>",
                                           "<\u212A>",
                                           "a <\u037E\u1FEF> b <;`>",
                                           "<e\u0301>",
                                           "<\u00E9>x<\u00E9>",
                                           "\u212A e\u0301 <\u00C9>",
                                           "<strip><\u212A><strip> <e\u0301>\u0301<\u212A>",
                                           "\u0301\u0301 \u212A>",
                                           "<\u212A",
                                           "<e"};
    enum { FIRST = 382, LONG = 3000 };
    json_t *root = bpe_read_json(bpe_small), *added = json_object_get(root, "added_tokens");
    for (int i = 0; i < 3; i++) {
        json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b}", "id", FIRST + i, "content",
                                               names[i], "special", true, "normalized", true));
    }
    bpe_put_json("tokenizer.json", root);
    bpe_put("tokenizer_config.json", config, strlen(config));
    json_decref(root);
    rf_tokenizer *t = bpe_load(folder);
    for (size_t i = 0; i < 2 * sizeof contents / sizeof *contents; i++) {
        const rf_render_options options = {0};
        const char *content = contents[i / 2];
        char *said = rf_alloc_format("%*s%s", i % 2 == 0 ? 0 : LONG, "", content);
        json_t *message =
            json_pack("{s:s, s:s, s:s}", "role", "user", "content", said, "rest", ">");
        const rf_turn turn = {
            .role = "user", .content = said, .bytes = strlen(said), .message = message};
        rf_ids ids = {0};
        rf_error err = {0};
        int n_special = 0;
        cr_assert_eq(rf_tokenizer_render(t, NULL, NULL, &ids, &turn, 1, &options, &err), RF_OK,
                     "%s", err.message);
        for (int64_t k = 0; k < ids.n; k++) {
            n_special += ids.id[k] >= FIRST && ids.id[k] < FIRST + 3;
        }
        cr_expect_eq(n_special, 2, "%s gives %d", content, n_special);
        cr_expect_eq(ids.id[0], FIRST);
        json_decref(message);
        free(said);
        rf_ids_free(&ids);
    }
    rf_tokenizer_free(t);
}

/* Many tokens that are looked for in normalised text, and one or none at the end that is not: what was looked
 * at for the first of them is not looked at again. The end is changed meanwhile, and nobody sees it. */
Test(bpe_configuration, the_end_is_looked_at_once_for_many_tokens)
{
    enum { FIRST = 382, MANY = 1000, WIDTH = 3 };
    static const char *const ends[] = {"<R>", "___"};
    static const char *const pieces[] = {"<K>", "x", "<R>", "<\u212A>", "<N> "};
    json_t *root = bpe_read_json(bpe_small), *added = json_object_get(root, "added_tokens");
    rf_error err = {0};
    rf_bpe *bpe;
    for (int i = 0; i < 3; i++) {
        json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b}", "id", FIRST + i, "content",
                                               i == 0   ? "<K>"
                                               : i == 1 ? "<R>"
                                                        : "<N>",
                                               "special", i < 2, "normalized", i == 0));
    }
    cr_assert_eq(rf_bpe_new(&bpe, root, "x", &err), RF_OK, "%s", err.message);
    for (int i = 0; i < 2; i++) {
        rf_text text = {0};
        rf_chat_found found = {0};
        for (int k = 0; k < MANY; k++) {
            rf_text_add_string(&text, "<K>");
        }
        rf_text_add_string(&text, ends[i]);
        for (size_t k = 0; k < MANY; k++) {
            cr_assert(rf_bpe_find_special(bpe, text.data, text.bytes, &found));
            cr_assert_eq(found.begin, k * WIDTH);
            cr_assert_eq(found.end, (k + 1) * WIDTH);
            memcpy(text.data + text.bytes - WIDTH, ends[1 - i], WIDTH);
        }
        cr_expect_eq(rf_bpe_find_special(bpe, text.data, text.bytes, &found), i == 0);
        cr_expect_eq(found.begin, (size_t)(MANY - i) * WIDTH);
        rf_text_free(&text);
    }
    /* in any mixture what is found on the way is what a new search finds there */
    rf_text text = {0};
    int n_pieces = 0, n_found = 0;
    for (int i = 0; i < MANY; i++) {
        const int piece = i * i % 11 % 5;
        n_pieces += piece == 0 || piece == 2 || piece == 3;
        rf_text_add_string(&text, pieces[piece]);
    }
    rf_chat_found found = {0}, fresh = {0};
    while (rf_bpe_find_special(bpe, text.data, text.bytes, &found)) {
        cr_assert(rf_bpe_find_special(bpe, text.data, text.bytes, &fresh));
        cr_assert_eq(found.begin, fresh.begin);
        cr_assert_eq(found.end, fresh.end);
        fresh = (rf_chat_found){.end = fresh.end};
        n_found++;
    }
    cr_expect_eq(n_found, n_pieces);
    rf_text_free(&text);
    rf_bpe_free(bpe);
    json_decref(root);
}

/* As in Qwen3-Base: the template ends messages with <|im_end|>, whatever else the files name. */
static const char chat_config[] =
    "{\"eos_token\": \"<|endoftext|>\", \"model_max_length\": 1000000000000000019884624838656, "
    "\"note\": \"\\\"12345678901234567890\", \"small\": 0.12345678901234567890, "
    "\"chat_template\": \"qwen3\", \"added_tokens_decoder\": {\"382\": {\"content\": "
    "\"<|im_end|>\", \"special\": true}}}";

Test(bpe_configuration, end_of_text_is_the_templates)
{
    put_small();
    const char generation[] = "{\"eos_token_id\": [0, 382], \"top_p\": 0.8}";
    bpe_put("tokenizer_config.json", chat_config, strlen(chat_config));
    bpe_put("generation_config.json", generation, strlen(generation));
    rf_tokenizer *t = bpe_load(folder);
    const rf_specials *s = rf_tokenizer_specials(t);
    cr_assert(s->n_eos == 1 && s->eos[0] == 382);
    rf_tokenizer_free(t);
}

/* Loads the folder's files, exports them, loads these: nothing may change, and the exported
 * generation_config.json is as expected. */
static void assert_comes_back(const char *generation)
{
    const char *out = in_folder("out");
    rf_tokenizer *t = bpe_load(folder);
    rf_error err;
    size_t n, m;
    cr_assert_eq(rf_file_make_folder(out, &err), RF_OK);
    cr_assert_eq(rf_tokenizer_export(t, out, &err), RF_OK, "%s", err.message);
    rf_tokenizer *again = bpe_load(out);
    const char *a = rf_tokenizer_text(t, &n), *b = rf_tokenizer_text(again, &m);
    cr_expect(n == m && memcmp(a, b, n) == 0, "%s\n%s", a, b);
    cr_expect_eq(rf_tokenizer_hash(t), rf_tokenizer_hash(again));
    json_t *is = bpe_read_json(in_folder("out/generation_config.json")),
           *expected = json_loads(generation, 0, NULL);
    cr_expect(json_equal(is, expected), "%s should be %s", json_dumps(is, 0), generation);
    json_decref(is);
    json_decref(expected);
    rf_tokenizer_free(t);
    rf_tokenizer_free(again);
}

Test(bpe_configuration, export_then_load_is_the_identity)
{
    put_small();
    assert_comes_back("{\"eos_token_id\": 0}"); /* nothing but tokenizer.json */
    bpe_put("tokenizer_config.json", chat_config, strlen(chat_config));
    assert_comes_back("{\"eos_token_id\": 382}");
    static const char *const cases[][2] = {
        {"{\"eos_token_id\": [382, 0], \"temperature\": 0.6, \"do_sample\": true}",
         "{\"eos_token_id\": [382, 0], \"temperature\": 0.6, \"do_sample\": true}"},
        {"{\"eos_token_id\": 0, \"top_k\": 20}", "{\"eos_token_id\": [0, 382], \"top_k\": 20}"},
        {"{\"eos_token_id\": [0]}", "{\"eos_token_id\": [0, 382]}"},
        {"{\"eos_token_id\": null}", "{\"eos_token_id\": 382}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bpe_put("generation_config.json", cases[i][0], strlen(cases[i][0]));
        assert_comes_back(cases[i][1]);
    }
    bpe_put("chat_template.jinja", "chatml", 6); /* wins over the configuration's */
    assert_comes_back(cases[3][1]);
}

Test(bpe_configuration, wrong_configuration_is_refused)
{
    static const struct {
        const char *name, *text, *part;
    } cases[] = {
        {"tokenizer_config.json", "{\"eos_token\": \"<none>\"}", "eos_token"},
        {"tokenizer_config.json", "{\"chat_template\": \"{{ messages\"}",
         "tokenizer_config.json: chat_template, line 1"},
        {"tokenizer_config.json", "{\"chat_template\": \"{{ open\"}", "chat_template"},
        {"tokenizer_config.json", "{\"chat_template\": \"qwen3\"}", "<|im_end|>"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\": {\"x\": {\"content\": \"y\"}}}",
         "added_tokens_decoder"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\": {\"7\": {\"content\": \"<new>\"}}}",
         "both have id 7"},
        {"tokenizer_config.json", "{", "JSON"},
        {"generation_config.json", "{\"eos_token_id\": 100000}", "eos_token_id"},
        {"chat_template.jinja", "{%- for m in messages %}{{ m.content }}", "chat_template.jinja"},
    };
    put_small();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bpe_put(cases[i].name, cases[i].text, strlen(cases[i].text));
        bpe_assert_refused("tokenizer.json", cases[i].part);
        unlink(in_folder(cases[i].name));
    }
}
