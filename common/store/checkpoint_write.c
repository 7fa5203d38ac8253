#include "common/store/checkpoint_private.h"

#include "common/base/alloc.h"
#include "common/base/crc32.h"
#include "common/base/failpoint.h"
#include "common/base/files/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

/* Ranks write intervals of the file that are cut at multiples of this: NFS clients must not share
 * a page, and pages have at most 64 KiB. */
#define CUT_BYTES ((int64_t)64 << 10)

/* One save, as one rank sees it. */
struct rf_checkpoint_writer {
    char *path;
    rf_dist *dist; /* NULL: alone */
    int rank, size;
    rf_type type;
    bool has_optimizer;
    rf_model *model;               /* where the values come from; NULL: from source */
    rf_ctx *ctx;                   /* through which they are read: the model's, or the copy's own */
    const void *base[RF_N_GROUPS]; /* masters and moments */
    rf_checkpoint_source source;
    void *user;
    char *copy; /* room for this rank's shares, one behind the other; NULL: not copied */
    rf_checkpoint_item *item; /* [n_items] */
    int64_t n_items;
    int64_t file_bytes;
    rf_atomic file;               /* rank 0's; the others know the name of the temporary */
    rf_checkpoint_values *values; /* rank 0's */
    rf_error written;             /* what the copy and write phases came to */
};

typedef rf_checkpoint_writer writer;

static int agree(const writer *w, int rc, rf_error *err)
{
    return w->dist != NULL ? rf_dist_agree(w->dist, rc, err) : rc;
}

/* --- Plan: every rank learns what rank 0 has laid out ----------------------------------------- */

static int share_plan(writer *w, rf_error *err)
{
    int rc = RF_OK;
    int64_t *numbers = rf_alloc((size_t)w->n_items + 1, sizeof *numbers);
    numbers[0] = w->file_bytes;
    for (int64_t i = 0; i < w->n_items; i++) {
        numbers[i + 1] = w->item[i].offset;
    }
    RF_TRY_OUT(
        rf_dist_broadcast(w->dist, numbers, ((size_t)w->n_items + 1) * sizeof *numbers, 0, err));
    RF_TRY_OUT(rf_dist_broadcast(w->dist, w->file.temporary, sizeof w->file.temporary, 0, err));
    w->file_bytes = numbers[0];
    for (int64_t i = 0; i < w->n_items; i++) {
        w->item[i].offset = numbers[i + 1];
    }
out:
    free(numbers);
    return rc;
}

static int64_t cut(const writer *w, int rank)
{
    return rank == w->size ? w->file_bytes : w->file_bytes / CUT_BYTES * rank / w->size * CUT_BYTES;
}

/* Do ranks hold slices of the item's values? */
static bool is_sliced(const writer *w, const rf_checkpoint_item *item)
{
    const rf_shards *shards = w->model != NULL ? w->model->shards : NULL;
    return shards != NULL && shards->n_ranks > 1 &&
           (item->group != RF_GROUP_PARAMS || shards->kind == RF_SHARD_WEIGHTS);
}

/* The bytes of an item that a rank owns, counted from the item's first, in the order of the ranks: the
 * one place that knows. What every rank holds is dealt out in equal parts of the file. */
static rf_range share_of(const writer *w, const rf_checkpoint_item *item, int rank)
{
    if (is_sliced(w, item)) {
        const int64_t first = item->tensor->offset, element = (int64_t)rf_type_bytes(item->type);
        const rf_range held =
            rf_shards_held(w->model->shards, (rf_range){first, first + item->count}, rank);
        return (rf_range){(held.begin - first) * element, (held.end - first) * element};
    }
    int64_t from = cut(w, rank) - item->offset, to = cut(w, rank + 1) - item->offset;
    return (rf_range){from < 0             ? 0
                      : from > item->bytes ? item->bytes
                                           : from,
                      to < 0             ? 0
                      : to > item->bytes ? item->bytes
                                         : to};
}

