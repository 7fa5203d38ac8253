/* Conversations with several answers: what becomes of them under --turns, and the datasets that say
 * which turns are trained. */
#include "tests/data/data_test.h"

#include <hdf5.h>

/* HDF5 itself loses some memory over damaged files. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

TestSuite(corpus_turns, .init = begin_folder, .fini = end_folder);

static int build(const char *text, const char *tokenizer_name, rf_turns turns, bool deflate,
                 rf_build_counts *counts, rf_error *err)
{
    rf_build_source source = {put_text("in.jsonl", text), 1, false};
    rf_build_settings s = {.source = &source,
                           .n_sources = 1,
                           .out_path = in_folder("out.h5"),
                           .turns = turns,
                           .deflate = deflate,
                           .n_jobs = 2};
    rf_tokenizer *tokenizer;
    rf_build_statistics statistics;
    cr_assert_eq(rf_tokenizer_load(&tokenizer, tokenizer_name, err), RF_OK, "%s", err->message);
    int rc = rf_build(&statistics, tokenizer, &s, err);
    if (rc == RF_OK && counts != NULL) {
        *counts = statistics.kept[0];
    }
    rf_build_statistics_free(&statistics);
    rf_tokenizer_free(tokenizer);
    return rc;
}

/* The second answer is not to be learnt, what follows the last one is not kept. */
static const char conversations[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}, "
    "{\"role\": \"assistant\", \"content\": \"ab\"}, {\"role\": \"user\", \"content\": \"v\"}, "
    "{\"role\": \"assistant\", \"content\": \"n\", \"train\": false}, "
    "{\"role\": \"user\", \"content\": \"w\"}, {\"role\": \"assistant\", \"content\": \"c\"}, "
    "{\"role\": \"user\", \"content\": \"x\"}]}\n"
    "{\"query\": \"q\", \"response\": \"r\"}\n"
    "{\"text\": \"text\"}\n";

#define FIRST  "<|user|>u<|assistant|>"
#define SECOND "<|endoftext|><|user|>v<|assistant|>n<|endoftext|><|user|>w<|assistant|>"

static rf_corpus *build_good(rf_turns turns, bool deflate, rf_build_counts *counts)
{
    rf_error err;
    cr_assert_eq(build(conversations, "byte", turns, deflate, counts, &err), RF_OK, "%s",
                 err.message);
    rf_corpus *c = open_corpus(in_folder("out.h5"));
    cr_assert_eq(rf_corpus_verify(c, &err), RF_OK, "%s", err.message);
    return c;
}

Test(corpus_turns, each_and_last)
{
    rf_build_counts counts;
    rf_corpus *c = build_good(RF_TURNS_EACH, false, &counts);
    cr_assert_eq(c->n_samples, 4);
    assert_sample(c, 0,
                  FIRST "\xC2\xA6"
                        "ab<|endoftext|>");
    assert_sample(c, 1,
                  FIRST "ab" SECOND "\xC2\xA6"
                        "c<|endoftext|>");
    cr_assert(!rf_corpus_has_turns(c));
    cr_assert_eq(counts.n_turns, 4);
    rf_corpus_close(c);

    c = build_good(RF_TURNS_LAST, false, &counts);
    cr_assert_eq(c->n_samples, 3);
    assert_sample(c, 0,
                  FIRST "ab" SECOND "\xC2\xA6"
                        "c<|endoftext|>");
    assert_sample(c, 1, "<|user|>q<|assistant|>\xC2\xA6r<|endoftext|>");
    cr_assert_eq(rf_corpus_n_trained(c, 0), 2);
    rf_corpus_close(c);
}

