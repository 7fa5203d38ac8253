/* Fuzz target of import: changes (fuzz_edit) of a folder of Hugging Face: config.json, weights in
 * one file or in shards, and their index. The first byte chooses shards and the type. What becomes
 * a checkpoint verifies, and all of its values are finite; what is refused leaves none. */
#include "data/convert/convert.h"

#include "common/store/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <math.h>
#include <sys/stat.h>

enum { MAX_FILES = 32 };

typedef struct file {
    char path[2 * FUZZ_PATH];
    char *data;
    size_t bytes, begin; /* of it among the bytes of all files */
} file;

typedef struct folder {
    char path[FUZZ_PATH];
    file file[MAX_FILES];
    int n;
    size_t bytes;
} folder;

static void write_weights(const char *path, int64_t shard)
{
    rf_error err = {0};
    rf_table table;
    rf_safetensors_item item[MAX_FILES];
    rf_safetensors_writer *writer;
    const rf_model_config config = fuzz_smallest();
    fuzz_must(rf_table_build(&table, &config, &err), &err);
    RF_ASSERT(table.n_tensors <= MAX_FILES);
    for (int64_t i = 0; i < table.n_tensors; i++) {
        const rf_tensor *t = &table.tensor[i];
        item[i] = (rf_safetensors_item){t->name, t->n_dims, {t->shape[0], t->shape[1]}};
    }
    fuzz_must(rf_safetensors_writer_new(&writer, path, "model", RF_F32, item, table.n_tensors,
                                        shard, &err),
              &err);
    for (int64_t i = 0; i < table.n_tensors; i++) {
        float value[64];
        RF_ASSERT(table.tensor[i].count <= 64);
        for (int k = 0; k < 64; k++) {
            value[k] = 1.5F;
        }
        fuzz_must(
            rf_safetensors_writer_put(writer, item[i].name, 0, table.tensor[i].count, value, &err),
            &err);
    }
    fuzz_must(rf_safetensors_writer_finish(writer, &err), &err);
    rf_safetensors_writer_free(writer);
    rf_table_free(&table);
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const file *)a)->path, ((const file *)b)->path);
}

static void make_folder(folder *f, const char *name, int64_t shard)
{
    rf_error err = {0};
    char base[FUZZ_PATH], path[2 * FUZZ_PATH];
    const rf_model_config config = fuzz_smallest();
    char *text = rf_model_config_json(&config);
    fuzz_path(base, name);
    snprintf(f->path, sizeof f->path, "%s", base);
    mkdir(base, 0777);
    snprintf(path, sizeof path, "%s/config.json", base);
    fuzz_must(rf_file_write(path, text, strlen(text), &err), &err);
    free(text);
    write_weights(base, shard);
    DIR *entries = opendir(base);
    const struct dirent *entry;
    while ((entry = readdir(entries)) != NULL) {
        if (entry->d_name[0] != '.') {
            RF_ASSERT(f->n < MAX_FILES);
            file *one = &f->file[f->n++];
            snprintf(one->path, sizeof one->path, "%s/%.200s", base, entry->d_name);
            fuzz_must(rf_file_read(&one->data, &one->bytes, one->path, 1 << 20, &err), &err);
        }
    }
    closedir(entries);
    qsort(f->file, (size_t)f->n, sizeof f->file[0], by_path);
    for (int i = 0; i < f->n; i++) {
        f->file[i].begin = f->bytes;
        f->bytes += f->file[i].bytes;
    }
}

static void put_file(const char *path, const char *data, size_t bytes)
{
    FILE *out = fopen(path, "wb");
    RF_ASSERT(out != NULL && fwrite(data, 1, bytes, out) == bytes && fclose(out) == 0);
}

/* All files as they are after the changes. */
static void put_edited(const folder *f, const uint8_t *data, size_t size)
{
    char *all = malloc(f->bytes);
    for (int i = 0; i < f->n; i++) {
        memcpy(all + f->file[i].begin, f->file[i].data, f->file[i].bytes);
    }
    size_t end = fuzz_edit(all, f->bytes, data, size);
    for (int i = 0; i < f->n; i++) {
        const file *one = &f->file[i];
        size_t left = end > one->begin ? end - one->begin : 0;
        put_file(one->path, all + one->begin, left < one->bytes ? left : one->bytes);
    }
    free(all);
}

/* rf_checkpoint_sink */
static int expect_finite(void *user, const void *values, rf_type type, const rf_tensor *tensor,
                         int64_t first, int64_t n, rf_error *err)
{
    (void)user, (void)tensor, (void)first, (void)err;
    float *value = malloc((size_t)n * sizeof *value);
    rf_storage_decode(value, values, type, n);
    for (int64_t i = 0; i < n; i++) {
        RF_ASSERT(isfinite(value[i]));
    }
    free(value);
    return RF_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static folder one, shards;
    char path[FUZZ_PATH];
    rf_error err = {0};
    if (one.n == 0) {
        make_folder(&one, "-one", 1 << 20);
        make_folder(&shards, "-shards", 200);
    }
    if (size < 1) {
        return 0;
    }
    const folder *f = (data[0] & 1) != 0 ? &shards : &one;
    const rf_type types[] = {RF_N_TYPES, RF_F32, RF_BF16};
    const rf_convert_options options = {.type = types[data[0] / 2 % 3], .tokenizer = "byte"};
    put_edited(f, data + 1, size - 1);
    fuzz_path(path, ".h5");
    int rc = rf_convert_import(f->path, path, &options, &err);
    fuzz_check(&err, rc);
    if (rc == RF_OK) {
        fuzz_must(rf_checkpoint_verify(path, &err), &err);
        fuzz_must(rf_checkpoint_read(path, expect_finite, NULL, &err), &err);
        unlink(path);
    }
    RF_ASSERT(access(path, F_OK) != 0);
    return 0;
}
