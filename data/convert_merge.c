#include "common/model/lora.h"
#include "data/convert_private.h"

#include <inttypes.h>
#include <stdlib.h>

typedef struct merge {
    rf_checkpoint_info base, adapter;
    rf_model *model;
    rf_storage type;
    float *values; /* scratch [capacity] */
    int64_t capacity;
} merge;

static int read_headers(merge *m, const char *base, const char *adapter,
                        const rf_convert_options *options, rf_error *err)
{
    int rc = rf_checkpoint_info_read(&m->adapter, adapter, err);
    if (rc == RF_OK && m->adapter.adaptation.rank == 0) {
        rc = rf_error_set(err, RF_ERR, "%s: is a whole model, no adapter file: nothing to merge",
                          adapter);
    }
    if (rc == RF_OK) {
        rc = rf_checkpoint_info_read(&m->base, base, err);
    }
    m->type = options->type < RF_N_STORAGES        ? options->type
              : m->base.storage == RF_STORAGE_INT8 ? RF_STORAGE_F32
                                                   : m->base.storage;
    return rc;
}

/* The reference kernels: nothing is computed with them but sums in double, on the host. */
static int load(merge *m, const char *base, const char *adapter, rf_error *err)
{
    const rf_backend *backend = NULL;
    rf_model_limits limits = {
        .places = 1, .keys = 1, .positions = 1, .adaptation = &m->adapter.adaptation};
    const char *name = m->type == RF_STORAGE_F64 ? "ref64" : "ref32";
    int rc = rf_backend_choose(&backend, name, err);
    if (rc == RF_OK) {
        rc = rf_model_new(&m->model, &m->adapter.model, backend, 1, &limits, err);
    }
    if (rc == RF_OK) {
        rc = rf_checkpoint_load(base, m->model, NULL, NULL, err);
    }
    return rc == RF_OK ? rf_checkpoint_load(adapter, m->model, NULL, NULL, err) : rc;
}

/* rf_checkpoint_source */
static int take(void *user, void *out, const rf_tensor *tensor, int64_t first, int64_t n,
                rf_error *err)
{
    merge *m = user;
    rf_ctx *ctx = m->model->ctx;
    const rf_tensor *own = rf_table_find(&m->model->table, tensor->name);
    const void *from =
        rf_backend_at(ctx->backend, RF_MASTER, m->model->master, own->offset + first);
    if (m->type == RF_STORAGE_F64) {
        rf_backend_download(ctx, out, RF_F64, from, RF_MASTER, n);
        return RF_OK;
    }
    if (n > m->capacity) {
        free(m->values);
        m->values = malloc((size_t)n * sizeof *m->values);
        m->capacity = m->values != NULL ? n : 0;
    }
    if (m->values == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for merging");
    }
    rf_backend_download(ctx, m->values, RF_F32, from, RF_MASTER, n);
    int64_t bad = rf_storage_encode(out, m->type, m->values, n);
    return bad < 0 ? RF_OK
                   : rf_error_set(err, RF_ERR,
                                  "tensor %s: element %" PRId64
                                  " is not finite: the model or its adapters are damaged",
                                  tensor->name, first + bad);
}

int rf_convert_merge(const char *base, const char *adapter, const char *path,
                     const rf_convert_options *options, rf_error *err)
{
    merge m = {0};
    RF_ASSERT(options->type != RF_STORAGE_F16);
    int rc = read_headers(&m, base, adapter, options, err);
    if (rc == RF_OK) {
        rc = load(&m, base, adapter, err);
    }
    if (rc == RF_OK) {
        rc = rf_lora_merge(m.model, err);
    }
    if (rc == RF_OK) {
        rc = rf_checkpoint_write(path, &m.adapter.model, m.type, take, &m, &m.adapter, err);
    }
    if (rc == RF_OK) {
        rf_convert_say(options, "%s: %" PRId64 " adapters of rank %" PRId64 " merged, %s", path,
                       m.model->table.n_adapters / 2, m.adapter.adaptation.rank,
                       rf_storage_name(m.type));
    }
    rf_model_free(m.model);
    rf_checkpoint_info_free(&m.base);
    rf_checkpoint_info_free(&m.adapter);
    free(m.values);
    return rc;
}
