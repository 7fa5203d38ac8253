#include "train/run/dump.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/files/hdf5.h"

#include <stdlib.h>
#include <string.h>

/* A rank's part of the batch: one record of 32-bit words for each place. */
enum { TOKEN, POSITION, TARGET, SPANS, WEIGHT = SPANS + 4, N_WORDS };

struct rf_dump {
    rf_dump_settings set;
    rf_dist *dist; /* not owned, as the model */
    rf_model *model;
    int64_t n_places;     /* of this rank */
    int64_t n_all;        /* over all ranks */
    int32_t *own, *all;   /* [places, N_WORDS] */
    rf_type type;         /* f64 where the masters are, else f32 */
    void *gradient;       /* [table.n_elements] host, of `type`; rank 0 */
    void *before, *after; /* [table.n_stored], likewise */
    void *part; /* backend: a part of what ranks hold slices of, [longest part]; or NULL */
    rf_exchange *exchange; /* that brings it. Owned, as it is */
    rf_dump_update update;
};

/* --- Filling ---------------------------------------------------------------------------------- */

static void take(rf_dump *d, void *host, const void *values, int64_t n)
{
    if (host != NULL) {
        rf_backend_download(d->model->ctx, host, d->type, values, RF_MASTER, n);
    }
}

/* collective. The first n_parts parts of the space, of which ranks hold slices: to rank 0. */
static int take_slices(rf_dump *d, void *host, const void *held, int64_t n_parts, rf_error *err)
{
    rf_ctx *ctx = d->model->ctx;
    const rf_shards *shards = d->model->shards;
    for (int64_t i = 0; i < n_parts; i++) {
        const rf_range part = shards->part[i];
        const int64_t n = rf_range_length(part);
        RF_TRY(rf_exchange_all_gather(d->exchange, ctx, d->part,
                                      rf_backend_at(ctx->backend, RF_MASTER, held, shards->at[i]),
                                      RF_MASTER, n, err));
        RF_TRY(rf_exchange_wait(d->exchange, err));
        take(d, host == NULL ? NULL : (char *)host + (size_t)part.begin * rf_type_bytes(d->type),
             d->part, n);
        rf_backend_wait(ctx, rf_backend_record(ctx));
    }
    return RF_OK;
}

/* All masters. */
static int take_weights(rf_dump *d, void *host, rf_error *err)
{
    const rf_model *model = d->model;
    if (model->shards->kind == RF_SHARD_WEIGHTS) {
        return take_slices(d, host, model->master, model->shards->n_parts, err);
    }
    take(d, host, model->master, model->table.n_stored);
    return RF_OK;
}

/* Room for one part at a time. */
static int allocate_part(rf_dump *d, rf_error *err)
{
    const rf_shards *shards = d->model->shards;
    int64_t longest = 0;
    for (int64_t i = 0; i < shards->n_parts; i++) {
        const int64_t n = rf_range_length(shards->part[i]);
        longest = n > longest ? n : longest;
    }
    if (shards->kind == RF_SHARD_NONE) {
        return RF_OK;
    }
    d->exchange = rf_exchange_new(d->dist, RF_CHANNEL_WEIGHTS);
    return rf_backend_alloc(&d->part, d->model->ctx,
                            rf_backend_bytes(d->model->ctx->backend, RF_MASTER, longest), err);
}

static int allocate(rf_dump *d, rf_error *err)
{
    const rf_table *table = &d->model->table;
    size_t stored = (size_t)table->n_stored, bytes = rf_type_bytes(d->type);
    d->own = calloc((size_t)d->n_places, N_WORDS * sizeof *d->own);
    d->all = calloc((size_t)d->n_all, N_WORDS * sizeof *d->all);
    bool failed = d->own == NULL || d->all == NULL;
    if (rf_dist_rank(d->dist) == 0) {
        d->before = calloc(stored, bytes);
        d->gradient = calloc((size_t)table->n_elements, bytes);
        d->after = calloc(stored, bytes);
        failed = failed || d->before == NULL || d->gradient == NULL || d->after == NULL;
    }
    return failed
               ? rf_error_set(err, RF_ERR, "no memory for debug.dump_step: lower train.batch_rows")
               : allocate_part(d, err);
}

