#include "infer/prompts.h"

#include "common/base/file.h"
#include "tests/infer/infer_test.h"

#include <stdio.h>
#include <unistd.h>
#include <zlib.h>

enum { EOS = 256, BEGIN = 258, SYSTEM = 259, USER = 260, ASSISTANT = 261 };

static char folder[64];
static rf_tokenizer *tokenizer;

static void begin(void)
{
    snprintf(folder, sizeof folder, "/tmp/rf-prompts-XXXXXX");
    cr_assert(mkdtemp(folder) != NULL && chdir(folder) == 0);
    tokenizer = byte_tokenizer();
}

static void end(void)
{
    char command[128];
    rf_tokenizer_free(tokenizer);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert(chdir("/") == 0 && system(command) == 0);
}

TestSuite(prompts, .init = begin, .fini = end);

static void put(const char *text)
{
    TINY_MUST(rf_file_write("p.jsonl", text, strlen(text), tiny_error()));
}

static rf_prompt parse(const char *line)
{
    rf_prompt prompt;
    TINY_MUST(rf_prompt_from_json(&prompt, tokenizer, line, strlen(line), "here", tiny_error()));
    return prompt;
}

/* ids: characters stand for themselves, other ids in their order. */
static void expect_ids(const rf_prompt *prompt, const int32_t *id, int64_t n)
{
    cr_assert(prompt->ids.n == n, "%lld ids", (long long)prompt->ids.n);
    cr_assert(memcmp(prompt->ids.id, id, (size_t)n * sizeof(*id)) == 0);
}

Test(prompts, every_form)
{
    rf_prompt p = parse("{\"query\": \"hi\", \"response\": \"ja\", \"else\": 1}");
    expect_ids(&p, (int32_t[]){USER, 'h', 'i', ASSISTANT}, 4);
    cr_assert(strcmp(p.query, "hi") == 0 && strcmp(p.expected, "ja") == 0);
    rf_prompt_free(&p);
    cr_assert(p.query == NULL && p.ids.id == NULL);

    p = parse("{\"query\": \"hi\"}");
    cr_assert(p.expected == NULL);
    rf_prompt_free(&p);

    p = parse("{\"messages\": [{\"role\": \"system\", \"content\": \"s\"},"
              " {\"role\": \"user\", \"content\": \"a\"},"
              " {\"role\": \"assistant\", \"content\": \"b\"},"
              " {\"role\": \"user\", \"content\": \"c\"},"
              " {\"role\": \"assistant\", \"content\": \"d\"}]}");
    expect_ids(&p, (int32_t[]){SYSTEM, 's', USER, 'a', ASSISTANT, 'b', EOS, USER, 'c', ASSISTANT},
               10);
    cr_assert(strcmp(p.query, "c") == 0 && strcmp(p.expected, "d") == 0);
    rf_prompt_free(&p);

    p = parse("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}");
    expect_ids(&p, (int32_t[]){USER, 'a', ASSISTANT}, 3);
    cr_assert(p.expected == NULL);
    rf_prompt_free(&p);

    TINY_MUST(rf_prompt_from_text(&p, tokenizer, "ab", true, tiny_error()));
    expect_ids(&p, (int32_t[]){BEGIN, 'a', 'b'}, 3);
    rf_prompt_free(&p);
    TINY_MUST(rf_prompt_from_text(&p, tokenizer, "", true, tiny_error()));
    expect_ids(&p, (int32_t[]){BEGIN}, 1);
    rf_prompt_free(&p);
}