Test(corpus_turns, all)
{
    /* user u assistant | a b end | user v assistant n end user w assistant | c end */
    static const bool expected[] = {0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1};
    enum { N = sizeof expected };
    uint64_t hash[2];
    for (int deflate = 0; deflate < 2; deflate++) {
        rf_build_counts counts;
        bool trained[N] = {0};
        rf_corpus *c = build_good(RF_TURNS_ALL, deflate == 1, &counts);
        cr_assert_eq(c->n_samples, 3);
        assert_sample(c, 0,
                      FIRST "\xC2\xA6"
                            "ab" SECOND "c<|endoftext|>");
        cr_assert(rf_corpus_has_turns(c));
        cr_assert_eq(rf_corpus_length(c, 0), N);
        cr_assert_eq(rf_corpus_n_answers(c, 0), 2);
        cr_assert_eq(rf_corpus_first_answer_length(c, 0), 3);
        cr_assert_eq(rf_corpus_n_trained(c, 0), 5);
        rf_corpus_trained(c, trained, 0, N);
        cr_assert_arr_eq(trained, expected, N);
        for (int64_t i = 1; i < 3; i++) {
            const int64_t n = rf_corpus_length(c, i), n_prompt = i == 1 ? 3 : 1;
            cr_assert_eq(rf_corpus_n_answers(c, i), 1);
            cr_assert_eq(rf_corpus_n_trained(c, i), n - n_prompt);
            rf_corpus_trained(c, trained, i, n);
            for (int64_t k = 0; k < n; k++) {
                cr_assert_eq(trained[k], k >= n_prompt);
            }
        }
        cr_assert_eq(counts.n_turns, 4);
        cr_assert_eq(counts.n_tokens, N + 5 + 6);
        cr_assert_eq(counts.n_tokens - counts.n_prompt, 5 + 2 + 5);
        hash[deflate] = c->hash;
        rf_corpus_close(c);
    }
    cr_assert_eq(hash[0], hash[1]);
}

Test(corpus_turns, without_several_answers_the_file_is_the_older_one)
{
    static const char one[] = "{\"query\": \"q\", \"response\": \"r\"}\n{\"text\": \"t\"}\n";
    size_t n[2];
    char *file[2];
    rf_error err;
    for (int all = 0; all < 2; all++) {
        cr_assert_eq(build(one, "byte", all ? RF_TURNS_ALL : RF_TURNS_EACH, false, NULL, &err),
                     RF_OK);
        file[all] = get_bytes(in_folder("out.h5"), &n[all]);
    }
    cr_assert_eq(n[0], n[1]);
    cr_assert_eq(memcmp(file[0], file[1], n[0]), 0);
    free(file[0]);
    free(file[1]);
}

/* The answers stand in the conversation as they are learnt alone, or it is refused. */
Test(corpus_turns, templates_that_change_earlier_answers_are_refused)
{
    static const char *const marks[] = {"", "{% if loop.last %}!{% endif %}"};
    char config[1024];
    size_t bytes;
    char *tokenizer = get_bytes("tests/golden/tokenizer_small.json", &bytes);
    put_bytes("tokenizer.json", tokenizer, bytes);
    free(tokenizer);
    char first[sizeof conversations];
    snprintf(first, sizeof first, "%.*s", (int)(strchr(conversations, '\n') - conversations),
             conversations);
    for (int i = 0; i < 2; i++) {
        rf_error err;
        snprintf(config, sizeof config,
                 "{\"eos_token\": \"<|end|>\", \"chat_template\": \"{%% for m in messages %%}"
                 "{%% if m.role == 'assistant' %%}>%s{{ m.content }}<|end|>"
                 "{%% else %%}:{{ m.content }}{%% endif %%}{%% endfor %%}"
                 "{%% if add_generation_prompt %%}>{%% endif %%}\"}",
                 marks[i]);
        put_text("tokenizer_config.json", config);
        int rc = build(first, folder, RF_TURNS_ALL, false, NULL, &err);
        cr_assert_eq(rc, i == 0 ? RF_OK : RF_ERR, "%s", rc == RF_OK ? "" : err.message);
        if (rc != RF_OK) {
            assert_message(&err, in_folder("in.jsonl"), "messages[1]");
            cr_assert_not_null(strstr(err.message, "--turns each"));
            continue;
        }
        rf_corpus *c = open_corpus(in_folder("out.h5"));
        assert_sample(c, 0,
                      ":u>\xC2\xA6"
                      "ab<|end|>:v>n<|end|>:w>c<|end|>");
        cr_assert_eq(rf_corpus_n_trained(c, 0), 5);
        rf_corpus_close(c);
    }
}

/* --- Damage ----------------------------------------------------------------------------------- */

