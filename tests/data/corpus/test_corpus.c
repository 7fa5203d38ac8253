/* Corpora: what is written is read, compressed or not; damaged files are refused. */
#include "tests/data/data_test.h"

#include "common/base/rng.h"
#include "data/corpus/corpus_writer.h"

#include <hdf5.h>

/* HDF5 itself loses some memory over damaged files; assert_refused counts what we hold. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

TestSuite(corpus, .init = begin_folder, .fini = end_folder);

enum { N_SAMPLES = 500, N_SOURCES = 4 };

static int64_t prompt_of(int64_t i)
{
    return i % 5 == 0 ? 1 : 2 + i % 7;
}

static int64_t length_of(int64_t i)
{
    return i == 77 ? 300000 : prompt_of(i) + 1 + i * 13 % 40;
}

static int32_t token_of(int64_t i, int64_t k)
{
    if (k == length_of(i) - 1) {
        return 256;
    }
    return k == 0 && prompt_of(i) == 1 ? 258 : (int32_t)((i * 31 + k * 7 + k / 256) % 256);
}

/* Sources 0 and 2 have the samples, 1 and 3 none. */
static const char *write_corpus(const char *name, bool deflate)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_corpus_writer *w;
    rf_error err;
    const char *path = in_folder(name);
    cr_assert_eq(rf_corpus_writer_new(&w, path, tokenizer, deflate, &err), RF_OK, "%s",
                 err.message);
    for (int s = 0, i = 0; s < N_SOURCES; s++) {
        char source[32];
        snprintf(source, sizeof source, "source \"%d\"", s);
        cr_assert_eq(rf_corpus_writer_begin_source(w, source, 0.5 + s, &err), RF_OK);
        for (; i < (s == 0 ? 100 : s == 2 ? N_SAMPLES : 0); i++) {
            int32_t *id = malloc((size_t)length_of(i) * sizeof *id);
            for (int64_t k = 0; k < length_of(i); k++) {
                id[k] = token_of(i, k);
            }
            int64_t half = length_of(i) / 2;
            cr_assert_eq(rf_corpus_writer_tokens(w, id, half, &err), RF_OK);
            cr_assert_eq(rf_corpus_writer_tokens(w, id + half, length_of(i) - half, &err), RF_OK);
            cr_assert_eq(rf_corpus_writer_end_turns(w, (int64_t[]){0, prompt_of(i)}, 2, &err),
                         RF_OK);
            free(id);
        }
        rf_corpus_writer_end_source(w, 1000 + s, 0xFFFFFFF0u + (uint32_t)s);
    }
    cr_assert_eq(rf_corpus_writer_commit(w, &err), RF_OK, "%s", err.message);
    rf_corpus_writer_free(w);
    rf_tokenizer_free(tokenizer);
    return path;
}

/* Whether all that a reader can see is as written. */
static bool is_as_written(rf_corpus *c)
{
    bool same = c->n_samples == N_SAMPLES && c->n_sources == N_SOURCES;
    for (int64_t i = 0; i < N_SAMPLES && same; i++) {
        int64_t n = length_of(i);
        int32_t *id = malloc((size_t)n * sizeof *id);
        rf_error err;
        same = rf_corpus_length(c, i) == n && rf_corpus_prompt_length(c, i) == prompt_of(i) &&
               rf_corpus_is_text(c, i) == (prompt_of(i) == 1) &&
               rf_corpus_weight(c, i) == (i < 100 ? 0.5 : 2.5) &&
               rf_corpus_read(c, id, i, 0, n, &err) == RF_OK;
        for (int64_t k = 0; k < n && same; k++) {
            same = id[k] == token_of(i, k);
        }
        free(id);
    }
    return same;
}

