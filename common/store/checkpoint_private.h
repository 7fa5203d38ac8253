/* checkpoint_private.h: what the checkpoint_*.c files share.                   all local
 *
 * A file is described once, by rf_checkpoint_values (the attributes) and rf_checkpoint_item (one
 * for each tensor); writing, reading and the checksums are loops over these.
 *
 *   checkpoint_values.c    attributes and tensors: one table serves create, read and checksum
 *   checkpoint_layout.c    a file without its values, by rank 0
 *   checkpoint_write.c     saving in four phases
 *   checkpoint_structure.c all of a file but its values, checked
 *   checkpoint_read.c      values: one reader for load, verify, sinks and rows in any order
 *   checkpoint_quantize.c  matrices of int8, row by row
 *   checkpoint_folder.c    latest, pruning, finding the newest good one
 */
#ifndef RF_STORE_CHECKPOINT_PRIVATE_H
#define RF_STORE_CHECKPOINT_PRIVATE_H

#include "common/base/files/hdf5.h"
#include "common/store/checkpoint.h"

#define RF_CHECKPOINT_REMEDY "use another checkpoint"

enum {
    RF_CHECKPOINT_VERSION = 2, /* with /state; files without are of version 1 */
    RF_CHECKPOINT_ALIGN = 4096 /* of tensors of at least this size: can be mapped */
};

/* --- Texts: datasets of bytes, without a limit of length -------------------------------------- */

enum { RF_TEXT_TOKENIZER, RF_TEXT_RUN_CONFIG, RF_TEXT_CORPORA, RF_TEXT_STATE, RF_N_TEXTS };

/* Texts that a file of a version has. */
int rf_checkpoint_n_texts(int64_t version);

extern const char *const rf_checkpoint_text_names[RF_N_TEXTS];

/* --- Attributes of the root ------------------------------------------------------------------- */

typedef struct rf_checkpoint_values {
    int64_t version;          /* an attribute of its own; says which of these there are */
    char model_config[32768]; /* config.json; with what was trained, where that is not all */
    rf_progress progress;
    int64_t has_optimizer;
    char isa[32];
    char written_by[64];
    int64_t tokenizer_hash; /* the 64 bits of rf_tokenizer_hash; 0 without a tokenizer */
    int64_t text_crc32[RF_N_TEXTS];
    int64_t tensors_crc32; /* rf_checkpoint_items_crc */
} rf_checkpoint_values;

RF_MUST_CHECK int rf_checkpoint_values_create(rf_hdf5 *file, const rf_checkpoint_values *values,
                                              rf_error *err);
RF_MUST_CHECK int rf_checkpoint_values_read(rf_checkpoint_values *out, rf_hdf5 *file,
                                            rf_error *err);
/* Over names and values of all of them, in the order of the table. */
uint32_t rf_checkpoint_values_crc(const rf_checkpoint_values *values);

/* --- Tensors ---------------------------------------------------------------------------------- */

typedef enum rf_checkpoint_group {
    RF_GROUP_PARAMS,
    RF_GROUP_M,
    RF_GROUP_V,
    RF_GROUP_SCALES, /* of matrices in int8: [out, groups of a row] (quantize.h) */
    RF_N_GROUPS
} rf_checkpoint_group;

typedef struct rf_checkpoint_item {
    char name[128];          /* "/adam/m/model.norm.weight" */
    const rf_tensor *tensor; /* of a table that outlives the item */
    rf_checkpoint_group group;
    rf_type type; /* not f16 */
    int64_t shape[2], count;
    int64_t offset; /* of the values in the file */
    int64_t bytes;
    uint32_t crc;
} rf_checkpoint_item;

extern const char *const rf_checkpoint_group_names[RF_N_GROUPS]; /* "/params", ... */
rf_hdf5_type rf_checkpoint_hdf5_type(rf_type type);              /* not of i32 and f16 */

/* A checkpoint's own field in model_config: rf_adapt_json. */
#define RF_CHECKPOINT_ADAPTATION "refusion_adaptation"

