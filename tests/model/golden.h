/* golden.h: reads files of tests/golden that hold a model.
 *
 *     attribute config        config.json of the model
 *     /params/<name>          weights
 */
#ifndef RF_TESTS_MODEL_GOLDEN_H
#define RF_TESTS_MODEL_GOLDEN_H

#include "tests/model/tiny.h"

#include <criterion/criterion.h>
#include <hdf5.h>

static inline hid_t golden_open(const char *path)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    cr_assert(file >= 0, "%s: cannot be read; tests run in the root of the repository", path);
    return file;
}

/* Reads a dataset of exactly n elements, converted to `type`. */
static inline void golden_read(void *out, hid_t file, const char *name, hid_t type, int64_t n)
{
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    cr_assert(set >= 0, "%s is missing", name);
    hid_t space = H5Dget_space(set);
    cr_assert(H5Sget_simple_extent_npoints(space) == n, "%s", name);
    cr_assert(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0, "%s", name);
    H5Sclose(space);
    H5Dclose(set);
}

static inline rf_model_config golden_config(hid_t file)
{
    char *json = NULL;
    hid_t attribute = H5Aopen(file, "config", H5P_DEFAULT), type = H5Aget_type(attribute);
    cr_assert(H5Aread(attribute, type, &json) >= 0);
    rf_model_config config;
    TINY_MUST(rf_model_config_parse(&config, json, strlen(json), "golden", tiny_error()));
    H5free_memory(json);
    H5Tclose(type);
    H5Aclose(attribute);
    return config;
}

static inline void golden_weights(rf_model *model, hid_t file)
{
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        char name[120];
        snprintf(name, sizeof(name), "/params/%s", t->name);
        float *value = malloc((size_t)t->count * sizeof(float));
        cr_assert_not_null(value);
        golden_read(value, file, name, H5T_NATIVE_FLOAT, t->count);
        rf_backend_upload(model->ctx,
                          rf_backend_at(model->ctx->backend, RF_MASTER, model->master, t->offset),
                          RF_MASTER, value, RF_F32, t->count);
        rf_backend_wait(model->ctx, rf_backend_record(model->ctx));
        free(value);
    }
    rf_model_prepare(model);
}

#endif