/* --- Values: every rank ----------------------------------------------------------------------- */

/* Elements [first,first+n) of an item, as they will lie in the file. */
static int fetch(const writer *w, void *chunk, const rf_checkpoint_item *item, int64_t first,
                 int64_t n, rf_error *err)
{
    if (w->model != NULL) {
        int64_t at;
        const bool moments = item->group != RF_GROUP_PARAMS;
        const rf_range held = rf_model_held(w->model, item->tensor, moments, first, n, &at);
        RF_ASSERT(held.begin == first && held.end == first + n);
        rf_backend_download(w->ctx, chunk, item->type,
                            rf_backend_at(w->ctx->backend, RF_MASTER, w->base[item->group], at),
                            RF_MASTER, n);
        return rf_ctx_sync(w->ctx, err);
    }
    bool scales = item->group == RF_GROUP_SCALES;
    return scales || item->type == RF_I8 ? rf_checkpoint_quantize(chunk, scales, item->tensor,
                                                                  first, n, w->source, w->user, err)
                                         : w->source(w->user, chunk, item->tensor, first, n, err);
}

/* Hands this rank's share of an item to `use`, piece by piece: bytes [at, at + bytes) of the item.
 * A share may begin and end inside an element; chunk has room for one more. */
static int each_piece(writer *w, rf_checkpoint_item *item, char *chunk,
                      int (*use)(writer *w, rf_checkpoint_item *item, const char *from,
                                 size_t bytes, int64_t at, void *user, rf_error *err),
                      void *user, rf_error *err)
{
    const int64_t element = (int64_t)rf_type_bytes(item->type);
    rf_range left = share_of(w, item, w->rank);
    while (left.begin < left.end) {
        const int64_t first = left.begin / element, most = first * element + RF_CHECKPOINT_CHUNK;
        const int64_t stop = most < left.end ? most : left.end;
        RF_TRY(fetch(w, chunk, item, first, (stop + element - 1) / element - first, err));
        RF_TRY(use(w, item, chunk + (left.begin - first * element), (size_t)(stop - left.begin),
                   left.begin, user, err));
        left.begin = stop;
    }
    return RF_OK;
}

static int keep(writer *w, rf_checkpoint_item *item, const char *from, size_t bytes, int64_t at,
                void *user, rf_error *err)
{
    (void)w, (void)item, (void)at, (void)err;
    memcpy(user, from, bytes);
    return RF_OK;
}

/* This rank's share of an item, to memory: at once where it begins and ends with an element, which but
 * for items that are smaller than a page it does. */
static int copy_share(writer *w, rf_checkpoint_item *item, char *to, char *chunk, rf_error *err)
{
    const int64_t element = (int64_t)rf_type_bytes(item->type);
    const rf_range own = share_of(w, item, w->rank);
    const bool whole = own.begin % element == 0 && own.end % element == 0 &&
                       (uintptr_t)to % (uintptr_t)element == 0;
    return whole ? fetch(w, to, item, own.begin / element, (own.end - own.begin) / element, err)
                 : each_piece(w, item, chunk, keep, to, err);
}

void rf_checkpoint_buffer_free(rf_checkpoint_buffer *buffer)
{
    free(buffer->data);
    *buffer = (rf_checkpoint_buffer){0};
}

/* Room for all that this rank owns, and a byte where that is nothing. */
static int make_room(writer *w, rf_checkpoint_buffer *buffer, rf_error *err)
{
    size_t bytes = 1;
    for (int64_t i = 0; i < w->n_items; i++) {
        const rf_range own = share_of(w, &w->item[i], w->rank);
        bytes += (size_t)(own.end - own.begin);
    }
    if (bytes > buffer->bytes) {
        rf_checkpoint_buffer_free(buffer);
        buffer->data = rf_alloc_huge(bytes);
        buffer->bytes = buffer->data != NULL ? bytes : 0;
    }
    w->copy = buffer->data;
    return w->copy != NULL
               ? RF_OK
               : rf_error_set(err, RF_ERR,
                              "no memory for a copy of %zu bytes: set checkpoint.async=no", bytes);
}

