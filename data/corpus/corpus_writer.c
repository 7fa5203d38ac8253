#include "data/corpus/corpus_writer.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "data/corpus/corpus_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum {
    SPOOL_BYTES = 1 << 20,
    CHUNK_BYTES = 1 << 16, /* of compressed datasets: what one read of a sample decompresses */
    ALIGNMENT = 64         /* of datasets in the file, so that they can be mapped */
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
    spool tokens, begins, prompts, turns, trained;
    int64_t n_samples, n_tokens, n_turns;
    int64_t open_tokens; /* of the sample that is open */
    bool finished;
    json_t *sources;
    int64_t *source_begin; /* [n_sources + 1 when finished] */
    size_t n_sources;
};

/* --- Spools ----------------------------------------------------------------------------------- */

static int spool_open(spool *s, const rf_atomic *file, rf_error *err)
{
    s->buffer = rf_alloc(SPOOL_BYTES, 1);
    s->fd = open(file->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (s->fd < 0 || unlink(file->temporary) != 0) {
        return rf_error_system(err, errno, file->path, "cannot create a temporary file beside it");
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
    RF_TRY(rf_file_pwrite(s->fd, s->buffer, s->used, s->bytes, name, err));
    s->crc = (uint32_t)crc32_z(s->crc, (const unsigned char *)s->buffer, s->used);
    s->bytes += (int64_t)s->used;
    s->used = 0;
    return RF_OK;
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
            RF_TRY(spool_flush(s, name, err));
        }
    }
    return RF_OK;
}

/* --- Samples ---------------------------------------------------------------------------------- */

int rf_corpus_writer_new(rf_corpus_writer **out, const char *path, const rf_tokenizer *tokenizer,
                         bool deflate, rf_error *err)
{
    *out = NULL;
    const int64_t zero = 0;
    int rc = RF_OK;
    rf_corpus_writer *w = rf_alloc(1, sizeof *w);
    w->tokens.fd = w->begins.fd = w->prompts.fd = w->turns.fd = w->trained.fd = -1;
    w->tokenizer = tokenizer;
    w->deflate = deflate;
    w->sources = json_array();
    w->source_begin = rf_alloc(1, sizeof *w->source_begin);
    RF_TRY_OUT(rf_atomic_begin(&w->file, path, err));
    RF_TRY_OUT(spool_open(&w->tokens, &w->file, err));
    RF_TRY_OUT(spool_open(&w->begins, &w->file, err));
    RF_TRY_OUT(spool_open(&w->prompts, &w->file, err));
    RF_TRY_OUT(spool_open(&w->turns, &w->file, err));
    RF_TRY_OUT(spool_open(&w->trained, &w->file, err));
    RF_TRY_OUT(spool_add(&w->begins, &zero, sizeof zero, path, err));
    RF_TRY_OUT(spool_add(&w->turns, &zero, sizeof zero, path, err));
    *out = w;
    return RF_OK;
out:
    rf_corpus_writer_free(w);
    return rc;
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
    spool_close(&w->turns);
    spool_close(&w->trained);
    json_decref(w->sources);
    free(w->source_begin);
    free(w);
}

