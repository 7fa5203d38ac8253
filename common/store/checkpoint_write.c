#include "common/store/checkpoint_private.h"

#include "common/base/failpoint.h"
#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

/* Ranks write intervals of the file that are cut at multiples of this: NFS clients must not share
 * a page, and pages have at most 64 KiB. */
#define CUT_BYTES ((int64_t)64 << 10)

/* One save, as one rank sees it. */
typedef struct save {
    const char *path;
    rf_dist *dist; /* NULL: alone */
    int rank, size;
    const rf_model_config *config;
    const rf_table *table;
    rf_type type;
    bool has_optimizer;
    rf_model *model;               /* where the values come from; NULL: from source */
    const void *base[RF_N_GROUPS]; /* masters and moments */
    rf_checkpoint_source source;
    void *user;
    rf_checkpoint_item *item; /* [n_items] */
    int64_t n_items;
    int64_t file_bytes;
    rf_atomic file; /* rank 0's; the others know the name of the temporary */
} save;

static int agree(const save *s, int code, rf_error *err)
{
    return s->dist != NULL ? rf_dist_agree(s->dist, code, err) : code;
}

/* --- Plan: every rank learns what rank 0 has laid out ----------------------------------------- */

static int measure_file(save *s, rf_error *err)
{
    int fd = open(s->file.temporary, O_RDONLY | O_CLOEXEC);
    off_t end = fd >= 0 ? lseek(fd, 0, SEEK_END) : -1;
    int reason = errno;
    if (fd >= 0) {
        close(fd);
    }
    if (end < 0) {
        return rf_error_set(err, rf_error_code_of_errno(reason), "%s: cannot open: %s",
                            s->file.temporary, strerror(reason));
    }
    s->file_bytes = (int64_t)end;
    return RF_OK;
}

static int share_plan(save *s, rf_error *err)
{
    int64_t *numbers = calloc((size_t)s->n_items + 1, sizeof *numbers);
    int rc =
        agree(s, numbers != NULL ? RF_OK : rf_error_set(err, RF_ERR, "no memory for a plan"), err);
    if (rc != RF_OK) {
        goto out;
    }
    numbers[0] = s->file_bytes;
    for (int64_t i = 0; i < s->n_items; i++) {
        numbers[i + 1] = s->item[i].offset;
    }
    rc = rf_dist_broadcast(s->dist, numbers, ((size_t)s->n_items + 1) * sizeof *numbers, 0, err);
    if (rc == RF_OK) {
        rc = rf_dist_broadcast(s->dist, s->file.temporary, sizeof s->file.temporary, 0, err);
    }
    if (rc != RF_OK) {
        goto out;
    }
    s->file_bytes = numbers[0];
    for (int64_t i = 0; i < s->n_items; i++) {
        s->item[i].offset = numbers[i + 1];
    }
out:
    free(numbers);
    return rc;
}

static int64_t cut(const save *s, int rank)
{
    return rank == s->size ? s->file_bytes : s->file_bytes / CUT_BYTES * rank / s->size * CUT_BYTES;
}

/* The bytes of an item that a rank writes: [*begin,*end) counted from the item's first. */
static void share_of(int64_t *begin, int64_t *end, const save *s, const rf_checkpoint_item *item,
                     int rank)
{
    int64_t from = cut(s, rank) - item->offset, to = cut(s, rank + 1) - item->offset;
    *begin = from < 0 ? 0 : from > item->bytes ? item->bytes : from;
    *end = to < 0 ? 0 : to > item->bytes ? item->bytes : to;
}

/* --- Values: every rank ----------------------------------------------------------------------- */

/* Elements [first,first+n) of an item, as they will lie in the file. */
static int fetch(const save *s, void *chunk, const rf_checkpoint_item *item, int64_t first,
                 int64_t n, rf_error *err)
{
    if (s->model == NULL) {
        bool scales = item->group == RF_GROUP_SCALES;
        return scales || item->type == RF_I8
                   ? rf_checkpoint_quantize(chunk, scales, item->tensor, first, n, s->source,
                                            s->user, err)
                   : s->source(s->user, chunk, item->tensor, first, n, err);
    }
    rf_ctx *ctx = s->model->ctx;
    rf_backend_download(
        ctx, chunk, item->type == RF_F64 ? RF_F64 : RF_F32,
        rf_backend_at(ctx->backend, RF_MASTER, s->base[item->group], item->tensor->offset + first),
        RF_MASTER, n);
    return RF_OK;
}

