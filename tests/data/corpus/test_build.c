/* Builds: record forms, formats, weights, held-out split, worker counts, a full disk. */
#include "tests/data/corpus/build_test.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

TestSuite(build, .init = begin_folder, .fini = end_folder);

static const rf_build_settings plain;

/* --- Forms and formats ------------------------------------------------------------------------ */

Test(build, every_form_of_record)
{
    rf_corpus *c =
        build_one(put_text("a.jsonl", "\xEF\xBB\xBF{\"query\": \"q\", \"response\": \"r\", \"id\": "
                                      "123456789012345678901234567890}\r\n"
                                      "  \n"
                                      "{\"text\": \"h\\u00e9\\u0000!\", \"path\": null}\n"
                                      "{\"messages\": [{\"role\": \"system\", \"content\": \"\"}, "
                                      "{\"role\": \"user\", \"content\": \"u\"}, "
                                      "{\"role\": \"assistant\", \"content\": \"a\"}, "
                                      "{\"role\": \"user\", \"content\": \"v\"}, "
                                      "{\"role\": \"assistant\", \"content\": \"b\"}, "
                                      "{\"role\": \"user\", \"content\": \"w\"}]}"),
                  plain);
    cr_assert_eq(c->n_samples, 4);
    assert_sample(c, 0, "<|user|>q<|assistant|>\xC2\xA6r<|endoftext|>");
    cr_assert_eq(rf_corpus_length(c, 1), 1 + 5 + 1);
    cr_assert(rf_corpus_is_text(c, 1));
    assert_sample(c, 2,
                  "<|system|><|user|>u<|assistant|>\xC2\xA6"
                  "a<|endoftext|>");
    assert_sample(c, 3,
                  "<|system|><|user|>u<|assistant|>a<|endoftext|><|user|>v<|assistant|>\xC2\xA6"
                  "b<|endoftext|>");
    cr_assert(!rf_corpus_is_text(c, 3));
    rf_corpus_close(c);
}

