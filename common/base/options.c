#include "common/base/options.h"

#include <ctype.h>
#include <errno.h>
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
        for (const struct option *o = options; o->name; o++) {
            is_known |= optopt != 0 && o->val == optopt;
        }
        rf_error_set(err, RF_ERR_USAGE, "%.200s: %s: %s", at,
                     is_known ? "takes no value" : "unknown or ambiguous option", help);
    }
    return option;
}

/* strtol and strtod skip blanks; a number with blanks is more likely a slip. */
static bool begins_number(const char *text)
{
    return text[0] != '\0' && !isspace((unsigned char)text[0]);
}

int rf_options_integer(int64_t *out, const char *text, const char *name, int64_t min, int64_t max,
                       rf_error *err)
{
    char *end;
    errno = 0;
    intmax_t value = strtoimax(text, &end, 10);
    if (!begins_number(text) || errno != 0 || end == text || *end != '\0' || value < min ||
        value > max) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "%s %.100s: must be a whole number from %lld to %lld", name, text,
                            (long long)min, (long long)max);
    }
    *out = value;
    return RF_OK;
}

int rf_options_real(double *out, const char *text, const char *name, double min, double max,
                    rf_error *err)
{
    char *end;
    double value = strtod(text, &end);
    if (!begins_number(text) || end == text || *end != '\0' || !(value >= min && value <= max)) {
        return rf_error_set(err, RF_ERR_USAGE, "%s %.100s: must be a number from %g to %g", name,
                            text, min, max);
    }
    *out = value;
    return RF_OK;
}
