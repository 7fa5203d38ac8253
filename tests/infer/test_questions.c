#include "infer/questions.h"

#include "common/base/files/file.h"
#include "tests/infer/infer_test.h"
#include "tests/scratch.h"

#include <stdio.h>
#include <unistd.h>
#include <zlib.h>

enum { EOS = 256, BEGIN = 258, SYSTEM = 259, USER = 260, ASSISTANT = 261 };

static rf_tokenizer *tokenizer;
static char *small; /* tests/golden/tokenizer_small.json */
static size_t small_bytes;

static void begin(void)
{
    TINY_MUST(rf_file_read(&small, &small_bytes, "tests/golden/tokenizer_small.json", 1 << 20,
                           tiny_error()));
    enter_folder();
    tokenizer = byte_tokenizer();
}

static void end(void)
{
    rf_tokenizer_free(tokenizer);
    free(small);
    leave_folder();
}

TestSuite(questions, .init = begin, .fini = end);

static void put(const char *text)
{
    TINY_MUST(rf_file_write("p.jsonl", text, strlen(text), tiny_error()));
}

static rf_question parse(const char *line)
{
    rf_question prompt;
    TINY_MUST(rf_question_from_json(&prompt, tokenizer, line, strlen(line), "here", tiny_error()));
    return prompt;
}

/* ids: characters stand for themselves, other ids in their order. */
static void expect_ids(const rf_question *prompt, const int32_t *id, int64_t n)
{
    cr_assert(prompt->ids.n == n, "%lld ids", (long long)prompt->ids.n);
    cr_assert(memcmp(prompt->ids.id, id, (size_t)n * sizeof(*id)) == 0);
}

Test(questions, every_form)
{
    rf_question p = parse("{\"query\": \"hi\", \"response\": \"ja\", \"else\": 1}");
    expect_ids(&p, (int32_t[]){USER, 'h', 'i', ASSISTANT}, 4);
    cr_assert(strcmp(p.item.query, "hi") == 0 && strcmp(p.item.expected, "ja") == 0);
    rf_question_free(&p);
    cr_assert(p.item.query == NULL && p.ids.id == NULL);

    p = parse("{\"question\": \"hi\", \"answer\": \"\", \"system\": \"s\", \"n\": NaN}");
    expect_ids(&p, (int32_t[]){SYSTEM, 's', USER, 'h', 'i', ASSISTANT}, 6);
    cr_assert(p.item.expected == NULL); /* an empty answer is no reference */
    rf_question_free(&p);

    p = parse("{\"query\": \"hi\"}");
    cr_assert(p.item.expected == NULL);
    rf_question_free(&p);

    p = parse("{\"messages\": [{\"role\": \"system\", \"content\": \"s\"},"
              " {\"role\": \"user\", \"content\": \"a\"},"
              " {\"role\": \"assistant\", \"content\": \"b\"},"
              " {\"role\": \"user\", \"content\": \"c\"},"
              " {\"role\": \"assistant\", \"content\": \"d\"}]}");
    expect_ids(&p, (int32_t[]){SYSTEM, 's', USER, 'a', ASSISTANT, 'b', EOS, USER, 'c', ASSISTANT},
               10);
    cr_assert(strcmp(p.item.query, "c") == 0 && strcmp(p.item.expected, "d") == 0);
    rf_question_free(&p);

    p = parse("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}");
    expect_ids(&p, (int32_t[]){USER, 'a', ASSISTANT}, 3);
    cr_assert(p.item.expected == NULL);
    rf_question_free(&p);

    TINY_MUST(rf_question_from_text(&p, tokenizer, "ab", true, tiny_error()));
    expect_ids(&p, (int32_t[]){BEGIN, 'a', 'b'}, 3);
    rf_question_free(&p);
    TINY_MUST(rf_question_from_text(&p, tokenizer, "", true, tiny_error()));
    expect_ids(&p, (int32_t[]){BEGIN}, 1);
    rf_question_free(&p);
}

/* Qwen3's template on the small tokenizer. */
static void load_chat(void)
{
    static const char config[] =
        "{\"chat_template\": \"qwen3\", \"added_tokens_decoder\": {\"382\": "
        "{\"content\": \"<|im_end|>\", \"special\": true}}}";
    rf_tokenizer_free(tokenizer);
    tokenizer = NULL;
    TINY_MUST(rf_file_write("tokenizer.json", small, small_bytes, tiny_error()));
    TINY_MUST(rf_file_write("tokenizer_config.json", config, strlen(config), tiny_error()));
    TINY_MUST(rf_tokenizer_load(&tokenizer, ".", tiny_error()));
}

/* Shots stand behind what the system says, the instruction below each question, whatever form the
 * record has. */
