/* convert_private.h: what the convert_*.c files share.                         all local */
#ifndef RF_DATA_CONVERT_CONVERT_PRIVATE_H
#define RF_DATA_CONVERT_CONVERT_PRIVATE_H

#include "common/store/safetensors.h"
#include "data/convert/convert.h"

struct json_t;

enum { RF_CONVERT_PATH = 4096, RF_CONVERT_NAME = 128, RF_CONVERT_SIZE = 32 };

/* printf to the options' note. */
void rf_convert_say(const rf_convert_options *options, const char *format, ...) RF_PRINTF(2, 3);
/* "0.4 MB " of a file, "" of what has no size, as a pipe; out [RF_CONVERT_SIZE], which is returned. */
const char *rf_convert_size(char *out, const char *path);
/* tokenizer.json, tokenizer_config.json and generation_config.json of a tokenizer that came from
 * Hugging Face (rf_tokenizer_export); a note where the kind has no such files. */
RF_MUST_CHECK int rf_convert_write_tokenizer(const rf_tokenizer *tokenizer, const char *folder,
                                             const rf_convert_options *options, rf_error *err);

/* --- Tensors ---------------------------------------------------------------------------------- */

/* All tensors of the configuration are there, with their shapes and in types that can be read, and
 * no others; but a tied model may have its lm_head beside the embedding, with the same bytes, and
 * old files have tables of rotary frequencies, which follow from the configuration. *type: bf16
 * where all that count are, else f32. */
RF_MUST_CHECK int rf_convert_match(rf_type *type, const rf_safetensors *set,
                                   const rf_model_config *config, const char *folder,
                                   rf_error *err);

/* What is read as f64 on its way into a file. A zeroed struct is fine. */
typedef struct rf_convert_values {
    double *value;  /* [n of the last call] owned, */
    float *rounded; /* as is this */
    size_t capacity, rounded_capacity;
} rf_convert_values;

/* Reads values [first, first + n) of a tensor. */
RF_MUST_CHECK int rf_convert_get(rf_convert_values *values, rf_checkpoint_reader *reader,
                                 const rf_tensor *tensor, int64_t first, int64_t n, rf_error *err);
/* Puts the values that were read into `out`, as `type`; one that is not finite then is an error that
 * names the tensor. i8: as the f32 that it is made of, where its rows are judged. */
RF_MUST_CHECK int rf_convert_put(rf_convert_values *values, void *out, rf_type type,
                                 const rf_tensor *tensor, int64_t first, int64_t n, rf_error *err);
void rf_convert_values_free(rf_convert_values *values);

/* --- Adapters in PEFT's format ---------------------------------------------------------------- */

/* adapter_config.json, for the table of an adapter file; the base's name is left open. Source:
 * https://huggingface.co/docs/peft (LoraConfig). */
struct json_t *rf_convert_adapter_json(const rf_checkpoint_info *info, const rf_table *table);
/* The module of an adapter: "model.layers.0.self_attn.q_proj.lora_A.weight" is one of
 * "model.layers.0.self_attn.q_proj". */
void rf_convert_adapter_module(char *out, size_t bytes, const rf_tensor *adapter);
/* A tensor's name in adapter_model.safetensors. */
void rf_convert_adapter_name(char *out, size_t bytes, const char *name);

/* --- Rows of the vocabulary ------------------------------------------------------------------- */

typedef struct rf_vocabulary {
    int64_t n_file;   /* rows of the folder's table */
    int64_t n_used;   /* rows [0,n_used) have tokens of the folder's tokenizer */
    int64_t n_rows;   /* rows of the checkpoint; rows from n_file on are fresh */
    int32_t fresh[2]; /* rows below n_file that are fresh, too */
    int n_fresh;
    float *embed, *head; /* [D] what fresh rows hold; head NULL: tied. Owned */
} rf_vocabulary;

/* Which rows there are, for a tokenizer that rf_tokenizer_load read and a table of n_file rows. */
RF_MUST_CHECK int rf_vocabulary_plan(rf_vocabulary *out, const rf_tokenizer *tokenizer,
                                     int64_t n_file, rf_error *err);
bool rf_vocabulary_is_fresh(const rf_vocabulary *vocabulary, int64_t row);
/* The means of used rows, where fresh rows need them. */
RF_MUST_CHECK int rf_vocabulary_average(rf_vocabulary *vocabulary, const rf_safetensors *set,
                                        rf_error *err);
void rf_vocabulary_free(rf_vocabulary *vocabulary);

#endif