/* What this rank owns. The model's context is at work on another thread: this one only reads. */
static int copy_values(writer *w, rf_error *err)
{
    const rf_ctx *models = w->model->ctx;
    const rf_limits limits = {.compute = models->limits.compute};
    rf_ctx *reader = NULL;
    int rc = RF_OK;
    char *to = w->copy, *chunk = rf_alloc(RF_CHECKPOINT_CHUNK + sizeof(double), 1);
    RF_TRY_OUT(rf_failpoint_visit("copy", err));
    RF_TRY_OUT(rf_ctx_new(&reader, models->backend, 1, &limits, err));
    w->ctx = reader;
    for (int64_t i = 0; i < w->n_items; i++) {
        const rf_range own = share_of(w, &w->item[i], w->rank);
        RF_TRY_OUT(copy_share(w, &w->item[i], to, chunk, err));
        to += own.end - own.begin;
    }
out:
    w->ctx = w->model->ctx;
    rf_ctx_free(reader);
    free(chunk);
    return rc;
}

/* The disk begins now with what else it would be given by fsync alone, when all is in the page cache. A
 * hint: file systems without it lose nothing but time. */
static void begin_writing_back(int fd, int64_t offset, size_t bytes)
{
#ifdef SYNC_FILE_RANGE_WRITE
    (void)sync_file_range(fd, (off_t)offset, (off_t)bytes, SYNC_FILE_RANGE_WRITE);
#else
    (void)fd, (void)offset, (void)bytes;
#endif
}

/* In pieces that are in the cache still when they are written after their checksum. */
static int put(writer *w, rf_checkpoint_item *item, const char *from, size_t bytes, int64_t at,
               void *user, rf_error *err)
{
    const int fd = *(const int *)user;
    for (size_t done = 0; done < bytes;) {
        const size_t n = bytes - done < RF_CHECKPOINT_CHUNK ? bytes - done : RF_CHECKPOINT_CHUNK;
        const int64_t offset = item->offset + at + (int64_t)done;
        item->crc = rf_crc32(item->crc, from + done, n);
        RF_TRY(rf_file_pwrite(fd, from + done, n, offset, w->file.temporary, err));
        begin_writing_back(fd, offset, n);
        done += n;
    }
    return RF_OK;
}

/* Writes this rank's share of an item and leaves the share's checksum in item->crc; *from moves on
 * in the copy, if there is one. */
static int write_share(writer *w, rf_checkpoint_item *item, int fd, const char **from, char *chunk,
                       rf_error *err)
{
    const rf_range own = share_of(w, item, w->rank);
    item->crc = 0;
    if (*from == NULL) {
        return each_piece(w, item, chunk, put, &fd, err);
    }
    RF_TRY(put(w, item, *from, (size_t)(own.end - own.begin), own.begin, &fd, err));
    *from += own.end - own.begin;
    return RF_OK;
}

static int write_values(writer *w, rf_error *err)
{
    int rc = RF_OK;
    const char *from = w->copy;
    char *chunk = rf_alloc(RF_CHECKPOINT_CHUNK + sizeof(double), 1);
    int fd = open(w->file.temporary, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        rc = rf_error_set(err, rf_error_code_of_errno(errno),
                          "%s: cannot open the file that rank 0 has begun: %s: checkpoints need a "
                          "folder that all ranks share",
                          w->file.temporary, strerror(errno));
        goto out;
    }
    for (int64_t i = 0; i < w->n_items; i++) {
        RF_TRY_OUT(i == w->n_items / 2 ? rf_failpoint_visit("pwrite", err) : RF_OK);
        RF_TRY_OUT(write_share(w, &w->item[i], fd, &from, chunk, err));
    }
    RF_TRY_OUT(rf_failpoint_visit("fsync", err));
    rc = rf_file_sync_and_close(fd, w->file.temporary, err);
    fd = -1;
out:
    if (fd >= 0) {
        close(fd);
    }
    free(chunk);
    return rc;
}

