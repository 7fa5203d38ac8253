/* convert.h: models of Hugging Face in and out.                                all local
 *
 * import: a folder with config.json, weights in safetensors and a tokenizer becomes a checkpoint
 * (checkpoint.h) without optimizer state. export: the parameters of a checkpoint become such a
 * folder. Both go tensor by tensor, so that a model need not fit into memory, and both refuse NaN
 * and infinities by the tensor's name. Export, then import with the same type, gives the same
 * file bit for bit, tokenizer included, of a checkpoint that was imported.
 */
#ifndef RF_DATA_CONVERT_CONVERT_H
#define RF_DATA_CONVERT_CONVERT_H

#include "common/store/checkpoint.h"

/* Tells what was done, line by line; NULL: nobody listens. */
typedef void (*rf_convert_note)(const char *line);

typedef struct rf_convert_options {
    rf_type type;          /* RF_N_TYPES: as the source has it (see below) */
    const char *tokenizer; /* import: "byte", a folder or a tokenizer.json; NULL: the model's
                                folder */
    bool grow;             /* import: also where the tokenizer has many more tokens than the model
                                has rows */
    const char *const *ignored; /* [n_ignored] import: unknown fields of config.json, or of
                                   adapter_config.json, that are not read */
    int n_ignored;
    int64_t max_shard_bytes; /* export: of the values in a file; 0: 5 GB */
    rf_convert_note note;
} rf_convert_options;

/* local. Writes the checkpoint `path`, atomically, from a folder of Hugging Face. Values are stored
 * as f32 or bf16; as the source: bf16 where every tensor is, else f32. The table has room for all
 * ids of the tokenizer: rows of <|beginoftext|> and <|mask|>, where these were added to the
 * tokenizer, and rows beyond the folder's table are the mean of the used rows. The lm_head of a
 * tied model must be the embedding. Missing, surplus and wrongly shaped tensors are listed by name.
 */
RF_MUST_CHECK int rf_convert_import(const char *folder, const char *path,
                                    const rf_convert_options *options, rf_error *err);
/* local. Writes an adapter file, atomically, from a folder of PEFT (adapter_config.json and
 * adapter_model.safetensors, of f32, f16 or bf16), for the base checkpoint, whose tokenizer and
 * settings it takes over. Adapters of matrices of blocks alone, of one rank and factor; anything
 * else is refused by name. Stored as f32. */
RF_MUST_CHECK int rf_convert_import_peft(const char *folder, const char *base, const char *path,
                                         const rf_convert_options *options, rf_error *err);
/* local. Makes `folder` (which must not exist, or be empty) from a checkpoint: config.json,
 * generation_config.json, model*.safetensors, and tokenizer files where the tokenizer is one of
 * Hugging Face. Values are written as f32, bf16 or f16; as the source: f32 for f64. The folder
 * appears whole or not at all. An adapter file gives a folder of PEFT instead: adapter_config.json
 * and adapter_model.safetensors, for the exported base. */
RF_MUST_CHECK int rf_convert_export(const char *path, const char *folder,
                                    const rf_convert_options *options, rf_error *err);
/* local. Writes the checkpoint `path`, atomically: the base with an adapter file's share added to
 * its weights (lora.h), the rest of the header as the adapter file has it, without optimizer state.
 * Stored as f32, f64 or bf16; as the source: as the base. Goes tensor by tensor: only the adapters
 * are held in memory. An adapter file of another base is refused. */
RF_MUST_CHECK int rf_convert_merge(const char *base, const char *adapter, const char *path,
                                   const rf_convert_options *options, rf_error *err);

/* local. Writes the checkpoint `path`, atomically: the weights of `source` (or its adapters), with
 * tokenizer and configuration, but without moments, the state of a run and the names of its corpora.
 * Stored as f32, f64 or bf16; as the source. Tensor by tensor. Quantized files are refused. */
RF_MUST_CHECK int rf_convert_publish(const char *source, const char *path,
                                     const rf_convert_options *options, rf_error *err);
/* local. Writes the checkpoint `path`, atomically: `source` with its matrices in int8 (quantize.h),
 * the rest of the header as it is, without optimizer state. Such a file decodes, takes adapters to
 * be trained beside it and exports (its values, as f32); it cannot be trained itself. Tensor by
 * tensor. Adapter files and quantized ones are refused. */
RF_MUST_CHECK int rf_convert_quantize(const char *source, const char *path,
                                      const rf_convert_options *options, rf_error *err);

#endif