/* All tensors of a file in their order; offsets and checksums 0. type int8: of matrices, which have
 * scales then; the others are f32. Caller frees with free. */
rf_checkpoint_item *rf_checkpoint_items(int64_t *n, const rf_table *table, rf_type type,
                                        bool has_optimizer);
/* Whether a file has a group. */
bool rf_checkpoint_has_group(rf_checkpoint_group group, bool has_optimizer, bool quantized);
/* Over names, types, shapes, sizes and checksums. */
uint32_t rf_checkpoint_items_crc(const rf_checkpoint_item *item, int64_t n);

/* --- Layout ----------------------------------------------------------------------------------- */

/* Creates the file `path` with all groups, datasets and attributes, without values (which get their
 * places: item->offset) and with checksums and `complete` 0; sets `values`. The parts of info that
 * the model and the items tell are not read. */
RF_MUST_CHECK int rf_checkpoint_layout(rf_checkpoint_values *values, rf_checkpoint_item *item,
                                       int64_t n_items, const char *path,
                                       const rf_model_config *config, bool has_optimizer,
                                       bool quantized, const rf_checkpoint_info *info,
                                       rf_error *err);
/* Writes the checksums of the items, which are now known, and sets `complete`. */
RF_MUST_CHECK int rf_checkpoint_complete(rf_checkpoint_values *values,
                                         const rf_checkpoint_item *item, int64_t n_items,
                                         const char *path, rf_error *err);

/* --- A file's structure ----------------------------------------------------------------------- */

typedef struct rf_checkpoint_structure {
    rf_checkpoint_values values;
    rf_model_config model;
    rf_adaptation adaptation;
    rf_adapt_base base;
    rf_table table;
    rf_checkpoint_item *item; /* [n_items] */
    int64_t n_items;
    char *text[RF_N_TEXTS]; /* 0-terminated */
    size_t text_bytes[RF_N_TEXTS];
    /* what failed says nothing of the file's content: it could not be read now, or not by this program */
    bool blameless;
} rf_checkpoint_structure;

/* Everything but the tensors' values, checked. Caller frees with .._free, also after an error. */
RF_MUST_CHECK int rf_checkpoint_structure_read(rf_checkpoint_structure *out, const char *path,
                                               rf_error *err);
/* The error about a folder in place of a checkpoint: what it holds instead, and what to do. */
RF_MUST_CHECK int rf_checkpoint_refuse_folder(const char *folder, rf_error *err);
/* Frees what it holds; `blameless` stays. */
void rf_checkpoint_structure_free(rf_checkpoint_structure *structure);
/* rf_checkpoint_verify; sets *is_damaged: it fails by what the file holds, and will whenever it is tried. */
RF_MUST_CHECK int rf_checkpoint_examine(bool *is_damaged, const char *path, rf_error *err);
/* An error that names the tensor where the checksum of its values is another. */
RF_MUST_CHECK int rf_checkpoint_check_crc(const rf_checkpoint_item *item, uint32_t crc,
                                          const char *path, rf_error *err);

/* --- Matrices of int8 ------------------------------------------------------------------------- */

/* Elements [first, first + n) of the tensor's values (int8) or of its scales (f32), from what
 * `source` gives for its rows. Values that are not finite are an error that names the tensor. */
RF_MUST_CHECK int rf_checkpoint_quantize(void *out, bool scales, const rf_tensor *tensor,
                                         int64_t first, int64_t n, rf_checkpoint_source source,
                                         void *user, rf_error *err);
/* out [n]: elements [first, first + n) of a matrix with rows of `in`, exactly. scale: of the whole
 * matrix. */
void rf_checkpoint_dequantize(float *out, const int8_t *q, const float *scale, int64_t in,
                              int64_t first, int64_t n);
/* All scales of an item in int8, their checksum compared and each >= 0 and finite. Caller frees. */
RF_MUST_CHECK int rf_checkpoint_scales_read(float **out, rf_checkpoint_structure *structure,
                                            const rf_checkpoint_item *item, int fd,
                                            const char *path, rf_error *err);

#endif
