#include "common/model/checkpoint_private.h"

#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct rf_checkpoint_reader {
    rf_checkpoint_structure structure;
    char *path;
    int fd;
    const rf_checkpoint_item *item; /* last read */
    float *scale;                   /* of that item, where it is int8 */
    char *chunk;                    /* [RF_CHECKPOINT_CHUNK] */
};

int rf_checkpoint_reader_open(rf_checkpoint_reader **out, const char *path, rf_error *err)
{
    *out = NULL;
    int rc = rf_checkpoint_verify(path, err);
    if (rc != RF_OK) {
        return rc;
    }
    rf_checkpoint_reader *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return rf_error_set(err, RF_ERR, "%s: no memory for reading", path);
    }
    r->path = strdup(path);
    r->chunk = malloc(RF_CHECKPOINT_CHUNK);
    r->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (r->path == NULL || r->chunk == NULL) {
        rc = rf_error_set(err, RF_ERR, "%s: no memory for reading", path);
    } else if (r->fd < 0) {
        rc = rf_error_set(err, rf_error_code_of_errno(errno), "%s: cannot open: %s", path,
                          strerror(errno));
    } else {
        rc = rf_checkpoint_structure_read(&r->structure, path, err);
    }
    if (rc != RF_OK) {
        rf_checkpoint_reader_close(r);
        return rc;
    }
    *out = r;
    return RF_OK;
}

void rf_checkpoint_reader_close(rf_checkpoint_reader *r)
{
    if (r == NULL) {
        return;
    }
    if (r->fd >= 0) {
        close(r->fd);
    }
    rf_checkpoint_structure_free(&r->structure);
    free(r->path);
    free(r->scale);
    free(r->chunk);
    free(r);
}

/* Makes the parameter of that name the present one. */
static int choose(rf_checkpoint_reader *r, const char *name, rf_error *err)
{
    if (r->item != NULL && strcmp(r->item->tensor->name, name) == 0) {
        return RF_OK;
    }
    free(r->scale);
    r->scale = NULL;
    r->item = NULL;
    for (int64_t i = 0; i < r->structure.n_items; i++) {
        const rf_checkpoint_item *item = &r->structure.item[i];
        if (item->group != RF_GROUP_PARAMS || strcmp(item->tensor->name, name) != 0) {
            continue;
        }
        int rc =
            item->type == RF_STORAGE_INT8
                ? rf_checkpoint_scales_read(&r->scale, &r->structure, item, r->fd, r->path, err)
                : RF_OK;
        r->item = rc == RF_OK ? item : NULL;
        return rc;
    }
    return rf_error_set(err, RF_ERR, "%s: has no tensor %s: " RF_CHECKPOINT_REMEDY, r->path, name);
}

int rf_checkpoint_reader_read(rf_checkpoint_reader *r, float *out, const char *name, int64_t first,
                              int64_t n, rf_error *err)
{
    int rc = choose(r, name, err);
    if (rc != RF_OK) {
        return rc;
    }
    const rf_checkpoint_item *item = r->item;
    RF_ASSERT(first >= 0 && n >= 0 && n <= item->count - first);
    const int64_t element = (int64_t)rf_storage_bytes(item->type);
    const int64_t most = RF_CHECKPOINT_CHUNK / element;
    while (n > 0 && rc == RF_OK) {
        int64_t part = n < most ? n : most;
        rc = rf_file_pread(r->fd, r->chunk, (size_t)(part * element),
                           item->offset + first * element, r->path, err);
        if (rc == RF_OK && item->type == RF_STORAGE_INT8) {
            rf_checkpoint_dequantize(out, (const int8_t *)r->chunk, r->scale,
                                     item->tensor->shape[1], first, part);
        } else if (rc == RF_OK) {
            rf_storage_decode(out, r->chunk, item->type, part);
        }
        out += part;
        first += part;
        n -= part;
    }
    return rc;
}
