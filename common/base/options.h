/* options.h: command lines of the programs.                                    all local */
#ifndef RF_BASE_OPTIONS_H
#define RF_BASE_OPTIONS_H

#include "common/base/error.h"

#include <stdint.h>

typedef enum rf_option_kind {
    RF_OPTION_TEXT,    /* const char *: the value, inside argv */
    RF_OPTION_LIST,    /* rf_option_list: the value of each time that the option is given */
    RF_OPTION_INTEGER, /* int64_t, within [min, max] */
    RF_OPTION_FLAG,    /* bool: true. The option takes no value */
    RF_OPTION_STOP     /* the same, and nothing behind it is read: --help */
} rf_option_kind;

typedef struct rf_option_list {
    const char **item; /* [n] inside argv, NULL behind the last. The array is owned: free(). NULL:
                          the option was not given */
    int n;
} rf_option_list;

typedef struct rf_option {
    const char *name; /* without "--"; NULL ends a table */
    rf_option_kind kind;
    void *value; /* where it goes */
    int64_t min, max;
} rf_option;

/* Reads a command line of long options: the last of one given twice counts. *first: index in argv
 * of what stands behind the options. Messages send to `help`, "see refusion-infer --help".
 * RF_ERR_USAGE. */
RF_MUST_CHECK int rf_options_parse(int *first, int argc, char **argv, const rf_option *table,
                                   const char *help, rf_error *err);

/* Numbers of the command line, within [min, max]; `name` for messages. RF_ERR_USAGE. */
RF_MUST_CHECK int rf_options_integer(int64_t *out, const char *text, const char *name, int64_t min,
                                     int64_t max, rf_error *err);
RF_MUST_CHECK int rf_options_real(double *out, const char *text, const char *name, double min,
                                  double max, rf_error *err);

#endif
