#include "common/store/checkpoint_private.h"

#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "values lie in the file as in memory: little-endian");

/* --- Values ----------------------------------------------------------------------------------- */

/* Where values go: to a sink, into a model (class master, at the place that the model's table
 * says), or nowhere. */
typedef struct target {
    rf_checkpoint_sink sink;
    void *user;
    rf_model *model;
    void *base[RF_N_GROUPS]; /* of the model; NULL: the group is left out */
    float *decoded;          /* [RF_CHECKPOINT_CHUNK / 2] scratch for types that no backend has */
    float *scale;            /* of the present matrix in int8 */
} target;

static int deliver(const target *to, const rf_checkpoint_item *item, const void *values,
                   int64_t first, int64_t n, rf_error *err)
{
    rf_type type = item->type;
    if (to->sink == NULL && to->model == NULL) {
        return RF_OK;
    }
    if (type == RF_I8) {
        rf_checkpoint_dequantize(to->decoded, values, to->scale, item->tensor->shape[1], first, n);
        values = to->decoded;
        type = RF_F32;
    }
    if (to->sink != NULL) {
        return to->sink(to->user, values, type, item->tensor, first, n, err);
    }
    if (type == RF_BF16) {
        rf_storage_decode(to->decoded, values, type, n);
        values = to->decoded;
    }
    const rf_tensor *tensor = rf_table_find(&to->model->table, item->tensor->name);
    rf_type host = type == RF_F64 ? RF_F64 : RF_F32;
    if (item->group == RF_GROUP_PARAMS) {
        rf_model_upload(to->model, tensor, first, values, host, n);
        return RF_OK;
    }
    rf_backend_upload(to->model->ctx,
                      rf_backend_at(to->model->ctx->backend, RF_MASTER, to->base[item->group],
                                    tensor->offset + first),
                      RF_MASTER, values, host, n);
    return RF_OK;
}

int rf_checkpoint_check_crc(const rf_checkpoint_item *item, uint32_t crc, const char *path,
                            rf_error *err)
{
    return crc == item->crc
               ? RF_OK
               : rf_error_set(err, RF_ERR,
                              "%s: tensor %s is damaged: its checksum is %08x instead of "
                              "%08x: " RF_CHECKPOINT_REMEDY,
                              path, item->name, crc, item->crc);
}

/* Reads all values of an item and compares their checksum. */
static int read_item_values(const rf_checkpoint_item *item, int fd, void *chunk, const target *to,
                            const char *path, rf_error *err)
{
    int64_t element = (int64_t)rf_type_bytes(item->type);
    uint32_t crc = 0;
    const int64_t most = item->type == RF_I8 ? RF_CHECKPOINT_CHUNK / 4 : RF_CHECKPOINT_CHUNK;
    for (int64_t done = 0; done < item->bytes;) {
        int64_t left = item->bytes - done;
        int64_t n = left < most ? left : most;
        int rc = rf_file_pread(fd, chunk, (size_t)n, item->offset + done, path, err);
        if (rc == RF_OK) {
            crc = (uint32_t)crc32_z(crc, chunk, (size_t)n);
            rc = deliver(to, item, chunk, done / element, n / element, err);
        }
        if (rc != RF_OK) {
            return rc;
        }
        done += n;
    }
    return rf_checkpoint_check_crc(item, crc, path, err);
}

static bool wants(const target *to, const rf_checkpoint_item *item)
{
    if (to->sink != NULL) {
        return item->group == RF_GROUP_PARAMS;
    }
    return to->model == NULL || to->base[item->group] != NULL;
}

static int read_all_values(const rf_checkpoint_structure *structure, target *to, const char *path,
                           rf_error *err)
{
    int rc = RF_OK;
    void *chunk = malloc(RF_CHECKPOINT_CHUNK);
    to->decoded = malloc(RF_CHECKPOINT_CHUNK / 2 * sizeof(float));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (chunk == NULL || to->decoded == NULL) {
        rc = rf_error_set(err, RF_ERR, "%s: no memory for reading", path);
        goto out;
    }
    if (fd < 0) {
        rc = rf_error_set(err, rf_error_code_of_errno(errno), "%s: cannot open: %s", path,
                          strerror(errno));
        goto out;
    }
    for (int64_t i = 0; i < structure->n_items && rc == RF_OK; i++) {
        const rf_checkpoint_item *item = &structure->item[i];
        if (wants(to, item) && item->type == RF_I8) {
            rc = rf_checkpoint_scales_read(&to->scale, structure, item, fd, path, err);
        }
        if (wants(to, item) && rc == RF_OK) {
            rc = read_item_values(item, fd, chunk, to, path, err);
        }
        free(to->scale);
        to->scale = NULL;
    }
out:
    if (fd >= 0) {
        close(fd);
    }
    free(chunk);
    free(to->decoded);
    return rc;
}

uint64_t rf_checkpoint_hash(const rf_checkpoint_structure *structure)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (int64_t i = 0; i < structure->n_items; i++) {
        const rf_checkpoint_item *item = &structure->item[i];
        char text[sizeof item->name + 16];
        if (item->group != RF_GROUP_PARAMS && item->group != RF_GROUP_SCALES) {
            continue;
        }
        snprintf(text, sizeof text, "%s %08x\n", item->name, item->crc);
        for (const char *at = text; *at != '\0'; at++) {
            hash = (hash ^ (unsigned char)*at) * UINT64_C(0x100000001b3);
        }
    }
    return hash != 0 ? hash : 1; /* 0 stands for unknown */
}

