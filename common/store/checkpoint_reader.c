#include "common/base/file.h"
#include "common/store/checkpoint_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

struct rf_checkpoint_reader {
    char *path;
    int fd;
    rf_checkpoint_structure structure;
    const rf_checkpoint_item *item;   /* the one that is read from its begin on; NULL: none */
    int64_t next;                     /* its next element */
    uint32_t crc;                     /* of those before */
    const rf_checkpoint_item *scaled; /* whose scales are at hand; NULL: none */
    float *scale;
    void *raw;      /* [capacity] bytes as in the file */
    float *decoded; /* [capacity] */
    size_t capacity;
};

int rf_checkpoint_reader_open(rf_checkpoint_reader **out, const char *path, rf_error *err)
{
    rf_checkpoint_reader *reader = calloc(1, sizeof *reader);
    *out = NULL;
    if (reader == NULL || (reader->path = strdup(path)) == NULL) {
        free(reader);
        return rf_error_set(err, RF_ERR, "%s: no memory for reading", path);
    }
    reader->fd = -1;
    int rc = rf_checkpoint_structure_read(&reader->structure, path, err);
    if (rc == RF_OK && (reader->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) {
        rc = rf_error_set(err, rf_error_code_of_errno(errno), "%s: cannot open: %s", path,
                          strerror(errno));
    }
    if (rc != RF_OK) {
        rf_checkpoint_reader_close(reader);
        return rc;
    }
    *out = reader;
    return RF_OK;
}

void rf_checkpoint_reader_close(rf_checkpoint_reader *reader)
{
    if (reader == NULL) {
        return;
    }
    if (reader->fd >= 0) {
        close(reader->fd);
    }
    rf_checkpoint_structure_free(&reader->structure);
    free(reader->path);
    free(reader->raw);
    free(reader->decoded);
    free(reader->scale);
    free(reader);
}

uint64_t rf_checkpoint_reader_hash(const rf_checkpoint_reader *reader)
{
    return rf_checkpoint_hash(&reader->structure);
}

static const rf_checkpoint_item *find_item(const rf_checkpoint_reader *reader, const char *tensor)
{
    for (int64_t i = 0; i < reader->structure.n_items; i++) {
        const rf_checkpoint_item *item = &reader->structure.item[i];
        if (item->group == RF_GROUP_PARAMS && strcmp(item->tensor->name, tensor) == 0) {
            return item;
        }
    }
    return NULL;
}

static int reserve(rf_checkpoint_reader *reader, size_t bytes, rf_error *err)
{
    if (bytes > reader->capacity) {
        free(reader->raw);
        free(reader->decoded);
        reader->raw = malloc(bytes);
        reader->decoded = malloc(bytes * sizeof *reader->decoded);
        reader->capacity = reader->raw != NULL && reader->decoded != NULL ? bytes : 0;
    }
    return reader->capacity >= bytes
               ? RF_OK
               : rf_error_set(err, RF_ERR, "%s: no memory for reading", reader->path);
}

/* The scales of an item in int8 are read whole, once. */
static int find_scales(rf_checkpoint_reader *reader, const rf_checkpoint_item *item, rf_error *err)
{
    if (item->type != RF_I8 || reader->scaled == item) {
        return RF_OK;
    }
    free(reader->scale);
    reader->scale = NULL;
    reader->scaled = NULL;
    int rc = rf_checkpoint_scales_read(&reader->scale, &reader->structure, item, reader->fd,
                                       reader->path, err);
    reader->scaled = rc == RF_OK ? item : NULL;
    return rc;
}

/* Goes on with the checksum of a tensor that is read in order. */
static int count_in(rf_checkpoint_reader *reader, const rf_checkpoint_item *item, int64_t first,
                    int64_t n, size_t bytes, rf_error *err)
{
    if (first == 0) {
        reader->item = item;
        reader->next = 0;
        reader->crc = 0;
    }
    if (reader->item != item || reader->next != first) {
        return RF_OK;
    }
    reader->crc = (uint32_t)crc32_z(reader->crc, reader->raw, bytes);
    reader->next += n;
    return reader->next == item->tensor->count
               ? rf_checkpoint_check_crc(item, reader->crc, reader->path, err)
               : RF_OK;
}

int rf_checkpoint_reader_get(rf_checkpoint_reader *reader, double *values, const char *tensor,
                             int64_t first, int64_t n, rf_error *err)
{
    const rf_checkpoint_item *item = find_item(reader, tensor);
    if (item == NULL) {
        return rf_error_set(err, RF_ERR, "%s: has no tensor %s", reader->path, tensor);
    }
    RF_ASSERT(first >= 0 && n >= 0 && n <= item->tensor->count - first);
    const size_t element = rf_type_bytes(item->type), bytes = (size_t)n * element;
    int rc = find_scales(reader, item, err);
    if (rc == RF_OK) {
        rc = reserve(reader, bytes, err);
    }
    if (rc == RF_OK) {
        rc = rf_file_pread(reader->fd, reader->raw, bytes, item->offset + first * (int64_t)element,
                           reader->path, err);
    }
    if (rc != RF_OK) {
        return rc;
    }
    if (item->type == RF_F64) {
        memcpy(values, reader->raw, bytes);
    } else {
        if (item->type == RF_I8) {
            rf_checkpoint_dequantize(reader->decoded, reader->raw, reader->scale,
                                     item->tensor->shape[1], first, n);
        } else {
            rf_storage_decode(reader->decoded, reader->raw, item->type, n);
        }
        for (int64_t i = 0; i < n; i++) {
            values[i] = (double)reader->decoded[i];
        }
    }
    return count_in(reader, item, first, n, bytes, err);
}
