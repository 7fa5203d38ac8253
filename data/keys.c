#include "data/keys.h"

#include "common/base/alloc.h"
#include "data/weighted.h"

#include <inttypes.h>
#include <stdlib.h>

#define AT(field) RF_CONFIG_FIELD(rf_data_settings, field)

const rf_config_key rf_data_keys[] = {
    /* May move, but not change: a resume compares hashes and weights (train/sources.c). */
    {"data.train", RF_KEY_STRINGS, "", 0, 0, NULL, RF_KEY_MAY_CHANGE, RF_CONFIG_NO_FIELD,
     "corpora to train on: path, or path:weight (0.5: half of its samples in an epoch; a number "
     "above 0, up to 1e6), where no file has the whole name; on resume the same content"},
    {"data.epochs", RF_KEY_INTS, "", 0, 1e9, NULL, 0, RF_CONFIG_NO_FIELD,
     "for each corpus of data.train, the last epoch that it takes part in; 0: all; default: all 0"},
    {"data.valid", RF_KEY_STRINGS, "", 0, 0, NULL, RF_KEY_MAY_CHANGE, RF_CONFIG_NO_FIELD,
     "corpora for the validation loss"},
    {"data.row_length", RF_KEY_INT, "1024", 2, 1 << 24, NULL, 0, AT(rows.row_length),
     "places of a row; several samples share a row, none is split over two"},
    {"data.window", RF_KEY_INT, "4096", 1, 1 << 24, NULL, 0, AT(rows.window),
     "samples that are packed into rows together"},
    {"data.overlong", RF_KEY_CHOICE, "drop", 0, 0, "drop|cut", 0, AT(rows.overlong),
     "samples longer than a row: drop them, or cut the response"},
    {.name = NULL},
};

/* At least one corpus takes part in every epoch: the stream has no end. */
static int read_epochs(rf_data_settings *out, const rf_config *config, rf_error *err)
{
    int64_t n = 0, n_without = 0;
    const int64_t *last = rf_config_ints(config, "data.epochs", &n);
    if (n == 0) {
        return RF_OK;
    }
    for (int64_t i = 0; i < n; i++) {
        n_without += last[i] == 0;
    }
    if (n != out->n_train || n_without == 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "data.epochs: %" PRId64 " numbers, %" PRId64 " of them 0, for %" PRId64
                            " corpora (%s): give one for each corpus of data.train, and 0 to one "
                            "at least",
                            n, n_without, out->n_train, rf_config_origin(config, "data.epochs"));
    }
    out->rows.epochs = rf_alloc_copy(last, (size_t)n * sizeof *last);
    return RF_OK;
}

static int read_train(rf_data_settings *out, const rf_config *config, rf_error *err)
{
    int64_t n = 0;
    const char *const *entry = rf_config_strings(config, "data.train", &n);
    const char *origin = rf_config_origin(config, "data.train");
    out->train = rf_alloc((size_t)n, sizeof *out->train);
    out->rows.weight = rf_alloc((size_t)n, sizeof *out->rows.weight);
    for (int64_t i = 0; i < n; i++) {
        const int rc = rf_weighted_read(&out->train[i], &out->rows.weight[i], entry[i], err);
        if (rc != RF_OK) {
            return rf_error_prefix(err, "data.train (%s)", origin);
        }
        out->n_train = i + 1;
    }
    return read_epochs(out, config, err);
}

int rf_data_settings_from_config(rf_data_settings *out, const rf_config *config, uint64_t seed,
                                 rf_error *err)
{
    *out = (rf_data_settings){.rows.seed = seed};
    rf_config_fill(out, config, rf_data_keys, false);
    const char *const *valid = rf_config_strings(config, "data.valid", &out->n_valid);
    out->valid = rf_alloc((size_t)out->n_valid, sizeof *out->valid);
    for (int64_t i = 0; i < out->n_valid; i++) {
        out->valid[i] = rf_alloc_string(valid[i]);
    }
    int rc = read_train(out, config, err);
    if (rc != RF_OK) {
        rf_data_settings_free(out);
    }
    return rc;
}

void rf_data_settings_free(rf_data_settings *settings)
{
    rf_free_strings(settings->train, settings->n_train);
    rf_free_strings(settings->valid, settings->n_valid);
    free(settings->rows.weight);
    free(settings->rows.epochs);
    *settings = (rf_data_settings){0};
}