/* Do file and model adapt alike, as far as the file's tensors need it? */
static int check_adaptation(const rf_checkpoint_structure *structure, const rf_model *model,
                            bool wants_moments, const char *path, rf_error *err)
{
    const rf_adaptation *is = &structure->adaptation, *wanted = &model->adaptation;
    if (is->rank > 0 && wanted->rank == 0) {
        return rf_error_set(err, RF_ERR,
                            "%s: holds adapters only: give its base (%s) as the model, and this "
                            "file as the adapter",
                            path, structure->base.path);
    }
    if ((is->rank > 0 || wants_moments) && !rf_adapt_same(is, wanted)) {
        return rf_error_set(err, RF_ERR,
                            "%s: was trained with other settings of train.only or lora.*: take "
                            "back those that differ",
                            path);
    }
    if (is->rank > 0 && structure->base.hash != model->base.hash) {
        return rf_error_set(err, RF_ERR,
                            "%s: its adapters belong to another base than %s: they were trained "
                            "with %s (parameters of hash %016" PRIx64 ")",
                            path, model->base.path[0] != '\0' ? model->base.path : "the one given",
                            structure->base.path, structure->base.hash);
    }
    return RF_OK;
}

static void remember_base(const rf_checkpoint_structure *structure, rf_model *model,
                          const char *path)
{
    if (model->adaptation.rank == 0 || structure->adaptation.rank > 0) {
        return;
    }
    char *absolute = realpath(path, NULL);
    const char *name = absolute != NULL ? absolute : path;
    model->base.hash = rf_checkpoint_hash(structure);
    snprintf(model->base.path, sizeof model->base.path, "%s", name);
    free(absolute);
}

int rf_checkpoint_load(const char *path, rf_model *model, void *adam_m, void *adam_v, rf_error *err)
{
    char difference[256];
    rf_checkpoint_structure structure;
    int rc = rf_checkpoint_structure_read(&structure, path, err);
    if (rc != RF_OK) {
        goto out;
    }
    if (!rf_model_config_same_shape(&structure.model, &model->config, difference,
                                    sizeof difference)) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: the file's model is not the one asked for: %s: give the model.* "
                          "settings of the file or another file",
                          path, difference);
        goto out;
    }
    rc = check_adaptation(&structure, model, adam_m != NULL || adam_v != NULL, path, err);
    if (rc != RF_OK) {
        goto out;
    }
    if (structure.item[0].type == RF_I8 && model->ctx->limits.backward &&
        model->adaptation.rank == 0) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: its weights were rounded to int8, for decoding: train from the "
                          "checkpoint that it was made of, or adapters (lora.rank) beside it",
                          path);
        goto out;
    }
    if ((adam_m != NULL || adam_v != NULL) && structure.values.has_optimizer == 0) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: holds weights without optimizer state, so no run can be resumed "
                          "from it: give it as model.init",
                          path);
        goto out;
    }
    target to = {.model = model, .base = {model->master, adam_m, adam_v}};
    rc = read_all_values(&structure, &to, path, err);
    if (rc == RF_OK) {
        rc = rf_ctx_sync(model->ctx, err);
    }
    if (rc == RF_OK) {
        rf_model_prepare(model);
        remember_base(&structure, model, path);
    }
out:
    rf_checkpoint_structure_free(&structure);
    return rc;
}

static int read_into(target *to, const char *path, rf_error *err)
{
    rf_checkpoint_structure structure;
    int rc = rf_checkpoint_structure_read(&structure, path, err);
    if (rc == RF_OK) {
        rc = read_all_values(&structure, to, path, err);
    }
    rf_checkpoint_structure_free(&structure);
    return rc;
}

int rf_checkpoint_read(const char *path, rf_checkpoint_sink sink, void *user, rf_error *err)
{
    target to = {.sink = sink, .user = user};
    return read_into(&to, path, err);
}

int rf_checkpoint_verify(const char *path, rf_error *err)
{
    target nowhere = {0};
    return read_into(&nowhere, path, err);
}

/* --- Header ----------------------------------------------------------------------------------- */

static char *take_text(rf_checkpoint_structure *structure, int i)
{
    char *text = structure->text[i];
    structure->text[i] = NULL;
    return text;
}

int rf_checkpoint_info_read(rf_checkpoint_info *out, const char *path, rf_error *err)
{
    rf_checkpoint_structure structure;
    memset(out, 0, sizeof *out);
    int rc = rf_checkpoint_structure_read(&structure, path, err);
    if (rc != RF_OK) {
        goto out;
    }
    const rf_checkpoint_values *values = &structure.values;
    if (structure.text_bytes[RF_TEXT_TOKENIZER] > 0) {
        rc = rf_tokenizer_parse(&out->tokenizer, structure.text[RF_TEXT_TOKENIZER],
                                structure.text_bytes[RF_TEXT_TOKENIZER], path, err);
        if (rc != RF_OK) {
            goto out;
        }
    }
    out->model = structure.model;
    out->adaptation = structure.adaptation;
    out->base = structure.base;
    out->progress = values->progress;
    out->storage = structure.item[0].type;
    out->has_optimizer = values->has_optimizer != 0;
    memcpy(out->isa, values->isa, sizeof out->isa);
    memcpy(out->written_by, values->written_by, sizeof out->written_by);
    out->run_config = take_text(&structure, RF_TEXT_RUN_CONFIG);
    out->corpora = take_text(&structure, RF_TEXT_CORPORA);
out:
    rf_checkpoint_structure_free(&structure);
    return rc;
}

void rf_checkpoint_info_free(rf_checkpoint_info *info)
{
    free(info->run_config);
    free(info->corpora);
    rf_tokenizer_free(info->tokenizer);
    memset(info, 0, sizeof *info);
}
