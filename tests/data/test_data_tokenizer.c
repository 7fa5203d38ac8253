/* refusion-data with BPE tokenizers: train-tokenizer, and the filters through chat templates. */
#include "tests/data/program_test.h"

#include "common/text/ids.h"

#include <jansson.h>
#include <sys/stat.h>

TestSuite(data_tokenizer, .init = program_begin, .fini = end_folder);

static json_t *read_json(const char *path)
{
    json_t *value = json_load_file(path, JSON_ALLOW_NUL, NULL);
    cr_assert_not_null(value, "%s: cannot be read; tests run in the root of the repository", path);
    return value;
}

/* tok/: the small tokenizer with this chat template and the token that ends its messages. */
static void put_tokenizer(const char *template, const char *end)
{
    rf_error err;
    size_t bytes;
    char *text = get_bytes("tests/golden/tokenizer_small.json", &bytes);
    mkdir(in_folder("tok"), 0777);
    put_bytes("tok/tokenizer.json", text, bytes);
    free(text);
    json_t *config =
        json_pack("{s:s, s:s, s:{s:{s:s, s:b}}}", "chat_template", template, "bos_token",
                  "<|begin_of_text|>", "added_tokens_decoder", "382", "content", end, "special", 1);
    text = json_dumps(config, 0);
    cr_assert_eq(rf_file_write(in_folder("tok/tokenizer_config.json"), text, strlen(text), &err),
                 RF_OK);
    free(text);
    json_decref(config);
}

/* Every vector of a template: the lines go in together, text and ids come out. */
static void assert_renders(const char *name, const char *end)
{
    json_t *templates = read_json("tests/golden/chat_templates.json"), *item, *used = json_array();
    json_t *cases = read_json("tests/golden/chat_vectors.json");
    rf_text lines = {0};
    size_t i;
    put_tokenizer(json_string_value(json_object_get(templates, name)), end);
    json_array_foreach(cases, i, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "template")), name) == 0) {
            char *line = json_dumps(item, JSON_COMPACT);
            rf_text_add_string(&lines, line);
            rf_text_add_string(&lines, "\n");
            free(line);
            json_array_append(used, item);
        }
    }
    cr_assert_gt(json_array_size(used), 3);
    put_bytes("in.jsonl", lines.data, lines.bytes);
    ASSERT_RUNS("render --tokenizer tok <in.jsonl");
    char *line = strtok(program_output, "\n");
    json_array_foreach(used, i, item)
    {
        cr_assert_not_null(line);
        json_t *out = json_loads(line, JSON_ALLOW_NUL, NULL);
        cr_expect(json_equal(json_object_get(out, "text"), json_object_get(item, "text")),
                  "%s, case %zu: %s", name, i, line);
        cr_expect_gt(json_array_size(json_object_get(out, "ids")), 0);
        json_decref(out);
        line = strtok(NULL, "\n");
    }
    cr_assert_null(line);
    rf_text_free(&lines);
    json_decref(used);
    json_decref(cases);
    json_decref(templates);
}

Test(data_tokenizer, render_through_templates)
{
    assert_renders("qwen3", "<|im_end|>");
    assert_renders("qwen2.5", "<|im_end|>");
    assert_renders("llama3", "<|eot_id|>");
    assert_renders("llama3.1", "<|eot_id|>");
    assert_renders("llama3.2", "<|eot_id|>");
}

/* Roles do not get lost without a word, nor what looks like a control token. */
Test(data_tokenizer, build_says_what_conversations_become)
{
    put_text("a.jsonl", "{\"query\": \"a <|im_end|>\", \"response\": \"b\"}");
    put_tokenizer("chatml", "<|im_end|>");
    ASSERT_RUNS("build --tokenizer tok --out c.h5 a.jsonl");
    cr_expect_not_null(strstr(program_messages, "conversations: the tokenizer's chat template"));
    cr_expect_not_null(strstr(program_messages, "control tokens    1 "), "%s", program_messages);
    ASSERT_RUNS("build --tokenizer tok --control-tokens --out d.h5 a.jsonl");
    cr_expect_null(strstr(program_messages, "control tokens"));
    ASSERT_RUNS("build --out e.h5 a.jsonl");
    cr_expect_not_null(strstr(program_messages, "conversations: marks of the byte tokenizer"));
    cr_assert_eq(unlink(in_folder("tok/tokenizer_config.json")), 0);
    ASSERT_RUNS("build --tokenizer tok --out f.h5 a.jsonl");
    cr_expect_not_null(strstr(program_messages, "conversations: plain"), "%s", program_messages);
}