int rf_dump_new(rf_dump **out, const rf_dump_settings *settings, rf_dist *dist, rf_model *model,
                rf_error *err)
{
    *out = NULL;
    if (settings->path[0] == '\0') {
        return RF_OK;
    }
    rf_dump *d = rf_alloc(1, sizeof *d);
    *d = (rf_dump){.set = *settings, .dist = dist, .model = model};
    d->n_places = settings->n_leaves * settings->leaf_places;
    d->n_all = d->n_places * rf_dist_size(dist);
    d->type = model->ctx->backend->type[RF_MASTER];
    int rc = rf_dist_agree(dist, allocate(d, err), err);
    rc = rc == RF_OK ? take_weights(d, d->before, err) : rc;
    if (rc != RF_OK) {
        rf_dump_free(d);
        return rc;
    }
    *out = d;
    return RF_OK;
}

void rf_dump_free(rf_dump *d)
{
    if (d == NULL) {
        return;
    }
    rf_exchange_free(d->exchange);
    rf_backend_free(d->model->ctx, d->part);
    RF_FREE(d->own, d->all, d->before, d->gradient, d->after, d);
}

void rf_dump_batch(rf_dump *d, const rf_loader_share *share)
{
    int64_t at = 0;
    for (int64_t leaf = 0; d != NULL && leaf < share->n_leaves; leaf++) {
        const rf_batch *batch = &share->leaf[leaf];
        for (int64_t i = 0; i < batch->n; i++, at++) {
            int32_t *record = &d->own[at * N_WORDS];
            int32_t row_begin = (int32_t)(i / d->set.row_length * d->set.row_length);
            record[TOKEN] = batch->token[i];
            record[POSITION] = batch->position[i];
            record[TARGET] = batch->target[i];
            for (int k = 0; k < 4; k += 2) {
                const int32_t *span = &batch->span[4 * i + k];
                bool empty = span[0] >= span[1];
                record[SPANS + k] = empty ? 0 : span[0] - row_begin;
                record[SPANS + k + 1] = empty ? 0 : span[1] - row_begin;
            }
            memcpy(&record[WEIGHT], &batch->weight[i], sizeof *record);
        }
    }
}

int rf_dump_gradient(rf_dump *d, const void *gradient, rf_error *err)
{
    if (d == NULL) {
        return RF_OK;
    }
    if (d->model->shards->kind != RF_SHARD_NONE) {
        return take_slices(d, d->gradient, gradient, d->model->shards->n_trained, err);
    }
    take(d, d->gradient, gradient, d->model->table.n_elements);
    return RF_OK;
}

int rf_dump_after(rf_dump *d, const rf_dump_update *update, rf_error *err)
{
    if (d == NULL) {
        return RF_OK;
    }
    d->update = *update;
    return take_weights(d, d->after, err);
}

/* --- Writing ---------------------------------------------------------------------------------- */

static int write_dataset(rf_hdf5 *file, const char *name, rf_hdf5_type type, int n_dims,
                         const int64_t *shape, const void *data, rf_error *err)
{
    RF_TRY(rf_hdf5_create_dataset(NULL, file, name, type, n_dims, shape, 0, err));
    return rf_hdf5_write(file, name, type, 0, RF_HDF5_ALL, data, err);
}

/* Where the i-th of the gathered places, which lie rank after rank, stands in the stream. */
static int64_t stream_place(const rf_dump *d, int64_t i)
{
    int64_t n = d->set.n_leaves, places = d->set.leaf_places, leaf = i / places;
    int64_t index = rf_loader_leaf(leaf / n, rf_dist_size(d->dist), d->set.round, leaf % n);
    return index * places + i % places;
}

/* One column of the places' records as [rows, T] or [rows, T, 2, 2]. */
static int write_column(rf_hdf5 *file, const char *name, const rf_dump *d, int first, int n,
                        rf_error *err)
{
    const int64_t shape[4] = {d->n_all / d->set.row_length, d->set.row_length, 2, 2};
    int32_t *column = malloc((size_t)d->n_all * (size_t)n * sizeof *column);
    if (column == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for %s", name);
    }
    for (int64_t i = 0; i < d->n_all; i++) {
        memcpy(&column[stream_place(d, i) * n], &d->all[i * N_WORDS + first],
               (size_t)n * sizeof *column);
    }
    int rc = write_dataset(file, name, first == WEIGHT ? RF_HDF5_F32 : RF_HDF5_I32, n == 1 ? 2 : 4,
                           shape, column, err);
    free(column);
    return rc;
}

