#include "data/corpus/corpus_writer.h"

#include "common/base/file.h"
#include "data/corpus/corpus_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum {
    SPOOL_BYTES = 1 << 20,
    CHUNK_BYTES = 1 << 16, /* of compressed datasets: what one read of a sample decompresses */
    DEFLATE_LEVEL = 6,
    ALIGNMENT = 64 /* of datasets in the file, so that they can be mapped */
};

/* A nameless file that only grows. */
typedef struct spool {
    int fd;
    char *buffer;
    size_t used;
    int64_t bytes; /* written, the buffer's not included */
    uint32_t crc;
} spool;

struct rf_corpus_writer {
    rf_atomic file;
    const rf_tokenizer *tokenizer;
    bool deflate;
    spool tokens, begins, prompts;
    int64_t n_samples, n_tokens;
    int64_t open_tokens; /* of the sample that is open */
    bool finished;
    json_t *sources;
    int64_t *source_begin; /* [n_sources + 1 when finished] */
    size_t n_sources;
};

/* --- Spools ----------------------------------------------------------------------------------- */

static int spool_open(spool *s, const rf_atomic *file, rf_error *err)
{
    s->buffer = malloc(SPOOL_BYTES);
    if (s->buffer == NULL) {
        return rf_error_set(err, RF_ERR, "%s: no memory to write it", file->path);
    }
    s->fd = open(file->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (s->fd < 0 || unlink(file->temporary) != 0) {
        return rf_error_set(err, rf_error_code_of_errno(errno),
                            "%s: cannot create a temporary file beside it: %s", file->path,
                            strerror(errno));
    }
    return RF_OK;
}

static void spool_close(spool *s)
{
    if (s->fd >= 0) {
        close(s->fd);
    }
    free(s->buffer);
    *s = (spool){.fd = -1};
}

static int spool_flush(spool *s, const char *name, rf_error *err)
{
    int rc = rf_file_pwrite(s->fd, s->buffer, s->used, s->bytes, name, err);
    if (rc == RF_OK) {
        s->crc = (uint32_t)crc32_z(s->crc, (const unsigned char *)s->buffer, s->used);
        s->bytes += (int64_t)s->used;
        s->used = 0;
    }
    return rc;
}

static int spool_add(spool *s, const void *data, size_t bytes, const char *name, rf_error *err)
{
    const char *from = data;
    while (bytes > 0) {
        size_t n = SPOOL_BYTES - s->used;
        n = n < bytes ? n : bytes;
        memcpy(s->buffer + s->used, from, n);
        s->used += n;
        from += n;
        bytes -= n;
        if (s->used == SPOOL_BYTES) {
            int rc = spool_flush(s, name, err);
            if (rc != RF_OK) {
                return rc;
            }
        }
    }
    return RF_OK;
}

/* --- Samples ---------------------------------------------------------------------------------- */

int rf_corpus_writer_new(rf_corpus_writer **out, const char *path, const rf_tokenizer *tokenizer,
                         bool deflate, rf_error *err)
{
    *out = NULL;
    rf_corpus_writer *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return rf_error_set(err, RF_ERR, "%s: no memory to write it", path);
    }
    w->tokens.fd = w->begins.fd = w->prompts.fd = -1;
    w->tokenizer = tokenizer;
    w->deflate = deflate;
    w->sources = json_array();
    int rc = w->sources != NULL ? RF_OK : rf_error_set(err, RF_ERR, "%s: no memory", path);
    if (rc == RF_OK) {
        rc = rf_atomic_begin(&w->file, path, err);
    }
    if (rc == RF_OK) {
        rc = spool_open(&w->tokens, &w->file, err);
    }
    if (rc == RF_OK) {
        rc = spool_open(&w->begins, &w->file, err);
    }
    if (rc == RF_OK) {
        rc = spool_open(&w->prompts, &w->file, err);
    }
    const int64_t zero = 0;
    if (rc == RF_OK) {
        rc = spool_add(&w->begins, &zero, sizeof zero, path, err);
    }
    if (rc != RF_OK) {
        rf_corpus_writer_free(w);
        return rc;
    }
    *out = w;
    return RF_OK;
}

void rf_corpus_writer_free(rf_corpus_writer *w)
{
    if (w == NULL) {
        return;
    }
    rf_atomic_abandon(&w->file);
    spool_close(&w->tokens);
    spool_close(&w->begins);
    spool_close(&w->prompts);
    json_decref(w->sources);
    free(w->source_begin);
    free(w);
}