Test(questions, style_of_conversations)
{
    static const char *const lines[] = {
        "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", "
        "\"content\": \"a\"}]}\n",
        "{\"system\": \"s\", \"query\": \"a\", \"response\": \"b\"}\n"};
    static const char expected[] =
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nc\nHm.<|im_end|>\n<|im_start|>"
        "assistant\n"
        "d<|im_end|>\n<|im_start|>user\na\nHm.<|im_end|>\n<|im_start|>assistant\n";
    const rf_question_style style = {.instruction = "Hm.", .n_shots = 1, .shots_from = "shots"};
    static const char shots[] =
        "{\"query\": \"a\", \"response\": \"x\"}\n{\"query\": \"c\", \"response\": \"d\"}\n";
    load_chat();
    TINY_MUST(rf_file_write("shots", shots, strlen(shots), tiny_error()));
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        rf_question *q;
        int64_t n;
        rf_ids ids = {0};
        put(lines[i]);
        TINY_MUST(rf_questions_read_styled(&q, &n, "p.jsonl", tokenizer, 0, &style, tiny_error()));
        TINY_MUST(rf_tokenizer_encode(tokenizer, &ids, expected, strlen(expected), tiny_error()));
        expect_ids(&q[0], ids.id, ids.n);
        cr_assert_str_eq(q[0].item.query, "a"); /* checkers do not see the instruction */
        rf_ids_free(&ids);
        rf_questions_free(q, n);
    }
}

/* Tools, thinking, calls and reasoning reach the template: Qwen3's, on the small tokenizer. */
Test(questions, chat_template_gets_the_whole_record)
{
    static const char *const cases[][2] = {
        {"\"enable_thinking\": false, \"messages\": [{\"role\": \"user\", \"content\": \"a\"}]",
         "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"},
        {"\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", "
         "\"reasoning_content\": \"r\", \"content\": \"\", \"tool_calls\": [{\"name\": \"f\", "
         "\"arguments\": {}}]}, {\"role\": \"tool\", \"content\": \"3\"}, {\"role\": "
         "\"assistant\", \"content\": \"b\"}]",
         "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\nr\n</"
         "think>\n\n<tool_call>\n"
         "{\"name\": \"f\", \"arguments\": {}}\n</tool_call><|im_end|>\n<|im_start|>user\n"
         "<tool_response>\n3\n</tool_response><|im_end|>\n<|im_start|>assistant\n"},
    };
    load_chat();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[1024];
        rf_ids ids = {0};
        snprintf(line, sizeof line, "{%s}", cases[i][0]);
        rf_question p = parse(line);
        TINY_MUST(
            rf_tokenizer_encode(tokenizer, &ids, cases[i][1], strlen(cases[i][1]), tiny_error()));
        expect_ids(&p, ids.id, ids.n);
        cr_assert(strcmp(p.item.query, "a") == 0);
        cr_assert(i == 0 ? p.item.expected == NULL : strcmp(p.item.expected, "b") == 0);
        rf_ids_free(&ids);
        rf_question_free(&p);
    }
}

Test(questions, files)
{
    rf_question *p;
    int64_t n;
    gzFile file;

    put("\n{\"query\": \"a\"}\n  \t\r\n{\"query\": \"abc\"}\r\n{\"query\": \"ab\"}");
    TINY_MUST(rf_questions_read(&p, &n, "p.jsonl", tokenizer, 0, tiny_error()));
    cr_assert(n == 3 && strcmp(p[2].item.query, "ab") == 0 && rf_questions_longest(p, n) == 5);
    rf_questions_free(p, n);
    TINY_MUST(rf_questions_read(&p, &n, "p.jsonl", tokenizer, 2, tiny_error()));
    cr_assert(n == 2 && strcmp(p[1].item.query, "abc") == 0);
    rf_questions_free(p, n);

    /* As a corpus is built: a byte order mark, and what no one reads of a record, do not matter. */
    put("\xEF\xBB\xBF{\"query\": \"a\", \"n\": 123456789012345678901, \"s\": \"\\u0000\"}\n");
    TINY_MUST(rf_questions_read(&p, &n, "p.jsonl", tokenizer, 0, tiny_error()));
    cr_assert(n == 1 && strcmp(p[0].item.query, "a") == 0);
    rf_questions_free(p, n);

    put(" [ {\"query\": \"a\", \"x\": [{\"]}\": 1}]}, {\"query\":\n \"abc\"}\n\n,{\"query\": "
        "\"ab\"}]\n");
    TINY_MUST(rf_questions_read(&p, &n, "p.jsonl", tokenizer, 0, tiny_error()));
    cr_assert(n == 3 && strcmp(p[1].item.query, "abc") == 0 && strcmp(p[2].item.query, "ab") == 0);
    rf_questions_free(p, n);
    TINY_MUST(rf_questions_read(&p, &n, "p.jsonl", tokenizer, 2, tiny_error()));
    cr_assert(n == 2);
    rf_questions_free(p, n);

    cr_assert_not_null(file = gzopen("p.jsonl.gz", "wb"));
    for (int i = 0; i < 200; i++) {
        cr_assert(gzprintf(file, "{\"query\": \"%d\"}\n", i) > 0);
    }
    cr_assert(gzclose(file) == Z_OK);
    TINY_MUST(rf_questions_read(&p, &n, "p.jsonl.gz", tokenizer, 0, tiny_error()));
    cr_assert(n == 200 && strcmp(p[199].item.query, "199") == 0);
    rf_questions_free(p, n);
}

