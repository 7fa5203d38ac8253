#include "infer/decode/stop.h"

#include "common/base/utf8.h"

#include <stdlib.h>
#include <string.h>

int rf_stops_check(const char *const *stops, rf_error *err)
{
    for (int i = 0; stops != NULL && stops[i] != NULL; i++) {
        if (stops[i][0] == '\0') {
            return rf_error_set(err, RF_ERR_USAGE, "a stop string is empty: leave it out");
        }
        size_t bad;
        if (!rf_utf8_is_valid(stops[i], strlen(stops[i]), &bad) ||
            strstr(stops[i], "\xEF\xBF\xBD") != NULL) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "a stop string holds broken UTF-8 or U+FFFD, which no answer is "
                                "searched for: leave it out");
        }
    }
    return RF_OK;
}

int rf_stops_find(size_t *begin, const char *text, size_t bytes, const char *const *stops)
{
    int found = -1;
    size_t end = bytes + 1;
    *begin = bytes;
    for (int i = 0; stops != NULL && stops[i] != NULL; i++) {
        const size_t length = strlen(stops[i]);
        const char *at = memmem(text, bytes, stops[i], length);
        const size_t from = at != NULL ? (size_t)(at - text) : bytes;
        if (at != NULL && (from + length < end || (from + length == end && from < *begin))) {
            found = i;
            *begin = from;
            end = from + length;
        }
    }
    return found;
}

size_t rf_stops_begun(const char *text, size_t bytes, const char *const *stops)
{
    size_t longest = 0;
    for (int i = 0; stops != NULL && stops[i] != NULL; i++) {
        size_t n = strlen(stops[i]) - 1;
        n = n < bytes ? n : bytes;
        while (n > longest && memcmp(text + bytes - n, stops[i], n) != 0) {
            n--;
        }
        longest = n > longest ? n : longest;
    }
    return longest;
}

/* The last tokens whose text holds `bytes` bytes or more, or all: those that write nothing do not
 * count. */
static int64_t tokens_back(const rf_tokenizer *tokenizer, const int32_t *token, int64_t n,
                           size_t bytes)
{
    int64_t from = n;
    while (from > 0 && bytes > 0) {
        bytes -= rf_tokenizer_special_name(tokenizer, token[--from]) == NULL;
    }
    return from;
}

bool rf_stops_reached(const rf_tokenizer *tokenizer, const int32_t *token, int64_t n,
                      const char *const *stops)
{
    size_t longest = 0, bytes, begin;
    for (int i = 0; stops != NULL && stops[i] != NULL; i++) {
        const size_t length = strlen(stops[i]);
        longest = length > longest ? length : longest;
    }
    if (longest == 0) {
        return false;
    }
    const int64_t from = tokens_back(tokenizer, token, n, longest);
    char *text = rf_tokenizer_decode(tokenizer, &bytes, token + from, n - from, true);
    const bool found = rf_stops_find(&begin, text, bytes, stops) >= 0;
    free(text);
    return found;
}
