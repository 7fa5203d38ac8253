/* Builds that are refused: records, files, outputs, sides of a split. */
#include "tests/data/corpus/build_test.h"

TestSuite(build_refuses, .init = begin_folder, .fini = end_folder);

static const struct {
    const char *line, *part;
} bad_lines[] = {
    {"{\"query\": \"q\", \"response\": \"r\"", "malformed JSON"},
    {"not JSON", "malformed JSON"},
    {"{", "malformed JSON at column 1 (string or '}' expected near end of file): it goes on in the "
          "next line"},
    {"{\"data\": [ ", "records in a list under a key, {\"data\": [...]}, are taken out by: jq"},
    {"{\"query\": \"q\", \"response\": \"r\"} {}", "malformed JSON"},
    {"{\"text\": \"\\ud800\"}", "malformed JSON"},
    {"{\"text\": \"a\x01\"}", "malformed JSON"},
    {"{\"text\": \"a\", \"text\": \"b\"}", "malformed JSON"},
    {"{\"text\": \"\xFF\"}", "invalid UTF-8 at byte 11"},
    {"[{\"text\": \"a\"}]", "an array"},
    {"{}", "present: none"},
    {"{\"task\": \"a\", \"gold\": \"b\"}", "\"task\", \"gold\""},
    {"{\"prompt\": \"a\"}", "\"response\" is missing"},
    {"{\"answer\": \"a\"}", "present: \"answer\""},
    {"{\"prompt\": \"a\", \"question\": \"b\", \"answer\": \"c\"}",
     "both \"prompt\" and \"question\""},
    {"{\"question\": \"\", \"answer\": \"b\"}", "\"question\" is empty"},
    {"{\"instruction\": \"a\", \"output\": \"b\", \"text\": \"c\"}", "mixes"},
    {"{\"prompt\": [], \"completion\": \"b\", \"text\": \"c\"}", "mixes"},
    {"{\"prompt\": [3], \"completion\": [4]}", "\"prompt\" must be a string, but is an array"},
    {"{\"prompt\": [], \"completion\": []}", "\"prompt\" must be a string, but is an array"},
    {"{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"completion\": [4]}",
     "messages[1]"},
    {"{\"source\": \"a\"}", "--map takes them from other fields"},
    {"{\"query\": \"a\", \"response\": \"b\", \"history\": \"c\"}", "\"history\" must be an array"},
    {"{\"query\": \"a\", \"response\": \"b\", \"history\": [[\"c\"]]}", "history[0] must be"},
    {"{\"query\": \"a\", \"response\": \"b\", \"system\": 5}", "\"system\" must be a string"},
    {"{\"query\": \"a\", \"response\": \"b\", \"tools\": 5}", "\"tools\" must be"},
    {"{\"system\": \"s\", \"messages\": [{\"role\": \"developer\", \"content\": \"t\"}, " USER(
         "\"a\"") ", " ASSISTANT("\"b\"") "]}",
     "\"system\" stands beside"},
    {"{\"messages\": [" USER(
         "\"a\"") ", {\"role\": \"assistant\", \"content\": \"b\", \"weight\": 0.5}]}",
     "messages[1]: weight 0.5"},
    {"{\"messages\": [" USER(
         "\"a\"") ", {\"role\": \"assistant\", \"content\": \"b\", \"weight\": 0}]}",
     "no message of the assistant"},
    {"{\"messages\": [" USER(
         "\"a\"") ", {\"role\": \"assistant\", \"content\": \"b\", \"stopped\": true}]}",
     "no message of the assistant"},
    {"{\"messages\": [" USER(
         "\"a\"") ", {\"role\": \"assistant\", \"content\": \"b\", \"stopped\": \"no\"}]}",
     "messages[1]: field \"stopped\" must be 0, 1"},
    {"{\"messages\": [" USER("[{\"type\": \"image_url\"}]") ", " ASSISTANT("\"b\"") "]}",
     "messages[0]: part 0 of the content is no text (image_url)"},
    {"{\"conversations\": [{\"from\": \"bot\", \"value\": \"a\"}]}", "unknown speaker \"bot\""},
    /* What would change the meaning and is read by nobody. */
    {"{\"text\": \"t\", \"system\": \"s\"}", "\"system\" would be passed over"},
    {"{\"text\": \"t\", \"history\": [[\"a\", \"b\"]]}", "\"history\" would be passed over"},
    {"{\"history\": [[\"a\", \"b\"]], \"messages\": [" USER("\"a\"") ", " ASSISTANT("\"b\"") "]}",
     "\"history\" would be passed over"},
    {"{\"question\": \"a\", \"context\": \"c\", \"answer\": \"b\"}",
     "\"context\" beside \"question\""},
    {"{\"query\": \"a\", \"input\": \"c\", \"response\": \"b\"}", "\"input\" beside \"query\""},
    {"{\"instruction\": \"a\", \"input\": \"i\", \"context\": \"c\", \"output\": \"b\"}",
     "both \"input\" and \"context\" are there"},
    /* What an instruction is about is a text, and in one place. */
    {"{\"instruction\": \"a\", \"input\": 5, \"output\": \"b\"}",
     "\"input\" must be a string, but is a number: write it as a text"},
    {"{\"instruction\": \"a\", \"input\": [\"1\", \"2\"], \"output\": \"b\"}",
     "\"input\" must be a string, but is an array"},
    {"{\"instruction\": \"a\", \"input\": false, \"output\": \"b\"}",
     "\"input\" must be a string, but is true or false"},
    {"{\"instruction\": \"a\", \"input\": {}, \"output\": \"b\"}",
     "\"input\" must be a string, but is an object"},
    {"{\"instruction\": \"a\", \"input\": \"i\", \"context\": 5, \"output\": \"b\"}",
     "\"context\" must be a string, but is a number"},
    {"{\"question\": \"a\", \"input\": false, \"answer\": \"b\"}", "\"input\" beside \"question\""},
    {"{\"prompt\": \"a\", \"completion\": \"b\", \"suffix\": \"c\"}", "\"suffix\""},
    {"{\"prompt\": \"a\", \"completion\": \"b\", \"label\": false}", "\"label\""},
    {"{\"query\": \"a\", \"response\": \"b\", \"rejected\": \"c\"}", "\"rejected\""},
    {"{\"query\": \"a\", \"response\": \"b\", \"weight\": 0}", "\"weight\""},
    {"{\"query\": \"a\", \"response\": \"b\", \"weight\": \"0\"}", "\"weight\""},
    {"{\"query\": \"a\", \"response\": \"b\", \"weight\": false}", "\"weight\""},
    {"{\"query\": \"a\", \"response\": \"b\", \"train\": 0}", "\"train\""},
    {"{\"query\": \"a\", \"response\": \"b\", \"loss\": false}", "\"loss\""},
    {"{\"query\": \"a\", \"response\": \"b\", \"train\": false}", "\"train\""},
    {"{\"query\": \"a\", \"response\": \"b\", \"images\": [\"c.png\"]}", "\"images\""},
    {"{\"query\": \"a\", \"response\": \"b\", \"functions\": [{}]}", "\"functions\""},
    {"{\"query\": \"a\", \"response\": \"b\", \"documents\": [{}]}", "\"documents\""},
    {"{\"instruction\": \"a\", \"output\": \"b\", \"text\": \"a c\"}", "mixes"},
    {"{\"messages\": [" USER(
         "\"a\"") ", {\"role\": \"assistant\", \"content\": \"b\", \"thinking\": \"c\"}]}",
     "has no \"thinking\""},
    {"{\"messages\": [" USER(
         "\"a\"") ", {\"role\": \"assistant\", \"content\": \"b\", \"reasoning\": \"c\"}]}",
     "has no \"reasoning\""},
    {"{\"query\": \"a\", \"response\": \"b\", \"chat_template_kwargs\": {\"messages\": []}}",
     "chat_template_kwargs: \"messages\" comes from the record itself"},
    {"{\"query\": \"a\", \"response\": \"b\", \"enable_thinking\": true, "
     "\"chat_template_kwargs\": {\"enable_thinking\": false}}",
     "keep one of them"},
    {"{\"query\": \"a\", \"response\": \"b\", \"chat_template_kwargs\": {\"x\": 1}}",
     "\"chat_template_kwargs\""},
    {"{\"query\": \"a\", \"response\": \"b\", \"system\": \"s\", \"system_prompt\": \"t\"}",
     "both \"system\" and \"system_prompt\""},
    {"{\"messages\": [" USER("\"a\"") ", {\"role\": \"assistant\", \"content\": \"b\", "
                                      "\"weight\": \"0\"}]}",
     "messages[1]: field \"weight\" must be 0, 1"},
    {"{\"messages\": [" USER("\"a\"") ", {\"role\": \"assistant\", \"content\": \"b\", "
                                      "\"function_call\": {\"name\": \"f\"}}]}",
     "messages[1]: field \"function_call\""},
    {"{\"messages\": [" USER("\"a\"") ", {\"role\": \"assistant\", \"content\": \"b\", "
                                      "\"reasoning_content\": \"c\"}]}",
     "\"reasoning_content\""},
    /* Behind a 0 byte, and in what the answer is read beside. */
    {"{\"text\": \"a\\u0000\\ud800\"}", "half a pair of surrogates"},
    {"{\"messages\": [" USER("\"a\"") ", {\"role\": \"assistant\", \"content\": \"b\", "
                                      "\"reasoning_content\": \"\\ud800\"}]}",
     "half a pair of surrogates"},
    {"{\"instruction\": \"a\\u0000b\", \"output\": \"c\", \"text\": \"a c\"}", "mixes"},
    /* What is of another type than is read, or said twice. */
    {"{\"messages\": [" USER("[{\"type\": 5, \"text\": \"a\"}]") ", " ASSISTANT("\"b\"") "]}",
     "messages[0]: part 0 of the content is no text"},
    {"{\"prompt\": [" USER("\"a\"") "], \"completion\": 5}",
     "\"completion\" must be a string or a list of messages, but is a number"},
    {"{\"prompt\": [" USER("\"a\"") "], \"completion\": \"b\", \"input\": \"c\"}",
     "\"input\" beside \"prompt\""},
    {"{\"messages\": [" USER("\"a\"") ", " ASSISTANT("\"b\"") "], \"conversations\": [{\"from\": "
                                                              "\"human\", \"value\": \"c\"}]}",
     "both \"messages\" and \"conversations\" are there"},
    {"{\"conversations\": [{\"from\": 5, \"value\": \"a\", \"role\": \"user\", \"content\": "
     "\"b\"}]}",
     "conversations[0]: field \"from\" must be a string, but is a number"},
    {"{\"conversations\": [{\"from\": \"human\", \"value\": \"a\", \"content\": \"b\"}]}",
     "conversations[0]: both \"value\" and \"content\" are there"},
    {"{\"query\": \"a\\udc00\", \"response\": \"b\"}", "half a pair of surrogates"},
    {"{\"query\": \"a\", \"response\": \"b\", \"s\": NaNs}", "malformed JSON"},
    {"{\"query\": \"a\", \"response\": \"b\", \"s\": inf}", "malformed JSON"},
    {"{\"query\": \"q\"}", "\"response\" is missing"},
    {"{\"response\": \"r\"}", "\"query\" is missing"},
    {"{\"query\": 5, \"response\": \"r\"}", "\"query\" must be a string, but is a number"},
    {"{\"query\": \"q\", \"response\": null}", "\"response\" is missing"},
    {"{\"query\": \"q\", \"response\": [\"r\"]}", "but is an array"},
    {"{\"query\": \"\", \"response\": \"r\"}", "\"query\" is empty"},
    {"{\"query\": \"q\", \"response\": \"\"}", "\"response\" is empty"},
    {"{\"text\": \"\"}", "\"text\" is empty"},
    {"{\"text\": true}", "but is true or false"},
    {"{\"text\": \"a\", \"query\": \"q\", \"response\": \"r\"}", "mixes"},
    {"{\"messages\": [], \"text\": \"a\"}", "mixes"},
    {"{\"messages\": {}}", "must be an array, but is an object"},
    {"{\"messages\": []}", "is empty"},
    {"{\"messages\": [5]}", "messages[0]: must be an object"},
    {"{\"messages\": [{\"content\": \"a\"}]}", "messages[0]: field \"role\" is missing"},
    {"{\"messages\": [{\"role\": \"user\"}]}", "messages[0]: field \"content\" is missing"},
    {"{\"messages\": [" USER("5") "]}", "messages[0]: field \"content\" must be a string"},
    {"{\"messages\": [" USER("\"a\"") ", {\"role\": \"robot\", \"content\": \"\"}]}",
     "messages[1]: unknown role \"robot\""},
    {"{\"messages\": [" USER("\"a\"") "]}", "no message of the assistant"},
    {"{\"messages\": [" ASSISTANT("\"a\"") "]}", "speaks first"},
    {"{\"messages\": [" USER("\"a\"") ", " ASSISTANT("\"\"") "]}", "messages[1]: empty response"},
    {"{\"messages\": [" USER("\"\"") ", " ASSISTANT("\"b\"") "]}", "content is empty"},
};
enum { N_BAD = sizeof bad_lines / sizeof bad_lines[0] };

