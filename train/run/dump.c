#include "train/run/dump.h"

#include "common/base/alloc.h"
#include "common/base/file.h"

#include <hdf5.h>
#include <inttypes.h>
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
    rf_dump_update update;
};

/* --- Filling ---------------------------------------------------------------------------------- */

static int allocate(rf_dump *d)
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
    return failed ? RF_ERR : RF_OK;
}

static void take(rf_dump *d, void *host, const void *values, int64_t n)
{
    if (host != NULL) {
        rf_backend_download(d->model->ctx, host, d->type, values, RF_MASTER, n);
    }
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
    int rc = allocate(d);
    if (rc != RF_OK) {
        rf_error_set(err, rc, "no memory for debug.dump_step: lower train.batch_rows");
    }
    rc = rf_dist_agree(dist, rc, err);
    if (rc != RF_OK) {
        rf_dump_free(d);
        return rc;
    }
    take(d, d->before, model->master, model->table.n_stored);
    *out = d;
    return RF_OK;
}

void rf_dump_free(rf_dump *d)
{
    if (d == NULL) {
        return;
    }
    free(d->own);
    free(d->all);
    free(d->before);
    free(d->gradient);
    free(d->after);
    free(d);
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

void rf_dump_gradient(rf_dump *d, const void *gradient)
{
    if (d != NULL) {
        take(d, d->gradient, gradient, d->model->table.n_elements);
    }
}

void rf_dump_after(rf_dump *d, const rf_dump_update *update)
{
    if (d != NULL) {
        take(d, d->after, d->model->master, d->model->table.n_stored);
        d->update = *update;
    }
}

/* --- Writing ---------------------------------------------------------------------------------- */

/* HDF5 keeps the first failure of a chain of calls here. */
typedef struct writer {
    hid_t file;
    hid_t group_list, set_list; /* without times, so that equal steps give equal files */
    bool failed;
} writer;

static hid_t check(writer *w, hid_t code)
{
    w->failed = w->failed || code < 0;
    return code;
}

static void write_dataset(writer *w, hid_t parent, const char *name, hid_t file_type,
                          hid_t memory_type, int n_dims, const hsize_t *dims, const void *data)
{
    if (w->failed) {
        return;
    }
    hid_t space = check(w, H5Screate_simple(n_dims, dims, NULL));
    hid_t set =
        check(w, H5Dcreate2(parent, name, file_type, space, H5P_DEFAULT, w->set_list, H5P_DEFAULT));
    if (!w->failed) {
        check(w, H5Dwrite(set, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data));
    }
    if (set >= 0) {
        check(w, H5Dclose(set));
    }
    if (space >= 0) {
        check(w, H5Sclose(space));
    }
}

/* Where the i-th of the gathered places, which lie rank after rank, stands in the stream. */
static int64_t stream_place(const rf_dump *d, int64_t i)
{
    int64_t n = d->set.n_leaves, places = d->set.leaf_places, leaf = i / places;
    int64_t index = rf_loader_leaf(leaf / n, rf_dist_size(d->dist), d->set.round, leaf % n);
    return index * places + i % places;
}

/* One column of the places' records as [rows, T] or [rows, T, 2, 2]. */
static void write_column(writer *w, hid_t group, const char *name, const rf_dump *d, int first,
                         int n)
{
    int64_t row_length = d->set.row_length;
    int32_t *column = malloc((size_t)d->n_all * (size_t)n * sizeof *column);
    if (column == NULL) {
        w->failed = true;
        return;
    }
    for (int64_t i = 0; i < d->n_all; i++) {
        memcpy(&column[stream_place(d, i) * n], &d->all[i * N_WORDS + first],
               (size_t)n * sizeof *column);
    }
    const hsize_t dims[4] = {(hsize_t)(d->n_all / row_length), (hsize_t)row_length, 2, 2};
    bool is_real = first == WEIGHT;
    write_dataset(w, group, name, is_real ? H5T_IEEE_F32LE : H5T_STD_I32LE,
                  is_real ? H5T_NATIVE_FLOAT : H5T_NATIVE_INT32, n == 1 ? 2 : 4, dims, column);
    free(column);
}

static void write_batch(writer *w, const rf_dump *d)
{
    hid_t group = check(w, H5Gcreate2(w->file, "batch", H5P_DEFAULT, w->group_list, H5P_DEFAULT));
    write_column(w, group, "token", d, TOKEN, 1);
    write_column(w, group, "position", d, POSITION, 1);
    write_column(w, group, "target", d, TARGET, 1);
    write_column(w, group, "spans", d, SPANS, 4);
    write_column(w, group, "weight", d, WEIGHT, 1);
    if (group >= 0) {
        check(w, H5Gclose(group));
    }
}

static void write_tensors(writer *w, const char *name, const rf_dump *d, const void *values,
                          bool only_trainable)
{
    const rf_table *table = &d->model->table;
    bool is_double = d->type == RF_F64;
    hid_t group = check(w, H5Gcreate2(w->file, name, H5P_DEFAULT, w->group_list, H5P_DEFAULT));
    for (int64_t i = 0; i < table->n_tensors; i++) {
        const rf_tensor *tensor = &table->tensor[i];
        if (only_trainable && !tensor->trainable) {
            continue;
        }
        const hsize_t dims[2] = {(hsize_t)tensor->shape[0], (hsize_t)tensor->shape[1]};
        write_dataset(w, group, tensor->name, is_double ? H5T_IEEE_F64LE : H5T_IEEE_F32LE,
                      is_double ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT, tensor->n_dims, dims,
                      (const char *)values + (size_t)tensor->offset * rf_type_bytes(d->type));
    }
    if (group >= 0) {
        check(w, H5Gclose(group));
    }
}

static void write_attribute(writer *w, const char *name, hid_t type, hid_t memory_type,
                            const void *value)
{
    if (w->failed) {
        return;
    }
    hid_t space = check(w, H5Screate(H5S_SCALAR));
    hid_t attribute = check(w, H5Acreate2(w->file, name, type, space, H5P_DEFAULT, H5P_DEFAULT));
    if (!w->failed) {
        check(w, H5Awrite(attribute, memory_type, value));
    }
    if (attribute >= 0) {
        check(w, H5Aclose(attribute));
    }
    if (space >= 0) {
        check(w, H5Sclose(space));
    }
}

static void write_attributes(writer *w, const rf_dump *d)
{
    const rf_dump_update *u = &d->update;
    const struct {
        const char *name;
        double value;
    } reals[] = {
        {"loss", u->loss},   {"lr", u->lr},   {"gradient_scale", u->scale},     {"beta1", u->beta1},
        {"beta2", u->beta2}, {"eps", u->eps}, {"weight_decay", u->weight_decay}};
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        write_attribute(w, reals[i].name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &reals[i].value);
    }
    write_attribute(w, "update", H5T_STD_I64LE, H5T_NATIVE_INT64, &u->update);
    char *json = rf_model_config_json(&d->model->config);
    hid_t text = check(w, H5Tcopy(H5T_C_S1));
    if (json == NULL || check(w, H5Tset_size(text, strlen(json) + 1)) < 0) {
        w->failed = true;
    } else {
        write_attribute(w, "model_config", text, text, json);
    }
    if (text >= 0) {
        check(w, H5Tclose(text));
    }
    free(json);
}