int rf_corpus_writer_begin_source(rf_corpus_writer *w, const char *name, double weight,
                                  rf_error *err)
{
    if (json_array_append_new(w->sources, json_pack("{s:s, s:I, s:I, s:f}", "name", name, "bytes",
                                                    (json_int_t)0, "crc32", (json_int_t)0, "weight",
                                                    weight)) != 0) {
        return rf_error_set(
            err, RF_ERR, "%s: cannot note this source's name: rename it (UTF-8 is needed)", name);
    }
    w->source_begin = rf_realloc(w->source_begin, w->n_sources + 2, sizeof *w->source_begin);
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

/* Turns of the sample that is open: the ends of all, which are the begins of those behind them. */
static int add_turns(rf_corpus_writer *w, const int64_t *begin, int64_t n_turns, rf_error *err)
{
    for (int64_t k = 0; k < n_turns; k++) {
        const int64_t end = k + 1 < n_turns ? begin[k + 1] : w->open_tokens;
        const int64_t next = w->n_tokens + end;
        const uint8_t trained = (uint8_t)(k % 2);
        RF_ASSERT(begin[k] < end);
        RF_TRY(spool_add(&w->turns, &next, sizeof next, w->file.path, err));
        RF_TRY(spool_add(&w->trained, &trained, sizeof trained, w->file.path, err));
    }
    w->n_turns += n_turns;
    return RF_OK;
}

int rf_corpus_writer_end_turns(rf_corpus_writer *w, const int64_t *begin, int64_t n_turns,
                               rf_error *err)
{
    RF_ASSERT(n_turns >= 2 && n_turns % 2 == 0 && begin[0] == 0 && w->n_sources > 0);
    const int64_t n_prompt = begin[1];
    if (n_prompt > INT32_MAX) {
        return rf_error_set(err, RF_ERR, "a prompt of %" PRId64 " tokens is too long: shorten it",
                            n_prompt);
    }
    RF_TRY(add_turns(w, begin, n_turns, err));
    w->n_tokens += w->open_tokens;
    w->open_tokens = 0;
    w->n_samples++;
    const int32_t prompt = (int32_t)n_prompt;
    RF_TRY(spool_add(&w->prompts, &prompt, sizeof prompt, w->file.path, err));
    return spool_add(&w->begins, &w->n_tokens, sizeof w->n_tokens, w->file.path, err);
}

int64_t rf_corpus_writer_n_samples(const rf_corpus_writer *w)
{
    return w->n_samples;
}

/* --- The HDF5 file ---------------------------------------------------------------------------- */

/* A dataset to be filled from a spool or from memory. */
typedef struct part {
    const char *name;
    rf_hdf5_type type;
    size_t element;
    int64_t n;
    spool *from;      /* or NULL: */
    const void *data; /* [n] */
    int64_t offset;   /* in the file, of contiguous datasets */
} part;

static bool has_turns(const rf_corpus_writer *w)
{
    return w->n_turns / 2 > w->n_samples;
}

static int set_attributes(const rf_corpus_writer *w, rf_hdf5 *file, const char *sources,
                          uint32_t source_crc, rf_error *err)
{
    const rf_specials *s = rf_tokenizer_specials(w->tokenizer);
    const int64_t version = has_turns(w) ? RF_CORPUS_VERSION_TURNS : RF_CORPUS_VERSION;
    const uint64_t hash = rf_tokenizer_hash(w->tokenizer);
    const uint32_t crcs[RF_CORPUS_CRCS_TURNS] = {w->tokens.crc, w->begins.crc, w->prompts.crc,
                                                 source_crc,    w->turns.crc,  w->trained.crc};
    const int64_t n_crcs = has_turns(w) ? RF_CORPUS_CRCS_TURNS : RF_CORPUS_CRCS;
    const uint8_t complete = 0;
    const char writer[] = "refusion-data " RF_VERSION;
    const struct {
        const char *name;
        rf_hdf5_type type;
        int64_t n;
        const void *value;
    } attributes[] = {
        {"format", RF_HDF5_U8, sizeof RF_CORPUS_FORMAT - 1, RF_CORPUS_FORMAT},
        {"version", RF_HDF5_I64, 1, &version},
        {"written_by", RF_HDF5_U8, sizeof writer - 1, writer},
        {"n_samples", RF_HDF5_I64, 1, &w->n_samples},
        {"n_tokens", RF_HDF5_I64, 1, &w->n_tokens},
        {"tokenizer_hash", RF_HDF5_U64, 1, &hash},
        {"eos", RF_HDF5_I32, s->n_eos, s->eos},
        {"mask", RF_HDF5_I32, 1, &s->mask},
        {"begin", RF_HDF5_I32, 1, &s->begin},
        {"crc32", RF_HDF5_U32, n_crcs, crcs},
        {"sources", RF_HDF5_U8, (int64_t)strlen(sources), sources},
        {"complete", RF_HDF5_U8, 1, &complete},
    };
    for (size_t i = 0; i < sizeof attributes / sizeof attributes[0]; i++) {
        RF_TRY(rf_hdf5_set(file, "/", attributes[i].name, attributes[i].type, attributes[i].n,
                           attributes[i].value, err));
    }
    const char *date = rf_tokenizer_date(w->tokenizer);
    return date != NULL ? rf_hdf5_set_text(file, "/", "date", date, err) : RF_OK;
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

/* Compressed parts go through HDF5; contiguous ones are copied to `fd` beside it, so that a full
 * disk is met by code that handles it. */
static int write_part(const rf_corpus_writer *w, rf_hdf5 *file, int fd, const part *p,
                      rf_error *err)
{
    char *buffer = w->tokens.buffer;
    const int64_t total = p->n * (int64_t)p->element;
    for (int64_t at = 0; at < total; at += SPOOL_BYTES) {
        size_t bytes = total - at < SPOOL_BYTES ? (size_t)(total - at) : SPOOL_BYTES;
        int64_t first = at / (int64_t)p->element, n = (int64_t)(bytes / p->element);
        RF_TRY(read_part(w, p, buffer, bytes, at, err));
        RF_TRY(w->deflate ? rf_hdf5_write(file, p->name, p->type, first, n, buffer, err)
                          : rf_file_pwrite(fd, buffer, bytes, p->offset + at, w->file.path, err));
    }
    return RF_OK;
}

/* Attributes, empty datasets and, when compressed, their content. */
static int write_structure(const rf_corpus_writer *w, part *parts, size_t n_parts,
                           const char *sources, uint32_t source_crc, rf_error *err)
{
    rf_hdf5 file = {0};
    int rc = rf_hdf5_create(&file, w->file.temporary, ALIGNMENT, false, err);
    file.name = w->file.path;
    if (rc != RF_OK) {
        return rf_hdf5_fail(&file, err, "cannot create");
    }
    RF_TRY_OUT(set_attributes(w, &file, sources, source_crc, err));
    for (size_t i = 0; i < n_parts; i++) {
        part *p = &parts[i];
        int64_t chunk = CHUNK_BYTES / (int64_t)p->element;
        chunk = !w->deflate ? 0 : chunk < p->n ? chunk : p->n;
        RF_TRY_OUT(
            rf_hdf5_create_dataset(&p->offset, &file, p->name, p->type, 1, &p->n, chunk, err));
        RF_TRY_OUT(w->deflate ? write_part(w, &file, -1, p, err) : RF_OK);
    }
    RF_TRY_OUT(rf_hdf5_close(&file, err));
out:
    rf_hdf5_drop(&file);
    return rc;
}

static int copy_parts(const rf_corpus_writer *w, const part *parts, size_t n_parts, rf_error *err)
{
    int fd = open(w->file.temporary, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return rf_error_system(err, errno, w->file.path, "cannot open again");
    }
    int rc = RF_OK;
    for (size_t i = 0; i < n_parts && rc == RF_OK; i++) {
        rc = write_part(w, NULL, fd, &parts[i], err);
    }
    if (close(fd) != 0 && rc == RF_OK && errno != EINTR) {
        rc = rf_error_system(err, errno, w->file.path, "cannot write");
    }
    return rc;
}

/* Only a file whose content is all there says so. */
static int mark_complete(const rf_corpus_writer *w, rf_error *err)
{
    const uint8_t complete = 1;
    rf_hdf5 file = {0};
    int rc = rf_hdf5_open(&file, w->file.temporary, true, err);
    file.name = w->file.path;
    if (rc == RF_OK) {
        rc = rf_hdf5_set(&file, "/", "complete", RF_HDF5_U8, 1, &complete, err);
    }
    int closed = rf_hdf5_close(&file, err);
    return rc == RF_OK && closed == RF_OK ? RF_OK : rf_hdf5_fail(&file, err, "cannot finish");
}

int rf_corpus_writer_finish(rf_corpus_writer *w, rf_error *err)
{
    RF_ASSERT(w->n_samples > 0 && w->open_tokens == 0 && !w->finished);
    const char *path = w->file.path;
    w->source_begin[w->n_sources] = w->n_samples;
    size_t tokenizer_bytes, n_sources = w->n_sources + 1;
    const char *tokenizer = rf_tokenizer_text(w->tokenizer, &tokenizer_bytes);
    part parts[] = {
        {"tokens", RF_HDF5_U32, 4, w->n_tokens, &w->tokens, NULL, 0},
        {"sample_begin", RF_HDF5_I64, 8, w->n_samples + 1, &w->begins, NULL, 0},
        {"prompt_len", RF_HDF5_I32, 4, w->n_samples, &w->prompts, NULL, 0},
        {"source_begin", RF_HDF5_I64, 8, (int64_t)n_sources, NULL, w->source_begin, 0},
        {"tokenizer", RF_HDF5_U8, 1, (int64_t)tokenizer_bytes, NULL, tokenizer, 0},
        {"turn_begin", RF_HDF5_I64, 8, w->n_turns + 1, &w->turns, NULL, 0},
        {"turn_trained", RF_HDF5_U8, 1, w->n_turns, &w->trained, NULL, 0},
    };
    const size_t n_all = sizeof parts / sizeof parts[0], n_parts = has_turns(w) ? n_all : n_all - 2;
    uint32_t source_crc = (uint32_t)crc32_z(0, (const unsigned char *)w->source_begin,
                                            n_sources * sizeof *w->source_begin);
    char *sources = json_dumps(w->sources, JSON_COMPACT);
    int rc;
    for (size_t i = 0; i < n_parts; i++) {
        RF_TRY_OUT(parts[i].from != NULL ? spool_flush(parts[i].from, path, err) : RF_OK);
    }
    RF_TRY_OUT(write_structure(w, parts, n_parts, sources, source_crc, err));
    RF_TRY_OUT(w->deflate ? RF_OK : copy_parts(w, parts, n_parts, err));
    RF_TRY_OUT(mark_complete(w, err));
    w->finished = true;
out:
    free(sources);
    return rc;
}

int rf_corpus_writer_commit(rf_corpus_writer *w, rf_error *err)
{
    if (!w->finished) {
        RF_TRY(rf_corpus_writer_finish(w, err));
    }
    return rf_atomic_commit(&w->file, err);
}