/* In the third line, behind blank lines, for one worker and for several: one line, with its place;
 * nothing is left behind, and an older output is as it was. */
Test(build_refuses, bad_lines_are_refused_by_place)
{
    for (int i = 0; i < N_BAD; i++) {
        char text[1024];
        snprintf(text, sizeof text, GOOD "\n%s\n" GOOD, bad_lines[i].line);
        const char *path = put_text("bad.jsonl", text);
        put_text("out.h5", "older");
        rf_build_source source = {path, 1, false};
        rf_build_settings s = settings_of(&source, 1);
        s.n_jobs = 1 + i % 3;
        rf_build_statistics statistics;
        rf_error err;
        cr_assert_eq(build_with(&statistics, s, &err), RF_ERR, "%s", bad_lines[i].line);
        char where[900];
        snprintf(where, sizeof where, "%s:3: ", path);
        assert_message(&err, where, bad_lines[i].part);
        cr_assert_null(statistics.kept);
        cr_assert_eq(count_files(), 2);
        size_t bytes;
        char *older = get_bytes(in_folder("out.h5"), &bytes);
        cr_assert_str_eq(older, "older");
        free(older);
    }
}

Test(build_refuses, bad_lines_are_skipped_and_counted)
{
    char *text = calloc(1, 65536);
    for (int i = 0; i < N_BAD; i++) {
        sprintf(text + strlen(text), "%s\n" GOOD, bad_lines[i].line);
    }
    rf_build_source source = {put_text("bad.jsonl", text), 1, false};
    free(text);
    rf_build_settings s = settings_of(&source, 1);
    s.skip_bad = true;
    rf_build_statistics statistics;
    rf_error err;
    /* Warnings go to stderr even when quiet. */
    cr_assert_not_null(freopen("/dev/null", "w", stderr));
    cr_assert_eq(build_with(&statistics, s, &err), RF_OK, "%s", err.message);
    cr_assert_eq(statistics.n_bad, N_BAD);
    cr_assert_eq(statistics.kept[0].n_samples, N_BAD);
    rf_build_statistics_free(&statistics);
    /* In a text the bad lines go, and a text that has no others goes whole. */
    rf_corpus *c = build_one(put_text("a.txt", "one\n\xFF\ntwo\n\n\xFE\n\nthree\n\xFF"),
                             (rf_build_settings){.skip_bad = true, .split_paragraphs = true});
    cr_assert_eq(c->n_samples, 2);
    assert_sample(c, 0, "<|beginoftext|>\xC2\xA6one\ntwo<|endoftext|>");
    assert_sample(c, 1, "<|beginoftext|>\xC2\xA6three\n<|endoftext|>");
    rf_corpus_close(c);
}

