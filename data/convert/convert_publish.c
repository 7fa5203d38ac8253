#include "data/convert/convert_private.h"

#include "common/base/alloc.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- Values on their way ---------------------------------------------------------------------- */

int rf_convert_get(rf_convert_values *v, rf_checkpoint_reader *reader, const rf_tensor *tensor,
                   int64_t first, int64_t n, rf_error *err)
{
    v->value = rf_alloc_grow(v->value, &v->capacity, (size_t)n, sizeof *v->value);
    return rf_checkpoint_reader_get(reader, v->value, tensor->name, first, n, err);
}

int rf_convert_put(rf_convert_values *v, void *out, rf_type type, const rf_tensor *tensor,
                   int64_t first, int64_t n, rf_error *err)
{
    int64_t bad = 0;
    if (type == RF_F64) {
        memcpy(out, v->value, (size_t)n * sizeof *v->value);
        while (bad < n && isfinite(v->value[bad])) {
            bad++;
        }
        bad = bad < n ? bad : -1;
    } else {
        float *to = out;
        if (type != RF_I8) {
            to = rf_alloc_grow(v->rounded, &v->rounded_capacity, (size_t)n, sizeof *to);
            v->rounded = to;
        }
        for (int64_t i = 0; i < n; i++) {
            to[i] = (float)v->value[i];
        }
        bad = type != RF_I8 ? rf_storage_encode(out, type, to, n) : -1;
    }
    return bad < 0 ? RF_OK
                   : rf_error_set(err, RF_ERR,
                                  "tensor %s: element %" PRId64
                                  " is not finite: the model or its adapters are damaged",
                                  tensor->name, first + bad);
}

void rf_convert_values_free(rf_convert_values *v)
{
    free(v->value);
    free(v->rounded);
}

/* --- Checkpoints without what only training needs --------------------------------------------- */

typedef struct publish {
    rf_checkpoint_reader *reader;
    rf_type type;
    rf_convert_values values;
} publish;

/* rf_checkpoint_source */
static int take(void *user, void *out, const rf_tensor *tensor, int64_t first, int64_t n,
                rf_error *err)
{
    publish *p = user;
    RF_TRY(rf_convert_get(&p->values, p->reader, tensor, first, n, err));
    return rf_convert_put(&p->values, out, p->type, tensor, first, n, err);
}

/* The weights of `source`, whose header became `info`. */
static int write_weights(const char *path, const char *source, const rf_checkpoint_info *info,
                         rf_type type, rf_error *err)
{
    publish p = {.type = type};
    RF_TRY(rf_checkpoint_reader_open(&p.reader, source, err));
    const int rc = rf_checkpoint_write(path, &info->model, type, take, &p, info, err);
    rf_checkpoint_reader_close(p.reader);
    rf_convert_values_free(&p.values);
    return rc;
}

int rf_convert_publish(const char *source, const char *path, const rf_convert_options *options,
                       rf_error *err)
{
    rf_checkpoint_info info = {0};
    rf_type type = options->type;
    char size[RF_CONVERT_SIZE];
    RF_ASSERT(options->type != RF_F16);
    int rc;
    RF_TRY_OUT(rf_checkpoint_info_read(&info, source, err));
    if (info.storage == RF_I8) {
        rc = rf_error_set(err, RF_ERR, "%s: is quantized: such files hold weights only", source);
        goto out;
    }
    type = type == RF_N_TYPES ? info.storage : type;
    free(info.corpora); /* names of files are nobody else's business */
    info.corpora = NULL;
    if (info.adaptation.rank == 0) {
        info.adaptation = (rf_adaptation){0}; /* what the run trained matters no longer */
    }
    RF_TRY_OUT(write_weights(path, source, &info, type, err));
    rf_convert_say(options, "%s: weights only, %sin %s", path, rf_convert_size(size, path),
                   rf_type_name(type));
out:
    rf_checkpoint_info_free(&info);
    return rc;
}

/* --- In int8 ---------------------------------------------------------------------------------- */

static int check_source(const rf_checkpoint_info *info, const char *path, rf_error *err)
{
    if (info->adaptation.rank > 0) {
        return rf_error_set(err, RF_ERR,
                            "%s: holds adapters only: merge them into their base first", path);
    }
    return info->storage == RF_I8 ? rf_error_set(err, RF_ERR, "%s: is quantized already", path)
                                  : RF_OK;
}

int rf_convert_quantize(const char *source, const char *path, const rf_convert_options *options,
                        rf_error *err)
{
    rf_checkpoint_info info = {0};
    char size[2][RF_CONVERT_SIZE];
    int rc;
    RF_TRY_OUT(rf_checkpoint_info_read(&info, source, err));
    RF_TRY_OUT(check_source(&info, source, err));
    info.adaptation = (rf_adaptation){0}; /* what the run trained matters no longer */
    RF_TRY_OUT(write_weights(path, source, &info, RF_I8, err));
    rf_convert_say(options, "%s: %sin int8, from %sin %s", path, rf_convert_size(size[0], path),
                   rf_convert_size(size[1], source), rf_type_name(info.storage));
out:
    rf_checkpoint_info_free(&info);
    return rc;
}
