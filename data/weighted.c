#include "data/weighted.h"

#include "common/base/alloc.h"
#include "common/base/files/path.h"
#include "common/base/number.h"

#include <stdlib.h>
#include <string.h>

/* Also of what is no weight, but would be read as one elsewhere: "nan", "0x10", "1e999". */
static bool is_number(const char *text)
{
    char *end;
    strtod(text, &end);
    return end != text && *end == '\0';
}

int rf_weighted_read(char **path, double *weight, const char *text, rf_error *err)
{
    const char *colon = strrchr(text, ':');
    size_t bytes = strlen(text);
    *path = NULL;
    *weight = 1;
    if (colon != NULL && !rf_path_exists(text)) {
        if (colon[1] == '\0') {
            return rf_error_set(err, RF_ERR_USAGE,
                                "'%s' has no weight behind the colon: write path or path:weight",
                                text);
        }
        if (is_number(colon + 1)) {
            if (!rf_number_real(weight, colon + 1) || !(*weight > 0 && *weight <= 1e6)) {
                return rf_error_set(err, RF_ERR_USAGE,
                                    "the weight of '%s' must be a decimal number above 0, up to "
                                    "1e6: write path:weight, or leave the file out",
                                    text);
            }
            bytes = (size_t)(colon - text);
        }
    }
    if (bytes == 0) {
        return rf_error_set(err, RF_ERR_USAGE, "'%s' has no path: write path or path:weight", text);
    }
    *path = rf_alloc_copy(text, bytes);
    return RF_OK;
}
