/* checkpoint.h: one HDF5 file holds a model, and what it takes to train on.
 *
 * /params/<name>, /adam/m/<name>, /adam/v/<name> (f32, f64 where the masters are, or
 * bf16 after an import; full logical shapes, contiguous; attributes `bytes` and `crc32`; in a
 * quantized file matrices are int8, with f32 [out, groups] in /scales/<name>: quantize.h), the
 * texts /tokenizer, /run_config, /corpora and, where there is any, /state (u8), attributes for all
 * else of rf_checkpoint_info, a CRC over the list of tensors and one over the attributes, `complete`.
 * The same bytes whatever the number of ranks; loads on any number. Never updated in place: layout by
 * rank 0 -> every rank writes its intervals (pwrite) -> fsync -> all ranks agree -> complete, close,
 * fsync -> rename -> fsync of the folder -> `latest`.
 *
 * Moments are there for trained tensors only. An adapter file is the checkpoint of a model with
 * adapters (lora.h): the same file, but /params holds nothing but them, and the configuration names
 * path and hash of the base, whose weights they go with.
 */
#ifndef RF_STORE_CHECKPOINT_H
#define RF_STORE_CHECKPOINT_H

#include "common/dist/dist.h"
#include "common/model/model.h"
#include "common/store/storage.h"
#include "common/text/tokenizer.h"

/* The attribute `format` of a checkpoint. */
#define RF_CHECKPOINT_FORMAT "refusion checkpoint"
/* Bytes on their way between memory and a file, of each rank. */
enum { RF_CHECKPOINT_CHUNK = 4 << 20 };

/* Where training stands. Nothing here is keyed by rank. */
typedef struct rf_progress {
    int64_t step;    /* optimizer steps taken, skipped ones included */
    int64_t updates; /* those that changed the weights (t of Adam's bias correction) */
    int64_t tokens;  /* places with content seen */
    int64_t seed;
    int64_t epoch, window, row; /* position in the data: the next row (data/rows.h) */
    int64_t skipped;            /* steps skipped for non-finite values */
    double best_valid_loss;     /* infinity: none yet */
    double seconds;             /* of training so far */
} rf_progress;

typedef struct rf_checkpoint_info {
    rf_model_config model;
    rf_progress progress;
    rf_type storage;          /* type of the parameters in the file */
    bool has_optimizer;       /* Adam moments are in the file */
    rf_adaptation adaptation; /* what is trained; an adapter file has a rank */
    rf_adapt_base base;       /* of an adapter file */
    char *run_config;         /* resolved YAML of the run, "" if none. Owned */
    char *corpora;       /* JSON: paths, hashes and weights of the corpora, "[]" if none. Owned */
    char *state;         /* JSON: what else a run goes on with; NULL: nothing. Owned */
    char isa[32];        /* of the run that wrote it */
    char written_by[64]; /* "refusion-train 0.1.0" */
    rf_tokenizer *tokenizer; /* Owned */
} rf_checkpoint_info;

void rf_checkpoint_info_free(rf_checkpoint_info *info); /* zeroes; a zeroed struct is fine */

/* local. Header of a file: attributes checked (version, complete, CRC over the attributes, sizes of
 * all datasets against the file), no tensor read. */
RF_MUST_CHECK int rf_checkpoint_info_read(rf_checkpoint_info *out, const char *path, rf_error *err);

