/* subject.h: a model that is to be evaluated, with its questions and the settings that it is asked
 * with. */
#ifndef RF_INFER_EVAL_SUBJECT_H
#define RF_INFER_EVAL_SUBJECT_H

#include "common/base/files/file.h"
#include "infer/eval/eval.h"
#include "infer/eval/grid.h"

struct json_t;

/* One way to ask: the settings of the model's run, then a combination of the command line's. */
typedef struct rf_setting {
    rf_eval_options eval;
    char *yaml;          /* resolved keys of decode and objective. Owned */
    struct json_t *json; /* those keys of decode that the decoder reads, without "decode.". Owned */
} rf_setting;

/* What is the same for all subjects. */
typedef struct rf_subject_options {
    rf_loaded_source source;    /* but for the model; weights: NULL */
    const char *data, *pick_on; /* files of questions; pick_on: NULL, none */
    int64_t limit;              /* questions of a file; 0: all */
    rf_question_style style;    /* of the questions */
    rf_eval_options eval; /* all but decode, objective and slot_size, which are the settings' */
} rf_subject_options;

typedef struct rf_subject {
    const char *name; /* as the command line gave it */
    rf_loaded loaded;
    rf_question *question, *pick; /* [n], [n_pick]: of data, of pick_on. Owned */
    int64_t n, n_pick;
    rf_setting *setting; /* [n_settings] all different. Owned */
    int64_t n_settings;
} rf_subject;

/* local. Reads the header of a checkpoint (or of the one that stands for a run folder), and the
 * questions in its tokens. Combinations of the grid whose settings do not go
 * together, or not with the model's positions, are left out with a warning (an error where there is but
 * one), those that differ only in what their decoder does not read are one. Caller frees, also after an
 * error. */
RF_MUST_CHECK int rf_subject_open(rf_subject *out, const char *name, const rf_grid *grid,
                                  const rf_subject_options *options, rf_error *err);
void rf_subject_close(rf_subject *subject); /* a zeroed struct is fine */

/* local. All that results follow from, a line for each thing: version and backend, and for each
 * subject checkpoint, questions and settings by their hashes, and the first setting in full. Ranks
 * compare it, and so does a sweep that goes on. Appends to `out`. */
RF_MUST_CHECK int rf_subjects_describe(rf_text *out, const rf_subject *subject, int n,
                                       rf_error *err);
/* local. A hash of what the results of one question follow from, beside the question: version,
 * backend, model, weights and the first setting. */
RF_MUST_CHECK int rf_subject_hash(uint64_t *out, const rf_subject *subject, rf_error *err);

#endif
