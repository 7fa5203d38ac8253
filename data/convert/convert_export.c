#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/files/output.h"
#include "data/convert/convert_private.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const int64_t default_shard_bytes = 5000000000; /* as Transformers has it */

typedef struct exporter {
    const char *path;                /* the checkpoint */
    char folder[RF_PATH_BYTES];      /* behind all links */
    char temporary[RF_CONVERT_PATH]; /* the folder while it is filled; "": none */
    const rf_convert_options *options;
    rf_checkpoint_info info;
    rf_model_config config;
    rf_type type;
    rf_safetensors_writer *writer;
    float *values; /* scratch for a chunk of a tensor, as are encoded values */
    void *encoded;
    size_t n_values, n_encoded; /* that fit */
} exporter;

/* --- The folder ------------------------------------------------------------------------------- */

static int count_entries(const char *folder)
{
    DIR *entries = opendir(folder);
    int n = entries != NULL ? -2 : 0;
    while (entries != NULL && readdir(entries) != NULL) {
        n++;
    }
    if (entries != NULL) {
        closedir(entries);
    }
    return n;
}

static int make_temporary(const exporter *ex, rf_error *err)
{
    return mkdir(ex->temporary, 0777) == 0
               ? RF_OK
               : rf_error_system(err, errno, ex->temporary, "cannot create");
}

/* Before the work: the end of it would be this for a mount point, which no folder can replace. Who stands
 * in a folder that was replaced sees nothing of the new one. */
static int try_to_replace(const exporter *ex, rf_error *err)
{
    const bool is_current = rf_path_is_same(ex->folder, ".");
    if (!is_current && rename(ex->temporary, ex->folder) == 0) {
        return RF_OK;
    }
    const char *why = is_current ? "is the current folder" : strerror(errno);
    rmdir(ex->temporary);
    return rf_error_set(err, RF_ERR, "%s: cannot be replaced by a new folder (%s): name a new one",
                        ex->folder, why);
}

static int begin_folder(exporter *ex, rf_error *err)
{
    struct stat status;
    if (stat(ex->folder, &status) == 0 &&
        (!S_ISDIR(status.st_mode) || count_entries(ex->folder) > 0)) {
        return rf_error_set(err, RF_ERR,
                            "%s: exists and is not an empty folder: name a new one, or remove it",
                            ex->folder);
    }
    int length =
        snprintf(ex->temporary, sizeof ex->temporary, "%s.tmp-%ld", ex->folder, (long)getpid());
    if (length < 0 || (size_t)length >= sizeof ex->temporary) {
        ex->temporary[0] = '\0';
        return rf_error_set(err, RF_ERR, "%.64s...: the path is too long", ex->folder);
    }
    RF_TRY(rf_output_clean(ex->folder, err));
    int rc = make_temporary(ex, err);
    if (rc == RF_OK && stat(ex->folder, &status) == 0) {
        rc = try_to_replace(ex, err);
        rc = rc == RF_OK ? make_temporary(ex, err) : rc;
    }
    if (rc != RF_OK) {
        ex->temporary[0] = '\0';
        return rc;
    }
    rf_output_remember(ex->temporary);
    return RF_OK;
}

static void abandon_folder(const exporter *ex)
{
    if (ex->temporary[0] != '\0') {
        rf_output_remove(ex->temporary);
        rf_output_forget(ex->temporary);
    }
}

static int commit_folder(exporter *ex, rf_error *err)
{
    char parent[RF_CONVERT_PATH];
    RF_TRY(rf_path_folder(parent, sizeof parent, ex->temporary, err));
    RF_TRY(rf_file_sync_folder(ex->temporary, err));
    if (rename(ex->temporary, ex->folder) != 0) {
        return rf_error_set(err, rf_error_code_of_errno(errno), "%s: cannot rename to %s: %s",
                            ex->temporary, ex->folder, strerror(errno));
    }
    rf_output_forget(ex->temporary);
    ex->temporary[0] = '\0';
    return rf_file_sync_folder(parent, err);
}

/* --- config.json ------------------------------------------------------------------------------ */

/* One id, or a list of them; NULL: none is known. */
static json_t *eos_ids(const rf_tokenizer *tokenizer)
{
    const rf_specials *specials = tokenizer != NULL ? rf_tokenizer_specials(tokenizer) : NULL;
    if (specials == NULL || specials->n_eos == 0) {
        return NULL;
    }
    return specials->n_eos == 1 ? json_integer(specials->eos[0])
                                : rf_ids_json(specials->eos, specials->n_eos);
}

static bool is_adapter(const exporter *ex)
{
    return ex->info.adaptation.rank > 0;
}

static int write_adapter_config(const exporter *ex, rf_error *err)
{
    rf_table table;
    RF_TRY(rf_table_build_adapted(&table, &ex->info.model, &ex->info.adaptation, err));
    json_t *root = rf_convert_adapter_json(&ex->info, &table);
    int rc = rf_file_write_json(ex->temporary, "adapter_config.json", root, err);
    json_decref(root);
    rf_table_free(&table);
    return rc;
}

