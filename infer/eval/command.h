/* command.h: what refusion-eval is asked to do.                                 all local */
#ifndef RF_INFER_EVAL_COMMAND_H
#define RF_INFER_EVAL_COMMAND_H

#include "common/base/options.h"
#include "infer/eval/subject.h"

/* Fields are named after options. NULL: not given. */
typedef struct rf_command {
    rf_option_list models, pages;
    const char *out, *answers, *csv, *html, *title;
    rf_layout weights[RF_N_LAYOUTS]; /* to be compared; the first is the report's */
    int n_weights;                   /* 0: the default of the checkpoint */
    double
        within; /* points of accuracy (percent): the fastest setting so near to the most accurate one
                      is the best of a sweep; 0: the most accurate one, the faster of equals */
    rf_subject_options subject;
} rf_command;

/* Reads a command line and checks what goes together. *first: index in argv of the assignments
 * key=value. *done: help or the version was asked for, and printed. RF_ERR_USAGE. Strings point into
 * argv; caller frees with rf_command_free, also after an error. */
RF_MUST_CHECK int rf_command_parse(rf_command *out, int *first, int argc, char **argv, bool *done,
                                   rf_error *err);
void rf_command_free(rf_command *command);

/* Is nothing evaluated, and only --page shown? */
bool rf_command_only_pages(const rf_command *command);
/* Are there several models, settings, or questions to pick settings on? */
bool rf_command_is_sweep(const rf_command *command, const rf_grid *grid);
/* What goes with a sweep only, and what never does. RF_ERR_USAGE. */
RF_MUST_CHECK int rf_command_check_sweep(const rf_command *command, const rf_grid *grid,
                                         rf_error *err);

/* Are masks drawn for one of the models at least, where --masks says how many? RF_ERR_USAGE. */
RF_MUST_CHECK int rf_command_check_masks(const rf_command *command, const rf_subject *subject,
                                         rf_error *err);

#endif
