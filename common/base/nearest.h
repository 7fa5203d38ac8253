/* nearest.h: "did you mean": the known name that a mistyped one is closest to.     all local
 *
 *     rf_nearest nearest = rf_nearest_to(text, strlen(text));
 *     for each known name: rf_nearest_try(&nearest, name, strlen(name));
 *     if (nearest.name != NULL) ... did you mean nearest.name?
 */
#ifndef RF_BASE_NEAREST_H
#define RF_BASE_NEAREST_H

#include <stddef.h>

enum {
    RF_NEAREST_BYTES = 64, /* longer names are near to none */
    RF_NEAREST_HINT = RF_NEAREST_BYTES + 32
};

typedef struct rf_nearest {
    const char *text; /* what was typed. Not owned, nor is name */
    size_t text_bytes;
    const char *name; /* the nearest so far, the first among equals; NULL: none is near enough */
    size_t bytes;     /* of name, which need not end there */
    int edits;        /* a name must be fewer edits away */
} rf_nearest;

/* No name yet. A name is near enough when fewer than 2 + bytes/4 edits lead to it: a byte that is
 * missing, too many or another, or two neighbours swapped. */
rf_nearest rf_nearest_to(const char *text, size_t bytes);
void rf_nearest_try(rf_nearest *nearest, const char *name, size_t bytes);
/* "did you mean <prefix>NAME? ", or "" where no name is near. Sets text [RF_NEAREST_HINT] and
 * returns it. */
const char *rf_nearest_hint(char *text, const rf_nearest *nearest, const char *prefix);

#endif
