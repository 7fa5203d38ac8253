#include "common/store/safetensors.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEADER_STEP = 8 }; /* the values begin at a multiple of this */

typedef struct entry {
    char *name;
    int n_dims;
    int64_t shape[2];
    int64_t count, done; /* elements; those that were put */
    int64_t shard;
    int64_t offset; /* in the shard: in its values, then in its file */
} entry;

typedef struct shard {
    char *path;
    int64_t bytes; /* of its values */
    int64_t left;  /* elements that were not put */
    int fd; /* open from its first value to its last: there may be thousands of shards; or -1 */
    bool begun;
} shard;

struct rf_safetensors_writer {
    char *folder, *stem;
    rf_type type;
    entry *entry; /* [n], by name */
    int64_t n;
    shard *shard; /* [n_shards] */
    int64_t n_shards;
};

/* --- Plan ------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

static void copy_items(rf_safetensors_writer *w, const rf_safetensors_item *item, int64_t n)
{
    w->entry = rf_alloc((size_t)n, sizeof *w->entry);
    w->n = n;
    for (int64_t i = 0; i < n; i++) {
        entry *e = &w->entry[i];
        RF_ASSERT(item[i].n_dims == 1 || item[i].n_dims == 2);
        *e = (entry){.name = rf_alloc_string(item[i].name), .n_dims = item[i].n_dims};
        memcpy(e->shape, item[i].shape, sizeof e->shape);
        e->count = e->shape[0] * (e->n_dims == 2 ? e->shape[1] : 1);
    }
    qsort(w->entry, (size_t)n, sizeof *w->entry, by_name);
}

/* Fills shards one after the other; none is empty. */
static void plan_shards(rf_safetensors_writer *w, int64_t max_shard_bytes)
{
    w->shard = rf_alloc((size_t)w->n, sizeof *w->shard);
    w->n_shards = 1;
    w->shard[0].fd = -1;
    for (int64_t i = 0; i < w->n; i++) {
        entry *e = &w->entry[i];
        int64_t bytes = e->count * (int64_t)rf_type_bytes(w->type);
        shard *s = &w->shard[w->n_shards - 1];
        if (s->bytes > 0 && bytes > max_shard_bytes - s->bytes) {
            s = &w->shard[w->n_shards++];
            s->fd = -1;
        }
        e->shard = w->n_shards - 1;
        e->offset = s->bytes;
        s->bytes += bytes;
        s->left += e->count;
    }
}

static void name_shards(rf_safetensors_writer *w)
{
    for (int64_t i = 0; i < w->n_shards; i++) {
        w->shard[i].path = w->n_shards == 1
                               ? rf_alloc_format("%s/%s.safetensors", w->folder, w->stem)
                               : rf_alloc_format("%s/%s-%05" PRId64 "-of-%05" PRId64 ".safetensors",
                                                 w->folder, w->stem, i + 1, w->n_shards);
    }
}

/* --- Headers ---------------------------------------------------------------------------------- */

static const char *dtype_name(rf_type type)
{
    return type == RF_F32 ? "F32" : type == RF_F16 ? "F16" : "BF16";
}

static json_t *describe(const rf_safetensors_writer *w, const entry *e)
{
    json_t *shape = json_array();
    for (int i = 0; i < e->n_dims; i++) {
        json_array_append_new(shape, json_integer(e->shape[i]));
    }
    int64_t end = e->offset + e->count * (int64_t)rf_type_bytes(w->type);
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(w->type), "shape", shape,
                     "data_offsets", (json_int_t)e->offset, (json_int_t)end);
}

/* Jansson keeps the order of insertion: that of the names. Caller frees. */
static char *header_of(const rf_safetensors_writer *w, int64_t shard_index)
{
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    for (int64_t i = 0; i < w->n; i++) {
        if (w->entry[i].shard == shard_index) {
            json_object_set_new(root, w->entry[i].name, describe(w, &w->entry[i]));
        }
    }
    char *text = json_dumps(root, JSON_COMPACT);
    RF_ASSERT(text != NULL); /* names of tensors are UTF-8 */
    json_decref(root);
    return text;
}