/* Writes this rank's share of an item and leaves the share's checksum in item->crc. A share may
 * begin and end inside an element. */
static int write_share(save *s, rf_checkpoint_item *item, int fd, char *chunk, rf_error *err)
{
    int64_t element = (int64_t)rf_type_bytes(item->type);
    int64_t begin, end;
    share_of(&begin, &end, s, item, s->rank);
    item->crc = 0;
    while (begin < end) {
        int64_t first = begin / element;
        int64_t stop = (first * element) + RF_CHECKPOINT_CHUNK;
        stop = stop < end ? stop : end;
        int64_t n = (stop + element - 1) / element - first;
        int rc = fetch(s, chunk, item, first, n, err);
        if (rc != RF_OK) {
            return rc;
        }
        const char *from = chunk + (begin - first * element);
        size_t bytes = (size_t)(stop - begin);
        item->crc = (uint32_t)crc32_z(item->crc, (const unsigned char *)from, bytes);
        rc = rf_file_pwrite(fd, from, bytes, item->offset + begin, s->file.temporary, err);
        if (rc != RF_OK) {
            return rc;
        }
        begin = stop;
    }
    return RF_OK;
}

static int sync_and_close(int fd, const char *path, rf_error *err)
{
    int rc = rf_failpoint_visit("fsync", err);
    if (rc == RF_OK && fsync(fd) != 0) {
        rc = rf_error_set(err, rf_error_code_of_errno(errno), "%s: cannot flush to disk: %s", path,
                          strerror(errno));
    }
    if (close(fd) != 0 && errno != EINTR && rc == RF_OK) {
        rc = rf_error_set(err, rf_error_code_of_errno(errno), "%s: cannot write: %s", path,
                          strerror(errno));
    }
    return rc;
}

static int write_values(save *s, rf_error *err)
{
    int rc = s->model != NULL ? rf_ctx_sync(s->model->ctx, err) : RF_OK;
    int fd = -1;
    char *chunk = malloc(RF_CHECKPOINT_CHUNK + sizeof(double));
    if (rc != RF_OK) {
        goto out;
    }
    if (chunk == NULL) {
        rc = rf_error_set(err, RF_ERR, "%s: no memory for writing", s->path);
        goto out;
    }
    fd = open(s->file.temporary, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        rc = rf_error_set(err, rf_error_code_of_errno(errno),
                          "%s: cannot open the file that rank 0 has begun: %s: checkpoints need a "
                          "folder that all ranks share",
                          s->file.temporary, strerror(errno));
        goto out;
    }
    for (int64_t i = 0; i < s->n_items && rc == RF_OK; i++) {
        if (i == s->n_items / 2) {
            rc = rf_failpoint_visit("pwrite", err);
        }
        if (rc == RF_OK) {
            rc = write_share(s, &s->item[i], fd, chunk, err);
        }
    }
    if (rc == RF_OK) {
        rc = sync_and_close(fd, s->file.temporary, err);
        fd = -1;
    }
    if (rc == RF_OK) {
        rc = rf_failpoint_visit("agree", err);
    }
out:
    if (fd >= 0) {
        close(fd);
    }
    free(chunk);
    return rc;
}

/* Puts the ranks' checksums together; their shares of an item follow each other in rank order. */
static int combine_checksums(save *s, rf_error *err)
{
    size_t n = (size_t)s->n_items;
    uint32_t *mine = calloc(n + 1, sizeof *mine);
    uint32_t *all = calloc(n * (size_t)s->size + 1, sizeof *all);
    int rc = mine != NULL && all != NULL
                 ? RF_OK
                 : rf_error_set(err, RF_ERR, "%s: no memory for the checksums", s->path);
    rc = agree(s, rc, err);
    if (rc != RF_OK) {
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        mine[i] = s->item[i].crc;
    }
    rc = rf_dist_allgather_bytes(s->dist, all, mine, n * sizeof *mine, err);
    for (size_t i = 0; i < n && rc == RF_OK; i++) {
        uLong crc = 0;
        for (int r = 0; r < s->size; r++) {
            int64_t begin, end;
            share_of(&begin, &end, s, &s->item[i], r);
            crc = crc32_combine(crc, all[(size_t)r * n + i], (z_off_t)(end - begin));
        }
        s->item[i].crc = (uint32_t)crc;
    }
out:
    free(mine);
    free(all);
    return rc;
}

/* --- Commit (rank 0) -------------------------------------------------------------------------- */