Test(corpus, holds_what_was_written)
{
    rf_corpus *plain = open_corpus(write_corpus("plain.h5", false));
    rf_corpus *deflated = open_corpus(write_corpus("deflated.h5", true));
    cr_assert_eq(count_files(), 2);
    cr_assert(!rf_corpus_is_compressed(plain));
    cr_assert(rf_corpus_is_compressed(deflated));
    rf_corpus *both[] = {plain, deflated};
    for (int k = 0; k < 2; k++) {
        rf_error err;
        cr_assert(is_as_written(both[k]));
        cr_assert_eq(rf_corpus_verify(both[k], &err), RF_OK, "%s", err.message);
        const rf_corpus_source *source = both[k]->source;
        cr_assert_str_eq(source[3].name, "source \"3\"");
        cr_assert_eq(source[3].bytes, 1003);
        cr_assert_eq(source[3].crc32, 0xFFFFFFF3u);
        cr_assert_eq(source[3].n_samples, 0);
        cr_assert_eq(source[2].first, 100);
        cr_assert_eq(source[2].n_samples, N_SAMPLES - 100);
        int32_t part[10];
        cr_assert_eq(rf_corpus_read(both[k], part, 77, 299980, 10, &err), RF_OK);
        for (int i = 0; i < 10; i++) {
            cr_assert_eq(part[i], token_of(77, 299980 + i));
        }
        cr_assert_eq(rf_corpus_read(both[k], part, 77, 5, 0, &err), RF_OK);
    }
    cr_assert_eq(plain->hash, deflated->hash);
    rf_corpus_close(plain);
    rf_corpus_close(deflated);
}

Test(corpus, equal_content_gives_equal_bytes)
{
    assert_same_file(write_corpus("a.h5", false), write_corpus("b.h5", false));
    assert_same_file(write_corpus("c.h5", true), write_corpus("d.h5", true));
}

Test(corpus, an_abandoned_writer_leaves_nothing)
{
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_corpus_writer *w;
    rf_error err;
    cr_assert_eq(rf_corpus_writer_new(&w, in_folder("x.h5"), tokenizer, false, &err), RF_OK);
    cr_assert_eq(count_files(), 0);
    rf_corpus_writer_free(w);
    rf_corpus_writer_free(NULL);
    cr_assert_eq(count_files(), 0);
    cr_assert_eq(rf_corpus_writer_new(&w, "/nowhere/x.h5", tokenizer, false, &err), RF_ERR);
    assert_message(&err, "/nowhere", "");
    rf_tokenizer_free(tokenizer);
}

/* --- Refusals --------------------------------------------------------------------------------- */

static void assert_all_closed(void)
{
    const H5I_type_t kinds[] = {H5I_FILE, H5I_DATASET, H5I_ATTR, H5I_DATASPACE, H5I_GROUP};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        hsize_t n = 0;
        H5E_BEGIN_TRY
        {
            cr_assert(H5Inmembers(kinds[i], &n) < 0 || n == 0, "%d", (int)kinds[i]);
        }
        H5E_END_TRY;
    }
}

static void assert_refused(const char *path, const char *part)
{
    rf_corpus *corpus;
    rf_error err;
    cr_assert_eq(rf_corpus_open(&corpus, path, &err), RF_ERR, "%s was accepted", path);
    cr_assert_null(corpus);
    assert_message(&err, path, part);
    assert_all_closed();
}

Test(corpus, other_files_are_refused)
{
    assert_refused(in_folder("missing.h5"), "No such file");
    assert_refused(put_text("text.h5", "no HDF5"), "not an HDF5 file");
    assert_refused(put_text("empty.h5", ""), "not an HDF5 file");
    assert_refused(folder, "not a regular file");
    const char *path = in_folder("other.h5");
    H5Fclose(H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
    assert_refused(path, "no corpus");
    cr_assert(!rf_corpus_is_checkpoint(path));
}

Test(corpus, truncated_files_are_refused)
{
    const char *names[] = {"plain.h5", "deflated.h5"};
    for (int k = 0; k < 2; k++) {
        size_t bytes;
        char *data = get_bytes(write_corpus(names[k], k == 1), &bytes);
        const size_t lengths[] = {bytes - 1, bytes / 2, 4096, 600, 48, 8};
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            assert_refused(put_bytes("cut.h5", data, lengths[i]), "build");
        }
        free(data);
    }
}

static void set_attribute(const char *path, const char *name, int64_t value)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
    cr_assert(H5Awrite(attribute, H5T_NATIVE_INT64, &value) >= 0);
    H5Aclose(attribute);
    H5Fclose(file);
}

/* Overwrites element `at` of a dataset. */
static void set_element(const char *path, const char *name, hsize_t at, int64_t value)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(dataset);
    hsize_t one = 1;
    hid_t memory = H5Screate_simple(1, &one, NULL);
    H5Sselect_hyperslab(space, H5S_SELECT_SET, &at, NULL, &one, NULL);
    cr_assert(H5Dwrite(dataset, H5T_NATIVE_INT64, memory, space, H5P_DEFAULT, &value) >= 0);
    H5Sclose(memory);
    H5Sclose(space);
    H5Dclose(dataset);
    H5Fclose(file);
}