static int write_batch(rf_hdf5 *file, const rf_dump *d, rf_error *err)
{
    RF_TRY(rf_hdf5_create_group(file, "/batch", err));
    RF_TRY(write_column(file, "/batch/token", d, TOKEN, 1, err));
    RF_TRY(write_column(file, "/batch/position", d, POSITION, 1, err));
    RF_TRY(write_column(file, "/batch/target", d, TARGET, 1, err));
    RF_TRY(write_column(file, "/batch/spans", d, SPANS, 4, err));
    return write_column(file, "/batch/weight", d, WEIGHT, 1, err);
}

static int write_tensors(rf_hdf5 *file, const char *group, const rf_dump *d, const void *values,
                         bool only_trainable, rf_error *err)
{
    const rf_table *table = &d->model->table;
    RF_TRY(rf_hdf5_create_group(file, group, err));
    for (int64_t i = 0; i < table->n_tensors; i++) {
        const rf_tensor *tensor = &table->tensor[i];
        char name[sizeof tensor->name + 16];
        if (only_trainable && !tensor->trainable) {
            continue;
        }
        snprintf(name, sizeof name, "%s/%s", group, tensor->name);
        RF_TRY(write_dataset(file, name, d->type == RF_F64 ? RF_HDF5_F64 : RF_HDF5_F32,
                             tensor->n_dims, tensor->shape,
                             (const char *)values + (size_t)tensor->offset * rf_type_bytes(d->type),
                             err));
    }
    return RF_OK;
}

static int write_attributes(rf_hdf5 *file, const rf_dump *d, rf_error *err)
{
    const rf_dump_update *u = &d->update;
    const struct {
        const char *name;
        double value;
    } reals[] = {
        {"loss", u->loss},   {"lr", u->lr},   {"gradient_scale", u->scale},     {"beta1", u->beta1},
        {"beta2", u->beta2}, {"eps", u->eps}, {"weight_decay", u->weight_decay}};
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        RF_TRY(rf_hdf5_set(file, "/", reals[i].name, RF_HDF5_F64, RF_HDF5_SCALAR, &reals[i].value,
                           err));
    }
    RF_TRY(rf_hdf5_set(file, "/", "update", RF_HDF5_I64, RF_HDF5_SCALAR, &u->update, err));
    char *json = rf_model_config_json(&d->model->config);
    int rc = rf_hdf5_set_text(file, "/", "model_config", json, err);
    free(json);
    return rc;
}

static int write_all(const char *path, const rf_dump *d, rf_error *err)
{
    rf_hdf5 file;
    int rc = RF_OK;
    RF_TRY_OUT(rf_hdf5_create(&file, path, 1, false, err));
    RF_TRY_OUT(write_batch(&file, d, err));
    RF_TRY_OUT(write_tensors(&file, "/params", d, d->before, false, err));
    RF_TRY_OUT(write_tensors(&file, "/grads", d, d->gradient, true, err));
    RF_TRY_OUT(write_tensors(&file, "/params_after", d, d->after, false, err));
    RF_TRY_OUT(write_attributes(&file, d, err));
    RF_TRY_OUT(rf_hdf5_close(&file, err));
out:
    rf_hdf5_drop(&file);
    return rc;
}

static int write_file(const rf_dump *d, rf_error *err)
{
    rf_atomic out = {0};
    RF_TRY(rf_atomic_begin(&out, d->set.path, err));
    int rc = write_all(out.temporary, d, err);
    rc = rc == RF_OK ? rf_atomic_commit(&out, err)
                     : rf_error_prefix(err, "debug.dump_step: make room, or name another file");
    rf_atomic_abandon(&out);
    return rc;
}

int rf_dump_write(rf_dump *d, rf_error *err)
{
    if (d == NULL) {
        return RF_OK;
    }
    RF_TRY(rf_dist_allgather_bytes(d->dist, d->all, d->own,
                                   (size_t)d->n_places * N_WORDS * sizeof *d->own, err));
    return rf_dist_agree(d->dist, rf_dist_rank(d->dist) == 0 ? write_file(d, err) : RF_OK, err);
}
