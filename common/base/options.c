#include "common/base/options.h"

#include "common/base/number.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int rf_options_next(int argc, char **argv, const struct option *options, const char *help,
                    rf_error *err)
{
    opterr = 0;
    int option = getopt_long(argc, argv, ":", options, NULL);
    const char *at = optind > 0 && optind <= argc ? argv[optind - 1] : "";
    if (option == ':') {
        rf_error_set(err, RF_ERR_USAGE, "%.200s: needs a value: %s", at, help);
        return '?';
    }
    if (option == '?') {
        /* optopt is the option's own value where it is known: it was given a value that it does
         * not take. */
        bool is_known = false;
        for (const struct option *o = options; o->name != NULL; o++) {
            is_known |= optopt != 0 && o->val == optopt;
        }
        rf_error_set(err, RF_ERR_USAGE, "%.200s: %s: %s", at,
                     is_known ? "takes no value" : "unknown or ambiguous option", help);
    }
    return option;
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