/* Saving, in five phases, so that training can go on while a file is written. Path is written atomically,
 * in the place of a link of that name (rf_atomic_begin_own); after an error what was there is untouched.
 * adam_m, adam_v: [table.n_elements] class master, or both NULL. Every rank holds all values (the writing
 * is shared). dist NULL: this process alone. info: rank 0's is written; its model, storage, has_optimizer,
 * adaptation and base are not read (the model and adam_m tell); NULL texts and a NULL tokenizer are empty.
 * The folder must exist and be shared by all ranks. A model with adapters gives an adapter file; its base
 * must have been loaded.
 *   snapshot  collective: lays the file out under a temporary name. A buffer gets room for this rank's
 *             part of the values (the size of the file / ranks).
 *   copy      local, on any thread, for it has a context of its own: this part goes to the buffer. Until
 *             it returns the model and its moments may be read, but not changed. Without a buffer it
 *             does nothing, and they are read while they are written, a few MiB at a time.
 *   write     local; with a buffer on any thread, for it calls neither MPI nor HDF5 and touches nothing
 *             but the writer; else on the thread of the model's context. How both went, collect says.
 *   collect   collective, when write has returned on this rank: all ranks agree that all is written, and
 *             rank 0 learns the checksums.
 *   commit    local, on any thread, for it calls no MPI; rank 0 does it for all: checksums, `complete`, the
 *             file is read as a stranger would and renamed. What it came to, the caller tells the other
 *             ranks.
 * Caller frees the writer, also instead of the later phases: then nothing is left behind. info and
 * the tokenizer in it are needed by snapshot only, adam_m and adam_v by copy (without a buffer by
 * write), dist and model (its table) until the end. */
typedef struct rf_checkpoint_writer rf_checkpoint_writer;

/* Host memory for copies, one save after the other: the system gives the pages of a new one so slowly that
 * it would cost more than the copying. A zeroed struct is an empty one; of one writer at a time. */
typedef struct rf_checkpoint_buffer {
    char *data;
    size_t bytes;
} rf_checkpoint_buffer;

void rf_checkpoint_buffer_free(rf_checkpoint_buffer *buffer); /* local */

RF_MUST_CHECK int rf_checkpoint_snapshot(rf_checkpoint_writer **out, const char *path,
                                         rf_dist *dist, rf_model *model, const void *adam_m,
                                         const void *adam_v, const rf_checkpoint_info *info,
                                         rf_checkpoint_buffer *buffer, rf_error *err);
void rf_checkpoint_writer_copy(rf_checkpoint_writer *writer);
void rf_checkpoint_writer_write(rf_checkpoint_writer *writer);
RF_MUST_CHECK int rf_checkpoint_writer_collect(rf_checkpoint_writer *writer, rf_error *err);
RF_MUST_CHECK int rf_checkpoint_writer_commit(rf_checkpoint_writer *writer, rf_error *err);
void rf_checkpoint_writer_free(rf_checkpoint_writer *writer);           /* NULL is fine */
int64_t rf_checkpoint_writer_bytes(const rf_checkpoint_writer *writer); /* local: of the file */

/* local. Fills the model's masters (and moments where not NULL), verifying every CRC32; then
 * rf_model_prepare. The model's shape must be the file's; values of the other type are converted.
 * Moments asked of a file without them, or with those of another set of tensors, are an error. On
 * error the model's content is undefined.
 * A model with adapters takes two files: first the base, which becomes its model->base; then an
 * adapter file, which is refused where its base was another. */
RF_MUST_CHECK int rf_checkpoint_load(const char *path, rf_model *model, void *adam_m, void *adam_v,
                                     rf_error *err);
/* What a model must be for a file to be loaded into it. */
typedef struct rf_checkpoint_fit {
    const rf_model_config *config;
    const rf_adaptation *adaptation;
    rf_adapt_base base; /* as rf_model has it */
    bool trains;
} rf_checkpoint_fit;
/* local. What rf_checkpoint_load would refuse, without the memory of a model; all checksums of the file,
 * too. Sets fit->base as loading does. */
RF_MUST_CHECK int rf_checkpoint_check(const char *path, rf_checkpoint_fit *fit, bool wants_moments,
                                      rf_error *err);
/* local. Reads everything and compares all checksums; changes nothing. */
RF_MUST_CHECK int rf_checkpoint_verify(const char *path, rf_error *err);

/* --- Tensor by tensor: models larger than memory ---------------------------------------------- */

/* Sets n values of a parameter from element `first`, in the type that the file will have (f32 where
 * that is int8). */
typedef int (*rf_checkpoint_source)(void *user, void *out, const rf_tensor *tensor, int64_t first,
                                    int64_t n, rf_error *err);
/* local. All phases on one rank, without moments, and behind a link (rf_atomic_begin); asks `source` for
 * every parameter once, in the order of the table, in pieces of a few MiB. info->adaptation with a rank:
 * an adapter file of info->base, of adapters alone. type: f32, f64, bf16, or int8: then for each matrix
 * twice, row by row, some rows once more. */
