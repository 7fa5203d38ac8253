#include "common/model/checkpoint_private.h"

#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "values lie in the file as in memory: little-endian");

/* --- Values ----------------------------------------------------------------------------------- */

/* Reads all values of an item and compares their checksum. Where base is not NULL they go to the
 * item's place in it (class master; the table that counts is the model's). */
static int read_item_values(const rf_checkpoint_item *item, int fd, void *chunk, rf_model *model,
                            void *base, const char *path, rf_error *err)
{
    int64_t element = (int64_t)rf_type_bytes(item->type);
    int64_t at = base != NULL ? rf_table_find(&model->table, item->tensor->name)->offset : 0;
    uint32_t crc = 0;
    for (int64_t done = 0; done < item->bytes;) {
        int64_t left = item->bytes - done;
        int64_t n = left < RF_CHECKPOINT_CHUNK ? left : RF_CHECKPOINT_CHUNK;
        int rc = rf_file_pread(fd, chunk, (size_t)n, item->offset + done, path, err);
        if (rc != RF_OK) {
            return rc;
        }
        crc = (uint32_t)crc32_z(crc, chunk, (size_t)n);
        if (base != NULL) {
            rf_backend_upload(
                model->ctx,
                rf_backend_at(model->ctx->backend, RF_MASTER, base, at + done / element), RF_MASTER,
                chunk, item->type, n / element);
        }
        done += n;
    }
    if (crc != item->crc) {
        return rf_error_set(
            err, RF_ERR,
            "%s: tensor %s is damaged: its checksum is %08x instead of %08x: " RF_CHECKPOINT_REMEDY,
            path, item->name, crc, item->crc);
    }
    return RF_OK;
}

/* base [RF_N_GROUPS]: where the values go, by group. model NULL: nowhere, but all are read. */
static int read_all_values(const rf_checkpoint_structure *structure, rf_model *model,
                           void *const *base, const char *path, rf_error *err)
{
    int rc = RF_OK;
    void *chunk = malloc(RF_CHECKPOINT_CHUNK);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (chunk == NULL) {
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
        void *to = model != NULL ? base[item->group] : NULL;
        if (model == NULL || to != NULL) {
            rc = read_item_values(item, fd, chunk, model, to, path, err);
        }
    }
out:
    if (fd >= 0) {
        close(fd);
    }
    free(chunk);
    return rc;
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
    if ((adam_m != NULL || adam_v != NULL) && structure.values.has_optimizer == 0) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: holds weights without optimizer state, so no run can be resumed "
                          "from it: give it as model.init",
                          path);
        goto out;
    }
    void *base[RF_N_GROUPS] = {model->master, adam_m, adam_v};
    rc = read_all_values(&structure, model, base, path, err);
    if (rc == RF_OK) {
        rc = rf_ctx_sync(model->ctx, err);
    }
    if (rc == RF_OK) {
        rf_model_prepare(model);
    }
out:
    rf_checkpoint_structure_free(&structure);
    return rc;
}

int rf_checkpoint_verify(const char *path, rf_error *err)
{
    rf_checkpoint_structure structure;
    int rc = rf_checkpoint_structure_read(&structure, path, err);
    if (rc == RF_OK) {
        rc = read_all_values(&structure, NULL, NULL, path, err);
    }
    rf_checkpoint_structure_free(&structure);
    return rc;
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
    out->progress = values->progress;
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
