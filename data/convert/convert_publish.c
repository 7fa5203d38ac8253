#include "data/convert/convert_private.h"

#include "common/base/alloc.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

typedef struct publish {
    rf_checkpoint_reader *reader;
    rf_type type;
    double *values; /* a piece, */
    float *rounded; /* and the same in f32 */
    size_t n_values, n_rounded;
} publish;

/* rf_checkpoint_source */
static int take(void *user, void *out, const rf_tensor *tensor, int64_t first, int64_t n,
                rf_error *err)
{
    publish *p = user;
    if (p->type == RF_F64) {
        return rf_checkpoint_reader_get(p->reader, out, tensor->name, first, n, err);
    }
    p->values = rf_alloc_grow(p->values, &p->n_values, (size_t)n, sizeof *p->values);
    p->rounded = rf_alloc_grow(p->rounded, &p->n_rounded, (size_t)n, sizeof *p->rounded);
    RF_TRY(rf_checkpoint_reader_get(p->reader, p->values, tensor->name, first, n, err));
    for (int64_t i = 0; i < n; i++) {
        p->rounded[i] = (float)p->values[i];
    }
    const int64_t bad = rf_storage_encode(out, p->type, p->rounded, n);
    return bad < 0 ? RF_OK
                   : rf_error_set(err, RF_ERR, "tensor %s: element %" PRId64 " is not finite",
                                  tensor->name, first + bad);
}

int rf_convert_publish(const char *source, const char *path, const rf_convert_options *options,
                       rf_error *err)
{
    rf_checkpoint_info info = {0};
    publish p = {.type = options->type};
    char size[RF_CONVERT_SIZE];
    RF_ASSERT(options->type != RF_F16);
    int rc;
    RF_TRY_OUT(rf_checkpoint_info_read(&info, source, err));
    if (info.storage == RF_I8) {
        rc = rf_error_set(err, RF_ERR, "%s: is quantized: such files hold weights only", source);
        goto out;
    }
    p.type = options->type == RF_N_TYPES ? info.storage : options->type;
    free(info.corpora); /* names of files are nobody else's business */
    info.corpora = NULL;
    if (info.adaptation.rank == 0) {
        info.adaptation = (rf_adaptation){0}; /* what the run trained matters no longer */
    }
    RF_TRY_OUT(rf_checkpoint_reader_open(&p.reader, source, err));
    RF_TRY_OUT(rf_checkpoint_write(path, &info.model, p.type, take, &p, &info, err));
    rf_convert_say(options, "%s: weights only, %sin %s", path, rf_convert_size(size, path),
                   rf_type_name(p.type));
out:
    rf_checkpoint_reader_close(p.reader);
    rf_checkpoint_info_free(&info);
    free(p.values);
    free(p.rounded);
    return rc;
}