/* Puts the ranks' checksums together; their shares of an item follow each other in rank order. */
static int combine_checksums(writer *w, rf_error *err)
{
    size_t n = (size_t)w->n_items;
    uint32_t *mine = rf_alloc(n, sizeof *mine);
    uint32_t *all = rf_alloc(n * (size_t)w->size, sizeof *all);
    for (size_t i = 0; i < n; i++) {
        mine[i] = w->item[i].crc;
    }
    int rc = rf_dist_allgather_bytes(w->dist, all, mine, n * sizeof *mine, err);
    for (size_t i = 0; i < n && rc == RF_OK; i++) {
        uLong crc = 0;
        for (int r = 0; r < w->size; r++) {
            const rf_range own = share_of(w, &w->item[i], r);
            crc = crc32_combine(crc, all[(size_t)r * n + i], (z_off_t)(own.end - own.begin));
        }
        w->item[i].crc = (uint32_t)crc;
    }
    free(mine);
    free(all);
    return rc;
}

/* By rank 0. What was written is read as a stranger would before it takes the place of anything. */
static int commit(writer *w, rf_error *err)
{
    rf_checkpoint_structure structure = {0};
    if (w->rank != 0) {
        return RF_OK;
    }
    RF_TRY(rf_failpoint_visit("complete", err));
    RF_TRY(rf_checkpoint_complete(w->values, w->item, w->n_items, w->file.temporary, err));
    int rc = rf_checkpoint_structure_read(&structure, w->file.temporary, err);
    rf_checkpoint_structure_free(&structure);
    RF_TRY(rc);
    RF_TRY(rf_failpoint_visit("rename", err));
    return rf_atomic_commit(&w->file, err);
}

/* --- The phases -------------------------------------------------------------------------------- */

/* Rank 0: the file without its values. */
static int lay_out(writer *w, const rf_model_config *config, const rf_checkpoint_info *info,
                   rf_error *err)
{
    struct stat status;
    RF_TRY(w->model != NULL ? rf_atomic_begin_own(&w->file, w->path, err)
                            : rf_atomic_begin(&w->file, w->path, err));
    RF_TRY(rf_failpoint_visit("layout", err));
    w->values = rf_alloc(1, sizeof *w->values);
    RF_TRY(rf_checkpoint_layout(w->values, w->item, w->n_items, w->file.temporary, config,
                                w->has_optimizer, w->type == RF_I8, info, err));
    if (stat(w->file.temporary, &status) != 0) {
        return rf_error_system(err, errno, w->file.temporary, "cannot open");
    }
    w->file_bytes = (int64_t)status.st_size;
    return RF_OK;
}

static int begin(writer *w, const rf_model_config *config, const rf_table *table,
                 const rf_checkpoint_info *info, rf_checkpoint_buffer *buffer, rf_error *err)
{
    w->item = rf_checkpoint_items(&w->n_items, table, w->type, w->has_optimizer);
    RF_TRY(agree(w, w->rank == 0 ? lay_out(w, config, info, err) : RF_OK, err));
    RF_TRY(w->size > 1 ? share_plan(w, err) : RF_OK);
    return buffer != NULL ? agree(w, make_room(w, buffer, err), err) : RF_OK;
}

static int collect(writer *w, rf_error *err)
{
    const int rc = rf_error_pass(err, &w->written);
    RF_TRY(agree(w, rc == RF_OK ? rf_failpoint_visit("agree", err) : rc, err));
    return w->size > 1 ? combine_checksums(w, err) : RF_OK;
}