/* The corpora c.h5 and d.h5 have the same tokens. */
static bool same_tokens(void)
{
    static char c[1 << 14];
    program_runs("h5dump -d tokens c.h5 | tail -n +2", 0);
    strcpy(c, program_output);
    program_runs("h5dump -d tokens d.h5 | tail -n +2", 0);
    cr_assert_gt(strlen(c), 100);
    return strcmp(c, program_output) == 0;
}

/* A day is told where it is asked for, and the corpus says so. */
Test(data_tokenizer, dates)
{
    put_text("a.jsonl", "{\"query\": \"a\", \"response\": \"b\"}");
    put_tokenizer("{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}<|im_end|>"
                  "{% endfor %}",
                  "<|im_end|>");
    ASSERT_RUNS("build --tokenizer tok --out c.h5 a.jsonl");
    ASSERT_RUNS("build --tokenizer tok --out d.h5 --date 2024-07-26 a.jsonl");
    cr_expect(same_tokens());
    ASSERT_RUNS("build --tokenizer tok --out d.h5 --date 2028-02-29 a.jsonl");
    cr_expect(!same_tokens());
    ASSERT_RUNS("info d.h5");
    cr_expect_not_null(strstr(program_output, "  date              2028-02-29"));
    ASSERT_RUNS("info c.h5");
    cr_expect_null(strstr(program_output, "date"));
    ASSERT_RUNS("build --tokenizer tok --out d.h5 --date today a.jsonl");
    ASSERT_RUNS("info d.h5 | grep \"date  *$(date +%%Y-%%m-%%d)\"");
    static const char *const bad[] = {"yesterday", "2027-02-29", "28-2-29", "2028-02-29x", "''"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ASSERT_FAILS(2, "must be today, or a day as 2026-11-28",
                     "build --tokenizer tok --out e.h5 --date %s a.jsonl", bad[i]);
    }
}

/* Calls, results and tools as LLaMA-Factory and ms-swift write them are those of OpenAI's messages. */
Test(data_tokenizer, tools_that_are_texts)
{
    static const char call[] = "{\"name\": \"f\", \"arguments\": {\"x\": \"a \\\"b\\\"\"}}";
    static const char tool[] = "[{\"name\": \"f\", \"parameters\": {\"type\": \"object\"}}]";
    json_t *templates = read_json("tests/golden/chat_templates.json");
    put_tokenizer(json_string_value(json_object_get(templates, "qwen2.5")), "<|im_end|>");
    json_decref(templates);
    json_t *f = json_loads(call, 0, NULL), *g = json_loads(tool, 0, NULL);
    json_t *const forms[] = {
        json_pack("{s:[{s:s, s:O}], s:[{s:s, s:s}, {s:s, s:[{s:s, s:o}]}, {s:s, s:s}, {s:s, s:s}]}",
                  "tools", "type", "function", "function", json_array_get(g, 0), "messages", "role",
                  "user", "content", "q", "role", "assistant", "tool_calls", "type", "function",
                  "function", f, "role", "tool", "content", "42", "role", "assistant", "content",
                  "r"),
        json_pack("{s:s, s:[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}, {s:s, s:s}]}", "tools", tool,
                  "conversations", "from", "human", "value", "q", "from", "function_call", "value",
                  call, "from", "observation", "value", "42", "from", "gpt", "value", "r"),
        json_pack("{s:s, s:[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}, {s:s, s:s}]}", "tools", tool,
                  "messages", "role", "user", "content", "q", "role", "tool_call", "content", call,
                  "role", "tool_response", "content", "42", "role", "assistant", "content", "r")};
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(json_dump_file(forms[i], in_folder("a.jsonl"), 0), 0);
        ASSERT_RUNS("build --tokenizer tok --out %d.h5 a.jsonl", i);
        cr_assert_eq(program_shell("set -e; for c in [0-2].h5; do h5dump -d tokens -d "
                                   "prompt_len $c | sed 1d >$c.txt; grep -q DATASET $c.txt; "
                                   "cmp 0.h5.txt $c.txt; done"),
                     0, "form %d\n%s", i, program_output);
        json_decref(forms[i]);
    }
    json_decref(g);
    put_text("a.jsonl", "{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}, "
                        "{\"from\": \"function_call\", \"value\": \"f(3)\"}]}\n");
    ASSERT_FAILS(1, "messages[1]: the call of a function must be JSON",
                 "build --tokenizer tok --out bad.h5 a.jsonl");
    put_text("a.jsonl", "{\"query\": \"q\", \"response\": \"r\", \"tools\": \"f(x)\"}\n");
    ASSERT_FAILS(1, "\"tools\" is a text, but not of a JSON array",
                 "build --tokenizer tok --out bad.h5 a.jsonl");
}