RF_MUST_CHECK int rf_checkpoint_write(const char *path, const rf_model_config *config, rf_type type,
                                      rf_checkpoint_source source, void *user,
                                      const rf_checkpoint_info *info, rf_error *err);
/* Takes n values of a parameter from element `first`, as they lie in the file; int8 comes as f32.
 */
typedef int (*rf_checkpoint_sink)(void *user, const void *values, rf_type type,
                                  const rf_tensor *tensor, int64_t first, int64_t n, rf_error *err);
/* local. Gives every parameter to `sink`, in the order of the table, in pieces of a few MiB. A
 * damaged tensor is found at its end: what the sink made is to be thrown away on error. */
RF_MUST_CHECK int rf_checkpoint_read(const char *path, rf_checkpoint_sink sink, void *user,
                                     rf_error *err);

/* The same in any order: for work on several files at once. */
typedef struct rf_checkpoint_reader rf_checkpoint_reader;

/* local. Reads the header, as rf_checkpoint_info_read does. Caller closes. */
RF_MUST_CHECK int rf_checkpoint_reader_open(rf_checkpoint_reader **out, const char *path,
                                            rf_error *err);
void rf_checkpoint_reader_close(rf_checkpoint_reader *reader); /* NULL is fine */
/* What adapter files name their base by (rf_adapt_base). */
uint64_t rf_checkpoint_reader_hash(const rf_checkpoint_reader *reader);
/* n values of a parameter from element `first`, as doubles. A tensor that is read in pieces from
 * its first element to its last is compared with its checksum at the last. */
RF_MUST_CHECK int rf_checkpoint_reader_get(rf_checkpoint_reader *reader, double *values,
                                           const char *tensor, int64_t first, int64_t n,
                                           rf_error *err);

/* --- A folder of checkpoints ------------------------------------------------------------------ */

/* "<folder>/step-000001000.h5" */
void rf_checkpoint_path(char *path, size_t bytes, const char *folder, int64_t step);
/* The step of "step-000001000.h5", as rf_checkpoint_path writes it; -1 for any other name. */
int64_t rf_checkpoint_step(const char *name);
/* Which checkpoints of a folder stay; a zeroed struct: all. */
typedef struct rf_checkpoint_keep {
    int64_t newest;   /* so many; 0: all */
    int64_t every;    /* those of steps that this divides; 0: no such rule */
    int64_t step;     /* that of this step; 0: no such rule */
    const char *best; /* this file name; NULL: no such rule */
} rf_checkpoint_keep;

/* local. Points <folder>/latest (a small text file with the file's name) at path, atomically, then
 * removes the checkpoints that no rule keeps. Left-over temporaries of dead processes go too. */
RF_MUST_CHECK int rf_checkpoint_publish(const char *path, const rf_checkpoint_keep *keep,
                                        rf_error *err);
/* local. The newest checkpoint of the folder that verifies: *path is "" when the folder holds no
 * checkpoint at all. Damaged ones are warned about by name and cause, and passed over; when all are, that
 * is an error (a run never starts again at 0 by accident). So is one that cannot be read now (RF_ERR_RETRY
 * where trying again may help) or is of a later format: an older one would lose what was trained since.
 * `latest` is a hint only, but where it names a file of another form (gone on from, and nothing saved since):
 * that counts as one more checkpoint. */
RF_MUST_CHECK int rf_checkpoint_find(char *path, size_t bytes, const char *folder, rf_error *err);
/* local. Is `name` the file `best` or `latest` of a run folder, and is the file there that it names? Sets
 * path. */
bool rf_checkpoint_follow(char *path, size_t bytes, const char *name);
/* local. The checkpoint that a user means by `name`: a file is meant itself, but for `best` and
 * `latest` of a run folder, which name one; of the folder it is the checkpoint that its file `best`
 * names, else the one of `latest`, else the newest step. A choice is logged. path may not be name. An
 * error where a folder holds no checkpoint. Nothing is verified: opening the file does that. */
RF_MUST_CHECK int rf_checkpoint_choose(char *path, size_t bytes, const char *name, rf_error *err);

#endif