Test(prompts, files)
{
    rf_prompt *p;
    int64_t n;
    gzFile file;

    put("\n{\"query\": \"a\"}\n  \t\r\n{\"query\": \"abc\"}\r\n{\"query\": \"ab\"}");
    TINY_MUST(rf_prompts_read(&p, &n, "p.jsonl", tokenizer, 0, tiny_error()));
    cr_assert(n == 3 && strcmp(p[2].query, "ab") == 0 && rf_prompts_longest(p, n) == 5);
    rf_prompts_free(p, n);
    TINY_MUST(rf_prompts_read(&p, &n, "p.jsonl", tokenizer, 2, tiny_error()));
    cr_assert(n == 2 && strcmp(p[1].query, "abc") == 0);
    rf_prompts_free(p, n);

    cr_assert_not_null(file = gzopen("p.jsonl.gz", "wb"));
    for (int i = 0; i < 200; i++) {
        cr_assert(gzprintf(file, "{\"query\": \"%d\"}\n", i) > 0);
    }
    cr_assert(gzclose(file) == Z_OK);
    TINY_MUST(rf_prompts_read(&p, &n, "p.jsonl.gz", tokenizer, 0, tiny_error()));
    cr_assert(n == 200 && strcmp(p[199].query, "199") == 0);
    rf_prompts_free(p, n);
}

/* A file whose third line is wrong: the message begins with file and line. */
Test(prompts, mistakes_are_named_by_file_and_line)
{
    static const char *const wrong[][2] = {
        {"{\"query\": 3}", "needs \"query\" (a string) or \"messages\""},
        {"{\"question\": \"a\"}", "needs \"query\""},
        {"{\"query\": \"a\", \"response\": 5}", "\"response\" is not a string"},
        {"{\"query\": \"a\"", "not valid JSON"},
        {"{\"query\": \"a\"} x", "not valid JSON"},
        {"{\"query\": \"\xff\"}", "not valid JSON"},
        {"{\"query\": \"a\", \"query\": \"b\"}", "not valid JSON"},
        {"[\"a\"]", "not a JSON object"},
        {"{\"messages\": \"a\"}", "\"messages\" is not an array"},
        {"{\"messages\": []}", "no message of role \"user\""},
        {"{\"messages\": [{\"role\": \"system\", \"content\": \"a\"}]}", "no message of role"},
        {"{\"messages\": [{\"role\": \"user\"}]}", "messages[0] needs"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, 4, {\"role\": \"user\"}]}",
         "messages[1] needs"},
        {"{\"messages\": [{\"role\": \"king\", \"content\": \"a\"},"
         " {\"role\": \"user\", \"content\": \"b\"}]}",
         "king"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[512];
        rf_prompt *p;
        int64_t n;
        rf_error err = {0};
        snprintf(text, sizeof text, "{\"query\": \"a\"}\n\n%s\n{\"query\": \"b\"}\n", wrong[i][0]);
        put(text);
        cr_assert(rf_prompts_read(&p, &n, "p.jsonl", tokenizer, 0, &err) == RF_ERR && p == NULL &&
                      n == 0,
                  "%s was taken", wrong[i][0]);
        cr_assert(strncmp(err.message, "p.jsonl:3: ", 11) == 0 && strstr(err.message, wrong[i][1]),
                  "%s: %s", wrong[i][0], err.message);
    }
}

Test(prompts, bad_files_are_refused)
{
    rf_prompt *p;
    int64_t n;
    rf_error err = {0};
    cr_assert(rf_prompts_read(&p, &n, "missing.jsonl", tokenizer, 0, &err) != RF_OK &&
              strstr(err.message, "missing.jsonl"));
    put("");
    cr_assert(rf_prompts_read(&p, &n, "p.jsonl", tokenizer, 0, &err) != RF_OK &&
              strstr(err.message, "p.jsonl"));
    put("\n \n");
    cr_assert(rf_prompts_read(&p, &n, "p.jsonl", tokenizer, 0, &err) != RF_OK &&
              strstr(err.message, "holds no question"));
}

/* A zero byte would cut what checkers and printers see of a text. */
Test(prompts, zero_bytes_are_refused)
{
    static const char *const lines[] = {
        "{\"query\": \"a\\u0000b\"}", "{\"query\": \"a\", \"response\": \"a\\u0000b\"}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\\u0000b\"}]}"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        rf_prompt p;
        rf_error err = {0};
        cr_assert(rf_prompt_from_json(&p, tokenizer, lines[i], strlen(lines[i]), "f:1", &err) ==
                      RF_ERR,
                  "%s was taken", lines[i]);
        cr_assert(strncmp(err.message, "f:1: ", 5) == 0, "%s", err.message);
    }
}