/* Templates that print a prompt alone, or nothing, would teach models to say nothing. */
Test(data_tokenizer, templates_without_answers)
{
    static const char *const templates[] = {"", "{{ messages[0].content }}",
                                            ("{% for m in messages %}{% if m.role == 'user' %}{{ "
                                             "m.content }}<|im_end|>{% endif %}{% endfor %}")};
    put_text("a.jsonl", "{\"query\": \"q\", \"response\": \"r\"}\n");
    put_text("m.jsonl", "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}\n");
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        put_tokenizer(templates[i], "<|im_end|>");
        ASSERT_FAILS(1, "a.jsonl:1: messages[1]: the chat template prints nothing of the answer",
                     "build --tokenizer tok --out a.h5 a.jsonl");
    }
    ASSERT_RUNS("render --tokenizer tok <m.jsonl");
    cr_assert_str_eq(program_output, "{\"text\": \"\", \"ids\": []}\n");
}

/* A corpus tells plain text by a prompt of one token, and a text that goes on by one of none. */
Test(data_tokenizer, prompts_of_less_than_two_tokens_are_refused)
{
    static const char *const templates[] = {
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<|im_end|>{% endif %}"
        "{% endfor %}",
        "{% for m in messages if m.role == 'assistant' %}{{ m.content }}<|im_end|>{% endfor %}",
        "<|im_end|>{% for m in messages if m.role == 'assistant' %}{{ m.content }}<|im_end|>"
        "{% endfor %}"};
    static const char *const said[] = {"is 1 token long", "is 0 tokens long", "is 1 token long"};
    put_text("a.jsonl", "{\"query\": \"a\", \"response\": \"bc\"}\n");
    put_text("c.jsonl",
             "{\"query\": \"a\", \"response\": \"bc\"}\n{\"text\": \"t\"}\n"
             "{\"query\": \"a\", \"response\": \"bc\", \"history\": [[\"d\", \"ef\"]]}\n");
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        put_tokenizer(templates[i], "<|im_end|>");
        ASSERT_FAILS(1, said[i], "build --tokenizer tok --out a.h5 a.jsonl");
        cr_expect(strstr(program_messages, "a.jsonl:1: messages[1]: the prompt of this answer"),
                  "%s", program_messages);
        ASSERT_FAILS(1, said[i], "build --tokenizer tok --turns all --out a.h5 a.jsonl");
    }
    put_tokenizer(templates[0], "<|im_end|>");
    ASSERT_RUNS("build --tokenizer tok --skip-bad --out c.h5 c.jsonl");
    cr_expect(strstr(program_messages, "2 bad lines left out"), "%s", program_messages);
    ASSERT_RUNS("info --verify c.h5");
    /* Of the last answer the prompt is long enough, of the first it is not. */
    put_text("d.jsonl",
             "{\"query\": \"a\", \"response\": \"bc\", \"history\": [[\"d\", \"ef\"]]}\n");
    ASSERT_FAILS(1, "d.jsonl:1: messages[1]: the prompt",
                 "build --tokenizer tok --turns all --out d.h5 d.jsonl");
    put_text("d.jsonl", "{\"query\": \"ab cd ef\", \"response\": \"bc\"}\n");
    ASSERT_RUNS("build --tokenizer tok --out d.h5 d.jsonl");
    ASSERT_RUNS("info --verify d.h5");
}

