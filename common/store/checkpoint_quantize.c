#include "common/store/checkpoint_private.h"

#include "common/base/alloc.h"
#include "common/base/crc32.h"
#include "common/base/files/file.h"
#include "common/kernels/quantize.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* One row: q [in], scale [groups]. */
static int quantize_row(int8_t *q, float *scale, const float *row, int64_t in,
                        const rf_tensor *tensor, int64_t index, rf_error *err)
{
    for (int64_t k = 0; k < in; k += RF_QUANTIZE_GROUP) {
        int64_t n = in - k < RF_QUANTIZE_GROUP ? in - k : RF_QUANTIZE_GROUP;
        scale[k / RF_QUANTIZE_GROUP] = rf_quantize(q + k, row + k, n);
        if (!(scale[k / RF_QUANTIZE_GROUP] >= 0.0F)) {
            return rf_error_set(err, RF_ERR,
                                "tensor %s: row %" PRId64
                                " holds values that are not finite: the model is damaged",
                                tensor->name, index);
        }
    }
    return RF_OK;
}

int rf_checkpoint_quantize(void *out, bool scales, const rf_tensor *tensor, int64_t first,
                           int64_t n, rf_checkpoint_source source, void *user, rf_error *err)
{
    const int64_t in = tensor->shape[1], groups = rf_quantize_groups(in);
    const int64_t width = scales ? groups : in; /* of a row of what is asked */
    const size_t element = scales ? sizeof(float) : sizeof(int8_t);
    float *row = rf_alloc((size_t)(in + groups), sizeof *row);
    int8_t *q = rf_alloc((size_t)in, sizeof *q);
    int rc = RF_OK;
    for (int64_t at = first; at < first + n;) {
        int64_t r = at / width, column = at % width;
        int64_t part = width - column < first + n - at ? width - column : first + n - at;
        RF_TRY_OUT(source(user, row, tensor, r * in, in, err));
        RF_TRY_OUT(quantize_row(q, row + in, row, in, tensor, r, err));
        const void *from = scales ? (const void *)(row + in + column) : q + column;
        memcpy((char *)out + (size_t)(at - first) * element, from, (size_t)part * element);
        at += part;
    }
out:
    free(row);
    free(q);
    return rc;
}

void rf_checkpoint_dequantize(float *out, const int8_t *q, const float *scale, int64_t in,
                              int64_t first, int64_t n)
{
    const int64_t groups = rf_quantize_groups(in);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = (first + i) / in, column = (first + i) % in;
        out[i] = scale[row * groups + column / RF_QUANTIZE_GROUP] * (float)q[i];
    }
}

static const rf_checkpoint_item *scales_of(const rf_checkpoint_structure *structure,
                                           const rf_checkpoint_item *item)
{
    const rf_checkpoint_item *found = NULL;
    for (int64_t i = 0; i < structure->n_items && found == NULL; i++) {
        const rf_checkpoint_item *candidate = &structure->item[i];
        if (candidate->group == RF_GROUP_SCALES && candidate->tensor == item->tensor) {
            found = candidate;
        }
    }
    RF_ASSERT(found != NULL); /* read_tensors has listed them */
    return found;
}

int rf_checkpoint_scales_read(float **out, rf_checkpoint_structure *structure,
                              const rf_checkpoint_item *item, int fd, const char *path,
                              rf_error *err)
{
    const rf_checkpoint_item *scales = scales_of(structure, item);
    *out = malloc((size_t)scales->bytes + 1);
    structure->blameless = true;
    if (*out == NULL) {
        return rf_error_set(err, RF_ERR, "%s: no memory for %s", path, scales->name);
    }
    RF_TRY(rf_file_pread(fd, *out, (size_t)scales->bytes, scales->offset, path, err));
    structure->blameless = false; /* from here on it would be the content */
    uint32_t crc = rf_crc32(0, *out, (size_t)scales->bytes);
    RF_TRY(rf_checkpoint_check_crc(scales, crc, path, err));
    for (int64_t i = 0; i < scales->count; i++) {
        if (!((*out)[i] >= 0.0F && (*out)[i] < HUGE_VALF)) {
            return rf_error_set(err, RF_ERR,
                                "%s: element %" PRId64 " of %s is no scale: " RF_CHECKPOINT_REMEDY,
                                path, i, scales->name);
        }
    }
    return RF_OK;
}