static int explain(const writer *w, int rc, rf_error *err)
{
    if (rc != RF_OK) {
        rf_error_prefix(err, "saving the checkpoint %s", w->path);
    }
    return rc;
}

int rf_checkpoint_snapshot(rf_checkpoint_writer **out, const char *path, rf_dist *dist,
                           rf_model *model, const void *adam_m, const void *adam_v,
                           const rf_checkpoint_info *info, rf_checkpoint_buffer *buffer,
                           rf_error *err)
{
    RF_ASSERT((adam_m == NULL) == (adam_v == NULL) && model->weights == RF_ROWS);
    *out = NULL;
    if (model->adaptation.rank > 0 && model->base.hash == 0) {
        return rf_error_set(err, RF_ERR,
                            "%s: adapters without a base that was loaded from a checkpoint cannot "
                            "be saved",
                            path);
    }
    writer *w = rf_alloc(1, sizeof *w);
    *w = (writer){.path = rf_alloc_string(path),
                  .dist = dist,
                  .rank = dist != NULL ? rf_dist_rank(dist) : 0,
                  .size = dist != NULL ? rf_dist_size(dist) : 1,
                  .type = model->ctx->backend->type[RF_MASTER],
                  .has_optimizer = adam_m != NULL,
                  .model = model,
                  .ctx = model->ctx,
                  .base = {model->master, adam_m, adam_v}};
    rf_checkpoint_info own = *info;
    own.adaptation = model->adaptation;
    own.base = model->base;
    int rc = explain(w, begin(w, &model->config, &model->table, &own, buffer, err), err);
    if (rc != RF_OK) {
        rf_checkpoint_writer_free(w);
        return rc;
    }
    *out = w;
    return RF_OK;
}

void rf_checkpoint_writer_copy(rf_checkpoint_writer *w)
{
    if (w->copy == NULL || copy_values(w, &w->written) == RF_OK) {
        w->written = (rf_error){0};
    }
}

void rf_checkpoint_writer_write(rf_checkpoint_writer *w)
{
    if (w->written.code == RF_OK && write_values(w, &w->written) == RF_OK) {
        w->written = (rf_error){0};
    }
}

int rf_checkpoint_writer_collect(rf_checkpoint_writer *w, rf_error *err)
{
    return explain(w, collect(w, err), err);
}

int rf_checkpoint_writer_commit(rf_checkpoint_writer *w, rf_error *err)
{
    return explain(w, commit(w, err), err);
}

void rf_checkpoint_writer_free(rf_checkpoint_writer *w)
{
    if (w == NULL) {
        return;
    }
    if (w->rank == 0) {
        rf_atomic_abandon(&w->file);
    }
    free(w->values);
    free(w->item);
    free(w->path);
    free(w);
}

int64_t rf_checkpoint_writer_bytes(const rf_checkpoint_writer *w)
{
    return w->file_bytes;
}

int rf_checkpoint_write(const char *path, const rf_model_config *config, rf_type type,
                        rf_checkpoint_source source, void *user, const rf_checkpoint_info *info,
                        rf_error *err)
{
    RF_ASSERT(type == RF_F32 || type == RF_F64 || type == RF_BF16 || type == RF_I8);
    rf_table table;
    RF_TRY(rf_table_build_adapted(&table, config, &info->adaptation, err));
    writer *w = rf_alloc(1, sizeof *w);
    *w = (writer){
        .path = rf_alloc_string(path), .size = 1, .type = type, .source = source, .user = user};
    rf_checkpoint_info own = *info;
    own.state = NULL; /* nobody can go on with it */
    int rc;
    RF_TRY_OUT(explain(w, begin(w, config, &table, &own, NULL, err), err));
    rf_checkpoint_writer_write(w);
    RF_TRY_OUT(rf_checkpoint_writer_collect(w, err));
    rc = rf_checkpoint_writer_commit(w, err);
out:
    rf_checkpoint_writer_free(w);
    rf_table_free(&table);
    return rc;
}
