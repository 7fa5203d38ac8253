/* safetensors.h: weights as Hugging Face stores them.                          all local
 *
 * A file is 8 bytes little-endian N, N bytes of JSON {"name": {"dtype", "shape", "data_offsets"},
 * ..., "__metadata__": {...}}, then the values. A folder holds one model.safetensors, or shards
 * with model.safetensors.index.json. Source: https://huggingface.co/docs/safetensors (format).
 */
#ifndef RF_STORE_SAFETENSORS_H
#define RF_STORE_SAFETENSORS_H

#include "common/store/storage.h"

enum { RF_SAFETENSORS_DIMS = 8 };

/* --- Reading ---------------------------------------------------------------------------------- */

typedef struct rf_safetensor {
    char *name;
    const char *dtype; /* as in the file: "BF16" */
    rf_type type;      /* RF_N_TYPES: none that this program converts (integers, 8-bit floats) */
    int n_dims;
    int64_t shape[RF_SAFETENSORS_DIMS];
    int64_t count;
    const unsigned char *data; /* mapped; of any alignment */
    size_t bytes;
    const char *file; /* its path, for messages */
} rf_safetensor;

/* The tensors of a file or a folder. Read-only, safe to share between threads. */
typedef struct rf_safetensors {
    rf_safetensor *tensor; /* [n], by name */
    int64_t n;
    struct rf_safetensors_file *file; /* [n_files] private */
    int64_t n_files;
} rf_safetensors;

/* Maps a *.safetensors file, or those of a folder. Everything but the values is checked: the length
 * of the header, JSON without duplicate keys, types, shapes, offsets that cover the file without
 * holes or overlaps, no tensor twice, and that the index and its shards tell the same. Nothing is
 * read of the values. A file cut short by others while it is open ends the program (SIGBUS).
 * Caller ends with rf_safetensors_close, also after an error. */
RF_MUST_CHECK int rf_safetensors_open(rf_safetensors *out, const char *path, rf_error *err);
void rf_safetensors_close(rf_safetensors *set); /* zeroes the struct */
/* NULL when absent. */
const rf_safetensor *rf_safetensors_find(const rf_safetensors *set, const char *name);
/* Lets the system take back the memory that these bytes of a tensor are mapped to: a pass over many
 * GiB then holds little memory. They can be read again. */
void rf_safetensors_forget(const rf_safetensor *tensor, size_t first, size_t bytes);
/* Checks a whole file that lies in memory; out owns names only (data points into `bytes`). For
 * tests. Caller ends with rf_safetensors_close, also after an error. */
RF_MUST_CHECK int rf_safetensors_scan(rf_safetensors *out, const void *data, size_t bytes,
                                      const char *origin, rf_error *err);

/* --- Writing ---------------------------------------------------------------------------------- */

typedef struct rf_safetensors_item {
    const char *name;
    int n_dims; /* 1 or 2 */
    int64_t shape[2];
} rf_safetensors_item;

typedef struct rf_safetensors_writer rf_safetensors_writer;

/* Begins <folder>/<stem>.safetensors, or several with <stem>.safetensors.index.json where the
 * values take more than max_shard_bytes (a tensor larger than that gets a file of its own). Tensors
 * lie in the order of their names, metadata {"format": "pt"}. type: f32, bf16 or f16. The files
 * must not exist; they are not atomic: give a folder of your own. Each is open from its first value to
 * its last. Items are copied. Caller ends with rf_safetensors_writer_free. */
RF_MUST_CHECK int rf_safetensors_writer_new(rf_safetensors_writer **out, const char *folder,
                                            const char *stem, rf_type type,
                                            const rf_safetensors_item *item, int64_t n_items,
                                            int64_t max_shard_bytes, rf_error *err);
/* n values, as they lie in the file, of a tensor from element `first`; any order. */
RF_MUST_CHECK int rf_safetensors_writer_put(rf_safetensors_writer *writer, const char *name,
                                            int64_t first, int64_t n, const void *values,
                                            rf_error *err);
/* Writes the index; all files are on disk then. Every value must have been put. */
RF_MUST_CHECK int rf_safetensors_writer_finish(rf_safetensors_writer *writer, rf_error *err);
int64_t rf_safetensors_writer_files(const rf_safetensors_writer *writer); /* without the index */
void rf_safetensors_writer_free(rf_safetensors_writer *writer);           /* NULL is fine */

#endif