static void delete_link(const char *path, const char *name)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    cr_assert(H5Ldelete(file, name, H5P_DEFAULT) >= 0);
    H5Fclose(file);
}

Test(corpus, wrong_attributes_are_refused)
{
    const struct {
        const char *name;
        int64_t value;
        const char *part;
    } cases[] = {
        {"version", 3, "format version 3"},      {"version", 2, "damaged"},
        {"complete", 0, "never finished"},       {"n_tokens", 5, "damaged"},
        {"n_samples", N_SAMPLES - 1, "damaged"}, {"n_samples", -1, "damaged"},
        {"n_samples", INT64_MAX, "damaged"},     {"tokenizer_hash", 1, "tokenizer"},
        {"n_tokens", INT64_MAX, "damaged"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *path = write_corpus("x.h5", false);
        set_attribute(path, cases[i].name, cases[i].value);
        assert_refused(path, cases[i].part);
    }
}

Test(corpus, contradicting_index_is_refused)
{
    const struct {
        const char *name;
        hsize_t at;
        int64_t value;
    } cases[] = {
        {"sample_begin", 0, 1},         {"sample_begin", 5, 1 << 30},   {"sample_begin", 5, -1},
        {"sample_begin", N_SAMPLES, 7}, {"prompt_len", 3, 0},           {"prompt_len", 3, -1},
        {"prompt_len", 3, 1000},        {"prompt_len", 3, 2},           {"source_begin", 1, 50},
        {"source_begin", 0, 1},         {"source_begin", N_SOURCES, 1}, {"tokenizer", 0, 'x'},
    };
    for (int deflate = 0; deflate < 2; deflate++) {
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            const char *path = write_corpus("x.h5", deflate == 1);
            set_element(path, cases[i].name, cases[i].at, cases[i].value);
            assert_refused(path, "");
        }
    }
    const char *names[] = {"tokens", "sample_begin", "prompt_len", "source_begin", "tokenizer"};
    for (size_t i = 0; i < 5; i++) {
        const char *path = write_corpus("x.h5", false);
        delete_link(path, names[i]);
        assert_refused(path, names[i]);
    }
}

Test(corpus, damaged_tokens_are_met)
{
    for (int deflate = 0; deflate < 2; deflate++) {
        rf_error err;
        const char *path = write_corpus("x.h5", deflate == 1);
        set_element(path, "tokens", 1000, 'x');
        rf_corpus *c = open_corpus(path);
        cr_assert_eq(rf_corpus_verify(c, &err), RF_ERR);
        assert_message(&err, path, "checksum");
        rf_corpus_close(c);
        /* An id that the tokenizer does not have is not handed out either. */
        set_element(path, "tokens", 1000, 262);
        c = open_corpus(path);
        bool met = false;
        for (int64_t i = 0; i < N_SAMPLES && !met; i++) {
            int32_t id[64];
            int64_t n = rf_corpus_length(c, i);
            met = n <= 64 && rf_corpus_read(c, id, i, 0, n, &err) == RF_ERR;
        }
        cr_assert(met);
        assert_message(&err, path, "token id");
        rf_corpus_close(c);
    }
}

/* Any single flipped bit is refused, found by verification, or lies where nobody looks. */
Test(corpus, flipped_bits_never_change_what_is_read, .timeout = 600)
{
    for (int deflate = 0; deflate < 2; deflate++) {
        size_t bytes;
        char *data = get_bytes(write_corpus("x.h5", deflate == 1), &bytes);
        rf_rng rng = RF_RNG_STREAM(1, RF_RNG_TEST, (uint64_t)deflate);
        int n_found = 0;
        for (int i = 0; i < 200; i++) {
            /* Half of the flips hit the structure, which lies at the begin. */
            size_t at = rf_rng_below(&rng, i % 2 == 0 ? 6000 : bytes);
            data[at] = (char)(data[at] ^ 1 << rf_rng_below(&rng, 8));
            const char *path = put_bytes("flipped.h5", data, bytes);
            rf_corpus *c;
            rf_error err;
            bool found =
                rf_corpus_open(&c, path, &err) != RF_OK || rf_corpus_verify(c, &err) != RF_OK;
            cr_assert(found || is_as_written(c), "flip at byte %zu", at);
            n_found += found;
            rf_corpus_close(c);
            assert_all_closed();
            size_t again;
            free(data);
            data = get_bytes(in_folder("x.h5"), &again);
        }
        cr_assert_gt(n_found, 50);
        free(data);
    }
}