int rf_corpus_writer_begin_source(rf_corpus_writer *w, const char *name, double weight,
                                  rf_error *err)
{
    int64_t *grown = realloc(w->source_begin, (w->n_sources + 2) * sizeof *grown);
    if (grown != NULL) {
        w->source_begin = grown;
    }
    if (grown == NULL ||
        json_array_append_new(w->sources, json_pack("{s:s, s:I, s:I, s:f}", "name", name, "bytes",
                                                    (json_int_t)0, "crc32", (json_int_t)0, "weight",
                                                    weight)) != 0) {
        return rf_error_set(
            err, RF_ERR, "%s: cannot note this source's name: rename it (UTF-8 is needed)", name);
    }
    w->source_begin[w->n_sources++] = w->n_samples;
    return RF_OK;
}

void rf_corpus_writer_end_source(rf_corpus_writer *w, int64_t bytes, uint32_t crc)
{
    RF_ASSERT(w->n_sources > 0);
    json_t *source = json_array_get(w->sources, w->n_sources - 1);
    json_integer_set(json_object_get(source, "bytes"), bytes);
    json_integer_set(json_object_get(source, "crc32"), crc);
}

int rf_corpus_writer_tokens(rf_corpus_writer *w, const int32_t *id, int64_t n, rf_error *err)
{
    const int64_t size = rf_tokenizer_size(w->tokenizer);
    for (int64_t i = 0; i < n; i++) {
        RF_ASSERT(id[i] >= 0 && id[i] < size);
    }
    w->open_tokens += n;
    return spool_add(&w->tokens, id, (size_t)n * sizeof *id, w->file.path, err);
}

int rf_corpus_writer_end_sample(rf_corpus_writer *w, int64_t n_prompt, rf_error *err)
{
    RF_ASSERT(n_prompt >= 1 && n_prompt < w->open_tokens && w->n_sources > 0);
    if (n_prompt > INT32_MAX) {
        return rf_error_set(err, RF_ERR, "a prompt of %lld tokens is too long: shorten it",
                            (long long)n_prompt);
    }
    w->n_tokens += w->open_tokens;
    w->open_tokens = 0;
    w->n_samples++;
    const int32_t prompt = (int32_t)n_prompt;
    int rc = spool_add(&w->prompts, &prompt, sizeof prompt, w->file.path, err);
    if (rc == RF_OK) {
        rc = spool_add(&w->begins, &w->n_tokens, sizeof w->n_tokens, w->file.path, err);
    }
    return rc;
}

int64_t rf_corpus_writer_n_samples(const rf_corpus_writer *w)
{
    return w->n_samples;
}

int64_t rf_corpus_writer_n_tokens(const rf_corpus_writer *w)
{
    return w->n_tokens;
}

/* --- The HDF5 file ---------------------------------------------------------------------------- */

/* A dataset to be filled from a spool or from memory. */
typedef struct part {
    const char *name;
    hid_t type;
    size_t element;
    int64_t n;
    spool *from;      /* or NULL: */
    const void *data; /* [n] */
    haddr_t offset;   /* in the file, of contiguous datasets */
} part;

/* errno is what HDF5's last system call left; it says "disk full" where that is the cause. */
static int fail(const rf_corpus_writer *w, const char *what, rf_error *err)
{
    int reason = errno;
    return rf_error_set(
        err, reason != 0 ? rf_error_code_of_errno(reason) : RF_ERR, "%s: %s: %s", w->file.path,
        what, reason != 0 ? strerror(reason) : "HDF5 gives no reason: check space and permissions");
}

static herr_t set_attributes(const rf_corpus_writer *w, hid_t file, const char *sources,
                             uint32_t source_crc)
{
    const rf_specials *s = rf_tokenizer_specials(w->tokenizer);
    const int64_t version = RF_CORPUS_VERSION;
    const uint64_t hash = rf_tokenizer_hash(w->tokenizer);
    const uint32_t crcs[4] = {w->tokens.crc, w->begins.crc, w->prompts.crc, source_crc};
    const uint8_t complete = 0;
    const char writer[] = "refusion-data " RF_VERSION;
    herr_t bad = 0;
    bad |= rf_corpus_file_set(file, "format", H5T_STD_U8LE, RF_CORPUS_FORMAT,
                              sizeof RF_CORPUS_FORMAT - 1);
    bad |= rf_corpus_file_set(file, "version", H5T_STD_I64LE, &version, 1);
    bad |= rf_corpus_file_set(file, "written_by", H5T_STD_U8LE, writer, sizeof writer - 1);
    bad |= rf_corpus_file_set(file, "n_samples", H5T_STD_I64LE, &w->n_samples, 1);
    bad |= rf_corpus_file_set(file, "n_tokens", H5T_STD_I64LE, &w->n_tokens, 1);
    bad |= rf_corpus_file_set(file, "tokenizer_hash", H5T_STD_U64LE, &hash, 1);
    bad |= rf_corpus_file_set(file, "eos", H5T_STD_I32LE, s->eos, (size_t)s->n_eos);
    bad |= rf_corpus_file_set(file, "mask", H5T_STD_I32LE, &s->mask, 1);
    bad |= rf_corpus_file_set(file, "begin", H5T_STD_I32LE, &s->begin, 1);
    /* tokens, sample_begin, prompt_len, source_begin */
    bad |= rf_corpus_file_set(file, "crc32", H5T_STD_U32LE, crcs, 4);
    bad |= rf_corpus_file_set(file, "sources", H5T_STD_U8LE, sources, strlen(sources));
    bad |= rf_corpus_file_set(file, "complete", H5T_STD_U8LE, &complete, 1);
    return bad;
}

