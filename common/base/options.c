#include "common/base/options.h"

#include "common/base/alloc.h"
#include "common/base/nearest.h"
#include "common/base/number.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CODE = 256 }; /* of the table's options: above any character */

/* The error for an argument `at`, which may be a cluster of short options, at which getopt_long
 * stopped. code: what it returned, ':' for an option without its value, '?' for anything else. */
static int refuse(int code, const char *at, const rf_option *table, const char *help, rf_error *err)
{
    if (code == ':' || optopt >= FIRST_CODE) {
        /* optopt is the option's own code where it was given a value that it does not take. */
        return rf_error_set(err, RF_ERR_USAGE, "%.200s: %s: %s", at,
                            code == ':' ? "needs a value" : "takes no value", help);
    }
    if (optopt != 0) {
        return rf_error_set(err, RF_ERR_USAGE, "-%c: unknown option: %s", optopt, help);
    }
    const size_t bytes = strcspn(at + 2, "=");
    int n_begin = 0; /* options that begin so: the word is short for several */
    rf_nearest nearest = rf_nearest_to(at + 2, bytes);
    for (; table->name != NULL; table++) {
        n_begin += strncmp(table->name, at + 2, bytes) == 0;
        rf_nearest_try(&nearest, table->name, strlen(table->name));
    }
    if (n_begin > 1) {
        return rf_error_set(err, RF_ERR_USAGE, "%.200s: short for several options: %s", at, help);
    }
    char hint[RF_NEAREST_HINT];
    return rf_error_set(err, RF_ERR_USAGE, "%.200s: unknown option: %s%s", at,
                        rf_nearest_hint(hint, &nearest, "--"), help);
}

static int take(const rf_option *option, const char *value, rf_error *err)
{
    char name[64];
    snprintf(name, sizeof name, "--%s", option->name);
    switch (option->kind) {
    case RF_OPTION_TEXT:
        *(const char **)option->value = value;
        return RF_OK;
    case RF_OPTION_LIST: {
        rf_option_list *list = option->value;
        list->item = rf_realloc(list->item, (size_t)list->n + 2, sizeof *list->item);
        list->item[list->n++] = value;
        list->item[list->n] = NULL;
        return RF_OK;
    }
    case RF_OPTION_INTEGER:
        return rf_options_integer(option->value, value, name, option->min, option->max, err);
    default:
        *(bool *)option->value = true;
        return RF_OK;
    }
}

int rf_options_parse(int *first, int argc, char **argv, const rf_option *table, const char *help,
                     rf_error *err)
{
    int n = 0, code, rc = RF_OK;
    while (table[n].name != NULL) {
        n++;
    }
    struct option *options = rf_alloc((size_t)n + 1, sizeof *options);
    for (int i = 0; i < n; i++) {
        bool has_value = table[i].kind != RF_OPTION_FLAG && table[i].kind != RF_OPTION_STOP;
        options[i] = (struct option){.name = table[i].name,
                                     .has_arg = has_value ? required_argument : no_argument,
                                     .val = FIRST_CODE + i};
    }
    opterr = optind = 0; /* silent, and from the beginning */
    while (rc == RF_OK && (code = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        for (int i = 0; i < n && code == 'h'; i++) { /* -h is --help, where there is one */
            code = strcmp(table[i].name, "help") == 0 ? FIRST_CODE + i : code;
        }
        if (code < FIRST_CODE) {
            const char *at = optind > 0 && optind <= argc ? argv[optind - 1] : "";
            rc = refuse(code, at, table, help, err);
            break;
        }
        rc = take(&table[code - FIRST_CODE], optarg, err);
        if (table[code - FIRST_CODE].kind == RF_OPTION_STOP) {
            break;
        }
    }
    *first = optind;
    free(options);
    return rc;
}

int rf_options_integer(int64_t *out, const char *text, const char *name, int64_t min, int64_t max,
                       rf_error *err)
{
    char *end;
    errno = 0;
    intmax_t value = strtoimax(text, &end, 10);
    /* strtoimax skips blanks; a number with blanks is more likely a slip. */
    if (isspace((unsigned char)text[0]) || errno != 0 || end == text || *end != '\0' ||
        value < min || value > max) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "%s %.100s: must be a whole number from %" PRId64 " to %" PRId64, name,
                            text, min, max);
    }
    *out = value;
    return RF_OK;
}

int rf_options_real(double *out, const char *text, const char *name, double min, double max,
                    rf_error *err)
{
    double value;
    if (!rf_number_real(&value, text) || !(value >= min && value <= max)) {
        return rf_error_set(err, RF_ERR_USAGE, "%s %.100s: must be a number from %g to %g", name,
                            text, min, max);
    }
    *out = value;
    return RF_OK;
}