/* Overwrites an element of a dataset; where `crc` is not negative, also that checksum, rightly. */
static void set_element(const char *path, const char *name, hsize_t at, int64_t value, int crc)
{
    uint32_t crcs[6];
    char data[256];
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(dataset);
    hid_t type = H5Dget_type(dataset), attribute = H5Aopen(file, "crc32", H5P_DEFAULT);
    size_t bytes = (size_t)H5Sget_simple_extent_npoints(space) * H5Tget_size(type);
    cr_assert(bytes <= sizeof data);
    cr_assert(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    memcpy(data + at * H5Tget_size(type), &value, H5Tget_size(type));
    cr_assert(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    cr_assert(H5Aread(attribute, H5T_NATIVE_UINT32, crcs) >= 0);
    if (crc >= 0) {
        crcs[crc] = (uint32_t)crc32(0, (const unsigned char *)data, (unsigned)bytes);
    }
    cr_assert(H5Awrite(attribute, H5T_NATIVE_UINT32, crcs) >= 0);
    H5Aclose(attribute);
    H5Tclose(type);
    H5Sclose(space);
    H5Dclose(dataset);
    H5Fclose(file);
}

static void assert_refused(const char *part)
{
    rf_corpus *c;
    rf_error err;
    const char *path = in_folder("out.h5");
    cr_assert_eq(rf_corpus_open(&c, path, &err), RF_ERR);
    cr_assert_null(c);
    assert_message(&err, path, part);
}

/* Turns begin at 0 3 6 14 | 16 19 | 21 22, and end at 27. */
Test(corpus_turns, contradicting_turns_are_refused)
{
    static const struct {
        const char *name;
        hsize_t at;
        int64_t value;
    } cases[] = {
        {"turn_begin", 0, 1},    {"turn_begin", 0, -1},    {"turn_begin", 1, 4},
        {"turn_begin", 2, 3},    {"turn_begin", 3, 6},     {"turn_begin", 3, 16},
        {"turn_begin", 3, 1000}, {"turn_begin", 4, 17},    {"turn_begin", 6, INT64_MAX},
        {"turn_begin", 8, 26},   {"turn_begin", 8, 28},    {"turn_begin", 2, INT64_MIN},
        {"turn_trained", 0, 1},  {"turn_trained", 1, 0},   {"turn_trained", 1, 2},
        {"turn_trained", 2, 1},  {"turn_trained", 7, 255},
    };
    for (int deflate = 0; deflate < 2; deflate++) {
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            const int crc = cases[i].name[5] == 'b' ? 4 : 5;
            rf_corpus_close(build_good(RF_TURNS_ALL, deflate == 1, NULL));
            set_element(in_folder("out.h5"), cases[i].name, cases[i].at, cases[i].value, -1);
            assert_refused("checksum");
            set_element(in_folder("out.h5"), cases[i].name, cases[i].at, cases[i].value, crc);
            assert_refused("the turns contradict the index of samples");
        }
    }
}

Test(corpus_turns, missing_datasets_are_refused)
{
    static const char *const names[] = {"turn_begin", "turn_trained"};
    for (int i = 0; i < 2; i++) {
        rf_corpus_close(build_good(RF_TURNS_ALL, false, NULL));
        hid_t file = H5Fopen(in_folder("out.h5"), H5F_ACC_RDWR, H5P_DEFAULT);
        cr_assert(H5Ldelete(file, names[i], H5P_DEFAULT) >= 0);
        H5Fclose(file);
        assert_refused(names[i]);
    }
    /* A file that claims the older format would lose its turns. */
    const int64_t version = 1;
    rf_corpus_close(build_good(RF_TURNS_ALL, false, NULL));
    hid_t file = H5Fopen(in_folder("out.h5"), H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t attribute = H5Aopen(file, "version", H5P_DEFAULT);
    cr_assert(H5Awrite(attribute, H5T_NATIVE_INT64, &version) >= 0);
    H5Aclose(attribute);
    H5Fclose(file);
    assert_refused("counts");
}

/* The answer that ends at token 5 does so with another one. */
Test(corpus_turns, answers_end_with_end_of_text)
{
    rf_error err;
    rf_corpus_close(build_good(RF_TURNS_ALL, false, NULL));
    set_element(in_folder("out.h5"), "tokens", 5, 'x', 0);
    rf_corpus *c = open_corpus(in_folder("out.h5"));
    cr_assert_eq(rf_corpus_verify(c, &err), RF_ERR);
    assert_message(&err, in_folder("out.h5"), "trained turn does not end with end-of-text");
    rf_corpus_close(c);
}