static hid_t create_dataset(hid_t file, const part *p, bool deflate)
{
    hsize_t dims = (hsize_t)p->n;
    hid_t space = H5Screate_simple(1, &dims, NULL);
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(how, false);
    H5Pset_fill_time(how, H5D_FILL_TIME_NEVER);
    if (deflate) {
        hsize_t chunk = CHUNK_BYTES / p->element;
        chunk = chunk < dims ? chunk : dims;
        H5Pset_chunk(how, 1, &chunk);
        H5Pset_shuffle(how);
        H5Pset_deflate(how, DEFLATE_LEVEL);
    } else {
        H5Pset_alloc_time(how, H5D_ALLOC_TIME_EARLY);
    }
    hid_t dataset = H5Dcreate2(file, p->name, p->type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    H5Pclose(how);
    H5Sclose(space);
    return dataset;
}

/* The next piece of a part, from its spool or from memory. */
static int read_part(const rf_corpus_writer *w, const part *p, void *buffer, size_t bytes,
                     int64_t at, rf_error *err)
{
    if (p->from != NULL) {
        return rf_file_pread(p->from->fd, buffer, bytes, at, w->file.path, err);
    }
    memcpy(buffer, (const char *)p->data + at, bytes);
    return RF_OK;
}

/* Compressed parts go through HDF5. */
static int write_chunks(const rf_corpus_writer *w, hid_t dataset, const part *p, rf_error *err)
{
    char *buffer = w->tokens.buffer;
    const int64_t total = p->n * (int64_t)p->element;
    hid_t space = H5Dget_space(dataset);
    int rc = RF_OK;
    for (int64_t at = 0; at < total && rc == RF_OK; at += SPOOL_BYTES) {
        size_t bytes = total - at < SPOOL_BYTES ? (size_t)(total - at) : SPOOL_BYTES;
        hsize_t begin = (hsize_t)at / p->element, count = bytes / p->element;
        rc = read_part(w, p, buffer, bytes, at, err);
        if (rc != RF_OK) {
            break;
        }
        errno = 0;
        hid_t memory = H5Screate_simple(1, &count, NULL);
        H5Sselect_hyperslab(space, H5S_SELECT_SET, &begin, NULL, &count, NULL);
        if (H5Dwrite(dataset, p->type, memory, space, H5P_DEFAULT, buffer) < 0) {
            rc = fail(w, "cannot write", err);
        }
        H5Sclose(memory);
    }
    H5Sclose(space);
    return rc;
}

/* Contiguous parts are copied beside HDF5, so that a full disk is met by code that handles it. */
static int copy_part(const rf_corpus_writer *w, int fd, const part *p, rf_error *err)
{
    char *buffer = w->tokens.buffer;
    const int64_t total = p->n * (int64_t)p->element;
    int rc = RF_OK;
    for (int64_t at = 0; at < total && rc == RF_OK; at += SPOOL_BYTES) {
        size_t bytes = total - at < SPOOL_BYTES ? (size_t)(total - at) : SPOOL_BYTES;
        rc = read_part(w, p, buffer, bytes, at, err);
        if (rc == RF_OK) {
            rc = rf_file_pwrite(fd, buffer, bytes, (int64_t)p->offset + at, w->file.path, err);
        }
    }
    return rc;
}

static hid_t create_file(const char *path)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), how = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_alignment(access, CHUNK_BYTES / 16, ALIGNMENT);
    H5Pset_obj_track_times(how, false);
    hid_t file = H5Fcreate(path, H5F_ACC_EXCL, how, access);
    H5Pclose(how);
    H5Pclose(access);
    return file;
}

