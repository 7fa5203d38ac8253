/* Fuzz target of the corpus reader.
 *
 * The input changes a good corpus: bytes of the file (kind 0), elements of its datasets (1) or
 * attributes (2), which the checksums of HDF5 would otherwise protect; or it is the whole file (3).
 * The corpus may be compressed (4), and its samples may have several trained turns (8).
 * What opens must be readable or say why not.
 */
#include "data/corpus/corpus.h"

#include "data/corpus/corpus_writer.h"
#include "tests/fuzz/fuzz.h"

#include <hdf5.h>

enum { N_SAMPLES = 20, MAX_CHANGES = 16 };

static void make_corpus(const char *path, bool deflate, bool has_turns)
{
    rf_tokenizer *tokenizer;
    rf_corpus_writer *w;
    rf_error err;
    RF_ASSERT(rf_tokenizer_load(&tokenizer, "byte", &err) == RF_OK);
    RF_ASSERT(rf_corpus_writer_new(&w, path, tokenizer, deflate, &err) == RF_OK);
    for (int i = 0; i < N_SAMPLES; i++) {
        int32_t id[8] = {260, 'q', 261, 'a', 256, 'n', 'w', 256};
        int64_t turn[4] = {0, 3, 5, 6};
        RF_ASSERT(i % 10 != 0 || rf_corpus_writer_begin_source(w, "source", 1, &err) == RF_OK);
        RF_ASSERT(rf_corpus_writer_tokens(w, id, 8, &err) == RF_OK);
        RF_ASSERT(rf_corpus_writer_end_turns(w, turn, has_turns ? 4 : 2, &err) == RF_OK);
    }
    RF_ASSERT(rf_corpus_writer_commit(w, &err) == RF_OK);
    rf_corpus_writer_free(w);
    rf_tokenizer_free(tokenizer);
}

/* The next change: a place and a value, from 10 bytes of input. */
static bool next_change(uint16_t *at, int64_t *value, const uint8_t **data, size_t *size)
{
    if (*size < 10) {
        return false;
    }
    memcpy(at, *data, 2);
    memcpy(value, *data + 2, 8);
    *data += 10;
    *size -= 10;
    return true;
}

static void change_bytes(const char *path, const uint8_t *data, size_t size)
{
    char *file;
    size_t bytes;
    uint16_t at;
    int64_t value;
    rf_error err;
    RF_ASSERT(rf_file_read(&file, &bytes, path, 1 << 20, &err) == RF_OK);
    while (next_change(&at, &value, &data, &size)) {
        file[at % bytes] = (char)value;
    }
    RF_ASSERT(rf_file_write(path, file, bytes, &err) == RF_OK);
    free(file);
}

static void change_elements(const char *path, bool has_turns, const uint8_t *data, size_t size)
{
    static const char *const names[] = {"tokens",    "sample_begin", "prompt_len",  "source_begin",
                                        "tokenizer", "turn_begin",   "turn_trained"};
    const int n_names = has_turns ? 7 : 5;
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    uint16_t at;
    int64_t value;
    while (next_change(&at, &value, &data, &size)) {
        hid_t dataset = H5Dopen2(file, names[at % n_names], H5P_DEFAULT);
        hid_t space = H5Dget_space(dataset);
        hsize_t n = (hsize_t)H5Sget_simple_extent_npoints(space), one = 1,
                i = (hsize_t)(at / n_names) % n;
        hid_t memory = H5Screate_simple(1, &one, NULL);
        H5Sselect_hyperslab(space, H5S_SELECT_SET, &i, NULL, &one, NULL);
        H5Dwrite(dataset, H5T_NATIVE_INT64, memory, space, H5P_DEFAULT, &value);
        H5Sclose(memory);
        H5Sclose(space);
        H5Dclose(dataset);
    }
    H5Fclose(file);
}

static void change_attributes(const char *path, const uint8_t *data, size_t size)
{
    static const char *const names[] = {"format", "version",        "n_samples", "n_tokens",
                                        "crc32",  "tokenizer_hash", "sources",   "complete"};
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    uint16_t at;
    int64_t value;
    while (next_change(&at, &value, &data, &size)) {
        int64_t all[1024];
        hid_t attribute = H5Aopen(file, names[at % 8], H5P_DEFAULT);
        hid_t space = H5Aget_space(attribute);
        hssize_t n = H5Sget_simple_extent_npoints(space);
        if (n <= 1024 && H5Aread(attribute, H5T_NATIVE_INT64, all) >= 0) {
            all[at / 8 % n] = value;
            H5Awrite(attribute, H5T_NATIVE_INT64, all);
        }
        H5Sclose(space);
        H5Aclose(attribute);
    }
    H5Fclose(file);
}

static void read_corpus(const char *path)
{
    rf_corpus *c;
    rf_error err = {0};
    if (rf_corpus_open(&c, path, &err) != RF_OK) {
        RF_ASSERT(c == NULL && strncmp(err.message, path, strlen(path)) == 0);
        return;
    }
    int64_t total = 0;
    for (int64_t i = 0; i < c->n_samples; i++) {
        int64_t n = rf_corpus_length(c, i), prompt = rf_corpus_prompt_length(c, i);
        RF_ASSERT(prompt >= 1 && prompt < n);
        RF_ASSERT(rf_corpus_weight(c, i) > 0);
        bool *trained = malloc((size_t)n * sizeof *trained);
        int64_t n_trained = 0;
        rf_corpus_trained(c, trained, i, n);
        for (int64_t k = 0; k < n; k++) {
            n_trained += trained[k];
        }
        RF_ASSERT(n_trained == rf_corpus_n_trained(c, i) && trained[n - 1] && !trained[0]);
        RF_ASSERT(rf_corpus_n_answers(c, i) >= 1);
        free(trained);
        int32_t *id = malloc((size_t)n * sizeof *id);
        if (rf_corpus_read(c, id, i, 0, n, &err) == RF_OK) {
            for (int64_t k = 0; k < n; k++) {
                RF_ASSERT(id[k] >= 0 && id[k] < rf_tokenizer_size(c->tokenizer));
            }
        }
        free(id);
        total += n;
    }
    RF_ASSERT(total == c->n_tokens);
    int rc = rf_corpus_verify(c, &err);
    RF_ASSERT(rc == RF_OK || err.message[0] != '\0');
    rf_corpus_close(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) {
        return 0;
    }
    char path[FUZZ_PATH];
    rf_error err;
    fuzz_path(path, ".h5");
    const uint8_t *rest = data + 1;
    size_t left = size - 1 < 10 * MAX_CHANGES ? size - 1 : 10 * MAX_CHANGES;
    if (data[0] % 4 == 3) {
        RF_ASSERT(rf_file_write(path, rest, size - 1, &err) == RF_OK);
    } else {
        make_corpus(path, (data[0] & 4) != 0, (data[0] & 8) != 0);
    }
    if (data[0] % 4 == 0) {
        change_bytes(path, rest, left);
    } else if (data[0] % 4 == 1) {
        change_elements(path, (data[0] & 8) != 0, rest, left);
    } else if (data[0] % 4 == 2) {
        change_attributes(path, rest, left);
    }
    read_corpus(path);
    unlink(path);
    return 0;
}