/* What was written is read as a stranger would before it takes the place of anything. */
static int commit(save *s, rf_checkpoint_values *values, rf_error *err)
{
    rf_checkpoint_structure structure = {0};
    int rc = rf_failpoint_visit("complete", err);
    if (rc == RF_OK) {
        rc = rf_checkpoint_complete(values, s->item, s->n_items, s->file.temporary, err);
    }
    if (rc == RF_OK) {
        rc = rf_checkpoint_structure_read(&structure, s->file.temporary, err);
    }
    rf_checkpoint_structure_free(&structure);
    if (rc == RF_OK) {
        rc = rf_failpoint_visit("rename", err);
    }
    return rc == RF_OK ? rf_atomic_commit(&s->file, err) : rc;
}

/* --- Save ------------------------------------------------------------------------------------- */

static int begin(save *s, rf_checkpoint_values *values, const rf_checkpoint_info *info,
                 rf_error *err)
{
    int rc = rf_checkpoint_items(&s->item, &s->n_items, s->table, s->type, s->has_optimizer, err);
    if (rc != RF_OK || s->rank != 0) {
        return rc;
    }
    rc = rf_atomic_begin(&s->file, s->path, err);
    if (rc == RF_OK) {
        rc = rf_failpoint_visit("layout", err);
    }
    if (rc == RF_OK) {
        rc = rf_checkpoint_layout(values, s->item, s->n_items, s->file.temporary, s->config,
                                  s->has_optimizer, s->type == RF_I8, info, err);
    }
    return rc == RF_OK ? measure_file(s, err) : rc;
}

static int save_all(save *s, const rf_checkpoint_info *info, rf_error *err)
{
    rf_checkpoint_values values;
    int rc = agree(s, begin(s, &values, info, err), err);
    if (rc == RF_OK && s->size > 1) {
        rc = share_plan(s, err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    rc = agree(s, write_values(s, err), err);
    if (rc == RF_OK && s->size > 1) {
        rc = combine_checksums(s, err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    return agree(s, s->rank == 0 ? commit(s, &values, err) : RF_OK, err);
}

static int run_save(save *s, const rf_checkpoint_info *info, rf_error *err)
{
    rf_hdf5_silence silence = rf_hdf5_silence_begin();
    int rc = save_all(s, info, err);
    rf_hdf5_silence_end(silence);
    if (s->rank == 0) {
        rf_atomic_abandon(&s->file);
    }
    free(s->item);
    if (rc != RF_OK) {
        rf_error_prefix(err, "saving the checkpoint %s", s->path);
    }
    return rc;
}

int rf_checkpoint_save(const char *path, rf_dist *dist, rf_model *model, const void *adam_m,
                       const void *adam_v, const rf_checkpoint_info *info, rf_error *err)
{
    RF_ASSERT((adam_m == NULL) == (adam_v == NULL) && model->weights == RF_ROWS);
    bool is_f64 = model->ctx->backend->type[RF_MASTER] == RF_F64;
    save s = {.path = path,
              .dist = dist,
              .rank = dist != NULL ? rf_dist_rank(dist) : 0,
              .size = dist != NULL ? rf_dist_size(dist) : 1,
              .config = &model->config,
              .table = &model->table,
              .type = is_f64 ? RF_F64 : RF_F32,
              .has_optimizer = adam_m != NULL,
              .model = model,
              .base = {model->master, adam_m, adam_v}};
    rf_checkpoint_info own = *info;
    own.adaptation = model->adaptation;
    own.base = model->base;
    if (model->adaptation.rank > 0 && model->base.hash == 0) {
        return rf_error_set(err, RF_ERR,
                            "%s: adapters without a base that was loaded from a checkpoint cannot "
                            "be saved",
                            path);
    }
    return run_save(&s, &own, err);
}

int rf_checkpoint_write(const char *path, const rf_model_config *config, rf_type type,
                        rf_checkpoint_source source, void *user, const rf_checkpoint_info *info,
                        rf_error *err)
{
    RF_ASSERT(type == RF_F32 || type == RF_F64 || type == RF_BF16 || type == RF_I8);
    rf_table table;
    int rc = rf_table_build(&table, config, err);
    if (rc != RF_OK) {
        return rc;
    }
    save s = {.path = path,
              .size = 1,
              .config = config,
              .table = &table,
              .type = type,
              .source = source,
              .user = user};
    rf_checkpoint_info own = *info;
    own.adaptation = (rf_adaptation){0};
    rc = run_save(&s, &own, err);
    rf_table_free(&table);
    return rc;
}