/* Forms of others, one sample each. */
Test(build, records_of_other_tools)
{
    static const char *const cases[][2] = {
        {"\"prompt\": \"q\", \"completion\": \"r\"", "<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"question\": \"q\", \"answer\": \"r\"", "<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"question\": \"q\", \"response\": \"r\", \"answer\": 7",
         "<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"instruction\": \"q\", \"input\": \"i\", \"output\": \"r\"",
         "<|user|>q\ni<|assistant|>\xC2\xA6r"},
        {"\"instruction\": \"q\", \"input\": \"\", \"output\": \"r\"",
         "<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"instruction\": \"q\", \"context\": \"c\", \"response\": \"r\"",
         "<|user|>q\nc<|assistant|>\xC2\xA6r"},
        {"\"instruction\": \"q\", \"input\": \"\", \"context\": \"c\", \"output\": \"r\"",
         "<|user|>q\nc<|assistant|>\xC2\xA6r"},
        {"\"instruction\": \"q\", \"input\": null, \"context\": \"c\", \"output\": \"r\"",
         "<|user|>q\nc<|assistant|>\xC2\xA6r"},
        {"\"instruction\": \"q\", \"input\": \"c\", \"context\": \"\", \"output\": \"r\"",
         "<|user|>q\nc<|assistant|>\xC2\xA6r"},
        {"\"instruction\": \"q\", \"input\": \"c\", \"context\": \"c\", \"output\": \"r\"",
         "<|user|>q\nc<|assistant|>\xC2\xA6r"},
        {"\"instruction\": \"q\", \"input\": \"i\", \"output\": \"r\", \"text\": \"Below: "
         "q\\n\\ni: "
         "r\"",
         "<|user|>q\ni<|assistant|>\xC2\xA6r"},
        {"\"instruction\": \"q\", \"input\": \"\", \"output\": \"r\", \"prompt\": \"Below: q\\nr\"",
         "<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"instruction\": \"q\", \"output\": \"r\", \"text\": \"Below\\u0000: q\\n\\nr\"",
         "<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"query\": \"q\", \"response\": \"r\", \"weight\": true, \"train\": 1, \"loss\": 0.25",
         "<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": null, \"text\": \"q\"}]}, "
         "{\"from\": \"gpt\", \"value\": \"r\", \"content\": \"r\"}], \"conversations\": []",
         "<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"query\": \"q\", \"response\": \"r\", \"system\": \"s\"",
         "<|system|>s<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"question\": \"q\", \"response\": \"r\", \"system_prompt\": \"s\"",
         "<|system|>s<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"query\": \"q\", \"response\": \"r\", \"input\": \"\", \"images\": [], \"functions\": "
         "[], "
         "\"history\": [], \"weight\": 1, \"label\": true, \"chat_template_kwargs\": {}",
         "<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"query\": \"q\", \"response\": \"r\", \"text\": null, \"messages\": null, \"system\": "
         "null, \"history\": null",
         "<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"text\": \"t\", \"query\": null", "<|beginoftext|>\xC2\xA6t"},
        {"\"conversations\": [{\"from\": \"system\", \"value\": \"s\"}, {\"from\": \"human\", "
         "\"value\": \"q\"}, {\"from\": \"gpt\", \"value\": \"r\"}]",
         "<|system|>s<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"system\": \"s\", \"messages\": [{\"role\": \"user\", \"content\": [{\"type\": "
         "\"text\", \"text\": \"q\"}, {\"text\": \"1\"}]}, {\"role\": \"assistant\", \"content\": "
         "\"r\"}]",
         "<|system|>s<|user|>q1<|assistant|>\xC2\xA6r"},
        {"\"messages\": [{\"role\": \"developer\", \"content\": \"s\"}, {\"role\": \"user\", "
         "\"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"r\"}]",
         "<|system|>s<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"messages\": [{\"role\": \"user\", \"content\": \"p\"}, {\"role\": \"assistant\", "
         "\"content\": \"x\", \"weight\": 0}, {\"role\": \"user\", \"content\": \"q\"}, {\"role\": "
         "\"assistant\", \"content\": \"r\", \"weight\": 1}]",
         "<|user|>p<|assistant|>x<|endoftext|><|user|>q<|assistant|>\xC2\xA6r"},
        {"\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", "
         "\"content\": \"r\", \"train\": true}, {\"role\": \"assistant\", \"content\": \"\", "
         "\"train\": false}, {\"role\": \"assistant\", \"content\": \"x\", \"loss\": false}]",
         "<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"messages\": [{\"role\": \"user\", \"content\": \"p\"}, {\"role\": \"assistant\", "
         "\"content\": \"x\", \"stopped\": true}, {\"role\": \"user\", \"content\": \"q\"}, "
         "{\"role\": \"assistant\", \"content\": \"r\", \"stopped\": false}]",
         "<|user|>p<|assistant|>x<|endoftext|><|user|>q<|assistant|>\xC2\xA6r"},
        {"\"prompt\": [{\"role\": \"user\", \"content\": \"p\"}, {\"role\": \"assistant\", "
         "\"content\": \"x\"}, {\"role\": \"user\", \"content\": \"q\"}], \"completion\": "
         "[{\"role\": \"assistant\", \"content\": \"r\"}]",
         "<|user|>p<|assistant|>x<|endoftext|><|user|>q<|assistant|>\xC2\xA6r"},
        {"\"prompt\": [{\"role\": \"user\", \"content\": \"q\"}], \"completion\": \"r\", "
         "\"system\": \"s\"",
         "<|system|>s<|user|>q<|assistant|>\xC2\xA6r"},
        /* What nobody reads may be anything that Python writes. */
        {"\"query\": \"q\", \"response\": \"r\", \"a\": [NaN, -Infinity, 1e999, \"\\ud800\", "
         "\"\\udc00x\", \"\\\\ud800\"], \"b\": {\"c\":-1e999}",
         "<|user|>q<|assistant|>\xC2\xA6r"},
        {"\"query\": \"\\ud83d\\ude00 \\\" NaN\", \"response\": \"r\", \"a\": NaN",
         "<|user|>\xF0\x9F\x98\x80 \" NaN<|assistant|>\xC2\xA6r"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[1024], expected[256];
        snprintf(text, sizeof text, "{%s}\n", cases[i][0]);
        snprintf(expected, sizeof expected, "%s<|endoftext|>", cases[i][1]);
        rf_corpus *c = build_one(put_text("a.jsonl", text), plain);
        cr_assert_eq(c->n_samples, 1, "%s", text);
        assert_sample(c, 0, expected);
        rf_corpus_close(c);
    }
    rf_corpus *c =
        build_one(put_text("a.jsonl", "{\"query\": \"q\", \"response\": \"r\", \"system\": "
                                      "\"s\", \"history\": [[\"a\", \"b\"]]}"),
                  plain);
    cr_assert_eq(c->n_samples, 2); /* as if it had been written as messages */
    assert_sample(c, 0,
                  "<|system|>s<|user|>a<|assistant|>\xC2\xA6"
                  "b<|endoftext|>");
    assert_sample(c, 1,
                  "<|system|>s<|user|>a<|assistant|>b<|endoftext|><|user|>q<|assistant|>\xC2\xA6r"
                  "<|endoftext|>");
    rf_corpus_close(c);
}

/* A 0 byte is a character like any other. */
Test(build, instructions_with_0_bytes_are_joined_whole)
{
    rf_corpus *c = build_one(put_text("a.jsonl", "{\"instruction\": \"x\\u0000y\", \"input\": "
                                                 "\"i\\u0000j\", \"output\": \"r\"}"),
                             plain);
    cr_assert_eq(rf_corpus_prompt_length(c, 0), 1 + 3 + 1 + 3 + 1);
    rf_corpus_close(c);
}

Test(build, plain_text)
{
    const char *text = "\xEF\xBB\xBF\n \nfirst\n\n  second\r\n\n\nthird\n";
    rf_corpus *c = build_one(put_text("a.txt", text), plain);
    cr_assert_eq(c->n_samples, 1);
    assert_sample(c, 0,
                  "<|beginoftext|>\xC2\xA6"
                  "first\n\n  second\n\n\nthird<|endoftext|>");
    rf_corpus_close(c);
    c = build_one(in_folder("a.txt"), (rf_build_settings){.split_paragraphs = true});
    cr_assert_eq(c->n_samples, 3);
    assert_sample(c, 0,
                  "<|beginoftext|>\xC2\xA6"
                  "first<|endoftext|>");
    assert_sample(c, 1, "<|beginoftext|>\xC2\xA6  second<|endoftext|>");
    assert_sample(c, 2,
                  "<|beginoftext|>\xC2\xA6"
                  "third<|endoftext|>");
    rf_corpus_close(c);
}

Test(build, formats_are_recognised)
{
    const char *json = "{\"text\": \"t\"}\n";
    const struct {
        const char *name, *text;
        rf_format format;
        bool is_json;
    } cases[] = {
        {"a.jsonl", json, RF_FORMAT_AUTO, true},
        {"a.json", json, RF_FORMAT_AUTO, true},
        {"A.JSONL", json, RF_FORMAT_AUTO, true},
        {"a.ndjson", json, RF_FORMAT_AUTO, true},
        {"a.txt", json, RF_FORMAT_TEXT, false},
        {"a", json, RF_FORMAT_AUTO, true},
        {"b", "\n \n  {\"text\": \"t\"}", RF_FORMAT_AUTO, true},
        {"a.jsonl", json, RF_FORMAT_TEXT, false},
        {"a.txt", json, RF_FORMAT_JSONL, true},
        {"a", "text", RF_FORMAT_AUTO, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rf_corpus *c = build_one(put_text(cases[i].name, cases[i].text),
                                 (rf_build_settings){.format = cases[i].format});
        char *text = sample_text(c, 0);
        cr_assert_eq(strcmp(text, "<|beginoftext|>\xC2\xA6t<|endoftext|>") == 0, cases[i].is_json,
                     "%s: %s", cases[i].name, text);
        free(text);
        rf_corpus_close(c);
    }
}

/* A JSON array gives what its records give line by line, whatever its line ends. */
Test(build, arrays_of_records)
{
    static const char *const arrays[][2] = {
        {"a.json", "[{\"text\": \"a]}\\\"{\"}, {\"text\": \"b\", \"n\": [{}, [1]]}]"},
        {"b.json",
         "\xEF\xBB\xBF\n[\n  {\n  \"text\": \"a]}\\\"{\"\n  },\n\n {\"text\":\r\n\"b\"}\n]\n\n"},
        {"c", " [ {\"text\": \"a]}\\\"{\"}\n,{\"text\": \"b\"}\n]"},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        rf_corpus *c = build_one(put_text(arrays[i][0], arrays[i][1]), plain);
        cr_assert_eq(c->n_samples, 2, "%s", arrays[i][0]);
        assert_sample(c, 0,
                      "<|beginoftext|>\xC2\xA6"
                      "a]}\"{<|endoftext|>");
        assert_sample(c, 1,
                      "<|beginoftext|>\xC2\xA6"
                      "b<|endoftext|>");
        rf_corpus_close(c);
    }
    /* In several portions. */
    enum { N = 20000 };
    char *text = malloc((size_t)N * 40 + 10), *end = text;
    for (int i = 0; i < N; i++) {
        end += sprintf(end, "%s{\"query\": \"%d\",\n\"response\": \"r\"}\n", i > 0 ? "," : "[", i);
    }
    strcpy(end, "]");
    rf_corpus *c = build_one(put_text("long.json", text), plain);
    cr_assert_eq(c->n_samples, N);
    assert_sample(c, 19999, "<|user|>19999<|assistant|>\xC2\xA6r<|endoftext|>");
    rf_corpus_close(c);
    free(text);
}

/* Long texts are cut into portions on the way and come out whole. */
Test(build, long_texts_stay_whole)
{
    const size_t bytes = 3000000;
    char *text = malloc(bytes + 1);
    for (size_t i = 0; i < bytes; i++) {
        text[i] = i % 61 == 60 ? '\n' : i % 61 == 0 && i % 5 == 0 ? ' ' : (char)('a' + i % 23);
    }
    /* One stretch of lines that all begin with a blank, longer than a piece may be. */
    for (size_t i = 500000; i < 2500000; i++) {
        text[i] = i % 50 == 0 ? '\n' : i % 50 == 1 ? ' ' : 'x';
    }
    text[bytes - 1] = '.';
    text[bytes] = '\0';
    rf_corpus *c = build_one(put_text("a.txt", text), plain);
    cr_assert_eq(c->n_samples, 1);
    cr_assert_eq(rf_corpus_length(c, 0), (int64_t)bytes + 2);
    int32_t *id = malloc(bytes * sizeof *id);
    rf_error err;
    cr_assert_eq(rf_corpus_read(c, id, 0, 1, (int64_t)bytes, &err), RF_OK);
    for (size_t i = 0; i < bytes; i++) {
        cr_assert_eq(id[i], (unsigned char)text[i], "byte %zu", i);
    }
    free(id);
    rf_corpus_close(c);
    free(text);
}

/* Commas and brackets make no table and no JSON of a text, and what it is may be said. */
Test(build, texts_that_look_otherwise)
{
    static const char *const texts[] = {"a, b, c\nd, e, f\n", "Yes,\nno,\n",  "one,two\nthree\n",
                                        "[a link](x)\n",      "[1] a note\n", "{ braces }\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        rf_corpus_close(build_one(put_text("a.txt", texts[i]), plain));
    }
    rf_corpus_close(
        build_one(put_text("a.txt", "a,b\n1,2\n"), (rf_build_settings){.format = RF_FORMAT_TEXT}));
}

/* --- Sameness, sources, split ----------------------------------------------------------------- */

/* Many records of all forms, as JSONL. */
static char *many_records(int n)
{
    char *text = malloc((size_t)n * 400);
    size_t used = 0;
    for (int i = 0; i < n; i++) {
        used += (size_t)sprintf(text + used, "{\"query\": \"%d?\", \"response\": \"%0*d\"}\n", i,
                                1 + i * 7 % 200, i);
        if (i % 3 == 0) {
            used +=
                (size_t)sprintf(text + used,
                                "{\"messages\": [" USER("\"u%d\"") ", " ASSISTANT(
                                    "\"a\"") ", " USER("\"v\"") ", " ASSISTANT("\"b%d\"") "]}\n",
                                i, i);
        }
    }
    return text;
}

Test(build, output_does_not_depend_on_workers_or_compression)
{
    char *text = many_records(6000), *records = strdup(text);
    memcpy(text, "begins", 6); /* no record */
    rf_build_source source[2] = {{put_gzip("b.jsonl.gz", records), 0.5, false},
                                 {put_text("a.txt", text), 3, false}};
    free(records);
    free(text);
    const int64_t jobs[] = {1, 2, 3, 8};
    for (int k = 0; k < 4; k++) {
        rf_build_settings s = settings_of(source, 2);
        char out[32], valid[32];
        snprintf(out, sizeof out, "out%d.h5", k);
        snprintf(valid, sizeof valid, "valid%d.h5", k);
        s.out_path = in_folder(out);
        s.held_out_path = in_folder(valid);
        s.held_out_fraction = 0.1;
        s.n_jobs = jobs[k];
        rf_build_statistics statistics;
        rf_error err;
        cr_assert_eq(build_with(&statistics, s, &err), RF_OK, "%s", err.message);
        rf_build_statistics_free(&statistics);
        assert_same_file(in_folder("out0.h5"), in_folder(out));
        assert_same_file(in_folder("valid0.h5"), in_folder(valid));
    }
    rf_corpus *c = open_corpus(in_folder("out0.h5"));
    int64_t last = c->n_samples - 1;
    cr_assert_eq(rf_corpus_weight(c, 0), 0.5);
    cr_assert_eq(rf_corpus_weight(c, last), 3);
    cr_assert(rf_corpus_is_text(c, last));
    cr_assert(strstr(c->source[0].name, "b.jsonl.gz") != NULL);
    rf_corpus_close(c);
    /* The same records, compressed or not: the same tokens. */
    char *again = many_records(6000);
    rf_build_source flat = {put_text("b.jsonl", again), 0.5, false};
    free(again);
    rf_build_statistics statistics;
    rf_error err;
    rf_build_settings s = settings_of(&flat, 1);
    cr_assert_eq(build_with(&statistics, s, &err), RF_OK, "%s", err.message);
    rf_build_statistics_free(&statistics);
    rf_corpus *unzipped = open_corpus(s.out_path), *zipped;
    uint64_t hash = unzipped->hash;
    s.source = source;
    cr_assert_eq(build_with(&statistics, s, &err), RF_OK, "%s", err.message);
    rf_build_statistics_free(&statistics);
    zipped = open_corpus(s.out_path);
    cr_assert_eq(zipped->hash, hash);
    rf_corpus_close(unzipped);
    rf_corpus_close(zipped);
}

/* Each sample is on one side; both turns of a conversation are on the same; other seeds, another
 * split. */
static uint64_t split_sides(uint64_t seed, double fraction, int *n_held_out)
{
    enum { N = 600 };
    char *text = many_records(N);
    rf_build_source source = {put_text("a.jsonl", text), 1, false};
    free(text);
    rf_build_settings s = settings_of(&source, 1);
    s.held_out_path = in_folder("valid.h5");
    s.held_out_fraction = fraction;
    s.seed = seed;
    rf_build_statistics statistics;
    rf_error err;
    cr_assert_eq(build_with(&statistics, s, &err), RF_OK, "%s", err.message);
    *n_held_out = (int)statistics.held_out[0].n_samples;
    cr_assert_eq(statistics.held_out[0].n_samples + statistics.kept[0].n_samples, N + N / 3 * 2);
    rf_build_statistics_free(&statistics);
    rf_corpus *c = open_corpus(s.held_out_path);
    uint64_t hash = c->hash;
    int n_first = 0, n_second = 0;
    for (int64_t i = 0; i < c->n_samples; i++) {
        char *sample = sample_text(c, i);
        n_first += strstr(sample, "\xC2\xA6"
                                  "a<|endoftext|>") != NULL;
        n_second += strstr(sample, "<|user|>v<|assistant|>") != NULL;
        free(sample);
    }
    cr_assert_eq(n_first, n_second);
    cr_assert_gt(n_first, 0);
    rf_corpus_close(c);
    return hash;
}

Test(build, held_out_split_by_fraction)
{
    int n, m;
    uint64_t a = split_sides(1, 0.25, &n);
    cr_assert(n > 150 && n < 350, "%d", n);
    cr_assert_eq(split_sides(1, 0.25, &m), a);
    cr_assert_eq(n, m);
    cr_assert_neq(split_sides(2, 0.25, &m), a);
    /* A larger fraction holds out more, never others. */
    split_sides(1, 0.5, &m);
    cr_assert_gt(m, n);
}

Test(build, held_out_split_by_file)
{
    rf_build_source source[3] = {{put_text("a.jsonl", GOOD GOOD), 1, false},
                                 {put_text("v.jsonl", "{\"text\": \"v\"}"), 1, true},
                                 {put_text("b.jsonl", GOOD), 2, false}};
    rf_build_settings s = settings_of(source, 3);
    s.held_out_path = in_folder("valid.h5");
    rf_build_statistics statistics;
    rf_error err;
    cr_assert_eq(build_with(&statistics, s, &err), RF_OK, "%s", err.message);
    cr_assert_eq(statistics.held_out[1].n_samples, 1);
    cr_assert_eq(statistics.kept[2].n_samples, 1);
    rf_build_statistics_free(&statistics);
    rf_corpus *train = open_corpus(s.out_path), *valid = open_corpus(s.held_out_path);
    cr_assert_eq(train->n_samples, 3);
    cr_assert_eq(train->n_sources, 2);
    cr_assert_eq(rf_corpus_weight(train, 2), 2);
    cr_assert_eq(valid->n_sources, 1);
    assert_sample(valid, 0, "<|beginoftext|>\xC2\xA6v<|endoftext|>");
    rf_corpus_close(train);
    rf_corpus_close(valid);
}

Test(build, statistics)
{
    char text[8192], *end = text;
    for (int n = 500; n <= 520; n += 10) {
        end += sprintf(end, "{\"query\": \"\xC3\xA9\", \"response\": \"%0*d\"}\n", n, 7);
    }
    rf_build_source source = {put_text("a.jsonl", text), 1, false};
    rf_build_statistics statistics;
    rf_error err;
    cr_assert_eq(build_with(&statistics, settings_of(&source, 1), &err), RF_OK);
    const rf_build_counts *c = &statistics.kept[0];
    cr_assert_eq(c->n_samples, 3);
    cr_assert_eq(c->n_prompt, 3 * 4);
    cr_assert_eq(c->n_tokens, 3 * 5 + 500 + 510 + 520);
    cr_assert_eq(c->n_chars, 3 * 1 + 500 + 510 + 520);
    cr_assert_eq(c->longest, 525);
    cr_assert_eq(c->n_fitting[0], 1);
    cr_assert_eq(c->n_fitting[1], 3);
    rf_build_statistics_free(&statistics);
}

/* --- A full disk ------------------------------------------------------------------------------ */

/* In a child whose files may not exceed `limit` bytes: the build fails with a message, and the
 * folder holds what it held. */
static void build_with_limit(rlim_t limit, bool deflate)
{
    fflush(NULL);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        rf_build_source source = {in_folder("a.jsonl"), 1, false};
        rf_build_settings s = settings_of(&source, 1);
        s.deflate = deflate;
        rf_build_statistics statistics;
        rf_error err;
        struct rlimit r = {limit, limit};
        signal(SIGXFSZ, SIG_IGN);
        bool good = setrlimit(RLIMIT_FSIZE, &r) == 0 &&
                    build_with(&statistics, s, &err) == RF_ERR &&
                    strstr(err.message, "too large") != NULL && count_files() == 2;
        _exit(good ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "limit %llu: status %d",
              (unsigned long long)limit, status);
    size_t bytes;
    char *older = get_bytes(in_folder("out.h5"), &bytes);
    cr_assert_str_eq(older, "older");
    free(older);
}

Test(build, a_full_disk_leaves_nothing_behind)
{
    char *text = many_records(20000);
    rf_build_source source = {put_text("a.jsonl", text), 1, false};
    free(text);
    rf_build_statistics statistics;
    rf_error err;
    cr_assert_eq(build_with(&statistics, settings_of(&source, 1), &err), RF_OK);
    rlim_t spooled = (rlim_t)statistics.kept[0].n_tokens * 4;
    rf_build_statistics_free(&statistics);
    put_text("out.h5", "older");
    /* While reading, at its end, and when all is read but the file is laid out. */
    const rlim_t limits[] = {100000, spooled - 1, spooled + 1};
    for (int i = 0; i < 3; i++) {
        build_with_limit(limits[i], false);
    }
    build_with_limit(100000, true);
    build_with_limit(0, false);
}
