#include "common/base/nearest.h"

#include <stdio.h>

/* Edits that turn a into b: insert, remove, replace, swap of neighbours. (The "optimal string
 * alignment" form of the Damerau-Levenshtein distance.) Both are at most RF_NEAREST_BYTES long. */
static int distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
    int rows[3][RF_NEAREST_BYTES + 1];
    int *before = rows[0], *last = rows[1], *row = rows[2];
    for (size_t j = 0; j <= n_b; j++) {
        before[j] = last[j] = (int)j;
    }
    for (size_t i = 1; i <= n_a; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= n_b; j++) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = last[j] + 1 < best ? last[j] + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < best) {
                best = before[j - 2] + 1;
            }
            row[j] = best;
        }
        int *reused = before;
        before = last;
        last = row;
        row = reused;
    }
    return last[n_b];
}

rf_nearest rf_nearest_to(const char *text, size_t bytes)
{
    return (rf_nearest){.text = text, .text_bytes = bytes, .edits = (int)(bytes / 4) + 2};
}

void rf_nearest_try(rf_nearest *nearest, const char *name, size_t bytes)
{
    if (bytes > RF_NEAREST_BYTES || nearest->text_bytes > RF_NEAREST_BYTES) {
        return;
    }
    int edits = distance(nearest->text, nearest->text_bytes, name, bytes);
    if (edits < nearest->edits) {
        nearest->name = name;
        nearest->bytes = bytes;
        nearest->edits = edits;
    }
}

const char *rf_nearest_hint(char *text, const rf_nearest *nearest, const char *prefix)
{
    text[0] = '\0';
    if (nearest->name != NULL) {
        snprintf(text, RF_NEAREST_HINT, "did you mean %s%.*s? ", prefix, (int)nearest->bytes,
                 nearest->name);
    }
    return text;
}