static hid_t timeless_list(writer *w, hid_t type)
{
    hid_t list = check(w, H5Pcreate(type));
    check(w, H5Pset_obj_track_times(list, false));
    return list;
}

static void write_all(writer *w, const rf_dump *d, const char *path)
{
    hid_t access = check(w, H5Pcreate(H5P_FILE_ACCESS));
    hid_t creation = timeless_list(w, H5P_FILE_CREATE);
    w->group_list = timeless_list(w, H5P_GROUP_CREATE);
    w->set_list = timeless_list(w, H5P_DATASET_CREATE);
    check(w, H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110));
    w->file = check(w, H5Fcreate(path, H5F_ACC_TRUNC, creation, access));
    if (!w->failed) {
        write_batch(w, d);
        write_tensors(w, "params", d, d->before, false);
        write_tensors(w, "grads", d, d->gradient, true);
        write_tensors(w, "params_after", d, d->after, false);
        write_attributes(w, d);
    }
    if (w->file >= 0) {
        check(w, H5Fclose(w->file));
    }
    const hid_t lists[] = {access, creation, w->group_list, w->set_list};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        if (lists[i] >= 0) {
            H5Pclose(lists[i]);
        }
    }
}

static int write_file(const rf_dump *d, rf_error *err)
{
    rf_atomic out = {0};
    writer w = {.file = -1};
    RF_TRY(rf_atomic_begin(&out, d->set.path, err));
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* what fails is reported below, in one line */
    write_all(&w, d, out.temporary);
    int rc = w.failed ? rf_error_set(err, RF_ERR,
                                     "%s: debug.dump_step cannot be written: make room, or name "
                                     "another file",
                                     d->set.path)
                      : rf_atomic_commit(&out, err);
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