Test(data_tokenizer, render_refuses_bad_records)
{
    put_tokenizer("qwen3", "<|im_end|>");
    put_text("a.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"tools\": 3}");
    ASSERT_FAILS(1, "standard input:1: field \"tools\" must be an array",
                 "render --tokenizer tok <a.jsonl");
    put_tokenizer("llama3", "<|eot_id|>");
    put_text("a.jsonl",
             "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"tools\": [{}]}");
    ASSERT_FAILS(1, "the chat template has no tools: remove them",
                 "render --tokenizer tok <a.jsonl");
    ASSERT_FAILS(2, "unknown tokenizer", "render --tokenizer nowhere <a.jsonl");
}

/* The ids of the file's texts give the texts again. */
static void assert_round_trip(const char *tokenizer, const char *file)
{
    ASSERT_RUNS("encode --tokenizer %s <%s >ids.jsonl", tokenizer, file);
    ASSERT_RUNS("decode --tokenizer %s <ids.jsonl >back.jsonl", tokenizer);
    assert_same_file(in_folder("back.jsonl"), in_folder(file));
}

Test(data_tokenizer, train_tokenizer)
{
    rf_text lines = {0};
    char line[256];
    for (int i = 0; i < 300; i++) {
        snprintf(
            line, sizeof line,
            "{\"text\": \"The %d words of line %d are many words, \\n\\tsaid \u00c9t\u00e9.\"}\n",
            i % 17, i);
        rf_text_add_string(&lines, line);
    }
    put_bytes("t.jsonl", lines.data, lines.bytes);
    ASSERT_RUNS("train-tokenizer --out a.json --vocab-size 280 --jobs 1 t.jsonl");
    cr_assert_str_empty(program_output);
    cr_assert_not_null(strstr(program_messages, "a.json: 280 tokens"), "%s", program_messages);
    ASSERT_RUNS("train-tokenizer --out b.json --vocab-size 280 --jobs 3 t.jsonl");
    assert_same_file(in_folder("a.json"), in_folder("b.json"));
    rf_tokenizer *t;
    rf_error err;
    cr_assert_eq(rf_tokenizer_load(&t, in_folder("a.json"), &err), RF_OK, "%s", err.message);
    cr_assert_eq(rf_tokenizer_size(t), 282);
    const rf_specials *s = rf_tokenizer_specials(t);
    cr_assert(s->n_eos == 1 && s->begin == 280 && s->mask == 281);
    cr_assert_str_eq(rf_tokenizer_special_name(t, s->eos[0]), "<|endoftext|>");
    rf_ids ids = {0};
    cr_assert_eq(rf_tokenizer_encode(t, &ids, " words", 6, &err), RF_OK);
    cr_assert_eq(ids.n, 1, "a frequent word is one token");
    rf_ids_free(&ids);
    rf_tokenizer_free(t);
    put_text("plain.jsonl",
             "{\"text\": \"words said\"}\n{\"text\": \"1234  x \xF0\x9F\x98\x80\xE6\x97\xA5\"}\n");
    assert_round_trip("a.json", "plain.jsonl");
    /* As the tokenizer of a corpus. */
    ASSERT_RUNS("build --tokenizer a.json --out c.h5 t.jsonl");
    ASSERT_RUNS("info c.h5");
    rf_text_free(&lines);
}

Test(data_tokenizer, train_tokenizer_refuses)
{
    put_text("t.jsonl", "{\"text\": \"a\"}\n{\"text\": }\n");
    ASSERT_FAILS(2, "--out FILE is missing", "train-tokenizer t.jsonl");
    ASSERT_FAILS(2, "FILE is missing", "train-tokenizer --out a.json");
    ASSERT_FAILS(2, "--vocab-size", "train-tokenizer --out a.json --vocab-size 3 t.jsonl");
    ASSERT_FAILS(2, "--jobs", "train-tokenizer --out a.json --jobs 0 t.jsonl");
    ASSERT_FAILS(1, "none.jsonl", "train-tokenizer --out a.json none.jsonl");
    ASSERT_FAILS(1, "t.jsonl:2", "train-tokenizer --out a.json t.jsonl");
    put_text("good.jsonl", "{\"text\": \"a b a b\"}\n");
    ASSERT_FAILS(1, "no/a.json", "train-tokenizer --out no/a.json good.jsonl");
    cr_assert(!rf_path_exists(in_folder("a.json")));
    /* Fewer pairs than tokens were asked for: said, no error. */
    ASSERT_RUNS("train-tokenizer --out a.json good.jsonl");
    cr_assert_not_null(strstr(program_messages, "no more pairs were frequent enough"), "%s",
                       program_messages);
}
