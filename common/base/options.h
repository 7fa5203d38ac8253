/* options.h: command lines of the programs.                                    all local
 *
 * A table describes every option once: from it follow how it is read, help, man page and the
 * shells' completion (manual/manual.h).
 */
#ifndef RF_BASE_OPTIONS_H
#define RF_BASE_OPTIONS_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum rf_option_kind {
    RF_OPTION_TEXT,    /* const char *: the value, inside argv */
    RF_OPTION_CHOICE,  /* the same, of those that the table lists */
    RF_OPTION_LIST,    /* rf_option_list: the value of each time that the option is given */
    RF_OPTION_INTEGER, /* int64_t, within [min, max] */
    RF_OPTION_FLAG     /* bool: true. The option takes no value */
} rf_option_kind;

typedef struct rf_option_list {
    const char **item; /* [n] inside argv, NULL behind the last. The array is owned: free(). NULL:
                          the option was not given */
    int n;
} rf_option_list;

typedef struct rf_option {
    const char *name;     /* without "--"; NULL ends a table */
    const char *argument; /* what help calls the value, NULL of a flag. Words in capitals stand for
                             something ("FILE", "N"), others are meant as they are: "auto|PATH" */
    const char *help;     /* sentences without line ends: what it does, and its default */
    rf_option_kind kind;
    size_t at; /* where its value is in the struct that is filled: offsetof */
    int64_t min, max;
    bool once; /* a text that is given twice is an error: the first would be ignored */
    /* Values beside those in `argument`: the i-th, and a line on it; NULL behind the last. NULL:
     * there are none. */
    const char *(*word)(int i, const char **help);
} rf_option;

/* Reads a command line of long options into a struct; the last of one given twice counts (but
 * rf_option.once), a beginning that is no other's is enough, options may stand behind other words, and
 * "--" ends them.
 * argv is reordered: *first is the index of the first word that belongs to no option. Messages send
 * to `see`, "see refusion-infer --help". RF_ERR_USAGE. */
RF_MUST_CHECK int rf_options_parse(int *first, void *into, int argc, char **argv,
                                   const rf_option *table, const char *see, rf_error *err);

/* The place of a word in "each|last|all", from 0; -1: it is none of them. */
int rf_options_choice(const char *choices, const char *word);

/* Numbers of the command line, within [min, max]; `name` for messages. RF_ERR_USAGE. */
RF_MUST_CHECK int rf_options_integer(int64_t *out, const char *text, const char *name, int64_t min,
                                     int64_t max, rf_error *err);
RF_MUST_CHECK int rf_options_real(double *out, const char *text, const char *name, double min,
                                  double max, rf_error *err);

#endif
