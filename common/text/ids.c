#include "common/text/ids.h"

#include "common/base/alloc.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_IDS = 16, FIRST_BYTES = 64 };

void rf_ids_reserve(rf_ids *ids, int64_t more)
{
    RF_ASSERT(more >= 0 && more <= INT64_MAX - FIRST_IDS - ids->n);
    const int64_t needed = ids->n + more;
    if (needed > ids->capacity) {
        size_t capacity = (size_t)ids->capacity;
        ids->id = rf_alloc_grow(ids->id, &capacity, (size_t)needed + FIRST_IDS, sizeof *ids->id);
        ids->capacity = (int64_t)capacity;
    }
}

void rf_ids_push(rf_ids *ids, int32_t id)
{
    rf_ids_reserve(ids, 1);
    ids->id[ids->n++] = id;
}

void rf_ids_free(rf_ids *ids)
{
    free(ids->id);
    *ids = (rf_ids){0};
}

json_t *rf_ids_json(const int32_t *id, int64_t n)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) {
        json_array_append_new(list, json_integer(id[i]));
    }
    return list;
}

void rf_text_add(rf_text *text, const char *data, size_t bytes)
{
    if (bytes >= text->capacity - text->bytes) {
        RF_ASSERT(bytes < SIZE_MAX - FIRST_BYTES - text->bytes);
        text->data =
            rf_alloc_grow(text->data, &text->capacity, text->bytes + bytes + FIRST_BYTES, 1);
    }
    if (bytes > 0) {
        memcpy(text->data + text->bytes, data, bytes);
    }
    text->bytes += bytes;
    text->data[text->bytes] = '\0';
}

void rf_text_add_string(rf_text *text, const char *string)
{
    rf_text_add(text, string, strlen(string));
}

void rf_text_print(rf_text *text, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    char *printed = rf_alloc_format_list(format, list);
    va_end(list);
    rf_text_add_string(text, printed);
    free(printed);
}

void rf_text_free(rf_text *text)
{
    free(text->data);
    *text = (rf_text){0};
}
