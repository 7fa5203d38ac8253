/* ids.h: arrays of token ids and texts that grow.                              all local
 *
 * Both are small host memory (base/alloc.h): what is added has a place, or the program ends. They
 * begin as zeroed structs.
 */
#ifndef RF_TEXT_IDS_H
#define RF_TEXT_IDS_H

#include "common/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct json_t;

typedef struct rf_ids {
    int32_t *id; /* owned */
    int64_t n, capacity;
} rf_ids;

void rf_ids_push(rf_ids *ids, int32_t id);
/* Room for `more` ids behind the n present. */
void rf_ids_reserve(rf_ids *ids, int64_t more);
void rf_ids_free(rf_ids *ids); /* zeroes the struct */
/* Ids [n] as an array of JSON; the caller releases it. */
struct json_t *rf_ids_json(const int32_t *id, int64_t n);

typedef struct rf_text {
    char *data; /* owned; 0-terminated unless NULL */
    size_t bytes, capacity;
} rf_text;

void rf_text_add(rf_text *text, const char *data, size_t bytes);
void rf_text_add_string(rf_text *text, const char *string);
void rf_text_print(rf_text *text, const char *format, ...) RF_PRINTF(2, 3);
void rf_text_free(rf_text *text); /* zeroes the struct */

#endif