static void assert_fails(rf_build_settings s, const char *where, const char *part)
{
    rf_build_statistics statistics;
    rf_error err;
    int n = count_files();
    cr_assert_neq(build_with(&statistics, s, &err), RF_OK);
    assert_message(&err, where, part);
    cr_assert_eq(count_files(), n);
}

Test(build_refuses, bad_files_are_refused)
{
    rf_build_source source[2] = {{put_text("good.jsonl", GOOD), 1, false}, {"", 1, false}};
    char tar[512] = "name";
    memcpy(tar + 257, "ustar", 6);
    const struct {
        const char *path, *where, *part;
    } cases[] = {
        {put_text("empty.jsonl", ""), "", "empty"},
        {put_text("blank.txt", " \n\n\t\n"), "", "blank lines"},
        {put_text("latin1.txt", "fine\nfa\xE7"
                                "ade\n"),
         ":2: ", "UTF-8"},
        {put_text("pretty.json", "{\n \"text\": \"a\"\n}\n"), ":1: ", "one object a line"},
        {put_text("array.json", "[{\"text\": \"a\"}, 5]"), ":1: ", "something else than objects"},
        {put_text("cut.json", "[{\"text\": \"a\"},\n{\"text\": "), ":2: ", "malformed JSON"},
        {put_text("open.json", "[{\"text\": \"a\"},\n"), "", "ends too early"},
        {put_text("behind.json", "[{\"text\": \"a\"}]\n{\"text\": \"b\"}"),
         ":2: ", "something else"},
        {put_text("wrong.json", "[\n{\"text\": \"a\"},\n{\"text\":\n5}]"),
         ":3: ", "must be a string"},
        {put_text("none.json", "[]"), "", "empty"},
        {in_folder("missing.jsonl"), "", "No such file"},
        {put_text("a.csv", "query,response\n"), "", "a table (comma-separated values)"},
        {put_text("a.tsv", "query\tresponse\n"), "", "a table (tab-separated values)"},
        {put_text("a.parquet", "PAR1\x15\n"), "", "a Parquet file"},
        {put_text("zstd.jsonl", "\x28\xB5\x2F\xFD\n"), "", "compressed by zstd"},
        {put_text("a.xlsx", "PK\x03\x04\n"), "", "a ZIP archive"},
        {put_text("lfs.jsonl", "version https://git-lfs.github.com/spec/v1\n"), "", "Git LFS"},
        {put_bytes("a.tar", tar, sizeof tar), "", "a tar archive"},
        {put_text("records.txt", "\n {\"text\": \"a\"}\n"),
         ":2: ", "JSON under the name of a text"},
        {put_text("array.txt", "[{\"text\": \"a\"}]"), ":1: ", "JSON under the name of a text"},
        {put_text("open.txt", "[\n{\"text\": \"a\"}]"), ":1: ", "JSON under the name of a text"},
        {put_text("table.txt", "query,response\n\"a, b\",c\n"), ":2: ", "a table by its first two"},
        {put_text("table", "a;b\r\n1;2\r\n"), ":2: ", "a table by its first two"},
        {put_text("tabs.txt", "a\tb\n1\t2"), ":2: ", "a table by its first two"},
        {put_bytes("zero.txt", "fine\nnot\0fine", 13), ":2: ", "a 0 byte"},
        {put_bytes("program",
                   "\x7f"
                   "ELF\0",
                   5),
         "", "a program"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char where[900];
        snprintf(where, sizeof where, "%s%s", cases[i].path, cases[i].where);
        source[1].path = cases[i].path;
        assert_fails(settings_of(source, 2), where, cases[i].part);
    }
    source[1].path = folder;
    assert_fails(settings_of(source, 2), folder, "folder");
    size_t bytes;
    char *data = get_bytes(put_gzip("whole.jsonl.gz", GOOD GOOD), &bytes);
    source[1].path = put_bytes("cut.jsonl.gz", data, bytes - 6);
    assert_fails(settings_of(source, 2), source[1].path, "truncated");
    free(data);
}

Test(build_refuses, outputs_must_not_be_inputs)
{
    rf_build_source source = {put_text("a.jsonl", GOOD), 1, false};
    rf_build_settings s = settings_of(&source, 1);
    s.out_path = source.path;
    assert_fails(s, source.path, "over an input");
    s = settings_of(&source, 1);
    s.held_out_path = s.out_path;
    s.held_out_fraction = 0.5;
    assert_fails(s, s.out_path, "two outputs");
    s.out_path = "/nowhere/out.h5";
    s.held_out_path = NULL;
    assert_fails(s, "/nowhere", "");
}

Test(build_refuses, a_side_without_samples_is_refused)
{
    rf_build_source source = {put_text("a.txt", "one text"), 1, false};
    rf_build_settings s = settings_of(&source, 1);
    s.held_out_path = in_folder("valid.h5");
    s.held_out_fraction = 1e-9;
    assert_fails(s, s.held_out_path, "no samples");
    s.held_out_fraction = 1 - 1e-9;
    assert_fails(s, s.out_path, "no samples");
}