static int write_configs(const exporter *ex, rf_error *err)
{
    if (is_adapter(ex)) {
        return write_adapter_config(ex, err);
    }
    static const char *const names[RF_N_TYPES] = {
        [RF_F32] = "float32", [RF_BF16] = "bfloat16", [RF_F16] = "float16"};
    char *text = rf_model_config_json(&ex->config);
    json_t *root = json_loads(text, 0, NULL);
    json_t *generation = json_object();
    json_t *eos = eos_ids(ex->info.tokenizer);
    json_object_set_new(root, "torch_dtype", json_string(names[ex->type]));
    if (eos != NULL) {
        json_object_set(root, "eos_token_id", eos);
        json_object_set(generation, "eos_token_id", eos);
    }
    int rc;
    RF_TRY_OUT(rf_file_write_json(ex->temporary, "config.json", root, err));
    /* A tokenizer of Hugging Face puts its own in its place. */
    rc = rf_file_write_json(ex->temporary, "generation_config.json", generation, err);
out:
    json_decref(eos);
    json_decref(generation);
    json_decref(root);
    free(text);
    return rc;
}

/* --- Values ----------------------------------------------------------------------------------- */

static void file_name(char *out, size_t bytes, const exporter *ex, const char *name)
{
    if (is_adapter(ex)) {
        rf_convert_adapter_name(out, bytes, name);
    } else {
        snprintf(out, bytes, "%s", name);
    }
}

static int begin_values(exporter *ex, rf_error *err)
{
    rf_table table;
    RF_TRY(rf_table_build_adapted(&table, &ex->config, &ex->info.adaptation, err));
    int64_t n = 0, most = ex->options->max_shard_bytes;
    rf_safetensors_item *item = rf_alloc((size_t)table.n_tensors, sizeof *item);
    char(*name)[RF_CONVERT_NAME] = rf_alloc((size_t)table.n_tensors, sizeof *name);
    for (int64_t i = 0; i < table.n_tensors; i++) {
        const rf_tensor *t = &table.tensor[i];
        if (rf_table_is_adapter(t->role) == is_adapter(ex)) {
            file_name(name[n], sizeof name[n], ex, t->name);
            item[n] = (rf_safetensors_item){name[n], t->n_dims, {t->shape[0], t->shape[1]}};
            n++;
        }
    }
    int rc = rf_safetensors_writer_new(
        &ex->writer, ex->temporary, is_adapter(ex) ? "adapter_model" : "model", ex->type, item, n,
        most > 0 && !is_adapter(ex) ? most : default_shard_bytes, err);
    free(item);
    free(name);
    rf_table_free(&table);
    return rc;
}

/* rf_checkpoint_sink */
static int put(void *user, const void *values, rf_type type, const rf_tensor *tensor, int64_t first,
               int64_t n, rf_error *err)
{
    exporter *ex = user;
    ex->values = rf_alloc_grow(ex->values, &ex->n_values, (size_t)n, sizeof *ex->values);
    ex->encoded = rf_alloc_grow(ex->encoded, &ex->n_encoded, (size_t)n, rf_type_bytes(ex->type));
    rf_storage_decode(ex->values, values, type, n);
    int64_t bad = rf_storage_encode(ex->encoded, ex->type, ex->values, n);
    if (bad >= 0) {
        bool finite = isfinite(ex->values[bad]);
        return rf_error_set(err, RF_ERR, "%s: tensor %s: element %" PRId64 " is %g, %s%s", ex->path,
                            tensor->name, first + bad, (double)ex->values[bad],
                            finite ? "too large for " : "so the model is damaged",
                            finite ? rf_type_name(ex->type) : "");
    }
    char name[RF_CONVERT_NAME];
    file_name(name, sizeof name, ex, tensor->name);
    return rf_safetensors_writer_put(ex->writer, name, first, n, ex->encoded, err);
}

static int write_values(exporter *ex, rf_error *err)
{
    RF_TRY(begin_values(ex, err));
    RF_TRY(rf_checkpoint_read(ex->path, put, ex, err));
    return rf_safetensors_writer_finish(ex->writer, err);
}

/* --- Export ----------------------------------------------------------------------------------- */

static int begin(exporter *ex, rf_error *err)
{
    RF_TRY(rf_checkpoint_info_read(&ex->info, ex->path, err));
    rf_type stored = ex->info.storage;
    if (stored == RF_F64 || stored == RF_I8) {
        stored = RF_F32;
    }
    ex->type = ex->options->type < RF_N_TYPES ? ex->options->type : stored;
    int rc = rf_model_config_express(&ex->config, &ex->info.model, err);
    return rc == RF_OK ? rc : rf_error_prefix(err, "%s", ex->path);
}

int rf_convert_export(const char *path, const char *folder, const rf_convert_options *options,
                      rf_error *err)
{
    RF_ASSERT(options->type != RF_F64);
    exporter ex = {.path = path, .options = options};
    int rc;
    RF_TRY_OUT(begin(&ex, err));
    RF_TRY_OUT(rf_output_resolve_folder(ex.folder, folder, err));
    RF_TRY_OUT(begin_folder(&ex, err));
    RF_TRY_OUT(write_configs(&ex, err));
    RF_TRY_OUT(rf_convert_write_tokenizer(ex.info.tokenizer, ex.temporary, options, err));
    RF_TRY_OUT(write_values(&ex, err));
    RF_TRY_OUT(commit_folder(&ex, err));
    rf_convert_say(options, "%s: %s with %" PRId64 " tokens, %s, in %" PRId64 " files", folder,
                   ex.config.architecture, ex.config.vocab_size, rf_type_name(ex.type),
                   rf_safetensors_writer_files(ex.writer));
out:
    rf_safetensors_writer_free(ex.writer);
    abandon_folder(&ex);
    rf_checkpoint_info_free(&ex.info);
    free(ex.values);
    free(ex.encoded);
    return rc;
}
