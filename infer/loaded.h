/* loaded.h: a model from a checkpoint, ready to decode.                        all local */
#ifndef RF_INFER_LOADED_H
#define RF_INFER_LOADED_H

#include "common/base/config/config.h"
#include "common/base/files/path.h"
#include "common/store/checkpoint.h"
#include "common/text/ids.h"
#include "infer/decode/options.h"

/* What a command line says of a model. Strings are not copied. */
typedef struct rf_loaded_source {
    const char *model; /* a checkpoint, or the folder of a run (rf_checkpoint_choose) */
    const char
        *adapter; /* the same, of a file beside its base `model` (lora.h); NULL: none, or `model`
                            itself is one and its base is where it was in training */
    const char *backend; /* as rf_backend_choose takes it */
    const char *weights; /* as rf_loaded_weights takes it; NULL: as said at rf_loaded.weights */
    const char *date;    /* for rf_tokenizer_set_date; NULL: none */
    bool control_tokens; /* rf_tokenizer_read_control_tokens */
} rf_loaded_source;

/* The header of a checkpoint, then (once the sizes are known) the model. */
typedef struct rf_loaded {
    const rf_backend *backend; /* that the model is made on */
    const char *path;
    const char *adapter;           /* NULL: none */
    char chosen[2][RF_PATH_BYTES]; /* both, where they are not the model's own base */
    rf_checkpoint_info info;       /* of the adapter, where there is one: it tells the model too */
    /* Of the model. Opening sets it (f32; int8 of a quantized checkpoint; bf16 of a run with
     * train.compute = bf16, where this machine multiplies bf16). To be changed before the model is
     * made. */
    rf_layout weights;
    rf_model *model;
} rf_loaded;

/* Reads the header: tokenizer and sizes. *out points into itself: it stays where it is. */
RF_MUST_CHECK int rf_loaded_open(rf_loaded *out, const rf_loaded_source *source, rf_error *err);
/* rf_output_check, with what was opened among the inputs: the files, and `best` and `latest` beside
 * them, which tell the checkpoint of a run. */
RF_MUST_CHECK int rf_loaded_check_outputs(const rf_loaded *loaded, const char *const *outputs,
                                          int n_outputs, const char *const *inputs, int n_inputs,
                                          rf_error *err);
/* Settings decode.* and objective.*: those of the run that trained the model, but decode.gen_length
 * is what a model of `mdm` was trained on; then the assignments [n] of the command line. Caller
 * frees *out (rf_config_free), also after an error. */
RF_MUST_CHECK int rf_loaded_settings(rf_config **out, const rf_loaded *loaded,
                                     char *const *assignment, int n, rf_error *err);
/* Assignments of who asks for answers: what objective.* say was settled in training, so they are
 * RF_ERR_USAGE, all but objective.block_prompt, which an imported model of block diffusion does not
 * say, and the key `also` (NULL: none). Other keys are left to rf_loaded_settings. */
RF_MUST_CHECK int rf_loaded_check_assignments(char *const *assignment, int n, const char *also,
                                              rf_error *err);
/* Warns where the decoder is one that the objective of the model's run does not train for. Silent
 * about a model that no run of this program trained. */
RF_MUST_CHECK int rf_loaded_check_decoder(const rf_loaded *loaded, const rf_decoder *decoder,
                                          rf_error *err);
/* "f32", "bf16" or "int8". */
RF_MUST_CHECK int rf_loaded_weights(rf_layout *out, const char *name, rf_error *err);
/* What answers follow from beside prompts, settings and weights, a line for each thing: version,
 * backend, and the checkpoints by a hash of all their checksums. Appends. */
RF_MUST_CHECK int rf_loaded_describe(rf_text *out, const rf_loaded *loaded, rf_error *err);
/* Makes the model for these limits and reads the weights. A limit of more positions than the model
 * has is an error. */
RF_MUST_CHECK int rf_loaded_model(rf_loaded *loaded, const rf_model_limits *limits, int n_threads,
                                  rf_error *err);
/* Gives the model's memory back; the header stays. */
void rf_loaded_drop_model(rf_loaded *loaded);
void rf_loaded_close(rf_loaded *loaded); /* a zeroed struct is fine */

#endif
