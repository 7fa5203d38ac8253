#include "data/convert/convert_private.h"

/* rf_checkpoint_source: f64 is rounded to f32. */
static int take(void *user, void *out, const rf_tensor *tensor, int64_t first, int64_t n,
                rf_error *err)
{
    enum { CHUNK = 4096 };
    double value[CHUNK];
    float *to = out;
    for (int64_t begin = 0; begin < n; begin += CHUNK) {
        int64_t part = n - begin < CHUNK ? n - begin : CHUNK;
        RF_TRY(rf_checkpoint_reader_get(user, value, tensor->name, first + begin, part, err));
        for (int64_t i = 0; i < part; i++) {
            to[begin + i] = (float)value[i];
        }
    }
    return RF_OK;
}

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
    rf_checkpoint_reader *reader = NULL;
    char size[2][RF_CONVERT_SIZE];
    int rc;
    RF_TRY_OUT(rf_checkpoint_info_read(&info, source, err));
    RF_TRY_OUT(check_source(&info, source, err));
    info.adaptation = (rf_adaptation){0}; /* what the run trained matters no longer */
    RF_TRY_OUT(rf_checkpoint_reader_open(&reader, source, err));
    RF_TRY_OUT(rf_checkpoint_write(path, &info.model, RF_I8, take, reader, &info, err));
    rf_convert_say(options, "%s: %sin int8, from %sin %s", path, rf_convert_size(size[0], path),
                   rf_convert_size(size[1], source), rf_type_name(info.storage));
out:
    rf_checkpoint_reader_close(reader);
    rf_checkpoint_info_free(&info);
    return rc;
}