/* Attributes, empty datasets and, when compressed, their content. */
static int write_structure(const rf_corpus_writer *w, part *parts, size_t n_parts,
                           const char *sources, uint32_t source_crc, rf_error *err)
{
    errno = 0;
    int rc = RF_OK;
    hid_t file = create_file(w->file.temporary);
    if (file < 0 || set_attributes(w, file, sources, source_crc) < 0) {
        rc = fail(w, "cannot create", err);
    }
    for (size_t i = 0; i < n_parts && rc == RF_OK; i++) {
        errno = 0;
        hid_t dataset = create_dataset(file, &parts[i], w->deflate);
        if (dataset < 0) {
            rc = fail(w, "cannot create a dataset", err);
            break;
        }
        parts[i].offset = w->deflate ? 0 : H5Dget_offset(dataset);
        if (parts[i].offset == HADDR_UNDEF) {
            rc = fail(w, "cannot lay out a dataset", err);
        } else if (w->deflate) {
            rc = write_chunks(w, dataset, &parts[i], err);
        }
        if (H5Dclose(dataset) < 0 && rc == RF_OK) {
            rc = fail(w, "cannot write", err);
        }
    }
    errno = 0;
    if (file >= 0 && H5Fclose(file) < 0 && rc == RF_OK) {
        rc = fail(w, "cannot write", err);
    }
    return rc;
}

static int copy_parts(const rf_corpus_writer *w, const part *parts, size_t n_parts, rf_error *err)
{
    int fd = open(w->file.temporary, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return fail(w, "cannot open again", err);
    }
    int rc = RF_OK;
    for (size_t i = 0; i < n_parts && rc == RF_OK; i++) {
        rc = copy_part(w, fd, &parts[i], err);
    }
    if (close(fd) != 0 && rc == RF_OK && errno != EINTR) {
        rc = fail(w, "cannot write", err);
    }
    return rc;
}

/* Only a file whose content is all there says so. */
static int mark_complete(const rf_corpus_writer *w, rf_error *err)
{
    const uint8_t complete = 1;
    errno = 0;
    hid_t file = H5Fopen(w->file.temporary, H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t attribute = H5Aopen(file, "complete", H5P_DEFAULT);
    herr_t bad = H5Awrite(attribute, H5T_NATIVE_UCHAR, &complete);
    bad |= H5Aclose(attribute);
    bad |= H5Fclose(file);
    return bad < 0 ? fail(w, "cannot finish", err) : RF_OK;
}

int rf_corpus_writer_finish(rf_corpus_writer *w, rf_error *err)
{
    RF_ASSERT(w->n_samples > 0 && w->open_tokens == 0 && !w->finished);
    rf_corpus_file_quiet();
    const char *path = w->file.path;
    w->source_begin[w->n_sources] = w->n_samples;
    size_t tokenizer_bytes, n_sources = w->n_sources + 1;
    const char *tokenizer = rf_tokenizer_text(w->tokenizer, &tokenizer_bytes);
    part parts[] = {
        {"tokens", H5T_STD_U32LE, 4, w->n_tokens, &w->tokens, NULL, 0},
        {"sample_begin", H5T_STD_I64LE, 8, w->n_samples + 1, &w->begins, NULL, 0},
        {"prompt_len", H5T_STD_I32LE, 4, w->n_samples, &w->prompts, NULL, 0},
        {"source_begin", H5T_STD_I64LE, 8, (int64_t)n_sources, NULL, w->source_begin, 0},
        {"tokenizer", H5T_STD_U8LE, 1, (int64_t)tokenizer_bytes, NULL, tokenizer, 0},
    };
    const size_t n_parts = sizeof parts / sizeof parts[0];
    uint32_t source_crc = (uint32_t)crc32_z(0, (const unsigned char *)w->source_begin,
                                            n_sources * sizeof *w->source_begin);
    char *sources = json_dumps(w->sources, JSON_COMPACT);
    int rc = sources != NULL ? RF_OK : rf_error_set(err, RF_ERR, "%s: no memory", path);
    for (size_t i = 0; i < 3 && rc == RF_OK; i++) {
        rc = spool_flush(parts[i].from, path, err);
    }
    if (rc == RF_OK) {
        rc = write_structure(w, parts, n_parts, sources, source_crc, err);
    }
    if (rc == RF_OK && !w->deflate) {
        rc = copy_parts(w, parts, n_parts, err);
    }
    if (rc == RF_OK) {
        rc = mark_complete(w, err);
    }
    w->finished = rc == RF_OK;
    free(sources);
    return rc;
}

int rf_corpus_writer_commit(rf_corpus_writer *w, rf_error *err)
{
    int rc = w->finished ? RF_OK : rf_corpus_writer_finish(w, err);
    return rc == RF_OK ? rf_atomic_commit(&w->file, err) : rc;
}
