/* What a checkpoint computes for a batch, for the programs of this folder:
 *
 *   logits MODEL.h5 BATCH.h5 OUT.h5 [ADAPTER.h5]    RF_BACKEND and RF_ISA choose the kernels
 *
 * BATCH.h5: /token, /position [N] and /spans [N,2,2], i32. OUT.h5: /logits [N,V] f64. */
#include "common/base/log.h"
#include "common/store/checkpoint.h"
#include "tests/golden/length.h"

#include <stdlib.h>

static bool read_exactly(int32_t *out, hid_t file, const char *name, int64_t n)
{
    bool ok = length_of(file, name) == n;
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    ok = ok && H5Dread(set, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0;
    H5Dclose(set);
    return ok;
}

static int read_batch(rf_batch *out, const char *path, rf_error *err)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0) {
        return rf_error_set(err, RF_ERR, "%s: cannot be read", path);
    }
    int64_t n = length_of(file, "/token");
    int rc = rf_batch_new(out, n, err);
    if (rc == RF_OK) {
        out->n = n;
        for (int64_t i = 0; i < n; i++) {
            out->target[i] = -1;
        }
        bool ok = read_exactly(out->token, file, "/token", n) &&
                  read_exactly(out->position, file, "/position", n) &&
                  read_exactly(out->span, file, "/spans", 4 * n);
        rc = ok ? RF_OK : rf_error_set(err, RF_ERR, "%s: is not a batch", path);
    }
    H5Fclose(file);
    return rc;
}

static int write_logits(const char *path, const double *logits, int64_t n, int64_t vocab,
                        rf_error *err)
{
    const hsize_t dims[2] = {(hsize_t)n, (hsize_t)vocab};
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hid_t space = H5Screate_simple(2, dims, NULL);
    hid_t set =
        H5Dcreate2(file, "logits", H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = H5Dwrite(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, logits) >= 0;
    H5Dclose(set);
    H5Sclose(space);
    ok = H5Fclose(file) >= 0 && ok;
    return ok ? RF_OK : rf_error_set(err, RF_ERR, "%s: cannot be written", path);
}

static int compute(rf_model *model, const rf_batch *batch, const char *path, rf_error *err)
{
    rf_acts *acts = NULL;
    int64_t n = batch->n, vocab = model->config.vocab_size;
    double *logits = calloc((size_t)(n * vocab), sizeof *logits);
    int32_t *place = calloc((size_t)n, sizeof *place);
    int rc = logits != NULL && place != NULL ? RF_OK : rf_error_set(err, RF_ERR, "no memory");
    if (rc == RF_OK) {
        rc = rf_acts_new(&acts, model, n, n, false, RF_RECOMPUTE_NONE, err);
    }
    if (rc == RF_OK) {
        rc = rf_model_forward(model, acts, batch, NULL, err);
    }
    for (int64_t i = 0; i < n && rc == RF_OK; i++) {
        place[i] = (int32_t)i;
    }
    if (rc == RF_OK) {
        rc = rf_model_logits(model, acts, logits, place, n, err);
    }
    if (rc == RF_OK) {
        rc = write_logits(path, logits, n, vocab, err);
    }
    rf_acts_free(acts);
    free(logits);
    free(place);
    return rc;
}

static int run(char **argv, rf_error *err)
{
    rf_batch batch = {0};
    rf_checkpoint_info info = {0};
    rf_model *model = NULL;
    const char *adapter = argv[4]; /* NULL: none */
    int rc = rf_checkpoint_info_read(&info, adapter ? adapter : argv[1], err);
    if (rc == RF_OK) {
        rc = read_batch(&batch, argv[2], err);
    }
    rf_model_limits limits = {
        .places = batch.n, .keys = batch.n, .adaptation = adapter ? &info.adaptation : NULL};
    if (rc == RF_OK) {
        rc = rf_model_new(&model, &info.model, NULL, 1, &limits, err);
    }
    if (rc == RF_OK) {
        rc = rf_checkpoint_load(argv[1], model, NULL, NULL, err);
    }
    if (rc == RF_OK && adapter) {
        rc = rf_checkpoint_load(adapter, model, NULL, NULL, err);
    }
    if (rc == RF_OK) {
        rc = compute(model, &batch, argv[3], err);
    }
    rf_model_free(model);
    rf_batch_free(&batch);
    rf_checkpoint_info_free(&info);
    return rc;
}

int main(int argc, char **argv)
{
    rf_error err = {0};
    rf_log_set_program("logits");
    int rc = argc == 4 || argc == 5
                 ? run(argv, &err)
                 : rf_error_set(&err, RF_ERR_USAGE, "usage: logits MODEL BATCH OUT [ADAPTER]");
    rf_log_error(&err);
    return rf_error_exit_status(rc);
}
