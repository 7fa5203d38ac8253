#include "common/store/checkpoint_private.h"

#include "common/base/alloc.h"
#include "common/base/crc32.h"
#include "common/base/files/file.h"
#include "common/base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "values lie in the file as in memory: little-endian");

/* --- The reader ------------------------------------------------------------------------------- */

struct rf_checkpoint_reader {
    char *path;
    int fd;
    rf_checkpoint_structure structure;
    const rf_checkpoint_item *item;   /* whose checksum is being computed; NULL: none */
    int64_t next;                     /* its first element that is not in the checksum yet */
    uint32_t crc;                     /* of those before */
    const rf_checkpoint_item *scaled; /* whose scales are at hand; NULL: none */
    float *scale;
    void *raw;     /* [raw_bytes] as in the file */
    void *decoded; /* f32 [n_decoded] */
    size_t raw_bytes, n_decoded;
};

/* Elements [first, first + n) of an item: as they lie in the file, but int8 as f32. */
typedef struct piece {
    const rf_checkpoint_item *item;
    const void *values;
    rf_type type;
    int64_t first, n;
} piece;

/* blameless: of the structure. */
static int open_reader(rf_checkpoint_reader **out, bool *blameless, const char *path, rf_error *err)
{
    rf_checkpoint_reader *reader = rf_alloc(1, sizeof *reader);
    *out = NULL;
    reader->path = rf_alloc_string(path);
    reader->fd = -1;
    int rc = rf_checkpoint_structure_read(&reader->structure, path, err);
    if (rc == RF_OK && (reader->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) {
        rc = rf_error_system(err, errno, path, "cannot open");
        reader->structure.blameless = true;
    }
    *blameless = reader->structure.blameless;
    if (rc != RF_OK) {
        rf_checkpoint_reader_close(reader);
        return rc;
    }
    *out = reader;
    return RF_OK;
}

int rf_checkpoint_reader_open(rf_checkpoint_reader **out, const char *path, rf_error *err)
{
    bool blameless;
    return open_reader(out, &blameless, path, err);
}

void rf_checkpoint_reader_close(rf_checkpoint_reader *reader)
{
    if (reader == NULL) {
        return;
    }
    if (reader->fd >= 0) {
        close(reader->fd);
    }
    rf_checkpoint_structure_free(&reader->structure);
    RF_FREE(reader->path, reader->raw, reader->decoded, reader->scale, reader);
}

static int reserve(rf_checkpoint_reader *reader, void **memory, size_t *capacity, size_t n,
                   size_t element, rf_error *err)
{
    if (n > *capacity) {
        free(*memory);
        *memory = malloc(n * element);
        *capacity = *memory != NULL ? n : 0;
    }
    if (*capacity < n) {
        reader->structure.blameless = true;
        return rf_error_set(err, RF_ERR, "%s: no memory for reading", reader->path);
    }
    return RF_OK;
}

/* The scales of an item in int8 are read whole, once. */
static int find_scales(rf_checkpoint_reader *reader, const rf_checkpoint_item *item, rf_error *err)
{
    if (item->type != RF_I8 || reader->scaled == item) {
        return RF_OK;
    }
    free(reader->scale);
    reader->scale = NULL;
    reader->scaled = NULL;
    RF_TRY(rf_checkpoint_scales_read(&reader->scale, &reader->structure, item, reader->fd,
                                     reader->path, err));
    reader->scaled = item;
    return RF_OK;
}

int rf_checkpoint_check_crc(const rf_checkpoint_item *item, uint32_t crc, const char *path,
                            rf_error *err)
{
    return crc == item->crc
               ? RF_OK
               : rf_error_set(err, RF_ERR,
                              "%s: tensor %s is damaged: its checksum is %08x instead of "
                              "%08x: " RF_CHECKPOINT_REMEDY,
                              path, item->name, crc, item->crc);
}

/* Items that are read from their first element to their last, piece by piece, are checked on the way:
 * adds a piece to the checksum, and compares it behind the last. Other reads are not checked. */
static int count_in(rf_checkpoint_reader *reader, const piece *p, size_t bytes, rf_error *err)
{
    if (p->first == 0) {
        reader->item = p->item;
        reader->next = 0;
        reader->crc = 0;
    }
    if (reader->item != p->item || reader->next != p->first) {
        return RF_OK;
    }
    reader->crc = rf_crc32(reader->crc, reader->raw, bytes);
    reader->next += p->n;
    return reader->next == p->item->count
               ? rf_checkpoint_check_crc(p->item, reader->crc, reader->path, err)
               : RF_OK;
}

/* Reads a piece whose item, first and n are set. Its values stay until the next one. */
static int read_piece(rf_checkpoint_reader *reader, piece *p, rf_error *err)
{
    const rf_checkpoint_item *item = p->item;
    const size_t element = rf_type_bytes(item->type), bytes = (size_t)p->n * element;
    RF_TRY(find_scales(reader, item, err));
    RF_TRY(reserve(reader, &reader->raw, &reader->raw_bytes, bytes, 1, err));
    const int rc = rf_file_pread(reader->fd, reader->raw, bytes,
                                 item->offset + p->first * (int64_t)element, reader->path, err);
    if (rc != RF_OK) {
        reader->structure.blameless = true;
        return rc;
    }
    p->values = reader->raw;
    p->type = item->type;
    if (item->type == RF_I8) {
        RF_TRY(reserve(reader, &reader->decoded, &reader->n_decoded, (size_t)p->n, sizeof(float),
                       err));
        rf_checkpoint_dequantize(reader->decoded, reader->raw, reader->scale,
                                 item->tensor->shape[1], p->first, p->n);
        p->values = reader->decoded;
        p->type = RF_F32;
    }
    return count_in(reader, p, bytes, err);
}

/* A piece in bf16 becomes one in f32: a type that memory has. */
static int widen(rf_checkpoint_reader *reader, piece *p, rf_error *err)
{
    if (p->type == RF_BF16) {
        RF_TRY(reserve(reader, &reader->decoded, &reader->n_decoded, (size_t)p->n, sizeof(float),
                       err));
        rf_storage_decode(reader->decoded, p->values, p->type, p->n);
        p->values = reader->decoded;
        p->type = RF_F32;
    }
    return RF_OK;
}

/* Every value of the groups that are wanted, in the order of the file, in pieces of a few MiB;
 * take NULL: only compares the checksums. */
static int read_all(rf_checkpoint_reader *reader, const bool wants[RF_N_GROUPS],
                    int (*take)(void *user, piece *p, rf_error *err), void *user, rf_error *err)
{
    for (int64_t i = 0; i < reader->structure.n_items; i++) {
        const rf_checkpoint_item *item = &reader->structure.item[i];
        const int64_t element = (int64_t)rf_type_bytes(item->type == RF_I8 ? RF_F32 : item->type);
        const int64_t most = RF_CHECKPOINT_CHUNK / element;
        for (int64_t first = 0; first < item->count && wants[item->group]; first += most) {
            int64_t left = item->count - first;
            piece p = {.item = item, .first = first, .n = left < most ? left : most};
            RF_TRY(read_piece(reader, &p, err));
            RF_TRY(take != NULL ? take(user, &p, err) : RF_OK);
        }
    }
    return RF_OK;
}

static const rf_checkpoint_item *find_item(const rf_checkpoint_reader *reader, const char *tensor)
{
    for (int64_t i = 0; i < reader->structure.n_items; i++) {
        const rf_checkpoint_item *item = &reader->structure.item[i];
        if (item->group == RF_GROUP_PARAMS && strcmp(item->tensor->name, tensor) == 0) {
            return item;
        }
    }
    return NULL;
}

int rf_checkpoint_reader_get(rf_checkpoint_reader *reader, double *values, const char *tensor,
                             int64_t first, int64_t n, rf_error *err)
{
    piece p = {.item = find_item(reader, tensor), .first = first, .n = n};
    if (p.item == NULL) {
        return rf_error_set(err, RF_ERR, "%s: has no tensor %s", reader->path, tensor);
    }
    RF_ASSERT(first >= 0 && n >= 0 && n <= p.item->count - first);
    RF_TRY(read_piece(reader, &p, err));
    RF_TRY(widen(reader, &p, err));
    for (int64_t i = 0; i < n; i++) {
        values[i] =
            p.type == RF_F64 ? ((const double *)p.values)[i] : (double)((const float *)p.values)[i];
    }
    return RF_OK;
}

/* FNV-1a over names and checksums of the parameters; never 0. */
static uint64_t hash_of(const rf_checkpoint_structure *structure)
{
    uint64_t hash = RF_HASH_BEGIN;
    for (int64_t i = 0; i < structure->n_items; i++) {
        const rf_checkpoint_item *item = &structure->item[i];
        char text[sizeof item->name + 16];
        if (item->group == RF_GROUP_PARAMS || item->group == RF_GROUP_SCALES) {
            int n = snprintf(text, sizeof text, "%s %08x\n", item->name, item->crc);
            hash = rf_hash_bytes(hash, text, (size_t)n);
        }
    }
    return hash != 0 ? hash : 1; /* 0 stands for unknown */
}

uint64_t rf_checkpoint_reader_hash(const rf_checkpoint_reader *reader)
{
    return hash_of(&reader->structure);
}

/* --- Verify, and a sink ----------------------------------------------------------------------- */

int rf_checkpoint_examine(bool *is_damaged, const char *path, rf_error *err)
{
    static const bool all[RF_N_GROUPS] = {true, true, true, true};
    rf_checkpoint_reader *reader = NULL;
    bool blameless;
    int rc = open_reader(&reader, &blameless, path, err);
    if (rc == RF_OK) {
        rc = read_all(reader, all, NULL, NULL, err);
        blameless = reader->structure.blameless;
    }
    *is_damaged = rc != RF_OK && !blameless;
    rf_checkpoint_reader_close(reader);
    return rc;
}

int rf_checkpoint_verify(const char *path, rf_error *err)
{
    bool is_damaged;
    return rf_checkpoint_examine(&is_damaged, path, err);
}

typedef struct outlet {
    rf_checkpoint_sink sink;
    void *user;
} outlet;

static int pour(void *user, piece *p, rf_error *err)
{
    const outlet *to = user;
    return to->sink(to->user, p->values, p->type, p->item->tensor, p->first, p->n, err);
}

int rf_checkpoint_read(const char *path, rf_checkpoint_sink sink, void *user, rf_error *err)
{
    static const bool params[RF_N_GROUPS] = {[RF_GROUP_PARAMS] = true};
    outlet to = {sink, user};
    rf_checkpoint_reader *reader = NULL;
    RF_TRY(rf_checkpoint_reader_open(&reader, path, err));
    int rc = read_all(reader, params, pour, &to, err);
    rf_checkpoint_reader_close(reader);
    return rc;
}

/* --- Load ------------------------------------------------------------------------------------- */

/* Do file and model adapt alike, as far as the file's tensors need it? */
static int check_adaptation(const rf_checkpoint_structure *structure, const rf_checkpoint_fit *fit,
                            bool wants_moments, const char *path, rf_error *err)
{
    const rf_adaptation *is = &structure->adaptation, *wanted = fit->adaptation;
    if (is->rank > 0 && (wanted->rank == 0 || fit->base.hash == 0)) {
        return rf_error_set(err, RF_ERR,
                            "%s: holds adapters only: give its base (%s) as the model, and this "
                            "file as the adapter",
                            path, structure->base.path);
    }
    if ((is->rank > 0 || wants_moments) && !rf_adapt_same(is, wanted)) {
        return rf_error_set(err, RF_ERR,
                            "%s: was trained with other settings of train.only or lora.*: take "
                            "back those that differ",
                            path);
    }
    if (is->rank > 0 && structure->base.hash != fit->base.hash) {
        return rf_error_set(err, RF_ERR,
                            "%s: its adapters belong to another base than %s: they were trained "
                            "with %s (parameters of hash %016" PRIx64
                            "): give that one, wherever it lies now",
                            path, fit->base.path[0] != '\0' ? fit->base.path : "the one given",
                            structure->base.path, structure->base.hash);
    }
    return RF_OK;
}

static void remember_base(rf_checkpoint_fit *fit, const rf_checkpoint_structure *structure,
                          const char *path)
{
    if (fit->adaptation->rank == 0 || structure->adaptation.rank > 0) {
        return;
    }
    char *absolute = realpath(path, NULL);
    const char *name = absolute != NULL ? absolute : path;
    fit->base.hash = hash_of(structure);
    snprintf(fit->base.path, sizeof fit->base.path, "%s", name);
    free(absolute);
}

/* May the file's values become the model's? */
static int check_fit(const rf_checkpoint_structure *structure, const rf_checkpoint_fit *fit,
                     bool wants_moments, const char *path, rf_error *err)
{
    char difference[256];
    if (!rf_model_config_same_shape(&structure->model, fit->config, difference,
                                    sizeof difference)) {
        return rf_error_set(err, RF_ERR,
                            "%s: the file's model is not the one asked for: %s: give the model.* "
                            "settings of the file or another file",
                            path, difference);
    }
    RF_TRY(check_adaptation(structure, fit, wants_moments, path, err));
    if (structure->item[0].type == RF_I8 && fit->trains && fit->adaptation->rank == 0) {
        return rf_error_set(err, RF_ERR,
                            "%s: its weights were rounded to int8, for decoding: train from the "
                            "checkpoint that it was made of, or adapters (lora.rank) beside it",
                            path);
    }
    if (wants_moments && structure->values.has_optimizer == 0) {
        return rf_error_set(err, RF_ERR,
                            "%s: holds weights without optimizer state, so no run can be resumed "
                            "from it: give it as model.init",
                            path);
    }
    return RF_OK;
}

int rf_checkpoint_check(const char *path, rf_checkpoint_fit *fit, bool wants_moments, rf_error *err)
{
    static const bool all[RF_N_GROUPS] = {true, true, true, true};
    rf_checkpoint_reader *reader = NULL;
    int rc;
    RF_TRY(rf_checkpoint_reader_open(&reader, path, err));
    RF_TRY_OUT(check_fit(&reader->structure, fit, wants_moments, path, err));
    RF_TRY_OUT(read_all(reader, all, NULL, NULL, err));
    remember_base(fit, &reader->structure, path);
out:
    rf_checkpoint_reader_close(reader);
    return rc;
}

typedef struct target {
    rf_checkpoint_reader *reader;
    rf_model *model;
    void *base[RF_N_GROUPS]; /* class master; where the model's table says; NULL: left out */
} target;

static int upload(void *user, piece *p, rf_error *err)
{
    const target *to = user;
    rf_model *model = to->model;
    const rf_tensor *tensor = rf_table_find(&model->table, p->item->tensor->name);
    RF_TRY(widen(to->reader, p, err));
    if (p->item->group == RF_GROUP_PARAMS) {
        rf_model_upload(model, tensor, p->first, p->values, p->type, p->n);
    } else {
        int64_t at;
        const rf_range held = rf_model_held(model, tensor, true, p->first, p->n, &at);
        const size_t skipped = (size_t)(held.begin - p->first) * rf_type_bytes(p->type);
        rf_backend_upload(
            model->ctx, rf_backend_at(model->ctx->backend, RF_MASTER, to->base[p->item->group], at),
            RF_MASTER, (const char *)p->values + skipped, p->type, held.end - held.begin);
    }
    return rf_ctx_sync(model->ctx, err); /* the next piece takes the place of this one */
}

int rf_checkpoint_load(const char *path, rf_model *model, void *adam_m, void *adam_v, rf_error *err)
{
    rf_checkpoint_reader *reader = NULL;
    const bool wants[RF_N_GROUPS] = {true, adam_m != NULL, adam_v != NULL, false};
    RF_TRY(rf_checkpoint_reader_open(&reader, path, err));
    target to = {reader, model, {NULL, adam_m, adam_v}};
    rf_checkpoint_fit fit = {&model->config, &model->adaptation, model->base,
                             model->ctx->limits.backward};
    int rc;
    RF_TRY_OUT(
        check_fit(&reader->structure, &fit, wants[RF_GROUP_M] || wants[RF_GROUP_V], path, err));
    RF_TRY_OUT(read_all(reader, wants, upload, &to, err));
    rf_model_prepare(model);
    remember_base(&fit, &reader->structure, path);
    model->base = fit.base;
out:
    rf_checkpoint_reader_close(reader);
    return rc;
}

/* --- Header ----------------------------------------------------------------------------------- */

static char *take_text(rf_checkpoint_structure *structure, int i)
{
    char *text = structure->text[i];
    structure->text[i] = NULL;
    return text;
}

int rf_checkpoint_info_read(rf_checkpoint_info *out, const char *path, rf_error *err)
{
    rf_checkpoint_structure structure;
    int rc = RF_OK;
    memset(out, 0, sizeof *out);
    RF_TRY_OUT(rf_checkpoint_structure_read(&structure, path, err));
    const rf_checkpoint_values *values = &structure.values;
    if (structure.text_bytes[RF_TEXT_TOKENIZER] > 0) {
        RF_TRY_OUT(rf_tokenizer_parse(&out->tokenizer, structure.text[RF_TEXT_TOKENIZER],
                                      structure.text_bytes[RF_TEXT_TOKENIZER], path, err));
    }
    out->model = structure.model;
    out->adaptation = structure.adaptation;
    out->base = structure.base;
    out->progress = values->progress;
    out->storage = structure.item[0].type;
    out->has_optimizer = values->has_optimizer != 0;
    memcpy(out->isa, values->isa, sizeof out->isa);
    memcpy(out->written_by, values->written_by, sizeof out->written_by);
    out->run_config = take_text(&structure, RF_TEXT_RUN_CONFIG);
    out->corpora = take_text(&structure, RF_TEXT_CORPORA);
    out->state = take_text(&structure, RF_TEXT_STATE);
out:
    rf_checkpoint_structure_free(&structure);
    return rc;
}

void rf_checkpoint_info_free(rf_checkpoint_info *info)
{
    free(info->run_config);
    free(info->corpora);
    free(info->state);
    rf_tokenizer_free(info->tokenizer);
    memset(info, 0, sizeof *info);
}