/* A file whose third line is wrong: the message begins with file and line. */
Test(questions, mistakes_are_named_by_file_and_line)
{
    static const char *const wrong[][2] = {
        {"{\"query\": 3}", "\"query\" must be a string, but is a number"},
        {"{\"query\": \"\"}", "\"query\" is empty"},
        {"{\"response\": \"a\"}", "\"query\" is missing"},
        {"{\"task\": \"a\"}", "needed are \"query\""},
        {"{\"text\": \"a\"}", "is no question"},
        {"{\"query\": \"a\", \"response\": 5}", "\"response\" must be a string"},
        {"{\"query\": \"a\"", "malformed JSON"},
        {"{\"query\": \"a\"} x", "malformed JSON"},
        {"{\"query\": \"\xff\"}", "invalid UTF-8"},
        {"{\"query\": \"a\", \"query\": \"b\"}", "malformed JSON"},
        {"[\"a\"]", "a JSON object is needed"},
        {"{\"messages\": \"a\"}", "\"messages\" must be an array"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"\"}]}", "content is empty"},
        {"{\"messages\": []}", "\"messages\" is empty"},
        {"{\"messages\": [{\"role\": \"system\", \"content\": \"a\"}]}", "no message of role"},
        {"{\"messages\": [{\"role\": \"user\"}]}", "messages[0]: field \"content\" is missing"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, 4, {\"role\": \"user\"}]}",
         "messages[1]: must be an object"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"tools\": [{}]}",
         "no form for tools"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"enable_thinking\": 1}",
         "\"enable_thinking\" must be true or false"},
        {"{\"messages\": [{\"role\": \"king\", \"content\": \"a\"},"
         " {\"role\": \"user\", \"content\": \"b\"}]}",
         "king"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[512];
        rf_question *p;
        int64_t n;
        rf_error err = {0};
        snprintf(text, sizeof text, "{\"query\": \"a\"}\n\n%s\n{\"query\": \"b\"}\n", wrong[i][0]);
        put(text);
        cr_assert(rf_questions_read(&p, &n, "p.jsonl", tokenizer, 0, &err) == RF_ERR && p == NULL &&
                      n == 0,
                  "%s was taken", wrong[i][0]);
        cr_assert(strncmp(err.message, "p.jsonl:3: ", 11) == 0 && strstr(err.message, wrong[i][1]),
                  "%s: %s", wrong[i][0], err.message);
    }
}

Test(questions, bad_files_are_refused)
{
    rf_question *p;
    int64_t n;
    rf_error err = {0};
    cr_assert(rf_questions_read(&p, &n, "missing.jsonl", tokenizer, 0, &err) != RF_OK &&
              strstr(err.message, "missing.jsonl"));
    put("[{\"query\": \"a\"}, 5]");
    cr_assert(rf_questions_read(&p, &n, "p.jsonl", tokenizer, 0, &err) != RF_OK &&
              strstr(err.message, "p.jsonl:1: the array holds something else"));
    put("[{\"query\": \"a\"},\n{\"query\"");
    cr_assert(rf_questions_read(&p, &n, "p.jsonl", tokenizer, 0, &err) != RF_OK &&
              strstr(err.message, "ends too early"));
    put("[\n{\"query\": \"a\"},\n\n{\"query\":\n3}]");
    cr_assert(rf_questions_read(&p, &n, "p.jsonl", tokenizer, 0, &err) != RF_OK &&
              strstr(err.message, "p.jsonl:4: field \"query\" must be a string"));
    put("PAR1");
    cr_assert(rf_questions_read(&p, &n, "p.jsonl", tokenizer, 0, &err) != RF_OK &&
              strstr(err.message, "p.jsonl: is a Parquet file"));
    put("");
    cr_assert(rf_questions_read(&p, &n, "p.jsonl", tokenizer, 0, &err) != RF_OK &&
              strstr(err.message, "p.jsonl"));
    put("\n \n");
    cr_assert(rf_questions_read(&p, &n, "p.jsonl", tokenizer, 0, &err) != RF_OK &&
              strstr(err.message, "holds no question"));
}

/* A zero byte would cut what checkers and printers see of a text. */
Test(questions, zero_bytes_are_refused)
{
    static const char *const lines[] = {
        "{\"query\": \"a\\u0000b\"}", "{\"query\": \"a\", \"response\": \"a\\u0000b\"}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\\u0000b\"}]}"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        rf_question p;
        rf_error err = {0};
        cr_assert(rf_question_from_json(&p, tokenizer, lines[i], strlen(lines[i]), "f:1", &err) ==
                      RF_ERR,
                  "%s was taken", lines[i]);
        cr_assert(strncmp(err.message, "f:1: ", 5) == 0, "%s", err.message);
    }
}
