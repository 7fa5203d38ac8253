/* hdf5.h: the one way to HDF5.                                                  threads: any
 *
 * HDF5 is called from hdf5.c only (and from tests), so what holds everywhere is said once: files of
 * the 1.10 format, whose checksums find every flipped bit of metadata; nothing that depends on the
 * time in them; no locks, which network file systems lack; errors as this repository has them, none
 * printed by HDF5, whose own setting for that is left as it was.
 *
 * Every call holds one lock of the process: the loader's thread may read a compressed corpus while
 * the main thread saves, and not every build of HDF5 is thread-safe. A handle itself belongs to one
 * thread at a time. Groups, datasets and attributes are named by their path from the root, "/".
 */
#ifndef RF_BASE_FILES_HDF5_H
#define RF_BASE_FILES_HDF5_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of values in files and in memory, little-endian. */
typedef enum rf_hdf5_type {
    RF_HDF5_U8,
    RF_HDF5_I8,
    RF_HDF5_I32,
    RF_HDF5_U32,
    RF_HDF5_I64,
    RF_HDF5_U64,
    RF_HDF5_F32,
    RF_HDF5_F64,
    RF_HDF5_BF16, /* the upper half of an f32, described by its fields for other readers */
    RF_HDF5_N_TYPES
} rf_hdf5_type;

/* An open file. A zeroed struct is a closed one. */
typedef struct rf_hdf5 {
    const char *name; /* in messages: the path, which the caller keeps; may be set to another */
    int64_t id;       /* HDF5's; 0: closed */
    int64_t dataset;  /* the one that was used last, with its cache; 0: none */
    char dataset_name[160];
    char reason[256]; /* why the last call that failed did, as HDF5 or the system says */
    int code;         /* RF_ERR_RETRY where the file system is to blame */
    /* a call has failed by the file system or for lack of memory: what the file holds may be sound */
    bool blameless;
} rf_hdf5;

/* A new file; it must not exist. Datasets of 4 KiB or more begin at multiples of `alignment` (1:
 * anywhere). in_place: as many as 64 attributes of the root can be overwritten where they lie. */
RF_MUST_CHECK int rf_hdf5_create(rf_hdf5 *out, const char *path, int alignment, bool in_place,
                                 rf_error *err);
/* Does path begin as an HDF5 file does? */
bool rf_hdf5_is(const char *path);
RF_MUST_CHECK int rf_hdf5_open(rf_hdf5 *out, const char *path, bool write, rf_error *err);
/* Writes what is left to write. Also for a closed file, and after a failure of create or open. */
RF_MUST_CHECK int rf_hdf5_close(rf_hdf5 *file, rf_error *err);
/* The same where nothing was written. */
void rf_hdf5_drop(rf_hdf5 *file);
/* Puts another message in the place of that of the call that failed last, "<name>: what: <reason>",
 * and returns its code. */
int rf_hdf5_fail(const rf_hdf5 *file, rf_error *err, const char *format, ...) RF_PRINTF(3, 4);

/* --- Groups ----------------------------------------------------------------------------------- */

RF_MUST_CHECK int rf_hdf5_create_group(rf_hdf5 *file, const char *name, rf_error *err);
/* A link of that name, to a group or a dataset, whose parent must exist. */
bool rf_hdf5_exists(rf_hdf5 *file, const char *name);
/* Links of a group, and the name of one of them, in alphabetical order. */
RF_MUST_CHECK int rf_hdf5_count(int64_t *n, rf_hdf5 *file, const char *group, rf_error *err);
RF_MUST_CHECK int rf_hdf5_link(char *name, size_t bytes, rf_hdf5 *file, const char *group,
                               int64_t i, rf_error *err);

/* --- Attributes of a group or dataset --------------------------------------------------------- */

enum { RF_HDF5_SCALAR = -1 }; /* as a number n of elements: one value rather than a list of one */

/* Creates an attribute, or overwrites the one that is there. */
RF_MUST_CHECK int rf_hdf5_set(rf_hdf5 *file, const char *object, const char *attribute,
                              rf_hdf5_type type, int64_t n, const void *value, rf_error *err);
/* Exactly n values, converted; an error where they are another number or of another kind (integers,
 * reals). */
RF_MUST_CHECK int rf_hdf5_get(void *value, rf_hdf5 *file, const char *object, const char *attribute,
                              rf_hdf5_type type, int64_t n, rf_error *err);
/* Texts: as a string (which HDF5 cannot have empty: "" is one zero byte), and, for any length, as a
 * list of u8, which get_bytes gives 0-terminated; caller frees. */
RF_MUST_CHECK int rf_hdf5_set_text(rf_hdf5 *file, const char *object, const char *attribute,
                                   const char *text, rf_error *err);
RF_MUST_CHECK int rf_hdf5_get_text(char *text, size_t bytes, rf_hdf5 *file, const char *object,
                                   const char *attribute, rf_error *err);
RF_MUST_CHECK int rf_hdf5_get_bytes(char **out, size_t *n, rf_hdf5 *file, const char *object,
                                    const char *attribute, rf_error *err);

/* --- Datasets --------------------------------------------------------------------------------- */

enum { RF_HDF5_DIMS = 32, RF_HDF5_ALL = -1 };

typedef struct rf_hdf5_dataset {
    rf_hdf5_type type; /* RF_HDF5_N_TYPES: none of these */
    int n_dims;
    int64_t shape[RF_HDF5_DIMS];
    bool in_chunks; /* compressed, as a rule */
    int64_t offset; /* of the values in the file; -1: not in one piece there */
} rf_hdf5_dataset;

/* Without values yet. chunk 0: they lie in one piece, at *offset (may be NULL), and can be written
 * without HDF5; else shuffled and deflated in pieces of `chunk` elements, of one dimension. */
RF_MUST_CHECK int rf_hdf5_create_dataset(int64_t *offset, rf_hdf5 *file, const char *name,
                                         rf_hdf5_type type, int n_dims, const int64_t *shape,
                                         int64_t chunk, rf_error *err);
RF_MUST_CHECK int rf_hdf5_describe(rf_hdf5_dataset *out, rf_hdf5 *file, const char *name,
                                   rf_error *err);
/* Elements [first, first + n) of a dataset of one dimension; n RF_HDF5_ALL: the whole of any. */
RF_MUST_CHECK int rf_hdf5_write(rf_hdf5 *file, const char *name, rf_hdf5_type type, int64_t first,
                                int64_t n, const void *data, rf_error *err);
RF_MUST_CHECK int rf_hdf5_read(void *data, rf_hdf5 *file, const char *name, rf_hdf5_type type,
                               int64_t first, int64_t n, rf_error *err);

#endif