static int begin_shard(rf_safetensors_writer *w, int64_t index, rf_error *err)
{
    shard *s = &w->shard[index];
    char *text = header_of(w, index);
    const size_t n = strlen(text);
    const uint64_t length = (n + HEADER_STEP - 1) / HEADER_STEP * HEADER_STEP;
    const size_t bytes = sizeof length + (size_t)length;
    char *header = rf_alloc(bytes, 1);
    int rc = RF_OK;
    memcpy(header, &length, sizeof length);
    memset(header + sizeof length, ' ', (size_t)length);
    memcpy(header + sizeof length, text, n);
    s->begun = true;
    s->fd = open(s->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (s->fd < 0 || ftruncate(s->fd, (off_t)bytes + s->bytes) != 0) {
        rc = rf_error_system(err, errno, s->path, "cannot create");
        goto out;
    }
    rc = rf_file_pwrite(s->fd, header, bytes, 0, s->path, err);
    for (int64_t i = 0; i < w->n; i++) {
        if (w->entry[i].shard == index) {
            w->entry[i].offset += (int64_t)bytes;
        }
    }
out:
    free(text);
    free(header);
    return rc;
}

int rf_safetensors_writer_new(rf_safetensors_writer **out, const char *folder, const char *stem,
                              rf_type type, const rf_safetensors_item *item, int64_t n_items,
                              int64_t max_shard_bytes, rf_error *err)
{
    RF_ASSERT(type == RF_F32 || type == RF_BF16 || type == RF_F16);
    RF_ASSERT(n_items > 0);
    rf_safetensors_writer *w = *out = rf_alloc(1, sizeof *w);
    w->type = type;
    w->folder = rf_alloc_string(folder);
    w->stem = rf_alloc_string(stem);
    copy_items(w, item, n_items);
    plan_shards(w, max_shard_bytes);
    name_shards(w);
    return begin_shard(w, 0, err);
}

/* --- Values ----------------------------------------------------------------------------------- */

static int end_shard(shard *s, rf_error *err)
{
    const int fd = s->fd;
    s->fd = -1;
    return rf_file_sync_and_close(fd, s->path, err);
}

int rf_safetensors_writer_put(rf_safetensors_writer *w, const char *name, int64_t first, int64_t n,
                              const void *values, rf_error *err)
{
    entry key = {.name = (char *)name};
    entry *e = bsearch(&key, w->entry, (size_t)w->n, sizeof *e, by_name);
    RF_ASSERT(e != NULL && first >= 0 && n >= 0 && n <= e->count - first);
    shard *s = &w->shard[e->shard];
    size_t bytes = rf_type_bytes(w->type);
    if (n == 0) {
        return RF_OK;
    }
    if (!s->begun) {
        RF_TRY(begin_shard(w, e->shard, err));
    }
    RF_ASSERT(n <= s->left);
    e->done += n;
    s->left -= n;
    RF_TRY(rf_file_pwrite(s->fd, values, (size_t)n * bytes, e->offset + first * (int64_t)bytes,
                          s->path, err));
    return s->left == 0 ? end_shard(s, err) : RF_OK;
}

/* --- End -------------------------------------------------------------------------------------- */

static int write_index(const rf_safetensors_writer *w, rf_error *err)
{
    int64_t total = 0;
    for (int64_t i = 0; i < w->n_shards; i++) {
        total += w->shard[i].bytes;
    }
    json_t *map = json_object();
    for (int64_t i = 0; i < w->n; i++) {
        const char *file = rf_path_name(w->shard[w->entry[i].shard].path);
        json_object_set_new(map, w->entry[i].name, json_string(file));
    }
    json_t *root =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    char *name = rf_alloc_format("%s.safetensors.index.json", w->stem);
    int rc = rf_file_write_json(w->folder, name, root, err);
    json_decref(root);
    free(name);
    return rc;
}

int rf_safetensors_writer_finish(rf_safetensors_writer *w, rf_error *err)
{
    for (int64_t i = 0; i < w->n; i++) {
        RF_ASSERT(w->entry[i].done == w->entry[i].count);
    }
    for (int64_t i = 0; i < w->n_shards; i++) {
        shard *s = &w->shard[i];
        if (!s->begun) { /* of tensors without elements */
            RF_TRY(begin_shard(w, i, err));
        }
        RF_TRY(s->fd >= 0 ? end_shard(s, err) : RF_OK);
    }
    return w->n_shards > 1 ? write_index(w, err) : RF_OK;
}

int64_t rf_safetensors_writer_files(const rf_safetensors_writer *w)
{
    return w->n_shards;
}

void rf_safetensors_writer_free(rf_safetensors_writer *w)
{
    if (w == NULL) {
        return;
    }
    for (int64_t i = 0; i < w->n; i++) {
        free(w->entry[i].name);
    }
    for (int64_t i = 0; i < w->n_shards; i++) {
        if (w->shard[i].fd >= 0) {
            close(w->shard[i].fd);
        }
        free(w->shard[i].path);
    }
    RF_FREE(w->entry, w->shard, w->folder, w->stem, w);
}
